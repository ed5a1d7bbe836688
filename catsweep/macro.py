"""The macro mean of a mixture: its members' results, each in units of its metric's range, as one result more.

Kinds weigh equally, then tasks. Members with few test rows are left out, as in every macro claim, unless all have few.
"""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from catsweep.cascade.compare import macro_weights, percentile_interval, task_difference
from catsweep.cascade.ragged import FloatArray
from catsweep.records import write_atomic
from catsweep.spec.base import Json

METRIC = "macro"
SIGNATURE = "macro mean of quality/scale over the members' first metrics: kinds weigh equally, then tasks"
Draws = Mapping[str, FloatArray]
"""Bootstrap draws of one member's first metric: `audc/<stratum>` and `quality_small/<stratum>` (seeds, B),
`quality_large` (B,)."""


def save_draws(path: Path, draws: Draws) -> None:
    """Keep a member's draws beside its results."""
    buffer = io.BytesIO()
    arrays: Json = {name.replace("/", "\\"): values for name, values in draws.items()}
    np.savez(buffer, **arrays)
    write_atomic(path, buffer.getvalue())


def load_draws(path: Path) -> Draws:
    """What `save_draws` kept."""
    with np.load(path) as file:
        return {name.replace("\\", "/"): file[name] for name in file.files}


def macro_result(name: str, results: Sequence[Json], draws: Sequence[Draws], is_small: Sequence[bool]) -> Json:
    """The macro result of a mixture, in the shape of a task's: metric `macro`, with the worst member of each stratum.

    results: of at least one member, as curves.compute_task returns them. draws: of each. is_small: which have few test rows.
    """
    counted = [index for index, small in enumerate(is_small) if not small] or list(range(len(results)))
    parts = [_Part(results[index], draws[index]) for index in counted]
    weights = macro_weights([part.result["group"] for part in parts])
    first = results[0]
    strata = [stratum for stratum in first["strata"] if all(stratum in part.strata for part in parts)]
    baseline = first["baseline"]
    metric: Json = {"scale": 1.0, "lowest": 0.0, "signature": SIGNATURE, "strata": {}}
    if strata:
        large = sum(
            weight * part.draws["quality_large"] / part.scale for weight, part in zip(weights, parts, strict=True)
        )
        value = _mean(weights, [part.large for part in parts])
        cost = _mean(weights, [part.metric["large"]["cost_flops"] for part in parts])
        metric["large"] = {**vars(percentile_interval(value, large)), "cost_flops": cost}
    for stratum in strata:
        entry: Json = {
            kind: _over_seeds(weights, [part.seeds(kind, stratum) for part in parts])
            for kind in ("quality_small", "audc")
        }
        entry["cost_small_flops"] = _mean(weights, [part.strata[stratum]["cost_small_flops"] for part in parts])
        entry["curve"] = _curve(weights, parts, stratum)
        entry["rules"] = {first["rules"][0]: _runs(first, stratum, entry)}
        if stratum != baseline and baseline in strata:
            pairs = [part.paired(stratum, baseline) for part in parts]
            if len(pairs[0][0]):
                entry["difference"] = _over_seeds(weights, pairs)
            entry["worst"] = _worst(results, stratum)
        metric["strata"][stratum] = entry
    return {
        "task": name,
        "group": "mixture",
        "mixture": name,
        "members": [result["task"] for result in results],
        "counted": [results[index]["task"] for index in counted],
        "metrics": {METRIC: metric},
        "num_rows": {split: sum(result["num_rows"][split] for result in results) for split in first["num_rows"]},
        "rules": first["rules"][:1],
        "costs": first["costs"][:1],
        "wanted": first["wanted"],
        "baseline": baseline,
        "strata": first["strata"],
    }


class _Part:
    """A member's first metric with its draws."""

    def __init__(self, result: Json, draws: Draws) -> None:
        self.result, self.draws = result, draws
        self.metric: Json = next(iter(result["metrics"].values()))
        self.strata: Json = self.metric["strata"]
        self.scale: float = self.metric["scale"]

    @property
    def large(self) -> float:
        """Quality of the large model in units of the metric's range, NaN where it is not defined."""
        value = self.metric["large"]["value"]
        return math.nan if value is None else value / self.scale

    def seeds(self, name: str, stratum: str) -> tuple[FloatArray, FloatArray]:
        """Values (seeds,) and draws (seeds, B) in units of the metric's range."""
        values = np.array(self.strata[stratum][name]["by_seed"], dtype=np.float64)
        return values / self.scale, self.draws[f"{name}/{stratum}"] / self.scale

    def paired(self, stratum: str, baseline: str) -> tuple[FloatArray, FloatArray]:
        """The same of audc minus the baseline's, for the seeds that both have."""
        own, base = self.result["strata"][stratum]["seeds"], self.result["strata"][baseline]["seeds"]
        pairs = [(own.index(seed), base.index(seed)) for seed in own if seed in base]
        (values, draws), (base_values, base_draws) = self.seeds("audc", stratum), self.seeds("audc", baseline)
        first, second = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
        return values[first] - base_values[second], draws[first] - base_draws[second]


def _mean(weights: FloatArray, values: Sequence[float]) -> float:
    return float(weights @ np.asarray(values, dtype=np.float64))


def _over_seeds(weights: FloatArray, parts: Sequence[tuple[FloatArray, FloatArray]]) -> Json:
    """The macro mean of each seed (the same runs in all members), its mean over seeds, and the interval."""
    values = sum(weight * part[0] for weight, part in zip(weights, parts, strict=True))
    draws = sum(weight * part[1] for weight, part in zip(weights, parts, strict=True))
    return {**vars(task_difference(values, draws)), "by_seed": np.asarray(values).tolist()}


def _curve(weights: FloatArray, parts: Sequence[_Part], stratum: str) -> Json:
    """The members' mean curves at each percent of deferral: every member defers the same share of its own queries."""
    curves = [part.strata[stratum]["curve"] for part in parts]
    found = {}
    for name in curves[0]:
        scales = [1.0 if name.endswith("cost_share") else part.scale for part in parts]
        lines = [np.asarray(curve[name], dtype=np.float64) / scale for curve, scale in zip(curves, scales, strict=True)]
        found[name] = (weights @ np.array(lines)).tolist()
    return found


def _runs(result: Json, stratum: str, entry: Json) -> list[Json]:
    """Each run's macro numbers; thresholds are those of single tasks, so there are no operating points."""
    facts = result["strata"][stratum]
    values = zip(
        facts["trial_ids"], facts["seeds"], entry["quality_small"]["by_seed"], entry["audc"]["by_seed"], strict=True
    )
    return [
        {"trial_id": trial_id, "seed": seed, "quality_small": quality, "audc": area, "operating": {}}
        for trial_id, seed, quality, area in values
    ]


def _worst(results: Sequence[Json], stratum: str) -> Json | None:
    """The member with the largest loss of audc against the baseline, small ones included, in units of its range."""
    found = []
    for result in results:
        metric = next(iter(result["metrics"].values()))
        difference = metric["strata"].get(stratum, {}).get("difference")
        if difference is not None:
            scaled = {name: difference[name] / metric["scale"] for name in ("value", "lower", "upper")}
            found.append({"task": result["task"], **scaled})
    return min(found, key=lambda item: item["value"], default=None)
