"""What the large model's pass keeps of rows of logits: rank and log-probability of the target, entries of the distribution.

`read_plainly` takes one after another, which reads every logit some twenty times; it serves small vocabularies and is the
reference. `read_in_blocks` takes maxima of blocks of `BLOCK` logits and sums of the blocks' exponentials, some rows at a time
while a CPU's cache holds them, and looks into a few blocks. A block whose maximum is below the target's logit holds no token
before it; the k most probable tokens lie in the k blocks with the largest maxima; and a token is drawn by
drawing its block first. Source: [ours].
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from catsweep.filters.top_k import target_rank
from catsweep.first_choice import BLOCK, MIN_WIDTH, in_blocks
from catsweep.spec.sweep import DistributionSpec

MAX_RANK = 255
"""A larger rank counts as this one."""
SLICE_LOGITS = 2**19
"""Logits that are read in one go: 2 MiB, so that a CPU's cache still holds them when they are read again."""
SCAN_LOGITS = 2**18
"""The same where as many exponentials are held beside them, 1 MiB each."""
BLOCK_LOGITS = 2**21
"""Logits of blocks that are looked into in one go on a CPU: each takes some 30 bytes there."""


@dataclass(frozen=True)
class RowReading:
    """Of N target tokens: rank_N int64 in [0, MAX_RANK], logprob_N float32; ids_NK int64 where a distribution is asked for,
    and probs_NK float32 of its most probable tokens (None where they are drawn)."""

    rank_N: Tensor
    logprob_N: Tensor
    ids_NK: Tensor | None = None
    probs_NK: Tensor | None = None


