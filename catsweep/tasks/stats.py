"""What a task looks like before any model: rows of each split, and what can be had without one."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from catsweep.cascade.metrics import metric_of
from catsweep.spec.base import Json
from catsweep.spec.task import TaskSpec
from catsweep.tasks.examples import Example, load_task_data
from catsweep.tasks.splits import MIN_TEST_ROWS
from catsweep.tasks.store import StoredExamples

_TAG = re.compile(r"^\w{2,12}:")


@dataclass(frozen=True)
class TaskStats:
    """Facts about a task.

    num_rows: of each split. baselines: test quality, in the first metric, of answers that need no model: `majority`, the
    most frequent choice of train; or `frequent`, its most frequent answer, and `copy`, the prompt without a tag such as
    `fr:` before it. baseline: the name of the best of them on validation. largest_group_share: of all rows. is_small: too
    few test rows for a macro claim.
    """

    task: str
    group: str
    output_type: str
    num_rows: dict[str, int]
    metric: str
    scale: float
    baselines: dict[str, float]
    baseline: str
    largest_group_share: float

    @property
    def is_small(self) -> bool:
        return self.num_rows["test"] < MIN_TEST_ROWS

    @property
    def baseline_quality(self) -> float:
        """Test quality of the baseline that validation chose."""
        return self.baselines[self.baseline]

    def to_json(self) -> Json:
        """Plain JSON data."""
        return {**vars(self), "baseline_quality": self.baseline_quality, "small": self.is_small}


def task_stats(task: TaskSpec, *, cache: Path | None = None, data_root: Path | None = None) -> TaskStats:
    """Read a task whole, without a cap, and judge what needs no model. cache, data_root: see `load_task_data`.

    Raises DataError.
    """
    data = load_task_data(task, cache=cache, data_root=data_root)
    metric = metric_of(task.metric_list[0])
    splits = data.splits
    on_validation = _baselines(task, splits["train"], splits["validation"])
    return TaskStats(
        task=task.task,
        group=task.group,
        output_type=task.output_type,
        num_rows={split: len(rows) for split, rows in splits.items()},
        metric=metric.name,
        scale=metric.scale,
        baselines=_baselines(task, splits["train"], splits["test"]),
        # A correlation with one answer to all rows is not defined, and so never the best.
        baseline=max(on_validation, key=lambda name: np.nan_to_num(on_validation[name], nan=-np.inf)),
        largest_group_share=data.facts["largest_group_share"],
    )


def _baselines(task: TaskSpec, train: StoredExamples, judged: Sequence[Example]) -> dict[str, float]:
    """The quality on some examples of answers that need train alone, by name."""
    frequent = frequent_quality(task, train.column("target"), train.column("label"), judged)
    if task.output_type == "multiple_choice":
        return {"majority": frequent}
    return {
        "frequent": frequent,
        "copy": _quality(task, judged, [_TAG.sub("", example.prompt) for example in judged]),
    }


def frequent_quality(task: TaskSpec, targets: list[str], labels: list[int], judged: Sequence[Example]) -> float:
    """The quality on some examples of one answer to all of them: the most frequent target. targets, labels: of train."""
    frequent = _most_frequent(targets)
    if task.output_type != "multiple_choice":
        return _quality(task, judged, [frequent] * len(judged))
    # Where choices differ from row to row, the place in the list is all that rows have in common.
    place = Counter(labels).most_common(1)[0][0]
    answers = [
        frequent if frequent in example.choices else example.choices[min(place, len(example.choices) - 1)]
        for example in judged
    ]
    return _quality(task, judged, answers)


def _quality(task: TaskSpec, judged: Sequence[Example], answers: list[str]) -> float:
    metric = metric_of(task.metric_list[0])
    pairs = zip(answers, judged, strict=True)
    return metric.quality([metric.statistics(answer, example.references, example.key) for answer, example in pairs])


def _most_frequent(answers: Iterable[str]) -> str:
    """The first by alphabet where several are."""
    counts = Counter(answers)
    return min(counts, key=lambda answer: (-counts[answer], answer))
