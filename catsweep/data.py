"""A task's examples as token ids on storage, memory-mapped."""

from __future__ import annotations

import itertools
from array import array
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

from catsweep.cache import building, is_complete
from catsweep.encode import Encoder
from catsweep.errors import DataError
from catsweep.models import Architecture
from catsweep.noise import Units, changed_tokens, noisy_label, noisy_tokens
from catsweep.records import MANIFEST, read_json
from catsweep.spec.noise import LabelNoise
from catsweep.spec.sweep import CLEAN_TRAIN
from catsweep.spec.task import TaskSpec
from catsweep.tasks.examples import Example

IntArray = NDArray[np.int64]


@dataclass(frozen=True)
class Tokens:
    """Lists of token ids behind one another. ids: int32 (M,), memory-mapped where they are stored. offsets: int64 (n + 1,)."""

    ids: NDArray[np.int32]
    offsets: IntArray

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, index: int) -> NDArray[np.int32]:
        return self.ids[self.offsets[index] : self.offsets[index + 1]]

    @property
    def lengths(self) -> IntArray:
        """Number of tokens of each list, int64 (n,)."""
        return np.diff(self.offsets)

    def select(self, indices: IntArray) -> Tokens:
        """A copy of some lists, in the order of `indices`."""
        lengths = self.offsets[indices + 1] - self.offsets[indices]
        return Tokens(np.asarray(self.ids[ranges(self.offsets[indices], lengths)]), _offsets(lengths))

    @classmethod
    def of(cls, lists: Sequence[NDArray[np.int32]]) -> Tokens:
        """Lists of token ids as one."""
        return cls(np.concatenate([np.empty(0, np.int32), *lists]), _offsets([len(one) for one in lists]))

    @classmethod
    def joined(cls, parts: Sequence[Tokens]) -> Tokens:
        """The lists of several, behind one another."""
        return cls(
            np.concatenate([part.ids for part in parts]), _offsets(np.concatenate([part.lengths for part in parts]))
        )


def ranges(first: IntArray, lengths: IntArray) -> IntArray:
    """np.arange(first, first + length) of each, one behind another: int64."""
    before = np.cumsum(lengths) - lengths
    return np.repeat(first - before, lengths) + np.arange(lengths.sum())


@dataclass(frozen=True)
class TokenSplit:
    """One split of a task in tokens.

    prompts, targets: n lists each. choices: the choices of all examples behind one another; example i has the lists
    choice_offsets[i] to choice_offsets[i + 1] (none for generation). injected: bool, which of targets.ids label noise has
    replaced; None where there is no noise.
    """

    prompts: Tokens
    targets: Tokens
    choices: Tokens
    choice_offsets: IntArray
    injected: NDArray[np.bool_] | None = None

    def __len__(self) -> int:
        return len(self.prompts)

    def select(self, indices: IntArray) -> TokenSplit:
        """A copy of some examples, in the order of `indices`."""
        starts, counts = self.choice_offsets[indices], np.diff(self.choice_offsets)[indices]
        return TokenSplit(
            self.prompts.select(indices),
            self.targets.select(indices),
            self.choices.select(ranges(starts, counts)),
            _offsets(counts),
            None if self.injected is None else self.injected[self.target_places(indices)],
        )

    def target_places(self, indices: IntArray) -> IntArray:
        """Where the target tokens of some examples stand in targets.ids."""
        first = self.targets.offsets[indices]
        return ranges(first, self.targets.offsets[indices + 1] - first)

    def save(self, folder: Path, split: str) -> None:
        """Write the token ids so that `TaskData(folder).tokens(split)` reads them."""
        for name in ("prompts", "targets", "choices"):
            tokens: Tokens = getattr(self, name)
            np.save(folder / f"{split}.{name}.ids.npy", tokens.ids)
            np.save(folder / f"{split}.{name}.offsets.npy", tokens.offsets)
        np.save(folder / f"{split}.choice_offsets.npy", self.choice_offsets)
        if self.injected is not None:
            np.save(folder / f"{split}.injected.npy", self.injected)


