"""Deferral rules and cost models side by side: which rule a stratum's calibration chooses and what each gives on test, what
the cost models make of the same curves, and what a threshold saves. Everything is computed from confirmed runs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from catsweep.cascade.compare import Bootstrap, System, TaskDifference, bootstrap_curves, task_difference
from catsweep.cascade.confidence import aiq, aurc, auroc, correctness, ece
from catsweep.cascade.curve import (
    ALWAYS_DEFER,
    Curve,
    OperatingPoint,
    apgr,
    apply_threshold,
    audc,
    best_point,
    cheapest_point,
    cpt,
)
from catsweep.cascade.lines import quality_oracle, router_cost
from catsweep.cascade.metrics import Metric
from catsweep.cascade.order import deferral_order
from catsweep.cascade.ragged import FloatArray
from catsweep.cascade.savings import CostShare, cost_shares, saving, saving_against
from catsweep.runs import PERCENTS, Run
from catsweep.spec.base import Json
from catsweep.spec.cascade import UNITS, CascadeSpec
from catsweep.spec.search import BASELINE
from catsweep.spec.task import TaskSpec

REFERENCE_RULE = "mean"
"""The paper's rule: others are compared with it, or with the first where it is not among them."""
COST_TARGETS = (0.25, 0.5, 0.75)
"""Operating points: the best quality within these shares of the large model's mean cost."""
GAP_TARGETS = (0.5, 0.8, 1.0)
"""Operating points: the lowest cost at these shares of the way from the baseline's small model to the large one."""
EQUAL_QUALITY = "gap>=0.8"
"""The operating point at which strata are compared: 80% of the way from the baseline's small model to the large one."""
LARGE_QUALITY = "gap>=1.0"

Anchor = tuple[float, float] | None
"""Quality of the baseline's small model and of the large one, on calibration."""
Draws = dict[str, dict[str, list[Bootstrap]]]
"""By rule and stratum, one a seed."""


def rules_for(task: TaskSpec, cascade: CascadeSpec) -> list[str]:
    """The deferral rules that a task's answers allow: rules of choices only where there are choices."""
    has_choices = task.output_type == "multiple_choice"
    found = [rule for rule in cascade.deferral if has_choices or not rule.startswith("choice_")]
    return found or cascade.deferral


def bootstrap_rules(runs: dict[str, list[Run]], rules: Sequence[str], cascade: CascadeSpec, metric: Metric) -> Draws:
    """Resampled audc and qualities of every run under some rules, all on the same draws."""
    systems: dict[str, System] = {}
    name_of: dict[tuple[str, str, int], str] = {}
    known: dict[tuple[str, int, bytes], str] = {}
    for rule in rules:
        for stratum, found in runs.items():
            for index, run in enumerate(found):
                rows, uncertainty = run.test, run.test.uncertainty(rule)
                # Rules that order a run's answers alike, as all do for answers of one token, are resampled once.
                order = deferral_order(uncertainty, rows.id_hashes).tobytes()
                name = known.setdefault((stratum, index, order), f"{rule}\n{stratum}\n{index}")
                name_of[rule, stratum, index] = name
                systems.setdefault(
                    name, System(rows.id_hashes, rows.small_statistics, rows.large_statistics, uncertainty)
                )
    groups = next(iter(runs.values()))[0].test.groups
    drawn = bootstrap_curves(
        systems, groups=groups, metric=metric, num_resamples=cascade.num_resamples, seed=cascade.seed
    )
    return {
        rule: {
            stratum: [drawn[name_of[rule, stratum, index]] for index in range(len(found))]
            for stratum, found in runs.items()
        }
        for rule in rules
    }


