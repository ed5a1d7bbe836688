"""Rows of logits read in blocks, against the plain readings and torch's own functions."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from catsweep import logit_rows
from catsweep.first_choice import BLOCK
from catsweep.logit_rows import MAX_RANK, read_in_blocks, read_plainly, read_rows_of_logits
from catsweep.spec.sweep import DistributionSpec

SHAPES = [(4096, 4096), (5000, 5000), (5000, 4990), (5000, 4992), (4100, 4096)]
"""Widths of the logits and vocabularies: whole blocks and not, with padded heads and without."""


def some_logits(num_logits: int, vocab_size: int, num_rows: int = 24) -> tuple[Tensor, Tensor]:
    """Logits with many ties, and targets of rank 0, of small ranks, of some more than 200, and of any."""
    generator = torch.Generator().manual_seed(0)
    logits_NV = (torch.randn(num_rows, num_logits, generator=generator) * 12).round() / 4
    order_NV = logits_NV[:, :vocab_size].argsort(dim=1, descending=True)
    places = [0] * 8 + [1, 2, 3, 11, 200, 254, 255, 256]
    places += torch.randint(0, vocab_size, (num_rows - len(places),), generator=generator).tolist()
    return logits_NV, order_NV[torch.arange(num_rows), torch.tensor(places)]


@pytest.mark.parametrize(("num_logits", "vocab_size"), SHAPES)
def test_ranks_and_log_probabilities_in_blocks_are_the_plain_ones(num_logits: int, vocab_size: int) -> None:
    logits, targets = some_logits(num_logits, vocab_size)
    settings = {"distribution": None, "vocab_size": vocab_size, "generator": torch.Generator()}
    plain, fast = (read(logits, targets, **settings) for read in (read_plainly, read_in_blocks))
    assert fast.rank_N.tolist() == plain.rank_N.tolist()
    assert plain.rank_N.max() == MAX_RANK
    torch.testing.assert_close(fast.logprob_N, plain.logprob_N, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("num_logits", "vocab_size"), SHAPES)
def test_the_most_probable_tokens_in_blocks_are_the_plain_ones(num_logits: int, vocab_size: int) -> None:
    logits, targets = some_logits(num_logits, vocab_size)
    logits[0, vocab_size - 1] = 50.0  # the very last entry
    logits[1, vocab_size:] = 50.0  # no entries
    settings = {
        "distribution": DistributionSpec(kind="top_k"),
        "vocab_size": vocab_size,
        "generator": torch.Generator(),
    }
    plain, fast = (read(logits, targets, **settings) for read in (read_plainly, read_in_blocks))
    for reading in (plain, fast):
        assert reading.ids_NK is not None
        assert reading.ids_NK.max() < vocab_size
        assert all(len(set(row)) == 12 for row in reading.ids_NK.tolist())
    # Of equal logits either may be taken.
    assert logits.gather(1, fast.ids_NK).tolist() == logits.gather(1, plain.ids_NK).tolist()
    torch.testing.assert_close(fast.probs_NK, plain.probs_NK, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize(("num_logits", "vocab_size"), [(4096, 4096), (5000, 4990)])
def test_tokens_drawn_in_blocks_have_the_models_probabilities(num_logits: int, vocab_size: int) -> None:
    logits = torch.randn(1, num_logits, generator=torch.Generator().manual_seed(1)) * 2
    logits[0, 7], logits[0, vocab_size - 1], logits[0, vocab_size:] = 9.0, 8.0, 20.0
    probs = logits[0, :vocab_size].double().softmax(0)
    num_rows, entries = 2000, 32
    reading = read_in_blocks(
        logits.expand(num_rows, -1), torch.zeros(num_rows, dtype=torch.long), distribution=DistributionSpec(num_entries=entries),
        vocab_size=vocab_size, generator=torch.Generator().manual_seed(2),
    )  # fmt: skip
    assert reading.ids_NK is not None
    num_drawn = num_rows * entries
    counts = torch.bincount(reading.ids_NK.flatten(), minlength=vocab_size)
    assert len(counts) == vocab_size
    # Pearson's statistic over tokens that are expected at least five times, the others as one: mean df, deviation sqrt(2 df).
    expected = num_drawn * probs
    is_large = expected >= 5
    assert is_large.sum() > 100
    observed = torch.cat([counts[is_large], counts[~is_large].sum()[None]]).double()
    expected = torch.cat([expected[is_large], expected[~is_large].sum()[None]])
    statistic, df = ((observed - expected) ** 2 / expected).sum(), len(expected) - 1
    assert abs(statistic - df) < 4 * (2 * df) ** 0.5


def test_a_token_without_probability_is_never_drawn() -> None:
    logits = torch.full((50, 4096), -torch.inf)
    logits[:, 4095], logits[:, 100] = 0.0, 0.0
    reading = read_in_blocks(
        logits, torch.full((50,), 100), distribution=DistributionSpec(), vocab_size=4096, generator=torch.Generator()
    )
    assert reading.ids_NK is not None
    assert set(reading.ids_NK.flatten().tolist()) == {100, 4095}


@pytest.mark.parametrize("distribution", [None, DistributionSpec(), DistributionSpec(kind="top_k")])
@pytest.mark.parametrize("vocab_size", [4096, 100])
def test_slices_of_rows_give_the_whole(
    monkeypatch: pytest.MonkeyPatch, distribution: DistributionSpec | None, vocab_size: int
) -> None:
    logits, targets = some_logits(4096, 4096)
    logits, targets = logits[:, :vocab_size], targets.clamp(max=vocab_size - 1)

    def reading() -> dict[str, list[Tensor]]:
        generator = torch.Generator().manual_seed(0)
        settings = {"distribution": distribution, "vocab_size": vocab_size, "generator": generator}
        parts = list(read_rows_of_logits(logits, targets, **settings))
        assert [row for rows, _ in parts for row in range(rows.start, rows.stop)] == list(range(len(logits)))
        names = ("rank_N", "logprob_N", "ids_NK", "probs_NK")
        return {name: [part for _, found in parts if (part := getattr(found, name)) is not None] for name in names}

    whole = reading()
    for name in ("SLICE_LOGITS", "SCAN_LOGITS"):
        monkeypatch.setattr(logit_rows, name, 5 * vocab_size)
    monkeypatch.setattr(logit_rows, "BLOCK_LOGITS", 10 * 12 * BLOCK)
    for name, parts in reading().items():
        num_parts = 5 if vocab_size == 100 else 1 if distribution is None else 3
        assert len(parts) == (num_parts if whole[name] else 0), name
        if parts:
            torch.testing.assert_close(torch.cat(parts), torch.cat(whole[name]), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("num_entries", "vocab_size", "in_blocks"), [(12, 32_000, True), (12, 500, False), (4000, 32_000, False)]
)
def test_blocks_are_taken_where_they_are_fewer_than_the_whole(
    monkeypatch: pytest.MonkeyPatch, num_entries: int, vocab_size: int, in_blocks: bool
) -> None:
    called = []
    monkeypatch.setattr(logit_rows, "read_in_blocks", lambda *arguments, **settings: called.append("blocks"))
    monkeypatch.setattr(logit_rows, "read_plainly", lambda *arguments, **settings: called.append("plain"))
    settings = {"distribution": DistributionSpec(num_entries=num_entries), "generator": torch.Generator()}
    list(
        read_rows_of_logits(
            torch.zeros(1, vocab_size), torch.zeros(1, dtype=torch.long), vocab_size=vocab_size, **settings
        )
    )
    assert called == ["blocks" if in_blocks else "plain"]


@pytest.mark.parametrize("levels", [4, 40, 10**6])
def test_the_most_probable_tokens_of_few_logits_are_topks(levels: int) -> None:
    generator = torch.Generator().manual_seed(levels)
    distribution = DistributionSpec(kind="top_k", num_entries=7)
    for _ in range(20):
        logits = torch.randint(levels, (30, 48), generator=generator) * (8.0 / levels)
        reading = read_plainly(
            logits, torch.zeros(30, dtype=torch.int64), distribution=distribution, vocab_size=40, generator=generator
        )
        expected = logits.softmax(1)[:, :40].topk(7, dim=1)
        assert reading.ids_NK is not None
        assert reading.probs_NK is not None
        assert all(len(set(ids)) == 7 for ids in reading.ids_NK.tolist())
        assert torch.allclose(reading.probs_NK, expected.values, rtol=1e-5)
        assert torch.allclose(logits.softmax(1).gather(1, reading.ids_NK), expected.values, rtol=1e-5)
