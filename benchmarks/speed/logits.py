"""What reading a row of logits costs beside torch's own operations: `python benchmarks/speed/logits.py`, some two minutes.

Nanoseconds a logit of one thread, in float32: the first choice, the statistics of generated tokens, and what the large
model's pass keeps of its targets. The peers are the plain operations; in the tests they are the references.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from measure import Row, paired, row, write
from torch import Tensor

from catsweep.answers import token_statistics
from catsweep.first_choice import first_choice
from catsweep.logit_rows import SLICE_LOGITS, read_in_blocks, read_plainly
from catsweep.models import PART_ROWS
from catsweep.spec.sweep import DistributionSpec

NUM_LOGITS = 2**24
VOCABULARIES = (32_000, 128_000)
DISTRIBUTIONS = {
    "rank and log-probability": None,
    "the same and the 12 most probable tokens": DistributionSpec(kind="top_k", num_entries=12),
    "the same and 12 drawn tokens": DistributionSpec(kind="sampled", num_entries=12),
}


def plain_statistics(logits_NV: Tensor) -> Tensor:
    """Log-probability of the first choice, entropy and margin, one operation after another."""
    logprobs_NV = logits_NV.log_softmax(1)
    probs_NV = logprobs_NV.exp()
    top_N2 = probs_NV.topk(2, dim=1).values
    entropy_N = -(probs_NV * logprobs_NV).sum(1)
    return torch.stack([logprobs_NV.amax(1), entropy_N, top_N2[:, 0] - top_N2[:, 1]], dim=1)


def in_slices(read: Callable[..., Any], num_rows: int, logits_NV: Tensor, targets_N: Tensor, **settings: Any) -> None:
    """Read all rows, so many at a time."""
    for start in range(0, len(logits_NV), num_rows):
        rows = slice(start, start + num_rows)
        read(logits_NV[rows], targets_N[rows], vocab_size=logits_NV.shape[1], **settings)


def cases(vocab_size: int) -> list[tuple[str, str, Callable[[], object], Callable[[], object]]]:
    """What is read, the peer's name, our call and the peer's."""
    generator = torch.Generator().manual_seed(0)
    logits_NV = 3 * torch.randn(NUM_LOGITS // vocab_size, vocab_size, generator=generator)
    # Targets as a model that has learned something sees them: half of them among the first few.
    likely_N = logits_NV.topk(8, dim=1).indices[:, -1]
    is_likely_N = torch.rand(len(logits_NV), generator=generator) < 0.5
    targets_N = torch.where(is_likely_N, likely_N, torch.randint(vocab_size, (len(logits_NV),), generator=generator))
    torch.testing.assert_close(token_statistics(logits_NV), plain_statistics(logits_NV), rtol=1e-4, atol=1e-5)
    read = functools.partial(in_slices, logits_NV=logits_NV, targets_N=targets_N, generator=generator)
    return [
        ("first choice", "torch argmax", lambda: first_choice(logits_NV), lambda: logits_NV.argmax(1)),
        (
            "log-probability, entropy and margin of the first choice",
            "log_softmax, exp, topk(2), sum",
            lambda: token_statistics(logits_NV),
            lambda: plain_statistics(logits_NV),
        ),
        *(
            (
                f"large model's pass: {what}",
                "torch's and numpy's operations one after another, 2 MiB at a time",
                functools.partial(read, read_in_blocks, PART_ROWS, distribution=distribution),
                functools.partial(read, read_plainly, SLICE_LOGITS // vocab_size, distribution=distribution),
            )
            for what, distribution in DISTRIBUTIONS.items()
        ),
    ]


def main() -> None:
    """Measure all and write the part's figures."""
    torch.set_num_threads(1)
    rows: list[Row] = []
    for vocab_size in VOCABULARIES:
        for what, peer_name, ours, peer in cases(vocab_size):
            num_logits = NUM_LOGITS // vocab_size * vocab_size
            rows.append(
                row(
                    f"{what}, V = {vocab_size:,}",
                    paired(ours, peer),
                    peer_name=peer_name,
                    target="none",
                    unit="ns a logit",
                    scale=1e9 / num_logits,
                    note="one thread",
                )
            )
            print(rows[-1].what, rows[-1].ours, rows[-1].peer, rows[-1].ratios, flush=True)
    write("logits", rows, "python benchmarks/speed/logits.py")


if __name__ == "__main__":
    main()
