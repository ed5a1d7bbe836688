"""The comparisons of a sweep over its tasks (docs/statistics.md): pure functions of the results of single tasks.

Every number is one of confirmed runs on test, under each task's first metric and the first deferral rule, in units of that
metric's range. docs/statistics.md has the formulas.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from catsweep.cascade.compare import holm, macro_difference, macro_mean, mean_interval, mean_ranks
from catsweep.deferral import EQUAL_QUALITY
from catsweep.spec.base import Json
from catsweep.spec.search import BASELINE

PRIMARY, PRIMARY_RULE = "cat_xent/either", "mean"
"""The stratum of the primary endpoint, fixed before any run: macro test audc, mean rule, minus the baseline's."""
ALPHA = 0.05


def compare(tasks: Sequence[Json]) -> Json:
    """Every stratum against the baseline over these tasks, small ones already left out.

    macro: by stratum the macro difference of audc; `primary` marks the primary endpoint, all others have a `p_value_holm`,
    adjusted over the losses; `kinds` the mean of each kind of task; `counts` the tasks won, tied and lost; `saved` the
    macro share of FLOPs saved at equal quality. p_value_holm: by stratum and task, adjusted over the tasks of a loss.
    mean_rank: see `ranks`.
    """
    names = sorted({name for result in tasks for name in first_metric(result)["strata"]} - {BASELINE})
    macro: Json = {}
    adjusted: Json = {}
    for stratum in names:
        found = [(result, difference) for result in tasks if (difference := difference_of(result, stratum)) is not None]
        if not found:
            continue
        # Of one seed p is about test examples alone: it tells no loss from another, and stands for none here.
        p_values = [difference["p_value"] if has_seeds(difference) else 1.0 for _, difference in found]
        adjusted_p = holm(p_values).tolist()
        adjusted[stratum] = {result["task"]: p for (result, _), p in zip(found, adjusted_p, strict=True)}
        kinds = [result["group"] for result, _ in found]
        values = [difference["value"] / first_metric(result)["scale"] for result, difference in found]
        macro[stratum] = {
            **vars(macro_difference(kinds, values, seed=0)),
            "num_tasks": len(values),
            "primary": stratum == PRIMARY and all(result["rules"][0] == PRIMARY_RULE for result, _ in found),
            "kinds": by_kind(kinds, values),
            "counts": counts([difference for _, difference in found], adjusted_p),
            "saved": savings(tasks, stratum),
        }
    secondary = [name for name in macro if not macro[name]["primary"] and not math.isnan(macro[name]["p_value"])]
    for name, p_value in zip(secondary, holm([macro[name]["p_value"] for name in secondary]).tolist(), strict=True):
        macro[name]["p_value_holm"] = p_value
    return {"macro": macro, "p_value_holm": adjusted, "mean_rank": ranks(tasks)}


def first_metric(result: Json) -> Any:
    """Results of the metric that is searched."""
    return next(iter(result["metrics"].values()))


def difference_of(result: Json, stratum: str) -> Any:
    """audc minus the baseline's with its interval; None where there is none, or where it is not defined."""
    difference = first_metric(result)["strata"].get(stratum, {}).get("difference")
    return None if difference is None or difference["value"] is None else difference


def has_seeds(difference: Json) -> bool:
    """Whether a difference is one of several pairs of seeds: the interval of one pair holds for these runs only."""
    return bool(difference["num_seeds"] > 1)


def excludes_zero(lower: float | None, upper: float | None) -> bool | None:
    """Whether an interval lies on one side of 0; None where there is no interval."""
    return None if lower is None or upper is None else lower > 0 or upper < 0


def is_clear(difference: Json) -> bool:
    """Whether a task's difference of several pairs of seeds has an interval on one side of 0."""
    return has_seeds(difference) and bool(excludes_zero(difference["lower"], difference["upper"]))


def by_kind(kinds: Sequence[str], values: Sequence[float]) -> Json:
    """Of each kind of task: the mean difference, with Student's interval over its tasks (none for a single task)."""
    found: Json = {}
    for kind in sorted(set(kinds)):
        own = [value for name, value in zip(kinds, values, strict=True) if name == kind]
        interval = mean_interval(own)
        found[kind] = {"value": interval.value, "lower": interval.lower, "upper": interval.upper, "num_tasks": len(own)}
    return found


def counts(differences: Sequence[Json], adjusted_p: Sequence[float]) -> Json:
    """Tasks won, tied and lost. A task is tied where its 95% interval holds 0, or where there is one pair of seeds only;
    won_holm and lost_holm count those that are clear after Holm's correction over the tasks. [ours]"""
    won = [is_clear(difference) and difference["lower"] > 0 for difference in differences]
    lost = [is_clear(difference) and difference["upper"] < 0 for difference in differences]
    clear = [p < ALPHA for p in adjusted_p]
    return {
        "won": sum(won),
        "tied": len(differences) - sum(won) - sum(lost),
        "lost": sum(lost),
        "won_holm": sum(a and b for a, b in zip(won, clear, strict=True)),
        "lost_holm": sum(a and b for a, b in zip(lost, clear, strict=True)),
    }


