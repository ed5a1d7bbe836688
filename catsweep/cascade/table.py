"""Results of any system as a cascade: a csv or parquet table of scores and answers in, a curve out.

Columns: `id`, `score` (the small model's confidence, HIGHER is surer), and `small_correct, large_correct` (0/1 or any
number) or `small_output, large_output, reference` (and `reference_2` ...; an empty one counts as absent); optionally
`small_cost, large_cost` (else 0 and 1), `group` (rows of one group are resampled together; else each row alone) and `key`
(multirc_em: rows of one question have the same key).
Other columns are ignored, unless their name looks like a misspelt one of these.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from catsweep.cascade.columns import CORRECT, COST, OUTPUT, read_columns
from catsweep.cascade.compare import Interval, System, bootstrap_curves
from catsweep.cascade.curve import Curve, apgr, audc, cascade_curve, cpt
from catsweep.cascade.lines import oracle_curve, quality_oracle
from catsweep.cascade.metrics import Metric, get_metric
from catsweep.cascade.ragged import FloatArray
from catsweep.errors import DataError, TableError

CPT_PERCENTS = (20, 50, 80)


@dataclass(frozen=True, eq=False)
class Table:
    """A table that was read and checked: n >= 1 rows.

    score: (n,) finite. correct: (n, 2) of small and large, or None. outputs: (small, large) texts, or None, with the
    accepted references of each row. costs: (n, 2), finite, >= 0. groups, keys: n texts, or None where there is no such column; a
    key may be missing, too.
    """

    path: Path
    ids: list[str]
    score: FloatArray
    correct: FloatArray | None
    outputs: tuple[list[str], list[str]] | None
    references: list[list[str]]
    costs: FloatArray
    groups: list[str] | None
    keys: list[str | None] | None


@dataclass(frozen=True, eq=False)
class Summary:
    """The curve of a table and what is read off it. signature: what fixes the metric. intervals: by name, 95%. facts: see
    `Metric.facts`. Qualities that are not defined are NaN, their bounds too."""

    metric: Metric
    signature: str
    curve: Curve
    oracle: Curve
    quality_oracle: float
    audc: float
    apgr: float | None
    cpt: dict[int, float | None]
    intervals: dict[str, Interval]
    facts: dict[str, int]


def read_table(path: Path | str) -> Table:
    """Read and check a .csv or .parquet file. Raises TableError with file, row, column, what was found and expected."""
    path = Path(path)
    columns = read_columns(path)
    columns.check_names()
    ids = columns.unique_text("id")
    correct = costs = outputs = None
    references: list[list[str]] = []
    if columns.has(CORRECT[0]):
        correct = np.stack([columns.numbers(name, "a number, such as 0 or 1") for name in CORRECT], axis=1)
    if columns.has(OUTPUT[0]):
        outputs = (columns.text("small_output", empty=True), columns.text("large_output", empty=True))
        references = columns.references()
    if columns.has(COST[0]):
        costs = np.stack([columns.numbers(name, "a cost of at least 0", lowest=0.0) for name in COST], axis=1)
    return Table(
        path=path,
        ids=ids,
        score=columns.numbers("score", "a finite number; higher is surer"),
        correct=correct,
        outputs=outputs,
        references=references,
        costs=np.tile([0.0, 1.0], (len(ids), 1)) if costs is None else costs,
        groups=columns.text("group") if columns.has("group") else None,
        keys=columns.optional_text("key"),
    )


def table_curve(
    table: Table,
    *,
    metric: str,
    tokenize: str | None = None,
    positive: str | None = None,
    num_resamples: int = 1_000,
    seed: int = 0,
) -> Summary:
    """The curve of a table under a metric, with 95% intervals over its groups (of multirc_em: by default its questions).

    accuracy takes small_correct and large_correct where they are there, and other mean metrics where there are no texts;
    all else needs the columns of texts, multirc_em also `key`. Raises TableError where the table lacks what the metric
    needs.
    """
    judge = get_metric(metric, tokenize=tokenize, positive=positive)
    small, large = _statistics(table, judge)
    small_cost, large_cost = table.costs.T
    uncertainty = -table.score
    curve = cascade_curve(
        ids=table.ids,
        small_statistics=small,
        large_statistics=large,
        uncertainty=uncertainty,
        small_cost=small_cost,
        large_cost=large_cost,
        metric=judge,
    )
    oracle = oracle_curve(
        ids=table.ids,
        small_statistics=small,
        large_statistics=large,
        small_cost=small_cost,
        large_cost=large_cost,
        metric=judge,
    )
    system = System(table.ids, small, large, uncertainty)
    groups = table.groups or ([str(key) for key in table.keys or ()] if judge.needs_key else table.ids)
    drawn = bootstrap_curves({"": system}, groups=groups, metric=judge, num_resamples=num_resamples, seed=seed)[""]
    counts = {len(references) for references in table.references} or {1}
    return Summary(
        metric=judge,
        signature=judge.signature_for(counts.pop() if len(counts) == 1 else -1),
        curve=curve,
        oracle=oracle,
        quality_oracle=quality_oracle(oracle),
        audc=audc(curve),
        apgr=apgr(curve),
        cpt={percent: cpt(curve, percent) for percent in CPT_PERCENTS},
        intervals={
            "audc": drawn.audc_interval,
            "quality_small": drawn.quality_small_interval,
            "quality_large": drawn.quality_large_interval,
        },
        facts=judge.facts(small, large),
    )


def summary_dict(summary: Summary, *, num_points: int | None = None) -> dict[str, Any]:
    """The summary as plain JSON data; what is not defined is None. points: all n+1, or about num_points >= 2 spread evenly,
    both ends included. facts: there only where there are any."""
    curve = summary.curve
    if num_points is not None and num_points < 2:
        raise TableError(f"number of points: found {num_points}; expected at least 2, the two ends of the curve")
    rows = np.arange(curve.num_rows + 1)
    if num_points is not None and num_points < len(rows):
        rows = np.unique(np.linspace(0, curve.num_rows, num_points).round().astype(np.int64))
    names = ("deferral_rate", "quality", "cost", "is_threshold")
    facts = {"facts": summary.facts} if summary.facts else {}
    columns = [[_defined(value) for value in getattr(curve, name)[rows].tolist()] for name in names]
    return {
        "num_rows": curve.num_rows,
        "quality_small": _defined(curve.quality_small),
        "quality_large": _defined(curve.quality_large),
        "quality_oracle": _defined(summary.quality_oracle),
        "audc": summary.audc,
        "apgr": summary.apgr,
        "cpt": {str(percent): rate for percent, rate in summary.cpt.items()},
        "intervals": {
            name: [_defined(interval.lower), _defined(interval.upper)] for name, interval in summary.intervals.items()
        },
        "points": [dict(zip(names, values, strict=True)) for values in zip(*columns, strict=True)],
        **facts,
    }


def _defined(value: float) -> float | None:
    return None if math.isnan(value) else value


def _statistics(table: Table, metric: Metric) -> tuple[FloatArray, FloatArray]:
    """(n, k) statistics of the small and of the large model's answers."""
    takes_correct = metric.name == "accuracy" or (metric.is_mean and table.outputs is None)
    if takes_correct and table.correct is not None:
        small, large = (np.stack([values, np.ones(len(values))], axis=1) for values in table.correct.T)
        return small, large
    if table.outputs is None:
        raise TableError(
            f"{table.path}: metric {metric.name} compares texts; found no columns {', '.join(OUTPUT)}. "
            "Add them, or choose the metric accuracy for small_correct and large_correct"
        )
    if metric.needs_key and table.keys is None:
        raise TableError(
            f"{table.path}: metric {metric.name} judges whole questions; found no column 'key'. "
            "Add it: rows of one question have the same key"
        )
    keys = table.keys or [None] * len(table.ids)
    both = []
    for outputs in table.outputs:
        rows = []
        for row, (output, references, key) in enumerate(zip(outputs, table.references, keys, strict=True)):
            try:
                rows.append(metric.statistics(output, references, key))
            except DataError as error:
                raise TableError(f"{table.path}: row {row + 1}: {error}") from None
        both.append(np.array(rows))
    return both[0], both[1]
