"""The examples of a task: read its source, cut it into four splits, render each row that is kept."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, assert_never

from catsweep import records
from catsweep.spec.base import Json
from catsweep.spec.task import FilesSource, HubSource, PackageSource, TaskSpec
from catsweep.tasks.files import read_files
from catsweep.tasks.hub import read_hub
from catsweep.tasks.package import read_package
from catsweep.tasks.render import Place, render, render_group_keys
from catsweep.tasks.splits import SPLITS, cap, components, cut

__all__ = ["SPLITS", "Example", "TaskData", "load_examples", "load_task_data", "preview"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Example:
    """One row of a task as text.

    id: unique within the task and stable. group: rows of one group never lie in two splits. prompt: without the
    delimiter. target: the answer that is trained on; for choices `choices[label]`. references: all accepted answers,
    the target first. choices and label: empty and -1 for generation.
    """

    id: str
    group: str
    prompt: str
    target: str
    references: tuple[str, ...]
    choices: tuple[str, ...] = ()
    label: int = -1


@dataclass(frozen=True)
class TaskData:
    """The four splits, and facts about how they were cut (plain JSON data)."""

    splits: dict[str, list[Example]]
    facts: Json


def load_examples(
    task: TaskSpec,
    *,
    max_train_rows: int | None = None,
    max_evaluation_rows: int | None = None,
    cache: Path | None = None,
) -> dict[str, list[Example]]:
    """The examples of train, validation, calibration and test; see `load_task_data`."""
    return load_task_data(
        task, max_train_rows=max_train_rows, max_evaluation_rows=max_evaluation_rows, cache=cache
    ).splits


def load_task_data(
    task: TaskSpec,
    *,
    max_train_rows: int | None = None,
    max_evaluation_rows: int | None = None,
    cache: Path | None = None,
) -> TaskData:
    """Read, cut and render a task.

    max_train_rows, max_evaluation_rows: cap of train, and of each of the other splits, after the cut; the kept rows
    are the first groups by hash. cache: folder of caches, for pools of packages; default `<storage root>/cache`.
    Splits keep the order of the source. Raises DataError.
    """
    rows = _read_source(task, cache)
    places = {split: _Places(task, _name(task, split), rows[split]) for split in rows}
    groups = _groups(places)
    division = cut(groups, task.task)
    splits = {}
    for split, positions in division.positions.items():
        kept = cap(positions, groups, max_train_rows if split == "train" else max_evaluation_rows)
        splits[split] = [places[given].example(index, groups[given][index]) for given, index in kept]
    all_groups = {split: {groups[given][index] for given, index in division.positions[split]} for split in SPLITS}
    sizes = Counter(key for keys in groups.values() for key in keys)
    facts: Json = {
        "num_source_rows": {split: len(rows[split]) for split in rows},
        "num_dropped": division.num_dropped,
        "num_rows": {split: len(division.positions[split]) for split in SPLITS},
        "num_groups": {split: len(all_groups[split]) for split in SPLITS},
        "num_kept_rows": {split: len(splits[split]) for split in SPLITS},
        "largest_group_share": max(sizes.values()) / sizes.total(),
    }
    for split, num_rows in division.num_dropped.items():
        if num_rows:
            logger.warning(
                "task %s: dropped %d of %d rows of %s: their group keys stand in another given split as well",
                task.task, num_rows, len(rows[split]), split,
            )  # fmt: skip
    return TaskData(splits, facts)


def preview(task: TaskSpec, num_rows: int = 3, *, cache: Path | None = None) -> list[Example]:
    """The first rows of the training source, rendered; no more than these are read where the source allows it.

    Their group keys are those of these rows alone. Raises DataError.
    """
    source = task.source
    match source:
        case HubSource():
            rows = read_hub(source, source.training_split, num_rows)
        case FilesSource():
            rows = read_files(source, "train", num_rows)
        case PackageSource():
            rows = read_package(source, _cache(cache))[:num_rows]
        case _:
            assert_never(source)
    places = _Places(task, _name(task, "train"), rows)
    groups = _groups({"train": places})["train"]
    return [places.example(index, group) for index, group in enumerate(groups)]


def _name(task: TaskSpec, split: str) -> str:
    """What the source itself calls a split: the test split of RTE is the public `validation`."""
    source = task.source
    if isinstance(source, HubSource):
        names = {"train": source.training_split, "validation": source.validation_split, "test": source.test_split}
        return names[split] or split
    return split


def _read_source(task: TaskSpec, cache: Path | None) -> dict[str, list[dict[str, Any]]]:
    """Rows of each split that the source gives: "train", and "validation" and "test" where there are any."""
    source = task.source
    match source:
        case HubSource():
            names = {"train": source.training_split, "validation": source.validation_split, "test": source.test_split}
            return {split: read_hub(source, name) for split, name in names.items() if name is not None}
        case FilesSource():
            given = [split for split in ("train", "validation", "test") if getattr(source, split) is not None]
            return {split: read_files(source, split) for split in given}
        case PackageSource():
            return {"train": read_package(source, _cache(cache))}
        case _:
            assert_never(source)


def _groups(places: Mapping[str, _Places]) -> dict[str, list[str]]:
    """The group key of each row of each given split; rows of all splits together that share any key have the same."""
    keys = {split: [here.group_keys(index) for index in range(len(here.rows))] for split, here in places.items()}
    merged = iter(components([row_keys for split_keys in keys.values() for row_keys in split_keys]))
    return {split: [next(merged) for _ in split_keys] for split, split_keys in keys.items()}


def _cache(cache: Path | None) -> Path:
    return cache or records.storage_root() / "cache"


@dataclass(frozen=True)
class _Places:
    """The rows of one given split. name: what the source calls it; stands in ids and messages."""

    task: TaskSpec
    name: str
    rows: list[dict[str, Any]]

    def row_id(self, index: int) -> str:
        """The reader's own id for rows of packages, else `train:17`, where 0 is the first row."""
        if isinstance(self.task.source, PackageSource):
            return str(self.rows[index]["id"])
        return f"{self.name}:{index}"

    def place(self, index: int) -> Place:
        return Place(self.task.task, f"{self.name}:{index}")  # for a person the position says more than a reader's id

    def group_keys(self, index: int) -> tuple[str, ...]:
        row = self.rows[index]
        if isinstance(self.task.source, PackageSource) and self.task.doc_to_group is None:
            return (str(row["group"]),)
        return render_group_keys(self.task, row, self.place(index))

    def example(self, index: int, group: str) -> Example:
        texts = render(self.task, self.rows[index], self.place(index))
        return Example(
            id=self.row_id(index),
            group=group,
            prompt=texts.prompt,
            target=texts.target,
            references=texts.references,
            choices=texts.choices,
            label=texts.label,
        )
