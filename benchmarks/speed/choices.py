"""Log-likelihoods of choices beside lm-eval's HFLM on the same pairs: `python benchmarks/speed/choices.py`.

Models and a tokeniser of single bytes are made on the spot. Both sides get token ids, one batch size, one thread; the
largest difference between the log-likelihoods stands in the note.
"""

from __future__ import annotations

import functools
import logging
import time
from typing import Any

import numpy as np
import torch
from lm_eval.models.huggingface import HFLM
from measure import Row, paired, row, write

from catsweep.batches import sequence_batch
from catsweep.choices import num_rows, score_choices
from catsweep.data import Tokens, TokenSplit
from catsweep.models import Architecture, TargetLogits, architecture_of, build_model
from catsweep.spec.model import ByteTokenizer, ScratchModel
from catsweep.tokenization import make_tokenizer

TINY = {"model_type": "llama", "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2,
        "initializer_range": 0.1, "rope_parameters": {"rope_type": "default", "rope_theta": 10}}  # fmt: skip
"""The small model of search_spaces/study.yaml."""
MIDDLE = {"model_type": "llama", "hidden_size": 320, "intermediate_size": 864, "num_hidden_layers": 6,
          "num_attention_heads": 5, "vocab_size": 8000, "initializer_range": 0.1}  # fmt: skip
"""12.6 million parameters."""
MIDDLE_T5 = {"model_type": "t5", "d_model": 256, "d_ff": 768, "num_layers": 4, "num_heads": 4, "d_kv": 64,
             "vocab_size": 8000}  # fmt: skip
"""11 million parameters."""
TOKENIZER = make_tokenizer(ByteTokenizer(), [])


def make(config: dict[str, Any]) -> TargetLogits:
    """A model with random weights, on the path to its logits that a trial would take."""
    module = TargetLogits(build_model(ScratchModel(config=config, tokenizer=ByteTokenizer()), TOKENIZER, seed=3))
    if not module.model.config.is_encoder_decoder:
        few = lists(np.random.default_rng(0), [4, 4])
        targets = [few[0], few[1]]
        module.choose_path(sequence_batch(targets, targets, architecture="decoder", pad_id=0, start_id=None))
    return module


def lists(generator: np.random.Generator, sizes: list[int]) -> Tokens:
    """Random token ids."""
    ids = generator.integers(3, len(TOKENIZER), sum(sizes)).astype(np.int32)
    return Tokens(ids, np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64))


def make_split(num_examples: int, prompt_tokens: int, choice_tokens: tuple[int, int]) -> TokenSplit:
    """Examples of four choices, their prompts within 10% of one length."""
    generator = np.random.default_rng(1)
    prompts = generator.integers(int(0.9 * prompt_tokens), int(1.1 * prompt_tokens) + 1, num_examples).tolist()
    choices = generator.integers(choice_tokens[0], choice_tokens[1] + 1, 4 * num_examples).tolist()
    split_prompts, split_choices = lists(generator, prompts), lists(generator, choices)
    return TokenSplit(split_prompts, split_prompts, split_choices, np.arange(0, 4 * num_examples + 1, 4))


def ours(module: TargetLogits, split: TokenSplit, batch_size: int) -> np.ndarray:
    """Log-likelihoods of all choices, batched as `evaluate` does it."""
    architecture: Architecture = architecture_of(module.model.config)
    size = max(1, batch_size // num_rows(module, split, 0, architecture))
    by_length = np.argsort(split.prompts.lengths, kind="stable")
    found = np.empty((len(split), 4), np.float32)
    for start in range(0, len(split), size):
        batch = by_length[start : start + size]
        texts = [["a", "b", "c", "d"]] * len(batch)
        answers = score_choices(module, TOKENIZER, split, batch, texts, architecture=architecture, normalize="sum")
        found[batch] = np.stack([answer.choice_logprobs for answer in answers])
    return found.reshape(-1)


def peers(model: HFLM, split: TokenSplit) -> np.ndarray:
    """The same from HFLM, which sorts and batches by itself. It gets the token ids that its `loglikelihood` would make."""
    requests = [
        (("", ""), split.prompts[index].tolist(), split.choices[4 * index + choice].tolist())
        for index in range(len(split))
        for choice in range(4)
    ]
    return np.array([answer[0] for answer in model._loglikelihood_tokens(requests, disable_tqdm=True)])


CASES = [
    ("12.6 M decoder, prompts of 400 tokens, choices of 3 to 10", MIDDLE, (8, 400, (3, 10)), 8, "at least 2x"),
    ("12.6 M decoder, prompts of 400 tokens, choices of 1", MIDDLE, (8, 400, (1, 1)), 8, "one pass"),
    ("tiny decoder, prompts of 400 tokens, choices of 3 to 10", TINY, (64, 400, (3, 10)), 32, "at least 2x"),
    ("tiny decoder, prompts of 24 tokens, choices of 3 to 10", TINY, (512, 24, (3, 10)), 128, ""),
    ("tiny decoder, prompts of 24 tokens, choices of 1", TINY, (512, 24, (1, 1)), 128, "one pass"),
    ("11 M encoder-decoder, prompts of 400 tokens, choices of 3 to 10", MIDDLE_T5, (8, 400, (3, 10)), 8, ""),
]


def main() -> None:
    """Measure all cases and write the part's figures."""
    torch.set_num_threads(1)
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    rows: list[Row] = []
    for what, config, shape, batch_size, target in CASES:
        module, split = make(config), make_split(*shape)
        backend = "seq2seq" if module.model.config.is_encoder_decoder else "causal"
        peer = HFLM(
            pretrained=module.model, tokenizer=TOKENIZER, batch_size=batch_size, backend=backend, max_length=1024
        )
        call, peer_call = functools.partial(ours, module, split, batch_size), functools.partial(peers, peer, split)
        difference = float(np.abs(call() - peer_call()).max())
        assert difference < 1e-4, f"{what}: log-likelihoods differ by {difference}"
        note = f"log-likelihoods differ by at most {difference:.1e}; "
        seconds = paired(call, peer_call, clock=time.process_time)
        note += f"{len(split)} examples, batch {batch_size}, CPU seconds of one thread"
        rows.append(row(what, seconds, peer_name="lm-eval HFLM", target=target, note=note))
        print(what, rows[-1].ours, rows[-1].peer, rows[-1].ratios, note, flush=True)
    write("choices", rows, "python benchmarks/speed/choices.py")


if __name__ == "__main__":
    main()
