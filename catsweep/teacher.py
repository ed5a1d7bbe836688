"""One pass of the large model over a task's training targets: the signal that every trial shares.

For each target token it keeps the rank of the target (uint8, clipped at 255) and its log-probability (float16): 3 bytes,
less than the token's id. Every filter derives from them. Losses with a distillation term also need the distribution:
sampled ids (2 bytes each, above 65,536 tokens some bits more: see catsweep.wide_ids), or the top k with their probabilities
(2 bytes more each, float16, relative error at most 2^-11).

The signal must come from a model that has not seen the example: see FinetuneSpec.
"""

from __future__ import annotations

import io
import math
import time
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from catsweep.batches import collate
from catsweep.data import TokenSplit
from catsweep.inference import inference
from catsweep.logit_rows import RowReading, read_rows_of_logits
from catsweep.models import Architecture, TargetLogits
from catsweep.records import MANIFEST, read_json, write_atomic
from catsweep.spec.sweep import DistributionSpec
from catsweep.tensors import TeacherSignal, to_device
from catsweep.wide_ids import join_ids, split_ids

PART_SECONDS = 30.0
"""So often the pass keeps what it has seen: what a kill costs at most, and a write."""
HELD_OUT = "large_right_share_validation"


@dataclass(frozen=True)
class SignalArrays:
    """The signal of M target tokens as stored. rank uint8 (M,), logprob float16 (M,), ids uint16 or uint32 (M, K),
    weights float16 (M, K), or None where all entries weigh 1/K (sampled) or no distribution was asked for."""

    rank: NDArray[np.uint8]
    logprob: NDArray[np.float16]
    ids: NDArray[Any] | None = None
    weights: NDArray[np.float16] | None = None

    def take(self, places: NDArray[np.int64]) -> SignalArrays:
        """The signal of some target tokens."""
        ids = None if self.ids is None else self.ids[places]
        weights = None if self.weights is None else self.weights[places]
        return SignalArrays(self.rank[places], self.logprob[places], ids, weights)

    def save(self, folder: Path) -> None:
        """Write one .npy file an array; ids of four bytes as two files, ids_low and ids_high (see catsweep.wide_ids)."""
        arrays = {name: array for name, array in vars(self).items() if array is not None}
        if self.ids is not None and self.ids.dtype == np.uint32:
            del arrays["ids"]
            arrays["ids_low"], arrays["ids_high"] = split_ids(self.ids)
        for name, array in arrays.items():
            np.save(folder / f"{name}.npy", array)


def read_arrays(folder: Path) -> SignalArrays:
    """The signal of a folder, memory-mapped but for ids that were split."""
    arrays = {path.stem: np.load(path, mmap_mode="r") for path in folder.glob("*.npy")}
    if "ids_low" in arrays:
        arrays["ids"] = join_ids(arrays.pop("ids_low"), arrays.pop("ids_high"))
    return SignalArrays(**arrays)


def load_signal(folder: Path, *, distribution: bool) -> TeacherSignal:
    """The signal of a folder, memory-mapped. distribution: also the entries that dist losses need."""

    def load(name: str) -> Tensor | None:
        path = folder / f"{name}.npy"
        # Copy-on-write: torch warns of read-only memory, and nobody writes.
        return torch.from_numpy(np.load(path, mmap_mode="c")) if path.exists() else None

    rank, logprob = load("rank"), load("logprob")
    assert rank is not None
    assert logprob is not None
    if not distribution:
        return TeacherSignal(rank, logprob)
    low, high = load("ids_low"), load("ids_high")
    ids = load("ids") if low is None else low  # four bytes each: an earlier version's signal
    weights = load("weights")
    if ids is not None and weights is None:
        weights = torch.full((1, 1), 1.0 / ids.shape[1]).expand(ids.shape)
    return TeacherSignal(rank, logprob, ids, weights, high)


