"""The confirmed runs of a sweep as cascades: their rows beside the large model's, and the curves that are drawn."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa

from catsweep.cascade.cost import ModelShape, forward_flops, train_flops_per_step
from catsweep.cascade.curve import Curve
from catsweep.cascade.latency import Latency
from catsweep.cascade.learned import Example, learned_gains
from catsweep.cascade.lines import random_line, router_cost
from catsweep.cascade.metrics import Metric
from catsweep.cascade.ragged import FloatArray
from catsweep.cascade.rows import Cascade, make_cascade
from catsweep.errors import StorageError
from catsweep.records import TrialRecord, read_rows
from catsweep.spec.base import Json
from catsweep.spec.cascade import LEARNED, UNITS, CascadeSpec, LatencyCost
from catsweep.spec.sweep import SweepSpec

PERCENTS = np.linspace(0.0, 1.0, 101)


@dataclass(frozen=True, eq=False)
class Run:
    """One confirmed run: its rows beside the large model's, on calibration and on test."""

    record: TrialRecord
    calibration: Cascade
    test: Cascade


def read_run(
    folder: Path,
    record: TrialRecord,
    large: pa.Table,
    metric: Metric,
    member: str | None,
    *,
    cascade: CascadeSpec,
    large_latency: Latency | None = None,
) -> Run:
    """A confirmed run under a metric, with the costs of all cost models and, where it is wanted, the learned rule.

    large: the large model's rows. member: of a mixture. Raises StorageError, also where latency was not measured.
    """
    rows = read_rows(folder / record.trial_id / "rows.parquet")
    if member is not None:
        rows = rows.filter(pa.compute.equal(rows["task"], member))
    shapes = ModelShape.from_dict(record.small_shape), ModelShape.from_dict(record.large_shape)
    measured = record.facts.get("latency")
    latencies = (Latency.from_dict(measured), large_latency) if measured and large_latency else None
    if latencies is None and any(isinstance(cost, LatencyCost) for cost in cascade.costs):
        raise StorageError(
            f"{folder / record.trial_id}: this run's seconds were not measured (it was made by an older catsweep); the cost "
            "model latency expects `latency` in its record.json. Remove the folder and run `catsweep run` again, or leave "
            "latency out"
        )

    def one(split: str) -> Cascade:
        small_part, large_part = (table.filter(pa.compute.equal(table["split"], split)) for table in (rows, large))
        return make_cascade(
            small_part,
            large_part,
            metric,
            small_shape=shapes[0],
            large_shape=shapes[1],
            costs=cascade.costs,
            latencies=latencies,
        )

    calibration, test = one("calibration"), one("test")
    if LEARNED in cascade.deferral and LEARNED not in test.known:
        known = Example(
            calibration.signals, calibration.small_statistics, calibration.large_statistics, calibration.groups
        )
        gains = learned_gains(known, test.signals, metric, seed=cascade.seed)
        calibration = replace(calibration, known={**calibration.known, LEARNED: gains.out_of_fold})
        test = replace(test, known={**test.known, LEARNED: gains.applied})
    return Run(record, calibration, test)


def mean_curve(runs: list[Run], rule: str, metric: Metric) -> Json:
    """Curves at 0, 1, ... 100 percent of deferral, interpolated between points, mean over seeds."""
    curves = [run.test.curve(rule) for run in runs]
    oracles = [run.test.oracle for run in runs]

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
        "oracle_cost_share": mean([(curve, curve.cost / curve.cost_large) for curve in oracles]),
    }


def _last_filled(values: FloatArray) -> FloatArray:
    """A1 has no value where everything is deferred: the last value stands there, for drawing. The same at other points
    where a metric is not defined."""
    last = np.maximum.accumulate(np.where(np.isnan(values), 0, np.arange(len(values))))
    return values[last]


def _first_filled(values: FloatArray) -> FloatArray:
    return _last_filled(values[::-1])[::-1]


def all_points(runs: dict[str, list[Run]], cascade: CascadeSpec, metric: Metric) -> Iterator[pa.Table]:
    """Every point of every curve. Of each cost model there are the columns cost_<model>_<unit> (cost_flops for FLOPs) and
    router_<the same>: the cost of a router with the same choices."""
    for stratum, found in runs.items():
        for run in found:
            for rule in cascade.deferral:
                curve = run.test.curve(rule)
                size = curve.num_rows + 1
                table = pa.table({
                    "stratum": pa.array([stratum] * size).dictionary_encode(),
                    "seed": np.full(size, run.record.seed),
                    "metric": pa.array([metric.name] * size).dictionary_encode(),
                    "rule": pa.array([rule] * size).dictionary_encode(),
                    "num_deferred": np.arange(size),
                    "quality": curve.quality,
                    "threshold": curve.threshold,
                    "is_threshold": curve.is_threshold,
                    "exceeds_large_cost": curve.exceeds_large_cost,
                })  # fmt: skip
                for cost in cascade.costs:
                    own = run.test.at_cost(curve, cost.kind)
                    name = cost_column(cost.kind)
                    table = table.append_column(name, pa.array(own.cost))
                    table = table.append_column(f"router_{name}", pa.array(router_cost(own)))
                yield table


def cost_column(kind: str) -> str:
    """The column of a cost model in the table of points, with its unit: cost_flops, cost_latency_seconds ..."""
    return "cost_flops" if kind == "flops" else f"cost_{kind}_{UNITS[kind]}"


def large_facts(root: Path, prepared: Json, spec: SweepSpec) -> Json:
    """What the large model, and the further models of a chain, cost before any trial: steps and FLOPs of their fine-tunes,
    with those of their folds, and FLOPs of their passes over the small models' training targets, at their mean lengths; None
    where the token ids are gone. num_models: whose. rate: of a mixture's member, its share of the large model's batches."""

    def lengths(split: str) -> tuple[int, float, float] | None:
        paths = [
            root / "cache/data" / prepared["keys"]["data"] / f"{split}.{name}.offsets.npy"
            for name in ("prompts", "targets")
        ]
        if not all(path.exists() for path in paths):
            return None
        prompts, targets = (np.load(path) for path in paths)
        num = len(prompts) - 1
        return num, float(prompts[-1]) / num, float(targets[-1]) / num

    further = [(prepared["chain"][model.name]["large_shape"], model.finetune) for model in spec.chain]
    trained, passed_over = lengths(spec.large_split), lengths("train")
    num_steps, train_flops, pass_flops = 0, 0.0, 0.0
    for found, finetune in [(prepared["large_shape"], spec.large.finetune), *further]:
        shape = ModelShape.from_dict(found)
        steps = 0 if finetune is None else finetune.steps * (1 + (finetune.cross_fit or 0))  # with those of the folds
        num_steps += steps
        if finetune is not None and trained is not None:
            train_flops += steps * train_flops_per_step(
                shape, batch_size=finetune.batch_size, mean_prompt_tokens=trained[1], mean_target_tokens=trained[2]
            )
        if passed_over is not None:
            pass_flops += passed_over[0] * float(forward_flops(shape, [passed_over[1]], [passed_over[2]])[0])
    return {
        "num_models": 1 + len(further),
        "num_steps": num_steps,
        "train_flops": None if num_steps and trained is None else train_flops,
        "pass_flops": None if passed_over is None else pass_flops,
        "rate": prepared.get("large_rate", prepared.get("rate", 1.0)),
    }
