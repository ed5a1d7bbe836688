"""Greedy answers beside lm-eval's generate_until on the same prompts: `python benchmarks/speed/generation.py`.

Models of random weights and a tokeniser of single bytes are made on the spot. The end token takes the part of the token that
a model's answers reach at the most different lengths. One thread and one batch size for both: 128 rows, what a sweep takes
where nothing is said, and 16. The answers must be the same texts, and ours come with log-probability, entropy and margin of
each token.
"""

from __future__ import annotations

import functools
import logging
import time
from typing import Any

import numpy as np
import torch
from choices import MIDDLE, TINY
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from measure import Row, paired, row, write
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from catsweep.answers import Answer
from catsweep.batches import sequence_batch
from catsweep.data import Tokens, TokenSplit
from catsweep.generation import generate, plain_tokens
from catsweep.models import TargetLogits, build_model
from catsweep.spec.model import ByteTokenizer, ScratchModel
from catsweep.tokenization import make_tokenizer

LETTERS = list("abcdefghijklmnopqrstuvwxyz ")


def make(config: dict[str, Any], texts: list[str], new_tokens: int) -> tuple[TargetLogits, PreTrainedTokenizerBase]:
    """A model, and a tokeniser whose end token ends the model's answers here and there."""
    tokenizer = make_tokenizer(ByteTokenizer(), [])
    model = build_model(ScratchModel(config=config, tokenizer=ByteTokenizer()), tokenizer, seed=3)
    head = model.get_output_embeddings()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1 and parameter is not head.weight:
                parameter.mul_(2)  # answers that differ from prompt to prompt
        head.weight[len(tokenizer) :] = 0  # logits that the tokeniser has no tokens for
    module = TargetLogits(model)
    prompts = [np.array(tokenizer(text)["input_ids"], np.int32) for text in texts[:64]]
    module.choose_path(sequence_batch(prompts[:2], prompts[:2], architecture="decoder", pad_id=0, start_id=None))
    answers = np.array(
        [ids + [0] * (new_tokens - len(ids)) for ids, _ in plain_tokens(module, tokenizer, prompts, new_tokens)]
    )
    spreads = {}
    for token in np.unique(answers[answers >= 3]).tolist():
        seen = answers == token
        spreads[token] = float(np.where(seen.any(1), seen.argmax(1), new_tokens).std())
    swap(model, max(spreads, key=lambda token: spreads[token]), tokenizer.eos_token_id)
    model.generation_config = GenerationConfig(eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id)
    return module, tokenizer


def swap(model: PreTrainedModel, one: int, other: int) -> None:
    """From now on the model means each token by the other's id."""
    weights = {id(part.weight): part.weight for part in (model.get_input_embeddings(), model.get_output_embeddings())}
    with torch.no_grad():
        for weight in weights.values():
            weight[[one, other]] = weight[[other, one]]


def make_texts(num_prompts: int, characters: tuple[int, int]) -> list[str]:
    """Random texts of some lengths."""
    generator = np.random.default_rng(1)
    lengths = generator.integers(characters[0], characters[1] + 1, num_prompts)
    return ["".join(generator.choice(LETTERS, length - 1)) + "=" for length in lengths]


def split_of(tokenizer: PreTrainedTokenizerBase, texts: list[str]) -> TokenSplit:
    """The prompts as a task's split stores them."""
    ids = [tokenizer(text)["input_ids"] for text in texts]
    offsets = np.concatenate([[0], np.cumsum([len(one) for one in ids])])
    tokens = Tokens(np.concatenate(ids).astype(np.int32), offsets.astype(np.int64))
    return TokenSplit(
        tokens, tokens, Tokens(np.empty(0, np.int32), np.zeros(1, np.int64)), np.zeros(len(ids) + 1, np.int64)
    )


def ours(
    module: TargetLogits, tokenizer: PreTrainedTokenizerBase, split: TokenSplit, batch_size: int, new_tokens: int,
    until: list[str],
) -> list[Answer]:  # fmt: skip
    """All answers, as `evaluate` asks for them."""
    return generate(
        module, tokenizer, split, np.arange(len(split)), architecture="decoder", max_new_tokens=new_tokens, until=until,
        batch_size=batch_size,
    )  # fmt: skip


def peers(model: HFLM, texts: list[str], new_tokens: int, until: list[str]) -> list[str]:
    """The same from HFLM, which sorts and batches by itself."""
    settings = {"until": until, "max_gen_toks": new_tokens, "do_sample": False}
    requests = [Instance("generate_until", {}, (text, settings), number) for number, text in enumerate(texts)]
    return [output.strip() for output in model.generate_until(requests, disable_tqdm=True)]


GOAL = "at least 1.5x"
CASES = [
    ("12.6 M decoder, prompts of 20 to 60 tokens, at most 64 new", MIDDLE, (128, (20, 60)), 128, 64, [], GOAL),
    ("12.6 M decoder, 64 prompts of such lengths, 16 rows at once", MIDDLE, (64, (20, 60)), 16, 64, [], GOAL),
    ("12.6 M decoder, 256 prompts of such lengths, 16 rows at once", MIDDLE, (256, (20, 60)), 16, 64, [], ""),
    ("12.6 M decoder, prompts of 100 tokens, at most 64 new", MIDDLE, (128, (90, 110)), 128, 64, [], GOAL),
    ("tiny decoder, prompts of 8 to 24 tokens, at most 32 new", TINY, (512, (8, 24)), 128, 32, [], GOAL),
    ("the same with a text of `until`", TINY, (512, (8, 24)), 128, 32, ["\n\n"], GOAL),
]


def main() -> None:
    """Measure all cases and write the part's figures."""
    torch.set_num_threads(1)
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    rows: list[Row] = []
    for what, config, shape, batch_size, new_tokens, until, target in CASES:
        texts = make_texts(*shape)
        module, tokenizer = make(config, texts, new_tokens)
        split = split_of(tokenizer, texts)
        peer = HFLM(pretrained=module.model, tokenizer=tokenizer, batch_size=batch_size, max_length=1024)
        call = functools.partial(ours, module, tokenizer, split, batch_size, new_tokens, until)
        peer_call = functools.partial(peers, peer, texts, new_tokens, until)
        answers, expected = call(), peer_call()
        found = [answer.output for answer in answers]
        same = sum(one == other for one, other in zip(found, expected, strict=True))
        assert same == len(texts), f"{what}: {same} of {len(texts)} answers are the same"
        assert len(set(found)) > len(texts) // 4, f"{what}: the answers are too much alike to compare"
        lengths = [len(answer.token_logprobs) for answer in answers]
        limited = sum(length == new_tokens for length in lengths) / len(lengths)
        repeats = 15 if config is TINY else 3 if len(texts) == 256 else 5  # 256 texts: a minute each
        seconds = paired(call, peer_call, repeats=repeats, clock=time.process_time)
        note = (
            f"{same} of {len(texts)} answers the same, {min(lengths)} to {max(lengths)} tokens, mean "
            f"{np.mean(lengths):.0f}, {limited:.0%} to the limit; batch {batch_size}, CPU seconds of one thread"
        )
        rows.append(row(what, seconds, peer_name="lm-eval HFLM generate_until", target=target, note=note))
        print(what, rows[-1].ours, rows[-1].peer, rows[-1].ratios, note, flush=True)
    write("generation", rows, "python benchmarks/speed/generation.py")


if __name__ == "__main__":
    main()