def bytes_a_target(distribution: DistributionSpec | None, vocab_size: int) -> int:
    """Bytes that the signal of one target token takes on storage."""
    if distribution is None:
        return 3
    is_ranked, entries = distribution.kind == "top_k", distribution.entries(vocab_size)
    num_planes = max(0, (vocab_size - 1).bit_length() - 16)
    return 3 + (4 if is_ranked else 2) * entries + num_planes * -(-entries // 8)


def near_chance(task: str, train: TokenSplit, summary: dict[str, float]) -> list[str]:
    """A line where the large model gets no more training targets right than who always says the most frequent one: its half
    of a filter then says nothing, and at a small share nearly all tokens are dropped. summary: prepare.signal_summary's."""
    ids, right_share = train.targets.ids, summary["large_right_share"]
    most_frequent = float(np.bincount(ids).max() / len(ids))
    if right_share > most_frequent:
        return []
    return [
        f"{task}: the large model gets {right_share:.1%} of the training target tokens right, and always guessing the most "
        f"frequent one would get {most_frequent:.1%}; its signal says nothing, and cat_xent and cat_dist may drop nearly all "
        "tokens. Train it longer (large.finetune.steps), at another learning rate, or take a larger one"
    ]


def signal_summary(folder: Path) -> dict[str, float]:
    """How often the large model gets a training target right, and the stored bytes a target token; also how often it gets
    a validation target right where the signal is that on data which it was trained on."""
    rank = np.load(folder / "rank.npy", mmap_mode="r")
    files = [np.load(path, mmap_mode="r") for path in folder.glob("*.npy")]
    return {
        "num_target_tokens": len(rank),
        "large_right_share": float(np.mean(rank == 0)),
        "bytes_a_token": sum(array.nbytes for array in files) / max(1, len(rank)),
        **{name: value for name, value in read_json(folder / MANIFEST)["facts"].items() if name == HELD_OUT},
    }


def noise_summary(folder: Path, train: TokenSplit) -> dict[str, float]:
    """Where label noise is in the training targets: its share of their tokens, and how often the large model would say the
    injected tokens, and the clean ones, itself; empty without noise. A filter that asks it can tell the two apart only as far
    as these differ."""
    injected = train.injected
    if injected is None:
        return {}
    is_right = np.load(folder / "rank.npy", mmap_mode="r") == 0
    found = {"injected_share": float(np.mean(injected))}
    for name, where in (("injected", injected), ("clean", ~injected)):
        if where.any():
            found[f"large_right_share_{name}"] = float(np.mean(is_right[where]))
    return found


def optimism(task: str, summary: dict[str, float]) -> list[str]:
    """A line that says how much better the large model is on its own training targets, where the signal is that."""
    if HELD_OUT not in summary:
        return []
    return [
        f"{task}: large.finetune.unseen_signal is false, so the signal is L's on targets that it was trained on: there it "
        f"gets {summary['large_right_share']:.1%} of the target tokens right, on validation {summary[HELD_OUT]:.1%}. "
        "Filters see a model that does not exist in use; holdout and cross_fit give its opinion on unseen data"
    ]


def any_of(signals: Sequence[TeacherSignal], distribution: TeacherSignal) -> TeacherSignal:
    """The opinion of several models as one: the best rank and the highest log-probability that any gives a target token.

    So rank 0 means that any of them gets it right. distribution: the signal whose entries dist losses see. [ours]
    """
    rank, logprob = signals[0].rank_N, signals[0].logprob_N
    for signal in signals[1:]:
        rank, logprob = torch.minimum(rank, signal.rank_N), torch.maximum(logprob, signal.logprob_N)
    return replace(distribution, rank_N=rank, logprob_N=logprob)


@inference
def teacher_pass(
    module: TargetLogits,
    data: TokenSplit,
    *,
    architecture: Architecture,
    pad_id: int,
    start_id: int | None,
    distribution: DistributionSpec | None,
    vocab_size: int,
    batch_size: int,
    seed: int,
    device: torch.device,
    share: tuple[int, int] = (0, 1),
    only: NDArray[np.int64] | None = None,
    parts: Path | None = None,
    part_seconds: float = PART_SECONDS,
) -> SignalArrays:
    """The large model's opinion on every target token of `data`, in the order of data.targets.ids.

    vocab_size: entries of the distribution are taken below it, so that they exist for the small model too.
    share: (index, number of shares). This call takes every so manieth batch and leaves zeros elsewhere, so that the sum
    of all shares is the whole, to the bit: batches and draws do not depend on the number of shares. The shares of a model
    in shards have equally many batches: who has one less looks at a batch of another share for nothing.
    only: indices of the examples to look at; the targets of all others keep zeros.
    parts: a folder in which the pass keeps what it has seen, every `part_seconds`; the same pass, begun again, goes on from
    there. It must belong to this model, data and distribution. A model in shards keeps none: its ranks might not agree on
    where to go on.
    """
    assert parts is None or not module.sharded
    module.eval()
    arrays = _room(int(data.targets.offsets[-1]), distribution, vocab_size)
    generator = torch.Generator(device=device)
    lengths = data.prompts.lengths + data.targets.lengths
    by_length = np.argsort(lengths, kind="stable") if only is None else only[np.argsort(lengths[only], kind="stable")]
    most_targets = batch_size * int(data.targets.lengths.max(initial=0))
    room = module.room_for(most_targets)
    index, num_shares = share
    starts = list(range(index * batch_size, len(by_length), num_shares * batch_size))
    num_own = len(starts)
    if module.sharded:
        starts += [0] * (math.ceil(len(by_length) / (num_shares * batch_size)) - num_own)
    kept = None if parts is None else _Parts(parts, f"{index}-of-{num_shares}-by-{batch_size}", arrays)
    done = 0 if kept is None else kept.restore()
    seen, since = list[NDArray[np.int64]](), time.monotonic()
    for number, start in enumerate(starts):
        if number < done:
            continue
        generator.manual_seed(int(np.random.default_rng([seed, start]).integers(2**63)))
        indices = by_length[start : start + batch_size]
        batch = to_device(collate(data, indices, architecture=architecture, pad_id=pad_id, start_id=start_id), device)
        where = data.target_places(indices)
        for part, logits_NV in module.in_parts(batch, room=room):
            if number >= num_own:
                break
            here, target_ids_N = where[part], batch.target_ids_N[part]
            readings = read_rows_of_logits(
                logits_NV,
                target_ids_N,
                distribution=distribution,
                vocab_size=vocab_size,
                generator=generator,
            )
            for rows, reading in readings:
                _put(arrays, here[rows], reading)
        if kept is not None:
            seen.append(where)
            if time.monotonic() - since >= part_seconds:
                kept.save(done, number + 1, np.concatenate(seen))
                done, seen, since = number + 1, [], time.monotonic()
    return SignalArrays(**arrays)


def _room(num_targets: int, distribution: DistributionSpec | None, vocab_size: int) -> dict[str, NDArray[Any]]:
    """Zeros for what a pass keeps, by the names of SignalArrays."""
    arrays: dict[str, NDArray[Any]] = {
        "rank": np.zeros(num_targets, dtype=np.uint8),
        "logprob": np.zeros(num_targets, dtype=np.float16),
    }
    if distribution is None:
        return arrays
    is_ranked, entries = distribution.kind == "top_k", distribution.entries(vocab_size)
    arrays["ids"] = np.zeros((num_targets, entries), dtype=np.uint16 if vocab_size <= 2**16 else np.uint32)
    if is_ranked:
        arrays["weights"] = np.zeros((num_targets, entries), dtype=np.float16)
    return arrays


def _put(arrays: dict[str, NDArray[Any]], places: NDArray[np.int64], reading: RowReading) -> None:
    """Keep the reading of the target tokens at `places` in the types of storage."""
    arrays["rank"][places] = reading.rank_N.cpu().numpy()
    arrays["logprob"][places] = reading.logprob_N.clamp(min=-60_000).cpu().numpy()
    if reading.ids_NK is not None:
        arrays["ids"][places] = reading.ids_NK.cpu().numpy()
    if reading.probs_NK is not None:
        arrays["weights"][places] = reading.probs_NK.cpu().numpy()


@dataclass(frozen=True)
class _Parts:
    """What a pass has seen so far, in files behind one another. name: of its share and its batches; arrays: (M, ...) by name,
    which `restore` fills."""

    folder: Path
    name: str
    arrays: dict[str, NDArray[Any]]

    def restore(self) -> int:
        """The number of batches that are kept; their values stand in the arrays then. What is damaged is not kept."""
        done = 0
        while (path := self._path(done)).exists():
            try:
                with np.load(path) as stored:
                    part = {name: stored[name] for name in ("places", "end", *self.arrays)}
            except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
                break
            for name, array in self.arrays.items():
                array[part["places"]] = part[name]
            done = int(part["end"])
        return done

    def save(self, first: int, end: int, places: NDArray[np.int64]) -> None:
        """Keep the batches from the `first` to the one before `end`, whose target tokens stand at `places`."""
        buffer = io.BytesIO()
        values: dict[str, Any] = {name: array[places] for name, array in self.arrays.items()}
        np.savez(buffer, places=places, end=np.array(end), **values)
        write_atomic(self._path(first), buffer.getvalue())

    def _path(self, first: int) -> Path:
        return self.folder / f"{self.name}-{first:08d}.npz"