@dataclass(frozen=True)
class TaskData:
    """A task's tokens and texts in a folder of the cache."""

    folder: Path

    def tokens(self, split: str) -> TokenSplit:
        """The token ids of a split, memory-mapped."""

        def load(name: str) -> NDArray[np.int64]:
            array: NDArray[np.int64] = np.load(self.folder / f"{split}.{name}.npy", mmap_mode="r")
            return array

        def lists(name: str) -> Tokens:
            return Tokens(load(f"{name}.ids").view(), load(f"{name}.offsets"))  # type: ignore[arg-type]

        mask = self.folder / f"{split}.injected.npy"
        injected: NDArray[np.bool_] | None = np.load(mask, mmap_mode="r") if mask.exists() else None
        return TokenSplit(lists("prompts"), lists("targets"), lists("choices"), load("choice_offsets"), injected)

    def texts(self, split: str) -> pa.Table:
        """id, group, prompt, references, choices and key (the question, or null) of a split."""
        return pq.read_table(self.folder / f"{split}.parquet")

    def warnings(self, task: str) -> list[str]:
        """What a person should know about texts that were too long, a line each."""
        facts = read_json(self.folder / MANIFEST)["facts"]
        lines = []
        for name, loss in (
            ("prompts", "their beginning: training.max_prompt_tokens"),
            ("targets", "their end: training.max_target_tokens"),
        ):
            cut = {split: counts[name] for split, counts in facts["num_cut"].items() if counts[name]}
            if cut:
                shown = ", ".join(f"{num} of {facts['num_rows'][split]} in {split}" for split, num in cut.items())
                lines.append(f"{task}: {name} that are longer than the limit lost {loss} ({shown})")
        return lines


def write_task_data(
    folder: Path,
    examples: Mapping[str, Sequence[Example]],
    task: TaskSpec,
    tokenizer: PreTrainedTokenizerBase,
    architecture: Architecture,
    *,
    max_prompt_tokens: int,
    max_target_tokens: int,
    noise: LabelNoise | None = None,
) -> TaskData:
    """Tokenise the splits into a folder of the cache, once. Where the large model has rows of its own to train on,
    `examples` holds them as one more split, `large_train`; see `inject_noise` for noise."""
    if not is_complete(folder):
        num_rows = {split: len(rows) for split, rows in examples.items()}
        num_cut: dict[str, dict[str, int]] = {}
        num_injected: dict[str, int] = {}
        facts = {"num_injected": num_injected} if noise else {}
        with building(folder, num_rows=num_rows, num_cut=num_cut, **facts) as temporary:
            for split, rows in examples.items():
                encoder = Encoder(task, tokenizer, architecture, max_prompt_tokens, max_target_tokens)
                _write_split(temporary, split, rows, encoder)
                num_cut[split] = encoder.num_cut
            if noise is not None:
                ends = {"end_id": int(tokenizer.eos_token_id), "max_target_tokens": max_target_tokens}
                num_injected |= inject_noise(temporary, examples, task, noise, **ends)
            tokenizer.save_pretrained(temporary / "tokenizer")
    return TaskData(folder)


def inject_noise(
    folder: Path,
    examples: Mapping[str, Sequence[Example]],
    task: TaskSpec,
    noise: LabelNoise,
    *,
    end_id: int,
    max_target_tokens: int,
) -> dict[str, int]:
    """Replace training targets of a folder that is being made (see catsweep.noise), and keep which tokens were replaced;
    returns their number by split. Texts and choices stay as they are, and so does every other split.

    The parts of both models are noisy; with `clean_large` the large model's is not, and where it trains on all of train, a
    copy with clean targets stands beside it, the split CLEAN_TRAIN. Raises DataError where nothing can be replaced.
    """
    parts = {split: TaskData(folder).tokens(split) for split in ("train", "large_train") if split in examples}
    if task.output_type == "multiple_choice":
        found = {
            split: _wrong_choices(part, examples[split], noise, max_target_tokens) for split, part in parts.items()
        }
    else:
        lists = [(np.array(part.targets.ids), np.array(part.targets.offsets)) for part in parts.values()]
        units = Units.of(lists, end_id)
        found = {}
        for split, (ids, offsets) in zip(parts, lists, strict=True):
            names = [example.id for example in examples[split]]
            noisy, injected = noisy_tokens(ids, offsets, names, noise, units)
            found[split] = Tokens(noisy, offsets), injected
    if noise.clean_large and found.pop("large_train", None) is None:
        parts["train"].save(folder, CLEAN_TRAIN)
    num_injected = {split: int(injected.sum()) for split, (_, injected) in found.items()}
    if noise.rate and not num_injected["train"]:
        raise DataError(
            f"task {task.task}: data.label_noise with rate {noise.rate:g} replaced none of the {len(examples['train']):,} "
            "training targets; expected at least one. Raise the rate, or leave the task out"
        )
    for split, (targets, injected) in found.items():
        np.save(folder / f"{split}.targets.ids.npy", targets.ids)
        np.save(folder / f"{split}.targets.offsets.npy", targets.offsets)
        np.save(folder / f"{split}.injected.npy", injected)
    return num_injected


