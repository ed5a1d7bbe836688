"""The confirmed runs of a sweep as cascades: their rows beside the large model's, and the curves that are drawn."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from catsweep.cascade.cost import ModelShape
from catsweep.cascade.curve import Curve
from catsweep.cascade.lines import oracle_curve, random_line, router_cost
from catsweep.cascade.metrics import Metric
from catsweep.cascade.ragged import FloatArray
from catsweep.cascade.rows import Cascade, make_cascade
from catsweep.records import TrialRecord, read_rows
from catsweep.spec.base import Json
from catsweep.spec.sweep import SweepSpec

PERCENTS = np.linspace(0.0, 1.0, 101)


@dataclass(frozen=True, eq=False)
class Run:
    """One confirmed run: its rows beside the large model's, on calibration and on test."""

    record: TrialRecord
    calibration: Cascade
    test: Cascade


def read_run(folder: Path, record: TrialRecord, large: pa.Table, metric: Metric, member: str | None) -> Run:
    rows = read_rows(folder / record.trial_id / "rows.parquet")
    if member is not None:
        rows = rows.filter(pa.compute.equal(rows["task"], member))
    shapes = ModelShape.from_dict(record.small_shape), ModelShape.from_dict(record.large_shape)

    def cascade(split: str) -> Cascade:
        small_part, large_part = (table.filter(pa.compute.equal(table["split"], split)) for table in (rows, large))
        return make_cascade(small_part, large_part, metric, small_shape=shapes[0], large_shape=shapes[1])

    return Run(record, cascade("calibration"), cascade("test"))


def run_oracle(cascade: Cascade) -> Curve:
    return oracle_curve(
        ids=cascade.signals.ids,
        small_statistics=cascade.small_statistics,
        large_statistics=cascade.large_statistics,
        small_cost=cascade.small_cost,
        large_cost=cascade.large_cost,
        metric=cascade.metric,
    )


def mean_curve(runs: list[Run], rule: str, metric: Metric) -> Json:
    """Curves at 0, 1, ... 100 percent of deferral, interpolated between points, mean over seeds."""
    curves = [run.test.curve(rule) for run in runs]
    oracles = [run_oracle(run.test) for run in runs]

    def mean(values: list[tuple[Curve, FloatArray]]) -> list[float]:
        lines = [np.interp(PERCENTS, curve.deferral_rate, line) for curve, line in values]
        return [float(value) for value in np.mean(lines, axis=0)]

    return {
        "quality": mean([(curve, curve.quality) for curve in curves]),
        "cost_share": mean([(curve, curve.cost / curve.cost_large) for curve in curves]),
        "router_cost_share": mean([(curve, router_cost(curve) / curve.cost_large) for curve in curves]),
        "small_kept_quality": mean([(curve, _last_filled(curve.small_kept_quality)) for curve in curves]),
        "large_deferred_quality": mean([(curve, _first_filled(curve.large_deferred_quality)) for curve in curves]),
        "random_quality": mean([(curve, random_line(curve, metric)) for curve in curves]),
        "oracle_quality": mean([(curve, curve.quality) for curve in oracles]),
    }


def _last_filled(values: FloatArray) -> FloatArray:
    """A1 has no value where everything is deferred: the last value stands there, for drawing. The same at other points
    where a metric is not defined."""
    last = np.maximum.accumulate(np.where(np.isnan(values), 0, np.arange(len(values))))
    return values[last]


def _first_filled(values: FloatArray) -> FloatArray:
    return _last_filled(values[::-1])[::-1]


def all_points(runs: dict[str, list[Run]], spec: SweepSpec, metric: Metric) -> Iterator[pa.Table]:
    for stratum, found in runs.items():
        for run in found:
            for rule in spec.cascade.deferral:
                curve = run.test.curve(rule)
                size = curve.num_rows + 1
                yield pa.table({
                    "stratum": pa.array([stratum] * size).dictionary_encode(),
                    "seed": np.full(size, run.record.seed),
                    "metric": pa.array([metric.name] * size).dictionary_encode(),
                    "rule": pa.array([rule] * size).dictionary_encode(),
                    "num_deferred": np.arange(size),
                    "quality": curve.quality,
                    "cost_flops": curve.cost,
                    "threshold": curve.threshold,
                    "is_threshold": curve.is_threshold,
                    "exceeds_large_cost": curve.exceeds_large_cost,
                })  # fmt: skip
