"""What a filter's gain over the baseline is made of, where a sweep injects label noise (docs/noise.md). [ours]

    gain    F - xent                    of a filter F
    noise   drop_injected - xent        of removing exactly the injected tokens
    easier  clean_only F - xent         of the same filter asked about clean tokens alone
    rest    gain - noise - easier       injected tokens that F leaves in, and what the two do together

All are differences of the same seeds on the same resamples, on test. Pure functions of the confirmed runs' numbers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from catsweep.cascade.compare import Bootstrap, macro_difference
from catsweep.comparing import first_metric
from catsweep.deferral import mean_interval
from catsweep.records import TrialRecord
from catsweep.runs import Run
from catsweep.spec.base import Json
from catsweep.spec.dimensions import Node, option_values
from catsweep.spec.search import BASELINE

MEASURES = ("audc", "quality_small")
"""The area under the curve, and the small model's quality on the task alone."""
PARTS = ("gain", "noise", "easier", "rest")
DEFAULT_FILTER = "either"
CASCADE_AWARE = {"cat_xent", "cat_dist"}


@dataclass(frozen=True)
class GainSplit:
    """The strata that split one filter's gain: the filter itself, drop_injected, and clean_only of the filter."""

    filtered: str
    dropped: str
    clean: str


def gain_splits(trees: Mapping[str, Node]) -> list[GainSplit]:
    """The splits that a sweep's strata allow; none without the baseline. trees: see space.strata. Of strata that differ in
    something else, such as a warm-up, the first of each filter counts."""
    if BASELINE not in trees:
        return []
    by_filter: dict[tuple[str, str, str], str] = {}
    for name, tree in trees.items():
        losses = set(option_values(tree, ("loss", "kind")))
        outer = set(option_values(tree, ("loss", "filter", "kind"))) or {DEFAULT_FILTER}
        inner = set(option_values(tree, ("loss", "filter", "filter", "kind"))) or {DEFAULT_FILTER}
        if losses & CASCADE_AWARE and len(losses) == len(outer) == len(inner) == 1:
            (loss,), (kind,), (asked,) = losses, outer, inner
            by_filter.setdefault((loss, kind, asked if kind == "clean_only" else ""), name)
    return [
        GainSplit(name, by_filter[loss, "drop_injected", ""], by_filter[loss, "clean_only", outer])
        for (loss, outer, _), name in by_filter.items()
        if (loss, "drop_injected", "") in by_filter and (loss, "clean_only", outer) in by_filter
    ]


def split_gains(
    splits: Sequence[GainSplit], runs: Mapping[str, Sequence[Run]], draws: Mapping[str, Sequence[Bootstrap]]
) -> Json:
    """By filter's stratum and measure, each part with its interval in the metric's unit, over the seeds that all four strata
    have; without those that have none in common. runs, draws: of each stratum, in the same order."""
    by_seed = {
        name: {run.record.seed: item for run, item in zip(found, draws[name], strict=True)}
        for name, found in runs.items()
    }
    found: Json = {}
    for split in splits:
        strata = [by_seed.get(name, {}) for name in (BASELINE, split.filtered, split.dropped, split.clean)]
        seeds = [seed for seed in strata[0] if all(seed in own for own in strata)]
        if not seeds:
            continue
        found[split.filtered] = {}
        for measure in MEASURES:
            values, drawn = (
                parts(*(np.array([getattr(own[seed], name) for seed in seeds]) for own in strata))
                for name in (measure, f"{measure}_draws")
            )
            found[split.filtered][measure] = {
                part: mean_interval(values[part].tolist(), list(drawn[part])) for part in PARTS
            }
    return found


def parts(baseline: Any, filtered: Any, dropped: Any, clean: Any) -> dict[str, Any]:
    """The parts of a gain from the numbers of the four strata, arrays of any one shape."""
    gain, noise, easier = filtered - baseline, dropped - baseline, clean - baseline
    return {"gain": gain, "noise": noise, "easier": easier, "rest": gain - noise - easier}


def macro_splits(tasks: Sequence[Json]) -> Json:
    """By filter's stratum and measure, each part over all tasks as shares of their metrics' ranges (see
    cascade.compare.macro_difference), and the number of tasks."""
    names = dict.fromkeys(name for result in tasks for name in first_metric(result).get("gain_splits", {}))
    macro: Json = {}
    for name in names:
        macro[name] = {measure: _macro(tasks, name, measure) for measure in MEASURES}
    return macro


def detector(runs: Sequence[TrialRecord]) -> Json | None:
    """What a stratum's filter did with the injected tokens, means over its confirmed runs (see filters.injected.detection);
    None without label noise."""
    found = [run.facts["noise"] for run in runs if "noise" in run.facts]
    names = dict.fromkeys(name for item in found for name in item)
    return {name: float(np.mean([item[name] for item in found if name in item])) for name in names} or None


def _macro(tasks: Sequence[Json], name: str, measure: str) -> Json:
    found = [
        (result, split[measure])
        for result in tasks
        if (split := first_metric(result).get("gain_splits", {}).get(name)) is not None
        and split[measure]["rest"]["value"] is not None
    ]
    kinds = [result["group"] for result, _ in found]
    if not found:
        return {"num_tasks": 0}
    return {"num_tasks": len(found)} | {
        part: vars(
            macro_difference(kinds, [split[part]["value"] / first_metric(result)["scale"] for result, split in found])
        )
        for part in PARTS
    }
