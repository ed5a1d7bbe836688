"""The examples of a task: read its source, cut it into four splits, render each row that is kept."""

from __future__ import annotations

import contextlib
import functools
import itertools
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from catsweep import records
from catsweep.cache import building, is_complete
from catsweep.cascade.metrics import Metric, metric_of
from catsweep.errors import DataError
from catsweep.spec.base import Json, digest
from catsweep.spec.source import FilesSource, PackageSource
from catsweep.spec.task import Origin, TaskSpec
from catsweep.tasks.fingerprint import source_fingerprint
from catsweep.tasks.groups import Groups, group_rows, hash_key
from catsweep.tasks.overlap import source_keys
from catsweep.tasks.process import NothingLeftError, apply_steps
from catsweep.tasks.render import Place, choose_template, question_key, render, render_group_keys
from catsweep.tasks.sources import Reading, Verify, given_splits, read_split
from catsweep.tasks.splits import SPLITS, cap, cut
from catsweep.tasks.store import Example, RowSpool, StoredExamples, write_examples

__all__ = ["SPLITS", "Example", "StoredExamples", "TaskExamples", "load_examples", "load_task_data", "preview"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TaskExamples:
    """The four splits, and facts about how they were cut (plain JSON data)."""

    splits: dict[str, StoredExamples]
    facts: Json


EXAMPLES_VERSION = 2
"""Raise it when the same rows give other examples: it is part of the cache key."""

LONGEST_GROUP = 64
"""Longer group keys, passages for example, are replaced by their hash."""


def load_examples(
    task: TaskSpec,
    *,
    max_train_rows: int | None = None,
    max_evaluation_rows: int | None = None,
    cache: Path | None = None,
    data_root: Path | None = None,
    verify: Verify = "all",
    with_sources: bool = False,
) -> dict[str, StoredExamples]:
    """The examples of train, validation, calibration and test; see `load_task_data`."""
    return load_task_data(
        task,
        max_train_rows=max_train_rows,
        max_evaluation_rows=max_evaluation_rows,
        cache=cache,
        data_root=data_root,
        verify=verify,
        with_sources=with_sources,
    ).splits


def load_task_data(
    task: TaskSpec,
    *,
    max_train_rows: int | None = None,
    max_evaluation_rows: int | None = None,
    cache: Path | None = None,
    data_root: Path | None = None,
    verify: Verify = "all",
    with_sources: bool = False,
) -> TaskExamples:
    """A task's examples, from the cache or made: read, processed, cut and rendered.

    max_train_rows, max_evaluation_rows: cap of train, and of each of the other splits, after the cut; the kept rows
    are the first groups by hash. cache, data_root, verify: see `Reading`. with_sources: fill Example.sources. Splits keep
    the order of the source. Raises DataError.
    """
    reading = _reading(cache, data_root, verify)
    caps = {split: max_train_rows if split == "train" else max_evaluation_rows for split in SPLITS}
    with _notes_on_errors(task):
        source = source_fingerprint(task, reading.data_root)
    # Metrics count too: some refuse a reference, and they say which rows are one question.
    metrics = [metric.to_json() for metric in task.metric_list]
    content = [EXAMPLES_VERSION, task.data_key(), source, metrics, caps, verify, with_sources]
    folder = reading.cache / "examples" / digest(content)
    if not is_complete(folder):
        with building(folder, task=task.task) as temporary:
            made = _make_examples(task, reading, caps, temporary, with_sources=with_sources)
            records.write_json(temporary / "facts.json", made)
    facts: Json = records.read_json(folder / "facts.json")
    for split, num_rows in facts["num_dropped"].items():
        if num_rows:
            logger.warning(
                "task %s: dropped %d of %d rows of %s: their group keys stand in another given split as well",
                task.task, num_rows, facts["num_source_rows"][split], split,
            )  # fmt: skip
    return TaskExamples({split: StoredExamples(folder / f"{split}.arrow") for split in SPLITS}, facts)


def _make_examples(
    task: TaskSpec, reading: Reading, caps: Mapping[str, int | None], folder: Path, *, with_sources: bool
) -> Json:
    """Write the examples of every split into a folder; returns facts about how they were cut."""
    rows = {split: RowSpool(_rows(task, split, reading)) for split in given_splits(task.source)}
    places = {split: _Places(task, _name(task, split), rows[split], with_sources) for split in rows}
    groups = _groups(places)
    division = cut(groups, task.task)
    num_kept = {}
    for split, whole in division.rows.items():
        kept = cap(whole, groups, caps[split])
        number_of_row, here = groups.numbers[kept.given], places[kept.given]
        examples = (here.example(int(index), groups.key(number_of_row[index])) for index in kept.indices)
        num_kept[split] = write_examples(folder / f"{split}.arrow", examples)
    sizes = np.bincount(np.concatenate(list(groups.numbers.values())))
    return {
        "num_source_rows": {split: len(rows[split]) for split in rows},
        "num_dropped": division.num_dropped,
        "num_rows": {split: len(division.rows[split]) for split in SPLITS},
        "num_groups": {
            split: len(np.unique(groups.numbers[part.given][part.indices])) for split, part in division.rows.items()
        },
        "num_kept_rows": {split: num_kept[split] for split in SPLITS},
        "largest_group_share": int(sizes.max()) / int(sizes.sum()),
    }


def preview(
    task: TaskSpec,
    num_rows: int = 3,
    *,
    cache: Path | None = None,
    data_root: Path | None = None,
    verify: Verify = "all",
) -> list[Example]:
    """The first rows of the training source, rendered; no more than these are read where source and steps allow it.

    Their group keys are those of these rows alone. Raises DataError.
    """
    reading = _reading(cache, data_root, verify)
    if task.doc_to_reference is not None and task.may_lack_references("train"):  # no training row shows a typo in it
        with contextlib.suppress(NothingLeftError):  # of the first rows; there may be more
            tested = _Places(task, "test", list(itertools.islice(_rows(task, "test", reading, 100), 1)))
            for index in range(len(tested.rows)):
                tested.example(index, "")
    rows = _first_rows(task, num_rows, reading)
    places = _Places(task, _name(task, "train"), rows)
    groups = _groups({"train": places})
    return [places.example(index, groups.key(group)) for index, group in enumerate(groups.numbers["train"])]


def first_columns(task: TaskSpec, *, cache: Path | None, data_root: Path | None, verify: Verify) -> set[str]:
    """The columns of the first row of train, behind all steps. Raises DataError."""
    return {name for row in _first_rows(task, 1, _reading(cache, data_root, verify)) for name in row}


def _first_rows(task: TaskSpec, num_rows: int, reading: Reading) -> list[dict[str, Any]]:
    """The first processed rows of train; where the steps drop nearly all of the first ones, all are read."""
    if not task.process:
        return list(_rows(task, "train", reading, num_rows))
    with contextlib.suppress(NothingLeftError):  # of the first rows; there may be more
        rows = list(itertools.islice(_rows(task, "train", reading, max(100, 10 * num_rows)), num_rows))
        if len(rows) == num_rows:
            return rows
    return list(itertools.islice(_rows(task, "train", reading), num_rows))


def _rows(task: TaskSpec, split: str, reading: Reading, max_read: int | None = None) -> Iterator[dict[str, Any]]:
    """The processed rows of a given split; those of its first `max_read` rows."""
    place = f"task {task.task}, split {_name(task, split)}"
    return apply_steps(task.process, _read(task, split, reading, max_read), place, task.origin)


def _read(task: TaskSpec, split: str, reading: Reading, max_read: int | None) -> Iterator[dict[str, Any]]:
    """The rows as the source has them."""
    with _notes_on_errors(task):
        yield from read_split(task.source, split, reading, max_read)


@contextlib.contextmanager
def _notes_on_errors(task: TaskSpec) -> Iterator[None]:
    """Errors name the task; where the place of its data is not sure, they repeat its notes."""
    try:
        yield
    except DataError as error:
        unsure = task.metadata.status in ("likely", "local_files")
        notes = f". Notes of {task.task}: {task.metadata.notes}" if unsure else ""
        text = str(error)
        named = text if text.startswith(f"task {task.task}") else f"task {task.task}: {text}"
        raise error.worded(f"{named}{notes}") from error


def _reading(cache: Path | None, data_root: Path | None, verify: Verify) -> Reading:
    given = {"cache": cache, "data_root": data_root}
    return Reading(**{name: path for name, path in given.items() if path is not None}, verify=verify)


def _name(task: TaskSpec, split: str) -> str:
    return given_splits(task.source).get(split, split)


def _groups(places: Mapping[str, _Places]) -> Groups:
    """The group of each row of each given split."""
    return group_rows({split: map(here.group_keys, range(len(here.rows))) for split, here in places.items()})


def has_ids(task: TaskSpec) -> bool:
    """Whether ids, and groups unless `doc_to_group` gives them, are those of the source: readers of packages give both,
    and a step that makes several rows of one would repeat them."""
    steps_repeat = any(step.kind == "explode_turns" for step in task.process)
    return isinstance(task.source, PackageSource) and not steps_repeat


def _short(key: str) -> str:
    return key if len(key) <= LONGEST_GROUP else hash_key(key).hex()


@dataclass(frozen=True)
class _Places:
    """The rows of one given split. name: what the source calls it; stands in ids and messages."""

    task: TaskSpec
    name: str
    rows: RowSpool | list[dict[str, Any]]
    with_sources: bool = False

    def row_id(self, index: int, row: dict[str, Any]) -> str:
        """The reader's own id for rows of packages, else `train:17`, where 0 is the first row after `process`."""
        return str(row["id"]) if self._has_ids else f"{self.name}:{index}"

    def place(self, index: int) -> Place:
        # For a person the position says more than a reader's id.
        return Place(self.task.task, f"{self.name}:{index}{self._of_file}", self._origin)

    def group_keys(self, index: int) -> tuple[str, ...]:
        row = self.rows[index]
        if self._has_ids and self.task.doc_to_group is None:
            keys: tuple[str, ...] = (str(row["group"]),)
        else:
            keys = tuple(_short(key) for key in render_group_keys(self.task, row, self.place(index)))
        question = question_key(self.task, row, self.place(index))
        # A question that is judged as a whole lies in one group, whatever else groups are made of. Numbers of questions
        # start anew in each split of the source.
        return keys if question is None else (*keys, f"question {self.name}:{question}")

    def example(self, index: int, group: str) -> Example:
        row, place = self.rows[index], self.place(index)
        row_id = self.row_id(index, row)
        template, may_lack = choose_template(self.task, row_id), self.task.may_lack_references(self.name)
        texts = render(self.task, row, place, template=template, may_lack_references=may_lack)
        for metric in self._strict_metrics:
            try:
                metric.statistics("", texts.references, texts.key)
            except DataError as error:
                judged = "doc_to_target" if self.task.doc_to_reference is None else "doc_to_reference"
                where = self.task.origin.prefix(judged)
                raise DataError(f"{where}task {self.task.task}, row {place.row}: metric {error}") from None
        return Example(
            id=row_id,
            group=group,
            prompt=texts.prompt,
            target=texts.target,
            references=texts.references,
            choices=texts.choices,
            label=texts.label,
            sources=source_keys(self.task, row, place) if self.with_sources else frozenset(),
            key=texts.key,
        )

    @functools.cached_property
    def _has_ids(self) -> bool:
        return has_ids(self.task)

    @functools.cached_property
    def _origin(self) -> Origin:
        return self.task.origin

    @functools.cached_property
    def _of_file(self) -> str:
        """The file of the rows, where they lie in one."""
        file = getattr(self.task.source, self.name, None) if isinstance(self.task.source, FilesSource) else None
        return f" of {Path(file).name}" if isinstance(file, str) else ""

    @functools.cached_property
    def _strict_metrics(self) -> list[Metric]:
        """Metrics that cannot use every reference: what is wrong shows before anything is trained."""
        return [metric for metric in map(metric_of, self.task.metric_list) if metric.is_strict]