def _wrong_choices(
    split: TokenSplit, examples: Sequence[Example], noise: LabelNoise, max_target: int
) -> tuple[Tokens, NDArray[np.bool_]]:
    """The targets that noisy labels give, and which of their tokens are injected."""
    targets, masks = [], []
    for index, example in enumerate(examples):
        label = noisy_label(example.choices, example.label, noise, example.id)
        right, wrong = (split.choices[int(split.choice_offsets[index]) + chosen] for chosen in (example.label, label))
        targets.append(np.array(wrong[:max_target]))
        masks.append(changed_tokens(right, wrong)[:max_target])
    return Tokens(np.concatenate(targets), _offsets([len(target) for target in targets])), np.concatenate(masks)


TEXTS = pa.schema(
    [
        ("id", pa.string()),
        ("group", pa.string()),
        ("prompt", pa.string()),
        ("references", pa.list_(pa.string())),
        ("choices", pa.list_(pa.string())),
        ("key", pa.string()),
    ]
)

CHUNK_ROWS = 1_000
"""Rows in memory at once while a split is written."""


def _write_split(folder: Path, split: str, examples: Sequence[Example], encoder: Encoder) -> None:
    names = ("prompts", "targets", "choices")
    lengths = {name: array("q") for name in (*names, "choice_offsets")}
    with ExitStack() as stack:
        texts = stack.enter_context(pq.ParquetWriter(folder / f"{split}.parquet", TEXTS))
        ids = {name: stack.enter_context(_GrowingArray(folder / f"{split}.{name}.ids.npy")) for name in names}
        for start in range(0, len(examples), CHUNK_ROWS):
            rows = examples[start : start + CHUNK_ROWS]
            for name, lists in zip(names, encoder.encode(rows), strict=True):
                lengths[name].extend(map(len, lists))
                ids[name].append(lists)
            lengths["choice_offsets"].extend(len(example.choices) for example in rows)
            columns = [[getattr(example, name) for example in rows] for name in TEXTS.names]
            texts.write_table(pa.table(columns, schema=TEXTS))
    for name in names:
        np.save(folder / f"{split}.{name}.offsets.npy", _offsets(lengths[name]))
    np.save(folder / f"{split}.choice_offsets.npy", _offsets(lengths["choice_offsets"]))


class _GrowingArray:
    """A .npy file of int32 that is written piece by piece. NumPy leaves room in the header for the final length."""

    def __init__(self, path: Path) -> None:
        self.file = path.open("wb")
        self.length = 0
        self._write_header()

    def __enter__(self) -> _GrowingArray:
        return self

    def __exit__(self, *_: object) -> None:
        self.file.seek(0)
        self._write_header()
        self.file.close()

    def append(self, lists: list[list[int]]) -> None:
        array = np.fromiter(itertools.chain.from_iterable(lists), dtype=np.int32)
        self.length += len(array)
        self.file.write(array.tobytes())

    def _write_header(self) -> None:
        header = {"descr": "<i4", "fortran_order": False, "shape": (self.length,)}
        np.lib.format.write_array_header_1_0(self.file, header)


def _offsets(lengths: Sequence[int] | IntArray) -> IntArray:
    return np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]).astype(np.int64)
