"""Micro-batches of a split's examples: padded on the right, or several examples to a row.

Tokens are copied from list to batch all at once, never example by example: a loop over 128 of them takes longer than reading
what a large model of 85,000 parameters says of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from catsweep.data import IntArray, Tokens, TokenSplit, ranges
from catsweep.models import Architecture
from catsweep.packing import pack_rows
from catsweep.tensors import Batch, TeacherSignal


def collate(
    data: TokenSplit,
    indices: IntArray,
    *,
    architecture: Architecture,
    pad_id: int,
    start_id: int | None,
    teacher: TeacherSignal | None = None,
    pack: bool = False,
) -> Batch:
    """A training micro-batch of the examples `indices`, padded on the right.

    start_id: first token of an encoder-decoder's decoder. teacher: the signal of all target tokens of the split, of
    which this batch's are taken. pack: put several examples into a row (see catsweep.packing); a decoder's alone.
    """
    parts = [(data, indices, teacher)]
    return collate_parts(parts, architecture=architecture, pad_id=pad_id, start_id=start_id, pack=pack)


def collate_parts(
    parts: Sequence[tuple[TokenSplit, IntArray, TeacherSignal | None]],
    *,
    architecture: Architecture,
    pad_id: int,
    start_id: int | None,
    pack: bool = False,
) -> Batch:
    """A training micro-batch of examples of several splits behind one another, each with the signal of its own split;
    see `collate`."""
    prompts = Tokens.joined([data.prompts.select(indices) for data, indices, _ in parts])
    targets = Tokens.joined([data.targets.select(indices) for data, indices, _ in parts])
    if pack and (rows := pack_rows((prompts.lengths + targets.lengths - 1).tolist())) is not None:
        batch = packed_batch(prompts, targets, rows, pad_id=pad_id)
    else:
        batch = padded_batch(prompts, targets, architecture=architecture, pad_id=pad_id, start_id=start_id)
    masks = [data.injected[data.target_places(indices)] for data, indices, _ in parts if data.injected is not None]
    if masks:
        batch = replace(batch, injected_N=torch.from_numpy(np.concatenate(masks)))
    taken = [
        teacher.take(torch.from_numpy(data.target_places(indices)))
        for data, indices, teacher in parts
        if teacher is not None
    ]
    if not taken:
        return batch
    return replace(batch, teacher=taken[0] if len(taken) == 1 else _joined(taken))


def sequence_batch(
    prompts: Sequence[NDArray[np.int32]],
    targets: Sequence[NDArray[np.int32]],
    *,
    architecture: Architecture,
    pad_id: int,
    start_id: int | None,
) -> Batch:
    """`padded_batch` of token ids in an array for each prompt and each target."""
    lists = Tokens.of(prompts), Tokens.of(targets)
    return padded_batch(*lists, architecture=architecture, pad_id=pad_id, start_id=start_id)


def padded_batch(
    prompts: Tokens, targets: Tokens, *, architecture: Architecture, pad_id: int, start_id: int | None
) -> Batch:
    """A batch of prompt-target pairs, padded on the right, with logits asked for at the target positions."""
    if architecture == "encoder_decoder":
        assert start_id is not None
        input_ids_BS = _padding(prompts.lengths, pad_id)
        input_ids_BS.ravel()[ranges(_starts(input_ids_BS), prompts.lengths)] = prompts.ids
        decoder_ids_BT = _padding(targets.lengths, pad_id)
        starts = _starts(decoder_ids_BT)
        decoder_ids_BT[:, 0] = start_id
        _write_but_last(decoder_ids_BT, starts + 1, targets)
        return Batch(
            torch.from_numpy(input_ids_BS),
            _mask(prompts.lengths),
            torch.from_numpy(ranges(starts, targets.lengths)),
            _target_ids(targets),
            decoder_input_ids_BT=torch.from_numpy(decoder_ids_BT),
        )
    lengths = prompts.lengths + targets.lengths - 1
    input_ids_BS = _padding(lengths, pad_id)
    places_N = _write_texts(input_ids_BS, _starts(input_ids_BS), prompts, targets)
    return Batch(torch.from_numpy(input_ids_BS), _mask(lengths), places_N, _target_ids(targets))


def packed_batch(prompts: Tokens, targets: Tokens, rows: Sequence[Sequence[int]], *, pad_id: int) -> Batch:
    """A decoder's batch of prompt-target pairs with the examples of each row one behind another. Target tokens keep the
    order of the examples."""
    lengths = prompts.lengths + targets.lengths - 1
    used = np.array([lengths[row].sum() for row in rows])
    input_ids_BS = np.full((len(rows), used.max()), pad_id, dtype=np.int64)
    order = np.concatenate(rows)  # of the examples in the batch
    # Padding is an example of its own at the end of each row.
    ends_of_rows = np.cumsum([len(row) for row in rows])
    sizes = np.insert(lengths[order], ends_of_rows, used.max() - used)
    positions_BS = ranges(np.zeros_like(sizes), sizes).reshape(input_ids_BS.shape)
    first = np.empty_like(lengths)
    first[order] = np.delete(np.cumsum(sizes) - sizes, ends_of_rows + np.arange(len(rows)))
    places_N = _write_texts(input_ids_BS, first, prompts, targets)
    return Batch(
        torch.from_numpy(input_ids_BS),
        None,
        places_N,
        _target_ids(targets),
        position_ids_BS=torch.from_numpy(positions_BS),
    )


def _write_texts(ids_BS: IntArray, first: IntArray, prompts: Tokens, targets: Tokens) -> Tensor:
    """Write what a decoder reads of each example from place `first` on, counted through all rows, and say where the logits
    of its target tokens are: those behind the last prompt token predict the first of them, and nothing follows the last."""
    ids_BS.ravel()[ranges(first, prompts.lengths)] = prompts.ids
    _write_but_last(ids_BS, first + prompts.lengths, targets)
    return torch.from_numpy(ranges(first + prompts.lengths - 1, targets.lengths))


def _write_but_last(ids_BS: IntArray, first: IntArray, tokens: Tokens) -> None:
    kept = tokens.lengths - 1
    ids_BS.ravel()[ranges(first, kept)] = tokens.ids[ranges(tokens.offsets[:-1], kept)]


def _padding(lengths: IntArray, pad_id: int) -> IntArray:
    ids_BS: IntArray = np.full((len(lengths), lengths.max()), pad_id, dtype=np.int64)
    return ids_BS


def _starts(ids_BS: IntArray) -> IntArray:
    """Where each row starts, counted through all rows."""
    return np.arange(0, ids_BS.size, ids_BS.shape[1])


def _mask(lengths: IntArray) -> Tensor:
    return torch.from_numpy((np.arange(lengths.max()) < lengths[:, None]).astype(np.int64))


def _target_ids(targets: Tokens) -> Tensor:
    return torch.from_numpy(targets.ids.astype(np.int64))


def _joined(signals: Sequence[TeacherSignal]) -> TeacherSignal:
    ids = [signal.ids_NK for signal in signals if signal.ids_NK is not None]
    weights = [signal.weights_NK for signal in signals if signal.weights_NK is not None]
    return TeacherSignal(
        rank_N=torch.cat([signal.rank_N for signal in signals]),
        logprob_N=torch.cat([signal.logprob_N for signal in signals]),
        ids_NK=torch.cat(ids) if ids else None,
        weights_NK=torch.cat(weights) if weights else None,
    )