def rule_comparison(runs: list[Run], draws: dict[str, list[Bootstrap]]) -> Json:
    """The deferral rules of one stratum: test audc of each with its interval, its paired difference to `reference`, and the
    one that calibration chooses: the highest mean audc there (of the learned rule, of its out-of-fold scores), of equal
    ones the first. draws: by rule. Intervals of the learned rule are conditional on what it learned from calibration."""
    reference = REFERENCE_RULE if REFERENCE_RULE in draws else next(iter(draws))
    rules: Json = {}
    for rule, own in draws.items():
        base = draws[reference]
        rules[rule] = {
            "audc_calibration": float(np.mean([audc(run.calibration.curve(rule)) for run in runs])),
            "audc": mean_interval([item.audc for item in own], [item.audc_draws for item in own]),
            "difference": None
            if rule == reference
            else mean_interval(
                [a.audc - b.audc for a, b in zip(own, base, strict=True)],
                [a.audc_draws - b.audc_draws for a, b in zip(own, base, strict=True)],
            ),
        }
    chosen = max(rules, key=lambda rule: rules[rule]["audc_calibration"])
    return {"chosen": chosen, "reference": reference, "rules": rules}


def mean_interval(values: list[float], draws: list[FloatArray]) -> Json:
    """Mean over seeds with its 95% interval; each seed's value beside it."""
    return {**vars(task_difference(values, draws)), "by_seed": values}


def operating_points(calibration: Curve, test: Curve, anchor: Anchor) -> Json:
    """What thresholds that are picked on calibration give on test, by their target."""
    found: Json = {}
    for share in COST_TARGETS:
        found[f"cost<={share}"] = _realised(best_point(calibration, share), test)
    for gap in GAP_TARGETS:
        if anchor is not None and anchor[1] > anchor[0]:
            wanted = anchor[0] + gap * (anchor[1] - anchor[0])
            found[f"gap>={gap}"] = _realised(cheapest_point(calibration, wanted), test)
    return found


def _realised(picked: OperatingPoint | None, test: Curve) -> Json | None:
    """What a threshold that was picked on calibration gives on test; costs are shares of the large model alone.

    defers_all: no other threshold reached the target on calibration than the one that defers everything.
    """
    if picked is None:
        return None
    point = apply_threshold(test, picked.threshold)
    return {
        "threshold": picked.threshold,
        "deferral_rate": point.deferral_rate,
        "quality": point.quality,
        "cost_share": point.cost / test.cost_large,
        "quality_calibration": picked.quality,
        "defers_all": picked.threshold == ALWAYS_DEFER,
    }


def gap_anchor(runs: dict[str, list[Run]], rule: str) -> Anchor:
    """Quality of the baseline's small model (mean over seeds) and of the large one, on calibration."""
    if BASELINE not in runs:
        return None
    curves = [run.calibration.curve(rule) for run in runs[BASELINE]]
    return float(np.mean([curve.quality_small for curve in curves])), curves[0].quality_large


def rule_results(runs: list[Run], rules: list[str], metric: Metric, anchor: Anchor) -> dict[str, list[Json]]:
    """The numbers of each run under each deferral rule."""
    oracles = [quality_oracle(run.test.oracle) for run in runs]  # the same under every rule
    return {
        rule: [_run_results(run, rule, metric, anchor, oracle) for run, oracle in zip(runs, oracles, strict=True)]
        for rule in rules
    }


def _run_results(run: Run, rule: str, metric: Metric, anchor: Anchor, oracle: float) -> Json:
    """One run under one deferral rule: test numbers, and operating points picked on calibration."""
    curve, calibration = run.test.curve(rule), run.calibration.curve(rule)
    uncertainty, correct = run.test.uncertainty(rule), correctness(run.test.small_statistics, metric)
    is_probability = rule == "mean"
    return {
        "trial_id": run.record.trial_id,
        "seed": run.record.seed,
        "quality_small": curve.quality_small,
        "audc": audc(curve),
        "apgr": apgr(curve),
        "cpt": {str(percent): cpt(curve, percent) for percent in (20, 50, 80)},
        "quality_oracle": oracle,
        "aurc": aurc(curve),
        "auroc": None if correct is None else auroc(uncertainty, correct),
        "ece": ece(uncertainty, correct) if correct is not None and is_probability else None,
        "aiq": aiq(curve),
        "operating": operating_points(calibration, curve, anchor),
    }


