"""The confirmed runs of a sweep with further models as chains, beside every pair of their models and each model alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from catsweep.cascade.chain import Chain, can_chain
from catsweep.cascade.chain_compare import ARROW, ChainPoint, best_pair, compare_chain
from catsweep.cascade.compare import task_difference
from catsweep.cascade.cost import ModelShape
from catsweep.cascade.metrics import Metric
from catsweep.cascade.rows import make_cascade
from catsweep.records import TrialRecord, read_json, read_rows
from catsweep.spec.base import Json
from catsweep.spec.sweep import SweepSpec

SMALL, LARGE = "S", "L"


@dataclass(frozen=True, eq=False)
class Asked:
    """A model of a chain: its name in tables, its rows and its shape."""

    name: str
    rows: pa.Table
    shape: ModelShape


def read_further(root: Path, spec: SweepSpec, task_name: str, place: str) -> list[Asked]:
    """The further models of a sweep that are asked at a place (see ChainModel), with their rows of a task."""
    chosen = [model.name for model in spec.chain if model.place == place]
    if not chosen:
        return []
    prepared = read_json(root / spec.name / "prepared" / f"{task_name}.json")["chain"]
    return [
        Asked(
            name,
            read_rows(root / "cache" / "answers" / prepared[name]["keys"]["answers"] / "rows.parquet"),
            ModelShape.from_dict(prepared[name]["large_shape"]),
        )
        for name in chosen
    ]


def chain_results(
    root: Path,
    spec: SweepSpec,
    task_name: str,
    records: Sequence[TrialRecord],
    large: pa.Table,
    metric: Metric,
    *,
    member: str | None,
    shares: Sequence[float],
) -> Json:
    """The chains of a stratum's confirmed runs at shares of the large model's cost; empty where the sweep has no further
    model, or the metric no chain. Thresholds are picked on calibration; qualities and costs are those of test, means over
    seeds, None where a seed's system cannot keep the cost. member: of a mixture, of which the rows are taken."""
    if not spec.chain or not records or not can_chain(metric):
        return {}
    below, between = (read_further(root, spec, task_name, place) for place in ("below", "between"))
    by_seed = []
    for record in records:
        rows = read_rows(root / spec.name / record.trial_id / "rows.parquet")
        rows = rows if member is None else rows.filter(pc.equal(rows["task"], member))
        small = Asked(SMALL, rows, ModelShape.from_dict(record.small_shape))
        models = [*below, small, *between, Asked(LARGE, large, ModelShape.from_dict(record.large_shape))]
        calibration, test = (
            _chain(models, split, metric, spec.cascade.deferral[0]) for split in ("calibration", "test")
        )
        by_seed.append(
            compare_chain(
                calibration,
                test,
                names=[model.name for model in models],
                groups=rows.filter(pc.equal(rows["split"], "test"))["group"].to_pylist(),
                shares=shares,
                num_resamples=spec.cascade.num_resamples,
                seed=spec.cascade.seed,
            )
        )
    names = [model.name for model in models]
    return {
        "models": names,
        "rule": spec.cascade.deferral[0],
        "is_exact": all(point.is_exact for points in by_seed for point in points),
        "points": [_mean_point(found) for found in zip(*by_seed, strict=True)],
        "against_best_pair": [_against_best_pair(by_seed, ARROW.join(names), share) for share in shares],
    }


def _chain(models: Sequence[Asked], split: str, metric: Metric, rule: str) -> Chain:
    """The rows of one split. Raises StorageError where ids differ."""
    tables = [model.rows.filter(pc.equal(model.rows["split"], split)) for model in models]
    last, statistics, cost, uncertainty = models[-1], [], [], []
    for model, rows in zip(models[:-1], tables[:-1], strict=True):
        pair = make_cascade(rows, tables[-1], metric, small_shape=model.shape, large_shape=last.shape)
        statistics.append(pair.small_statistics)
        cost.append(pair.small_cost)
        uncertainty.append(pair.uncertainty(rule))
    return Chain([*statistics, pair.large_statistics], [*cost, pair.large_cost], uncertainty, metric)


def _mean_point(points: Sequence[ChainPoint]) -> Json:
    """One system at one cost, mean over seeds."""
    first = points[0]
    reached = all(point.thresholds is not None for point in points)
    return {
        "share": first.share,
        "system": first.system,
        "num_models": first.num_models,
        "quality": float(np.mean([point.quality for point in points])) if reached else None,
        "cost_share": float(np.mean([point.cost_share for point in points])) if reached else None,
    }


def _against_best_pair(by_seed: Sequence[Sequence[ChainPoint]], whole: str, share: float) -> Json:
    """The whole chain minus the pair that is best on calibration, each seed's own; None where there is none."""
    differences, draws, pairs = [], [], []
    for points in by_seed:
        own = next(point for point in points if point.system == whole and point.share == share)
        pair = best_pair(points, share)
        if own.thresholds is None or pair is None:
            return {"share": share, "pairs": [], "value": None, "lower": None, "upper": None}
        pairs.append(pair.system)
        differences.append(own.quality - pair.quality)
        draws.append(own.draws - pair.draws)
    found = task_difference(differences, draws)
    return {"share": share, "pairs": pairs, "value": found.value, "lower": found.lower, "upper": found.upper}
