"""The loop with a cache finds the tokens and the statistics of transformers' generate, and stops as soon as it may."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from test_choices import BART, BLOOM, DYNAMIC, GEMMA2, GRANITE, MAMBA, MISTRAL, QWEN, name
from test_evaluate import LLAMA, MODELS, TOKENIZER, make
from torch import Tensor

from catsweep import generation, joining
from catsweep.batches import sequence_batch
from catsweep.cascade.latency import BatchSeconds
from catsweep.data import Tokens, TokenSplit
from catsweep.generation import Found, cached_tokens, cut_output, generate, plain_tokens, serves_loop
from catsweep.models import TargetLogits, architecture_of, build_model
from catsweep.reading import Gaps, GrowingLayer
from catsweep.spec.model import ByteTokenizer, ScratchModel

NEW_TOKENS = 24
GPT_NEO = {"model_type": "gpt_neo", "hidden_size": 32, "num_heads": 2, "num_layers": 2, "window_size": 8,
           "attention_types": [[["global", "local"], 1]], "max_position_embeddings": 128}  # fmt: skip
GENERATOR = np.random.default_rng(5)
PROMPTS = [GENERATOR.integers(3, 200, length).astype(np.int32) for length in (1, 9, 70, 6, 9, 12)]


def with_an_end(module: TargetLogits) -> TargetLogits:
    """The model, which from now on ends its answers where it wrote its most wide-spread token: sooner or later or never."""
    answers = [ids for ids, _ in plain_tokens(module, TOKENIZER, PROMPTS, NEW_TOKENS)]
    firsts = {
        token: [ids.index(token) if token in ids else NEW_TOKENS for ids in answers]
        for token in {token for ids in answers for token in ids}
    }
    token = max(sorted(firsts), key=lambda token: float(np.std(firsts[token])))
    weights = {
        id(part.weight): part.weight
        for part in (module.model.get_input_embeddings(), module.model.get_output_embeddings())
    }
    with torch.no_grad():
        for weight in weights.values():
            weight[[token, TOKENIZER.eos_token_id]] = weight[[TOKENIZER.eos_token_id, token]]
    return module


def same(found: Found, expected: Found) -> None:
    for (ids, statistics), (plain_ids, plain) in zip(found, expected, strict=True):
        assert ids == plain_ids
        assert statistics.shape == (len(ids), 3)
        np.testing.assert_allclose(statistics, plain, atol=2e-5, rtol=2e-5)


@pytest.mark.parametrize("config", [*MODELS, BART, QWEN, GRANITE], ids=name)
@pytest.mark.parametrize("fast", [False, True])
def test_the_loop_finds_what_transformers_finds(config: dict[str, Any], fast: bool) -> None:
    module = with_an_end(make(config))
    architecture = architecture_of(module.model.config)
    if fast:
        module.choose_path(sequence_batch(PROMPTS, PROMPTS, architecture=architecture, pad_id=0, start_id=0))
    assert serves_loop(module, TOKENIZER, architecture)
    expected = plain_tokens(module, TOKENIZER, PROMPTS, NEW_TOKENS)
    assert len({len(ids) for ids, _ in expected}) > 1
    same(cached_tokens(module, TOKENIZER, PROMPTS, NEW_TOKENS), expected)
    same(cached_tokens(module, TOKENIZER, PROMPTS[4:5] + PROMPTS[1:2], NEW_TOKENS), [expected[4], expected[1]])


def test_statistics_are_the_same_however_few_steps_wait_for_them(monkeypatch: pytest.MonkeyPatch) -> None:
    module = with_an_end(make(LLAMA))
    expected = cached_tokens(module, TOKENIZER, PROMPTS, NEW_TOKENS)
    monkeypatch.setattr(generation, "SCAN_LOGITS", 1000)
    found = cached_tokens(module, TOKENIZER, PROMPTS, NEW_TOKENS)
    assert [ids for ids, _ in found] == [ids for ids, _ in expected]
    same(found, expected)


def test_logits_in_parts_are_summarised_before_others_take_their_place(monkeypatch: pytest.MonkeyPatch) -> None:
    module = with_an_end(make(LLAMA))
    assert module.choose_path(sequence_batch(PROMPTS, PROMPTS, architecture="decoder", pad_id=0, start_id=None))
    expected = cached_tokens(module, TOKENIZER, PROMPTS, NEW_TOKENS)
    monkeypatch.setattr(TargetLogits, "part_rows", len(PROMPTS) - 1)  # the last part is one row
    monkeypatch.setattr(generation, "SCAN_LOGITS", 2 * len(TOKENIZER))
    same(cached_tokens(module, TOKENIZER, PROMPTS, NEW_TOKENS), expected)


def test_rows_that_ended_leave_the_batch() -> None:
    module = with_an_end(make(LLAMA))
    widths: list[int] = []
    module.model.get_input_embeddings().register_forward_hook(lambda *call: widths.append(call[1][0].shape[0]))
    lengths = [len(ids) for ids, _ in cached_tokens(module, TOKENIZER, PROMPTS, NEW_TOKENS)]
    assert widths == [len(PROMPTS)] + [sum(length > step for length in lengths) for step in range(1, max(lengths))]


MANY = [
    GENERATOR.integers(3, 200, length).astype(np.int32)
    for length in (3, 40, 7, 7, 30, 2, 12, 9, 25, 40, 5, 18, 33, 1, 6)
]


@pytest.mark.parametrize("config", [LLAMA, QWEN, GRANITE], ids=name)
@pytest.mark.parametrize("fast", [False, True])
@pytest.mark.parametrize("batch_size", [1, 2, 4, 14])
def test_prompts_that_join_later_get_the_answers_that_they_get_alone(
    config: dict[str, Any], fast: bool, batch_size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = with_an_end(make(config))
    if fast:
        module.choose_path(sequence_batch(PROMPTS, PROMPTS, architecture="decoder", pad_id=0, start_id=0))
    expected = [found for prompt in MANY for found in plain_tokens(module, TOKENIZER, [prompt], NEW_TOKENS)]
    monkeypatch.setattr(joining, "PROMPT_TOKENS", 90)  # prompts join in more than one part
    monkeypatch.setattr(generation, "SHARE_THAT_JOINS", 0.5)
    monkeypatch.setattr(generation, "SHARE_THAT_LEAVES", 0.0)
    widths: list[int] = []
    hook = module.model.get_input_embeddings().register_forward_hook(
        lambda *call: widths.append(call[1][0].shape[0] if call[1][0].shape[1] == 1 else 0)
    )
    same(cached_tokens(module, TOKENIZER, MANY, NEW_TOKENS, batch_size=batch_size), expected)
    hook.remove()
    assert max(widths) <= batch_size
    assert sum(widths) < sum(len(ids) for ids, _ in expected) + len(MANY)  # hardly a row that has ended is computed


@pytest.mark.parametrize("limit", [None, 40 + NEW_TOKENS])
def test_rows_that_stay_after_their_end_see_no_more_than_a_model_has_positions_for(
    limit: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = make(LLAMA)
    monkeypatch.setattr(joining, "position_limit", lambda config: limit)
    monkeypatch.setattr(generation, "SHARE_THAT_LEAVES", 0.5)
    monkeypatch.setattr(joining, "LEFT_OVER", 0.125 if limit is None else 0.9)
    exactly = [NEW_TOKENS if place % 4 == 0 else NEW_TOKENS - 2 for place in range(len(MANY))]
    expected = [
        found
        for prompt, length in zip(MANY, exactly, strict=True)
        for found in cached_tokens(module, TOKENIZER, [prompt], length, exactly=[length])
    ]
    given, stayed = joining.DecoderBatch.next, list[int]()

    def noted(batch: joining.DecoderBatch, ids_B: Tensor) -> Tensor:
        assert int(batch.positions_B1.max()) < 40 + NEW_TOKENS - 1
        whole = given(batch, ids_B)
        assert batch.num_columns <= batch.most
        stayed.append(len(ids_B))
        return whole

    monkeypatch.setattr(joining.DecoderBatch, "next", noted)
    same(cached_tokens(module, TOKENIZER, MANY, NEW_TOKENS, batch_size=4, exactly=exactly), expected)
    assert sum(stayed) > sum(exactly) - len(MANY)  # some stayed


def test_columns_that_no_row_sees_are_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    module = with_an_end(make(LLAMA))
    columns: list[int] = []
    given = joining.DecoderBatch.next

    def noted(batch: joining.DecoderBatch, ids_B: Tensor) -> Tensor:
        whole = given(batch, ids_B)
        columns.append(batch.num_columns)
        assert len(batch.reading.cache.layers[0].keys) == len(ids_B)
        assert batch.reading.cache.get_seq_length() == batch.num_columns
        return whole

    monkeypatch.setattr(joining.DecoderBatch, "next", noted)
    cached_tokens(module, TOKENIZER, MANY * 4, NEW_TOKENS, batch_size=3)
    assert len(columns) > 3 * NEW_TOKENS
    assert max(columns) <= (40 + NEW_TOKENS) * 8 / 7 + 1
    assert max(columns[-NEW_TOKENS:]) < 40  # short prompts come last


@pytest.mark.parametrize("batch_size", [3, 100])
def test_stretches_of_a_generation_hold_all_prompts_and_tokens(batch_size: int) -> None:
    module = with_an_end(make(LLAMA))
    offsets = np.concatenate([[0], np.cumsum([len(prompt) for prompt in MANY])])
    tokens = Tokens(np.concatenate(MANY), offsets)
    split = TokenSplit(tokens, tokens, Tokens(np.empty(0, np.int32), np.zeros(1, np.int64)), np.zeros(16, np.int64))
    timings: list[BatchSeconds] = []
    options: dict[str, Any] = {"architecture": "decoder", "max_new_tokens": NEW_TOKENS, "batch_size": batch_size}
    order = np.random.default_rng(0).permutation(len(MANY))[:12]
    answers = generate(module, TOKENIZER, split, order, timings=timings, **options)
    assert [answer.num_prompt_tokens for answer in answers] == [len(MANY[index]) for index in order]
    totals = np.sum([[one.num_queries, one.num_prompt_tokens, one.num_output_tokens] for one in timings], axis=0)
    written = sum(len(answer.token_logprobs) for answer in answers)
    assert totals.tolist() == [12, sum(len(MANY[index]) for index in order), written]
    assert (len(timings) > 1) == (batch_size == 3)
    assert [one.goes_on for one in timings] == [True] * (len(timings) - 1) + [False]
    assert all(one.seconds > 0 for one in timings)
    assert generate(module, TOKENIZER, split, np.empty(0, np.int64), **options) == []


def test_a_model_is_tried_with_a_prompt_that_joins_beside_a_running_row() -> None:
    module = make(LLAMA)
    sizes: list[tuple[int, ...]] = []
    module.model.get_input_embeddings().register_forward_hook(lambda *call: sizes.append(tuple(call[1][0].shape)))
    assert serves_loop(module, TOKENIZER, "decoder")
    assert sizes[:6] == [(2, 9), (2, 1), (1, 3), (2, 1), (2, 1), (2, 1)]


def test_models_that_cannot_read_on_are_left_to_transformers(monkeypatch: pytest.MonkeyPatch) -> None:
    for config in (GEMMA2, MISTRAL, MAMBA, DYNAMIC, BLOOM, GPT_NEO):
        assert not serves_loop(make(config), TOKENIZER, "decoder"), config
    sharded = make(LLAMA)
    sharded.sharded = True
    assert not serves_loop(sharded, TOKENIZER, "decoder")
    module = make(LLAMA)
    given = module.model.base_model.forward
    monkeypatch.setattr(module.model.base_model, "forward", lambda **inputs: given(**{**inputs, "position_ids": None}))
    assert not serves_loop(module, TOKENIZER, "decoder")


def test_bfloat16_is_served_and_its_statistics_are_those_of_one_pass() -> None:
    module = TargetLogits(
        build_model(ScratchModel(config=LLAMA, tokenizer=ByteTokenizer(), dtype="bfloat16"), TOKENIZER, seed=3)
    )
    assert serves_loop(module, TOKENIZER, "decoder")
    found = cached_tokens(module, TOKENIZER, PROMPTS, 5)
    targets = [np.array(ids, np.int32) for ids, _ in found]
    with torch.no_grad():
        logits = module(sequence_batch(PROMPTS, targets, architecture="decoder", pad_id=0, start_id=None))
    expected = generation.token_statistics(logits).numpy()
    np.testing.assert_allclose(np.concatenate([part for _, part in found]), expected, atol=2e-2)


def test_a_text_that_ends_answers_ends_the_work_and_cuts_where_it_would_cut_the_whole_answer() -> None:
    module = make(LLAMA)
    whole = plain_tokens(module, TOKENIZER, PROMPTS, NEW_TOKENS)
    texts = [TOKENIZER.decode(ids) for ids, _ in whole]
    late = [text[len(text) // 2 :][:2] for text in texts]
    for until in (late[:1], late, [late[1][-1], late[1]], [texts[2][3:9], texts[2][5]], ["never"]):
        found = cached_tokens(module, TOKENIZER, PROMPTS, NEW_TOKENS, until)
        for (ids, statistics), (plain_ids, plain) in zip(found, whole, strict=True):
            output, needed = cut_output(TOKENIZER, ids, until)
            assert (output, needed) == cut_output(TOKENIZER, plain_ids, until)
            np.testing.assert_allclose(statistics[:needed], plain[:needed], atol=2e-5, rtol=2e-5)
        assert (sum(len(ids) for ids, _ in found) < sum(len(ids) for ids, _ in whole)) == (until != ["never"])


def test_parts_of_characters_are_looked_at_only_where_a_text_ends_in_such_a_character() -> None:
    part = TOKENIZER("é")["input_ids"][0]
    assert "\ufffd" in TOKENIZER.decode([part])
    rows, ids = np.array([0]), np.array([part])
    assert not generation._Stops(TOKENIZER, ["\n\n"]).may_end(rows, ids).any()
    assert generation._Stops(TOKENIZER, ["\n\n", "né"]).may_end(rows, ids).all()


def test_a_growing_cache_holds_what_was_put_in_row_by_row() -> None:
    layer = GrowingLayer()
    generator = torch.Generator().manual_seed(0)
    expected: list[Tensor] = [torch.empty(3, 2, 0, 4), torch.empty(3, 2, 0, 5)]
    for length in (3, 1, 70, 1, 200):
        new = [torch.randn(len(expected[0]), 2, length, width, generator=generator) for width in (4, 5)]
        expected = [torch.cat([old, part], dim=2) for old, part in zip(expected, new, strict=True)]
        found = layer.update(*new)
        assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))
        rows = torch.tensor([0, 2, 2]) if length == 70 else torch.arange(3)
        layer.batch_select_indices(rows)
        expected = [part[rows] for part in expected]
        assert layer.get_seq_length() == expected[0].shape[2]
        assert torch.equal(layer.values, expected[1])
    layer.close(Gaps(np.array([False, True, True]), torch.device("cpu")))
    new = [torch.randn(2, 2, 1, width, generator=generator) for width in (4, 5)]
    found = layer.update(*new)
    expected = [torch.cat([old[[2, 1]], part], dim=2) for old, part in zip(expected, new, strict=True)]
    assert all(torch.equal(one, old) for one, old in zip(found, expected, strict=True))
    layer.drop(70)
    expected = [old[:, :, 70:] for old in expected]
    assert all(torch.equal(one, old) for one, old in zip((layer.keys, layer.values), expected, strict=True))
    other = GrowingLayer()
    joining = [torch.randn(1, 2, 9, width, generator=generator) for width in (4, 5)]
    other.update(*joining)
    length = layer.get_seq_length()
    layer.join(other, length, 3)
    for one, old, part in zip((layer.keys, layer.values), expected, joining, strict=True):
        assert torch.equal(one[:2], old)
        assert torch.equal(one[2:, :, length - 9 :], part)
        assert one.isfinite().all()


def test_what_a_model_keeps_of_a_generation_may_be_trained_with() -> None:
    module = make(LLAMA)
    rotary = module.model.base_model.rotary_emb

    def keep(part: torch.nn.Module, arguments: Any, found: tuple[torch.Tensor, torch.Tensor]) -> None:
        part.kept = found[0]

    rotary.register_forward_hook(keep)
    cached_tokens(module, TOKENIZER, PROMPTS, NEW_TOKENS)
    weight = module.model.get_output_embeddings().weight[0, 0]
    (rotary.kept * weight).sum().backward()  # which saves what was kept
    assert not rotary.kept.is_inference()
    head = module.model.get_output_embeddings().weight
    assert head.grad is not None
    assert float(head.grad[0, 0]) == pytest.approx(float(rotary.kept.sum()))


def test_nothing_keeps_a_gradient_where_a_model_is_not_known_to_bear_inference_mode() -> None:
    module = make(LLAMA)
    modes = []
    module.model.register_forward_hook(
        lambda *call: modes.append((torch.is_grad_enabled(), torch.is_inference_mode_enabled()))
    )
    cached_tokens(module, TOKENIZER, PROMPTS, NEW_TOKENS)
    type(module.model).__module__, known = "elsewhere", type(module.model).__module__
    try:
        cached_tokens(module, TOKENIZER, PROMPTS, NEW_TOKENS)
    finally:
        type(module.model).__module__ = known
    assert set(modes) == {(False, True), (False, False)}