def read_rows_of_logits(
    logits_NV: Tensor,
    target_ids_N: Tensor,
    *,
    distribution: DistributionSpec | None,
    vocab_size: int,
    generator: torch.Generator,
) -> Iterator[tuple[slice, RowReading]]:
    """The readings of some rows after others, or of all at once, with their places. logits in float32; entries are taken below
    vocab_size.

    generator: on the logits' device. Where the vocabulary is large, the rows are read in blocks.
    """
    blockwise = _pays(distribution, vocab_size)
    read = read_in_blocks if blockwise else read_plainly
    size = num_rows_at_once(logits_NV, SLICE_LOGITS)
    if blockwise and not logits_NV.is_cuda:
        size = max(1, BLOCK_LOGITS // (BLOCK * (1 if distribution is None else distribution.num_entries)))
    for start in range(0, len(logits_NV), size):
        rows = slice(start, min(start + size, len(logits_NV)))
        reading = read(
            logits_NV[rows],
            target_ids_N[rows],
            distribution=distribution,
            vocab_size=vocab_size,
            generator=generator,
        )
        yield rows, reading


def read_plainly(
    logits_NV: Tensor,
    target_ids_N: Tensor,
    *,
    distribution: DistributionSpec | None,
    vocab_size: int,
    generator: torch.Generator,
) -> RowReading:
    """The readings of some rows, one after another."""
    rank_N = target_rank(logits_NV, target_ids_N).clamp(max=MAX_RANK)
    logprobs_NV = logits_NV.log_softmax(1)
    logprob_N = logprobs_NV.gather(1, target_ids_N[:, None]).squeeze(1)
    if distribution is None:
        return RowReading(rank_N, logprob_N)
    own_NV = logprobs_NV[:, :vocab_size]
    if distribution.kind == "top_k":
        ids_NK = _top(own_NV, distribution.entries(vocab_size))
        return RowReading(rank_N, logprob_N, ids_NK, own_NV.gather(1, ids_NK).exp_())
    drawn_NK = torch.multinomial(own_NV.exp_(), distribution.num_entries, replacement=True, generator=generator)
    return RowReading(rank_N, logprob_N, drawn_NK)


def read_in_blocks(
    logits_NV: Tensor,
    target_ids_N: Tensor,
    *,
    distribution: DistributionSpec | None,
    vocab_size: int,
    generator: torch.Generator,
) -> RowReading:
    """The same from maxima and masses of blocks. Draws differ from `read_plainly`'s, their distribution does not."""
    blocks_NMB, tail_NR = in_blocks(logits_NV, vocab_size)
    maxima_NM, largest_N1, masses_NM = _scan(logits_NV, vocab_size)
    tail_masses_NR = (tail_NR - largest_N1).exp_()
    log_mass_N1 = (masses_NM.sum(1, keepdim=True) + tail_masses_NR.sum(1, keepdim=True)).log()
    target_N1 = logits_NV.gather(1, target_ids_N[:, None])
    rank_N = _rank(blocks_NMB, tail_NR, maxima_NM, target_N1, target_ids_N)
    logprob_N = (target_N1 - largest_N1 - log_mass_N1).squeeze(1)
    if distribution is None:
        return RowReading(rank_N, logprob_N)
    own = slice(vocab_size - blocks_NMB.shape[1] * BLOCK)
    if distribution.kind == "top_k":
        ids_NK = _top_of_blocks(blocks_NMB, tail_NR[:, own], maxima_NM, distribution.num_entries)
        return RowReading(rank_N, logprob_N, ids_NK, (logits_NV.gather(1, ids_NK) - largest_N1 - log_mass_N1).exp_())
    masses_NM = torch.cat([masses_NM, tail_masses_NR[:, own].sum(1, keepdim=True)], 1)
    ids_NK = _draw(logits_NV[:, :vocab_size], largest_N1, masses_NM, distribution.num_entries, generator)
    return RowReading(rank_N, logprob_N, ids_NK)


def _scan(logits_NV: Tensor, vocab_size: int) -> tuple[Tensor, Tensor, Tensor]:
    """Maxima of the whole blocks (N, M), the largest logits (N, 1), and sums of the blocks' exponentials less those (N, M)."""
    found, size = [], num_rows_at_once(logits_NV, SCAN_LOGITS)
    room_NV = torch.empty_like(logits_NV[:size])  # one for all slices, so that it stays in the cache
    for rows_NV in torch.split(logits_NV, size):
        blocks_NMB, tail_NR = in_blocks(rows_NV, vocab_size)
        maxima_NM = blocks_NMB.amax(2)
        largest_N1 = torch.cat([maxima_NM, tail_NR], 1).amax(1, keepdim=True)
        weights_NV = torch.sub(rows_NV, largest_N1, out=room_NV[: len(rows_NV)]).exp_()
        weights_NMB, _ = in_blocks(weights_NV, vocab_size)
        found.append((maxima_NM, largest_N1, weights_NMB.sum(2)))
    maxima, largest, masses = zip(*found, strict=True)
    return torch.cat(maxima), torch.cat(largest), torch.cat(masses)


def num_rows_at_once(logits_NV: Tensor, num_logits: int) -> int:
    """Rows of so many logits, at least one; all on a GPU."""
    return len(logits_NV) if logits_NV.is_cuda else max(1, num_logits // logits_NV.shape[1])


def _pays(distribution: DistributionSpec | None, vocab_size: int) -> bool:
    """Whether blocks read less than the whole: of each entry a block is looked into."""
    entries = 0 if distribution is None else distribution.num_entries
    return vocab_size >= MIN_WIDTH and 2 * entries * BLOCK <= vocab_size


def _rank(blocks_NMB: Tensor, tail_NR: Tensor, maxima_NM: Tensor, target_N1: Tensor, target_ids_N: Tensor) -> Tensor:
    """How many tokens come before the target, as `target_rank` counts them, up to MAX_RANK."""

    def before(values: Tensor, target: Tensor, ids: Tensor, target_ids: Tensor) -> Tensor:
        return ((values > target) | ((values == target) & (ids < target_ids))).sum(1)

    device = target_N1.device
    is_far_N = (maxima_NM > target_N1).sum(1) > MAX_RANK  # each such block holds one token before it
    rows_E, blocks_E = ((maxima_NM >= target_N1) & ~is_far_N[:, None]).nonzero(as_tuple=True)
    ids_EB = blocks_E[:, None] * BLOCK + torch.arange(BLOCK, device=device)
    counts_E = before(blocks_NMB[rows_E, blocks_E], target_N1[rows_E], ids_EB, target_ids_N[rows_E, None])
    tail_ids_R = torch.arange(tail_NR.shape[1], device=device) + maxima_NM.shape[1] * BLOCK
    rank_N = before(tail_NR, target_N1, tail_ids_R, target_ids_N[:, None]).index_add_(0, rows_E, counts_E)
    return rank_N.masked_fill_(is_far_N, MAX_RANK).clamp_(max=MAX_RANK)


def _top(values_NV: Tensor, num_entries: int) -> Tensor:
    """Ids of the largest values, the largest first: (N, K). On a CPU numpy finds the K-th largest of each row, which leaves K
    to sort: a third of topk's time at V = 96. Where a row has equal values at that place, all rows are topk's."""
    if values_NV.device.type == "cpu":
        values = values_NV.numpy()
        smallest_N1 = np.partition(values, -num_entries, axis=1)[:, -num_entries, None]
        places = np.flatnonzero(values >= smallest_N1)
        if len(places) == len(values) * num_entries:
            ids = (places % values.shape[1]).reshape(len(values), num_entries)
            order = np.argsort(-np.take_along_axis(values, ids, 1), axis=1)
            return torch.from_numpy(np.take_along_axis(ids, order, 1))
    return values_NV.topk(num_entries, dim=1).indices


def _top_of_blocks(blocks_NMB: Tensor, tail_NR: Tensor, maxima_NM: Tensor, num_entries: int) -> Tensor:
    """Ids of the largest values, the largest first: (N, K)."""
    blocks_NK = maxima_NM.topk(num_entries, dim=1, sorted=False).indices
    rows_N1 = torch.arange(len(blocks_NK), device=blocks_NK.device)[:, None]
    places_B, tail_R = (torch.arange(size, device=blocks_NK.device) for size in (BLOCK, tail_NR.shape[1]))
    ids_NC = (blocks_NK[:, :, None] * BLOCK + places_B).flatten(1)
    tail_ids_NR = (tail_R + maxima_NM.shape[1] * BLOCK).expand(len(ids_NC), -1)
    values_NC = torch.cat([blocks_NMB[rows_N1, blocks_NK].flatten(1), tail_NR], 1)
    return torch.cat([ids_NC, tail_ids_NR], 1).gather(1, values_NC.topk(num_entries, dim=1).indices)


def _draw(
    logits_NV: Tensor, largest_N1: Tensor, masses_NM: Tensor, num_entries: int, generator: torch.Generator
) -> Tensor:
    """Ids drawn in proportion to exp(logits - largest), with replacement: (N, K). masses_NM: the sums of these over blocks, the
    last one of what is left behind whole blocks."""
    device, last_id = logits_NV.device, logits_NV.shape[1] - 1
    ends_NM = masses_NM.double().cumsum(1)
    uniform_NK = torch.rand((len(ends_NM), num_entries), dtype=torch.float64, device=device, generator=generator)
    place_NK = uniform_NK * ends_NM[:, -1:]
    block_NK = torch.searchsorted(ends_NM, place_NK, right=True).clamp_(max=ends_NM.shape[1] - 1)
    mass_NK = masses_NM.gather(1, block_NK).double()
    within_NK = ((place_NK - ends_NM.gather(1, block_NK)) / mass_NK + 1).clamp_(0, 1)
    ids_NKB = block_NK[:, :, None] * BLOCK + torch.arange(BLOCK, device=device)
    logits_NKB = logits_NV.gather(1, ids_NKB.clamp(max=last_id).flatten(1)).view(ids_NKB.shape)
    weights_NKB = (logits_NKB - largest_N1[:, :, None]).exp_().double()
    ends_NKB = weights_NKB.masked_fill_(ids_NKB > last_id, 0).cumsum(2)
    chosen_NK = (ends_NKB <= (within_NK * ends_NKB[:, :, -1])[:, :, None]).sum(2)
    return (block_NK * BLOCK + chosen_NK.clamp_(max=BLOCK - 1)).clamp_(max=last_id)