def savings(tasks: Sequence[Json], stratum: str) -> Json | None:
    """The macro share of the baseline's FLOPs that a stratum saves at EQUAL_QUALITY, with its interval over kinds and
    tasks, and the macro difference of the realised quality that comes with it. Over the tasks that have both operating
    points; None where no task has."""
    found = [(result, saving) for result in tasks if (saving := equal_quality(result).get(stratum)) is not None]
    if not found:
        return None
    kinds = [result["group"] for result, _ in found]
    macro = macro_difference(kinds, [share for _, (share, _) in found], seed=0)
    quality = macro_mean(kinds, [better / first_metric(result)["scale"] for result, (_, better) in found])
    return {
        "value": macro.value,
        "lower": macro.lower,
        "upper": macro.upper,
        "quality": quality,
        "num_tasks": len(found),
    }


def equal_quality(result: Json) -> dict[str, tuple[float, float]]:
    """Of each stratum but the baseline: the share of the baseline's mean cost that is saved, and the realised quality
    minus the baseline's, both at the thresholds that on calibration are the cheapest to reach EQUAL_QUALITY. Means over
    the seeds that both have; a stratum is left out where any seed found no such threshold, as all seeds do where the large
    model is not better on calibration.
    """
    rule = result["rules"][0]
    points = {
        name: realised(entry["rules"][rule], EQUAL_QUALITY) for name, entry in first_metric(result)["strata"].items()
    }
    base = points.pop(BASELINE, {})
    found = {}
    for name, own in points.items():
        both = [seed for seed in own if seed in base]
        if both:
            cost, quality = np.mean([own[seed] for seed in both], axis=0).tolist()
            base_cost, base_quality = np.mean([base[seed] for seed in both], axis=0).tolist()
            found[name] = 1 - cost / base_cost, quality - base_quality
    return found


def realised(runs: Sequence[Json], point: str) -> dict[int, tuple[float, float]]:
    """Cost share and quality on test at an operating point by seed; empty where any seed has none."""
    found = {run["seed"]: run["operating"].get(point) for run in runs}
    if any(item is None or item["quality"] is None for item in found.values()):
        return {}
    return {seed: (item["cost_share"], item["quality"]) for seed, item in found.items()}


def ranks(tasks: Sequence[Json]) -> Json:
    """Mean rank of each stratum by audc, the baseline among them: 1 is best. Kinds weigh equally, then tasks; over the
    tasks on which every stratum of the sweep has confirmed runs, `num_tasks` of them."""
    names = sorted({name for result in tasks for name in result["wanted"]["strata"]})
    whole = [
        result
        for result in tasks
        if all(
            (first_metric(result)["strata"].get(name) or {}).get("audc", {}).get("value") is not None for name in names
        )
    ]
    if not whole:
        return {"num_tasks": 0, "strata": {}}
    areas = [[first_metric(result)["strata"][name]["audc"]["value"] for name in names] for result in whole]
    mean = mean_ranks([result["group"] for result in whole], areas)
    return {"num_tasks": len(whole), "strata": dict(zip(names, mean.tolist(), strict=True))}


def budget(results: Sequence[Json]) -> Json:
    """What was allowed and what was spent, over all tasks and mixtures of the sweep, each once.

    num_samples, max_steps, rungs: of each trial's study, the same for all strata. strata: by name the trials that ended,
    how many of them were stopped early, their steps, and training FLOPs. large: steps and FLOPs of the large model's
    fine-tunes, and FLOPs of its pass over the training targets (of further models in a chain too); FLOPs are None where the
    prepared data are gone.
    """
    units = {result.get("mixture", result["task"]): result for result in results}
    if not units:
        return {}
    wanted = next(iter(units.values()))["wanted"]
    strata: Json = {}
    for name in wanted["strata"]:
        facts = [result["strata"][name] for result in units.values() if name in result["strata"]]
        strata[name] = {
            "num_trials": sum(item["num_trials"] for item in facts),
            "num_stopped": sum(item["statuses"].get("stopped", 0) for item in facts),
            "num_steps": sum(item["num_steps"] for item in facts),
            "train_flops": sum(item["train_flops"] for item in facts),
        }
    # The members of a mixture share one fine-tune, in whose batches each has its rate, but each has a pass of its own.
    tuned, passed = [result["large"] for result in units.values()], [result["large"] for result in results]
    return {
        "num_units": len(units),
        **{name: wanted[name] for name in ("num_samples", "max_steps", "rungs")},
        "strata": strata,
        "large": {
            "num_steps": sum(item["num_steps"] for item in tuned),
            "num_models": max(item.get("num_models", 1) for item in tuned),
            "train_flops": _total([item["train_flops"] for item in passed], [item.get("rate", 1.0) for item in passed]),
            "pass_flops": _total([item["pass_flops"] for item in passed], [1.0] * len(passed)),
        },
    }


def _total(values: Sequence[float | None], weights: Sequence[float]) -> float | None:
    known = [weight * value for value, weight in zip(values, weights, strict=True) if value is not None]
    return sum(known) if len(known) == len(values) else None
