"""Rows: batched equals one by one, and the statistics are the model's own."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from catsweep.answers import Answer, token_statistics
from catsweep.batches import sequence_batch
from catsweep.choices import score_choices
from catsweep.data import Tokens, TokenSplit
from catsweep.generation import cut_output, generate
from catsweep.models import TargetLogits, architecture_of, build_model
from catsweep.spec.model import ByteTokenizer, ScratchModel
from catsweep.tokenization import make_tokenizer

LLAMA = {
    "model_type": "llama",
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
}
GPT2 = {"model_type": "gpt2", "n_embd": 32, "n_layer": 2, "n_head": 2}
T5 = {"model_type": "t5", "d_model": 32, "d_ff": 64, "num_layers": 2, "num_heads": 2, "d_kv": 16}
MODELS = [LLAMA, GPT2, T5]
TOKENIZER = make_tokenizer(ByteTokenizer(), [])


def make(config: dict[str, Any]) -> TargetLogits:
    """A model with weights large enough that answers differ between prompts."""
    model = build_model(ScratchModel(config=config, tokenizer=ByteTokenizer()), TOKENIZER, seed=3)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(4)
    return TargetLogits(model)


def lists(generator: np.random.Generator, sizes: list[int]) -> Tokens:
    ids = generator.integers(3, 200, sum(sizes)).astype(np.int32)
    return Tokens(ids, np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64))


def some_split() -> TokenSplit:
    generator = np.random.default_rng(1)
    prompts, targets = lists(generator, [1, 9, 4, 6]), lists(generator, [3, 3, 3, 3])
    return TokenSplit(prompts, targets, lists(generator, [2, 5, 1, 1, 3, 3, 4, 2]), np.arange(0, 9, 2))


def close(first: Answer, second: Answer) -> None:
    assert first.output == second.output
    assert first.num_prompt_tokens == second.num_prompt_tokens
    for name in ("token_logprobs", "token_entropies", "token_margins", "choice_logprobs", "choice_num_tokens"):
        np.testing.assert_allclose(getattr(first, name), getattr(second, name), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("config", MODELS, ids=lambda config: config["model_type"])
def test_generation_in_a_batch_equals_one_by_one(config: dict[str, Any]) -> None:
    module, split = make(config), some_split()
    options: dict[str, Any] = {"architecture": architecture_of(module.model.config), "max_new_tokens": 6}
    together = generate(module, TOKENIZER, split, np.arange(4), **options)
    for index, answer in enumerate(together):
        close(answer, generate(module, TOKENIZER, split, np.array([index]), **options)[0])
    assert len({answer.output for answer in together}) > 1


@pytest.mark.parametrize("config", MODELS, ids=lambda config: config["model_type"])
def test_generated_log_probabilities_are_those_of_scoring_the_answer(config: dict[str, Any]) -> None:
    module, split = make(config), some_split()
    architecture = architecture_of(module.model.config)
    (answer,) = generate(module, TOKENIZER, split, np.array([2]), architecture=architecture, max_new_tokens=6)
    prompt = split.prompts[2]
    so_far: list[int] = []
    for logprob in answer.token_logprobs:
        target = np.array([*so_far, 3], dtype=np.int32)  # the last token's own id does not matter
        batch = sequence_batch([prompt], [target], architecture=architecture, pad_id=0, start_id=0)
        with torch.no_grad():
            logprobs = module(batch)[-1].log_softmax(0)
        assert logprobs.max().item() == pytest.approx(float(logprob), abs=1e-5)
        so_far.append(int(logprobs.argmax()))


def test_the_end_token_counts_and_nothing_behind_it() -> None:
    module, split = make(LLAMA), some_split()
    head = module.model.get_output_embeddings()
    with torch.no_grad():  # the end token is always the most probable one
        head.weight.zero_()
    head.bias = torch.nn.Parameter(torch.zeros(len(TOKENIZER)))
    with torch.no_grad():
        head.bias[TOKENIZER.eos_token_id] = 1.0
    answers = generate(module, TOKENIZER, split, np.arange(4), architecture="decoder", max_new_tokens=6)
    assert [len(answer.token_logprobs) for answer in answers] == [1, 1, 1, 1]
    assert [answer.output for answer in answers] == ["", "", "", ""]


@pytest.mark.parametrize("config", MODELS, ids=lambda config: config["model_type"])
def test_choices_in_a_batch_equal_one_by_one_and_a_plain_sum(config: dict[str, Any]) -> None:
    module, split = make(config), some_split()
    architecture = architecture_of(module.model.config)
    options: dict[str, Any] = {"architecture": architecture, "normalize": "sum"}
    texts = [["a", "b"]] * 4
    together = score_choices(module, TOKENIZER, split, np.arange(4), texts, **options)
    for index, answer in enumerate(together):
        close(answer, score_choices(module, TOKENIZER, split, np.array([index]), texts[:1], **options)[0])
        sums = []
        for choice in range(2 * index, 2 * index + 2):
            tokens = split.choices[choice]
            batch = sequence_batch([split.prompts[index]], [tokens], architecture=architecture, pad_id=0, start_id=0)
            with torch.no_grad():
                logprobs = module(batch).log_softmax(1)
            sums.append(sum(float(logprobs[place, token]) for place, token in enumerate(tokens)))
        np.testing.assert_allclose(answer.choice_logprobs, sums, atol=1e-4)
        assert answer.output == texts[index][int(np.argmax(sums))]


def test_a_choice_can_be_picked_by_its_mean_over_tokens() -> None:
    module, split = make(LLAMA), some_split()
    answers = score_choices(
        module, TOKENIZER, split, np.arange(4), [["a", "b"]] * 4, architecture="decoder", normalize="tokens"
    )
    for answer in answers:
        means = answer.choice_logprobs / answer.choice_num_tokens
        assert answer.output == ["a", "b"][int(np.argmax(means))]


def test_token_statistics_by_hand() -> None:
    logits = torch.tensor([[0.5, 0.25, 0.25]]).log()
    logprob, entropy, margin = token_statistics(logits)[0].tolist()
    assert logprob == pytest.approx(np.log(0.5))
    assert entropy == pytest.approx(1.5 * np.log(2))
    assert margin == pytest.approx(0.25)
    assert token_statistics(logits, torch.tensor([2]))[0, 0].item() == pytest.approx(np.log(0.25))


@pytest.mark.parametrize(("rows", "width"), [(300, 64), (50, 32_001), (3, 2**20)])
def test_token_statistics_are_those_of_softmax_whatever_is_computed_in_one_go(rows: int, width: int) -> None:
    generator = torch.Generator().manual_seed(rows)
    logits = 3 * torch.randn(rows, width, generator=generator) + 50
    ids = torch.randint(width, (2 * rows,), generator=generator)
    places = torch.randint(rows, (2 * rows,), generator=generator)
    logprobs = logits.double().log_softmax(1)
    top = logprobs.topk(2, dim=1).values
    expected = torch.stack([top[:, 0], -(logprobs.exp() * logprobs).sum(1), top[:, 0].exp() - top[:, 1].exp()], 1)
    torch.testing.assert_close(token_statistics(logits).double(), expected, atol=1e-5, rtol=1e-5)
    of_ids = torch.cat([logprobs[places, ids][:, None], expected[places, 1:]], 1)
    torch.testing.assert_close(token_statistics(logits, ids, places).double(), of_ids, atol=1e-5, rtol=1e-5)
    of_rows = torch.cat([logprobs[torch.arange(rows), ids[:rows]][:, None], expected[:, 1:]], 1)
    torch.testing.assert_close(token_statistics(logits, ids[:rows]).double(), of_rows, atol=1e-5, rtol=1e-5)


def test_a_masked_token_adds_nothing_to_the_entropy() -> None:
    logits = torch.tensor([[0.0, 0.0, -torch.inf]])
    assert token_statistics(logits)[0, 1].item() == pytest.approx(np.log(2))


def test_an_answer_ends_before_the_first_stop_text_and_keeps_the_tokens_that_it_took_to_see_it() -> None:
    module, split = make(LLAMA), some_split()

    def answer(num_tokens: int, *until: str) -> Answer:
        found = generate(
            module, TOKENIZER, split, np.array([3]), architecture="decoder", max_new_tokens=num_tokens, until=until
        )
        return found[0]

    whole = answer(24)
    assert whole.output.count("SN") == 1
    cut = answer(24, "never", "S\n", "SN")
    assert cut.output == whole.output[: whole.output.index("SN")].strip()
    seen_first = next(num for num in range(1, 25) if "SN" in answer(num).output)
    np.testing.assert_allclose(cut.token_logprobs, whole.token_logprobs[:seen_first], atol=1e-5)
    close(answer(24, "never"), whole)


def test_outputs_are_what_was_generated_whatever_clean_up_a_checkpoint_asks_for() -> None:
    tokenizer = make_tokenizer(ByteTokenizer(), [])
    tokenizer.clean_up_tokenization_spaces = True
    text = "it 's what I do n't know ."
    assert cut_output(tokenizer, tokenizer(text)["input_ids"], ())[0] == text
