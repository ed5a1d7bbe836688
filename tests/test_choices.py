"""Choices that share the pass over their prompt have the numbers of a row for each, prompt and all."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from test_evaluate import GPT2, LLAMA, MODELS, T5, TOKENIZER, lists, make

from catsweep.batches import sequence_batch
from catsweep.choices import num_rows, plain_statistics, score_choices, shared_statistics, shares_prompts
from catsweep.data import Tokens, TokenSplit
from catsweep.models import TargetLogits, architecture_of, build_model
from catsweep.spec.model import ByteTokenizer, ScratchModel

BART = {"model_type": "bart", "d_model": 32, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 2,
        "decoder_attention_heads": 2, "encoder_ffn_dim": 48, "decoder_ffn_dim": 48, "init_std": 0.1}  # fmt: skip
GEMMA2 = {**LLAMA, "model_type": "gemma2", "num_key_value_heads": 1, "head_dim": 16, "sliding_window": 4}
MISTRAL = {**LLAMA, "model_type": "mistral", "num_key_value_heads": 1, "sliding_window": 4}
QWEN = {**LLAMA, "model_type": "qwen3", "num_key_value_heads": 1, "head_dim": 16}
GRANITE = {**LLAMA, "model_type": "granite", "logits_scaling": 2.0}
BLOOM = {"model_type": "bloom", "hidden_size": 32, "n_layer": 2, "n_head": 2}
MAMBA = {"model_type": "mamba", "hidden_size": 32, "num_hidden_layers": 2, "state_size": 4}
DYNAMIC = {**LLAMA, "rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10.0}}


def name(config: dict[str, Any]) -> str:
    return str(config["model_type"])


def examples(sizes: list[list[int]], *, seed: int = 1) -> list[list[np.ndarray]]:
    generator = np.random.default_rng(seed)
    return [[generator.integers(3, 200, size).astype(np.int32) for size in row] for row in sizes]


PROMPTS = examples([[40, 1, 7, 12]])[0]
CHOICES = examples([[3, 1, 8], [2], [1, 1, 1, 1], [5, 5, 2, 9, 1]], seed=2)
CHOICES[3][1][:3] = CHOICES[3][0][:3]


@pytest.mark.parametrize("config", [*MODELS, BART, QWEN, GRANITE], ids=name)
@pytest.mark.parametrize("fast", [False, True])
def test_choices_from_one_pass_over_the_prompt_equal_a_row_for_each(config: dict[str, Any], fast: bool) -> None:
    module = make(config)
    architecture = architecture_of(module.model.config)
    if fast:
        module.choose_path(sequence_batch(PROMPTS, PROMPTS, architecture=architecture, pad_id=0, start_id=0))
    assert shares_prompts(module, 0, architecture)
    shared = shared_statistics(module, PROMPTS, CHOICES, 0, architecture)
    plain = plain_statistics(module, PROMPTS, CHOICES, 0, architecture)
    for ours, reference, choices in zip(shared, plain, CHOICES, strict=True):
        assert [len(part) for part in ours] == [len(choice) for choice in choices]
        np.testing.assert_allclose(np.concatenate(ours), np.concatenate(reference), atol=2e-5)


def test_what_cannot_share_a_prompt_takes_a_row_for_each_choice() -> None:
    """Windows, recurrent states, positions that change with the length, attention without positions to give, shards."""
    for config in (GEMMA2, MISTRAL, MAMBA, DYNAMIC, BLOOM):
        assert not shares_prompts(make(config), 0, "decoder"), config
    sharded = make(LLAMA)
    sharded.sharded = True
    assert not shares_prompts(sharded, 0, "decoder")


def test_a_model_whose_numbers_differ_when_the_prompt_is_shared_takes_a_row_for_each_choice(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    module = make(LLAMA)
    given = module.model.base_model.forward

    def forgets_positions(**inputs: Any) -> Any:
        return given(**{**inputs, "position_ids": None})

    monkeypatch.setattr(module.model.base_model, "forward", forgets_positions)
    assert not shares_prompts(module, 0, "decoder")

    def knows_no_masks(**inputs: Any) -> Any:
        mask = inputs.get("attention_mask")
        return given(**{**inputs, "attention_mask": mask if mask is None or mask.dim() == 2 else None})

    other = make(LLAMA)
    given = other.model.base_model.forward
    monkeypatch.setattr(other.model.base_model, "forward", knows_no_masks)
    assert not shares_prompts(other, 0, "decoder")


def test_a_model_that_was_not_trained_is_told_apart_too(monkeypatch: pytest.MonkeyPatch) -> None:
    model = build_model(ScratchModel(config=LLAMA, tokenizer=ByteTokenizer()), TOKENIZER, seed=3)
    assert shares_prompts(TargetLogits(model), 0, "decoder")
    given = model.base_model.forward
    monkeypatch.setattr(model.base_model, "forward", lambda **inputs: given(**{**inputs, "position_ids": None}))
    assert not shares_prompts(TargetLogits(model), 0, "decoder")


@pytest.mark.parametrize("config", [LLAMA, T5], ids=name)
def test_bfloat16_agrees_to_its_rounding(config: dict[str, Any]) -> None:
    spec = ScratchModel(config=config, tokenizer=ByteTokenizer(), dtype="bfloat16")
    module = TargetLogits(build_model(spec, TOKENIZER, seed=3))
    architecture = architecture_of(module.model.config)
    assert shares_prompts(module, 0, architecture)
    shared = shared_statistics(module, PROMPTS, CHOICES, 0, architecture)
    plain = plain_statistics(module, PROMPTS, CHOICES, 0, architecture)
    for ours, reference in zip(shared, plain, strict=True):
        np.testing.assert_allclose(np.concatenate(ours), np.concatenate(reference), atol=2e-2)


@pytest.mark.parametrize("config", [LLAMA, GPT2, T5, MISTRAL], ids=name)
def test_a_prompt_is_read_once_and_choices_of_one_token_are_not_read_at_all(config: dict[str, Any]) -> None:
    module = make(config)
    architecture = architecture_of(module.model.config)
    given = [[5], [6], [7], [5, 6], [5, 7], [6, 6]]
    flat = Tokens(np.concatenate(given).astype(np.int32), np.cumsum([0, *map(len, given)]).astype(np.int64))
    prompts = lists(np.random.default_rng(1), [4, 7])
    split = TokenSplit(prompts, prompts, flat, np.array([0, 3, 6]))
    shared = shares_prompts(module, 0, architecture)
    assert num_rows(module, split, 0, architecture) == (1 if shared else 3)
    num_read: list[tuple[int, ...]] = []
    for part in module.model.modules():
        if isinstance(part, torch.nn.Embedding) and part.num_embeddings == len(TOKENIZER):
            part.register_forward_hook(lambda *call: num_read.append(tuple(call[1][0].shape)))
    options: dict[str, Any] = {"architecture": architecture, "normalize": "sum"}
    answers = score_choices(module, TOKENIZER, split, np.arange(2), [["a", "b", "c"]] * 2, **options)
    if not shared:
        assert num_read == [(3, 8)]  # of the first prompt one row, of the second those with 5 and with 6 behind it
    elif architecture == "decoder":
        assert num_read == [(2, 7), (2, 2)]  # both prompts; then 5 and 6 behind the second
    else:
        assert num_read == [(2, 7), (2, 1), (2, 1)]  # both prompts, both starts, 5 and 6
    num_read.clear()
    score_choices(module, TOKENIZER, split, np.array([0]), [["a", "b", "c"]], **options)
    assert num_read == ([(1, 4)] if architecture == "decoder" else [(1, 4), (1, 1)])
    for index, answer in enumerate(answers):
        for choice, logprob in enumerate(answer.choice_logprobs):
            tokens = np.array(given[3 * index + choice], np.int32)
            batch = sequence_batch([prompts[index]], [tokens], architecture=architecture, pad_id=0, start_id=0)
            with torch.no_grad():
                logprobs = module(batch).log_softmax(1)
            assert logprob == pytest.approx(sum(float(logprobs[i, token]) for i, token in enumerate(tokens)), abs=1e-5)
