"""Signs that a run cannot show what it should: a large model near chance, a filter that keeps next to nothing."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from catsweep.cascade.metrics import metric_of
from catsweep.cascade.resample import group_counts
from catsweep.records import TrialRecord, read_steps
from catsweep.spec.base import Json
from catsweep.spec.task import TaskSpec
from catsweep.tasks.stats import frequent_quality
from catsweep.tasks.store import StoredExamples

logger = logging.getLogger(__name__)

STARVED_SHARE = 0.05
"""A filter that keeps less than this share of the target tokens to the end leaves next to nothing to train on. [ours]"""
NUM_RESAMPLES = 200


@dataclass(frozen=True)
class Chance:
    """A model's quality on validation with its 95% interval, and that of the most frequent training answer to all rows; in
    the unit of the task's first metric. NaN where it is not defined."""

    quality: float
    low: float
    high: float
    baseline: float

    def to_json(self) -> Json:
        """Plain JSON data; null for NaN."""
        return {name: None if math.isnan(value) else value for name, value in vars(self).items()}


def measure_chance(task: TaskSpec, train: StoredExamples, judged: StoredExamples, rows: pa.Table) -> Chance:
    """How far a model is above chance. rows: its rows of the examples `judged`. The interval is the bootstrap's over groups,
    percentiles of NUM_RESAMPLES draws. [ours]"""
    metric = metric_of(task.metric_list[0])
    statistics = np.array(rows[f"statistics/{metric.name}"].to_pylist(), dtype=np.float64)
    names, group = np.unique(rows["group"].to_pylist(), return_inverse=True)
    (counts,) = group_counts(len(names), NUM_RESAMPLES, seed=0, chunk=NUM_RESAMPLES)
    every = np.arange(len(statistics))
    draws = np.array([metric.quality(statistics[np.repeat(every, drawn[group])]) for drawn in counts])
    low, high = np.quantile(draws[~np.isnan(draws)], [0.025, 0.975]) if not np.isnan(draws).all() else (math.nan,) * 2
    baseline = frequent_quality(task, train.column("target"), train.column("label"), judged)
    return Chance(metric.quality(statistics), float(low), float(high), baseline)


def near_chance_answers(task: TaskSpec, chance: Json) -> list[str]:
    """A line where the large model's quality is within its interval of what one answer to all rows reaches, or below it.
    chance: JSON of `Chance`."""
    metric = metric_of(task.metric_list[0])
    if chance["low"] is None or chance["baseline"] is None or chance["low"] > chance["baseline"]:
        return []
    digits = 3 if metric.scale == 1 else 1
    quality, low, high, baseline = (f"{chance[name]:.{digits}f}" for name in ("quality", "low", "high", "baseline"))
    return [
        f"{task.task}: THE LARGE MODEL IS NEAR CHANCE: {metric.name} {quality} ({low} to {high}) on validation, and the most "
        f"frequent training answer to every row gets {baseline}. Deferring to it gains nothing, its signal says nothing, and "
        "cat_xent and cat_dist may collapse: no comparison of losses on this task means anything. Train it longer "
        "(large.finetune.steps), at another learning rate, or take a larger one"
    ]


class KeptShareWatch:
    """Warns once in the middle of a run whose filter has kept less than STARVED_SHARE of the target tokens in all logged
    steps since its first tenth."""

    def __init__(self, loss: str, num_steps: int) -> None:
        self.loss, self.num_steps = loss, num_steps
        self.largest = -1.0
        self.told = False

    def see(self, step: int, kept_share: float) -> None:
        """A logged step."""
        if step > self.num_steps / 10:
            self.largest = max(self.largest, kept_share)
        if step >= self.num_steps / 2 and self.largest < STARVED_SHARE and not self.told:
            self.told = True
            logger.warning(
                "by step %d of %d the filter of %s has kept at most %.1f%% of the target tokens since the first tenth: the "
                "model hardly trains. Is the large model near chance? `catsweep plan` says so",
                step, self.num_steps, self.loss, 100 * self.largest,
            )  # fmt: skip


def starved(folder: Path, record: TrialRecord) -> str | None:
    """A warning where a filter kept less than STARVED_SHARE of the target tokens in all logged steps of a run's last half,
    else None. folder: of the run."""
    half = record.num_steps / 2
    kept = [
        step["train/kept_share"] for step in read_steps(folder) if step["step"] > half and "train/kept_share" in step
    ]
    if not kept or max(kept) >= STARVED_SHARE:
        return None
    return (
        f"{record.task} {record.stratum}, {'trial' if record.role == 'trial' else 'confirm run of trial'} {record.number}: its "
        f"filter kept at most {max(kept):.1%} of the target tokens from step {half:.0f} on, so that it hardly trained. Is the "
        "large model near chance (`catsweep plan` says so)? Else raise the learning rate, or take a filter that keeps more"
    )