def cost_results(runs: list[Run], cascade: CascadeSpec, anchor: Anchor) -> Json:
    """One stratum under each cost model: mean costs of a query, curves of cost at 0, 1, ... 100 percent of deferral under the
    first rule, the router's and the oracle's too, and the numbers that depend on costs, by rule and run."""
    first = cascade.deferral[0]
    found: Json = {}
    for kind in (cost.kind for cost in cascade.costs):
        pairs = {
            rule: [
                (
                    run.calibration.at_cost(run.calibration.curve(rule), kind),
                    run.test.at_cost(run.test.curve(rule), kind),
                )
                for run in runs
            ]
            for rule in cascade.deferral
        }
        curves = [test for _, test in pairs[first]]
        oracles = [run.test.at_cost(run.test.oracle, kind) for run in runs]
        found[kind] = {
            "unit": UNITS[kind],
            "small": float(np.mean([curve.cost_small for curve in curves])),
            "large": float(np.mean([curve.cost_large for curve in curves])),
            "cost_share": _mean_line(curves, [curve.cost / curve.cost_large for curve in curves]),
            "router_cost_share": _mean_line(curves, [router_cost(curve) / curve.cost_large for curve in curves]),
            "oracle_cost_share": _mean_line(oracles, [curve.cost / curve.cost_large for curve in oracles]),
            "rules": {
                rule: [
                    {
                        "seed": run.record.seed,
                        "aiq": aiq(test),
                        "operating": operating_points(calibration, test, anchor),
                    }
                    for run, (calibration, test) in zip(runs, pairs[rule], strict=True)
                ]
                for rule in cascade.deferral
            },
        }
        if kind == "latency":
            found[kind]["measured"] = [run.record.facts["latency"] for run in runs]
    return found


def _mean_line(curves: list[Curve], lines: list[FloatArray]) -> list[float]:
    at = [np.interp(PERCENTS, curve.deferral_rate, line) for curve, line in zip(curves, lines, strict=True)]
    return [float(value) for value in np.mean(at, axis=0)]


def savings(runs: dict[str, list[Run]], results: dict[str, list[Json]], cascade: CascadeSpec) -> dict[str, Json]:
    """What each stratum saves under the first rule and cost model, with intervals: at EQUAL_QUALITY of the baseline's cost,
    at LARGE_QUALITY of the large model's; None where a seed has no such threshold.

    results: of each stratum's runs under the first rule, with their operating points.
    """
    found: dict[str, Json] = {stratum: {EQUAL_QUALITY: None, LARGE_QUALITY: None} for stratum in runs}
    shares = {name: _shares(runs, results, cascade, name) for name in (EQUAL_QUALITY, LARGE_QUALITY)}
    for stratum, own in shares[LARGE_QUALITY].items():
        found[stratum][LARGE_QUALITY] = _plain(saving(list(own.values())))
    equal = shares[EQUAL_QUALITY]
    for stratum, own in equal.items():
        both = [seed for seed in own if stratum != BASELINE and seed in equal.get(BASELINE, {})]
        if both:
            base = equal[BASELINE]
            compared = saving_against([own[seed] for seed in both], [base[seed] for seed in both])
            found[stratum][EQUAL_QUALITY] = _plain(compared)
    return found


def _shares(
    runs: dict[str, list[Run]], results: dict[str, list[Json]], cascade: CascadeSpec, target: str
) -> dict[str, dict[int, CostShare]]:
    """The realised cost shares by stratum and seed, of the strata in which every seed has a threshold."""
    chosen: dict[str, list[tuple[Run, Any]]] = {}
    for stratum, found in runs.items():
        points = [result["operating"].get(target) for result in results[stratum]]
        if None not in points:
            chosen[stratum] = list(zip(found, points, strict=True))
    flat = [pair for pairs in chosen.values() for pair in pairs]
    if not flat:
        return {}
    rule = cascade.deferral[0]
    drawn = iter(
        cost_shares(
            [run.test.uncertainty(rule) >= point["threshold"] for run, point in flat],
            [(run.test.small_cost, run.test.large_cost) for run, _ in flat],
            groups=flat[0][0].test.groups,
            num_resamples=cascade.num_resamples,
            seed=cascade.seed,
        )
    )
    return {stratum: {run.record.seed: next(drawn) for run, _ in pairs} for stratum, pairs in chosen.items()}


def _plain(difference: TaskDifference) -> Json:
    return dict(vars(difference))
