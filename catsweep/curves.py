"""The results of a sweep, computed from the rows of its confirmed runs alone; no model is loaded.

    curves/<task>.json     qualities, intervals, differences, operating points, curves at every percent of deferral
    curves/<task>.parquet  every point of every curve
    curves/summary.json    macro differences over tasks; of each mixture its macro curves and worst member
    recomputed/<settings>/ the same files under other deferral rules and cost models

The members of a mixture are tasks here, named <mixture>/<task>.

Thresholds are picked on calibration and applied to test; everything else is a test number of the confirmed runs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from catsweep.cascade.compare import Bootstrap
from catsweep.cascade.latency import Latency
from catsweep.cascade.metrics import Metric, metric_of
from catsweep.cascade.ragged import FloatArray
from catsweep.chains import chain_results
from catsweep.comparing import budget, compare
from catsweep.deferral import (
    COST_TARGETS,
    Draws,
    bootstrap_rules,
    cost_results,
    gap_anchor,
    mean_interval,
    rule_comparison,
    rule_results,
    rules_for,
    savings,
)
from catsweep.errors import StorageError
from catsweep.gain_split import detector, gain_splits, macro_splits, split_gains
from catsweep.health import starved
from catsweep.macro import load_draws, macro_result, save_draws
from catsweep.records import (
    MANIFEST,
    TrialRecord,
    confirmed,
    existing_sweep,
    objective_values,
    pareto_sets,
    read_json,
    read_records,
    read_rows,
    read_steps,
    read_sweep,
    winners,
    write_json,
    write_rows,
)
from catsweep.runs import Run, all_points, large_facts, mean_curve, read_run
from catsweep.space import mean_clients, rungs, strata, training_tree
from catsweep.spec.base import Json, digest
from catsweep.spec.cascade import UNITS, CascadeSpec, PriceCost
from catsweep.spec.mixture import MixtureSpec, members, result_name
from catsweep.spec.search import BASELINE
from catsweep.spec.sweep import SweepSpec
from catsweep.spec.task import TaskSpec
from catsweep.tasks.splits import MIN_TEST_ROWS

RESULTS_VERSION = 8
"""Of the files below curves/; results of another one are computed again."""


@dataclass(frozen=True)
class Recomputation:
    """Results under other deferral rules or cost models than the sweep's own, in a folder of their own below the sweep's."""

    cascade: CascadeSpec

    @property
    def folder(self) -> str:
        """`recomputed/mean+max_flops+price-1a2b3c`: the rules, and the cost models, prices as a key."""
        costs = [
            f"price-{cost.digest()[:6]}" if isinstance(cost, PriceCost) else cost.kind for cost in self.cascade.costs
        ]
        name = f"{'+'.join(self.cascade.deferral)}_{'+'.join(costs)}".replace(":", "-")
        return f"recomputed/{name if len(name) <= 120 else self.cascade.digest()}"


def results_folder(root: Path, sweep: str, other: Recomputation | None = None) -> Path:
    """Where results lie: of the sweep's own settings, or of other ones."""
    return root / sweep / (other.folder if other else "curves")


def compute_task(root: Path, sweep: str, task_name: str, *, other: Recomputation | None = None) -> Json:
    """Compute one task's results, write them below <root>/<sweep>/curves (or the folder of other settings), and return the
    JSON.

    A pure function of the files on storage: it may run anywhere, as often as one likes. Raises StorageError.
    """
    spec, unit, task, records = _sweep_of(root / sweep, task_name)
    cascade = other.cascade if other else spec.cascade
    cascade = cascade.model_copy(update={"deferral": rules_for(task, cascade)})
    spec = spec.model_copy(update={"cascade": cascade})
    answers = root / "cache" / "answers" / _answers_key(root, sweep, task_name)
    large = read_rows(answers / "rows.parquet")
    large_latency = _large_latency(answers) if any(cost.kind == "latency" for cost in cascade.costs) else None
    prepared = read_json(root / sweep / "prepared" / f"{task_name}.json")
    result: Json = _task_facts(task_name, task, spec, prepared, large_facts(root, prepared, spec))
    if isinstance(unit, MixtureSpec):
        result |= {"mixture": unit.task, "member": task.task}
    if large_latency is not None:
        result["large_latency"] = large_latency.to_dict()
    folder = results_folder(root, sweep, other)
    best = {stratum: record for (name, stratum), record in winners(records, spec).items() if name == unit.task}
    for stratum, winner in best.items():
        result["strata"][stratum] = _stratum_facts(root / sweep, records, winner, spec)
    for (_, stratum), trials in pareto_sets(records, spec).items():
        result["strata"][stratum]["pareto"] = [
            {"number": trial.number, "parameters": trial.parameters, "objectives": objective_values(trial)}
            for trial in trials
        ]
    points = []
    for item in task.metric_list:
        metric = metric_of(item)
        runs = {
            stratum: [
                read_run(
                    root / sweep,
                    record,
                    large,
                    metric,
                    result.get("member"),
                    cascade=cascade,
                    large_latency=large_latency,
                )
                for record in confirmed(records, winner, spec.search.confirm_seeds)
            ]
            for stratum, winner in best.items()
        }
        runs = {stratum: found for stratum, found in runs.items() if found}
        # Rules are compared under the metric that was searched; resampling the others, too, would cost as much again.
        rules = cascade.deferral if not result["metrics"] else cascade.deferral[:1]
        draws = bootstrap_rules(runs, rules, cascade, metric) if runs else {}
        if isinstance(unit, MixtureSpec) and not result["metrics"]:
            save_draws(folder / f"{task_name}.npz", _all_draws(draws.get(rules[0], {})))
        result["metrics"][metric.name] = _metric_results(runs, draws, spec, metric)
        for stratum, found in runs.items():
            own = [run.record for run in found]
            chain = chain_results(
                root, spec, task_name, own, large, metric, member=result.get("member"), shares=COST_TARGETS
            )
            if chain:
                result["metrics"][metric.name]["strata"][stratum]["chain"] = chain
        points += list(all_points(runs, cascade, metric))
    result = defined(result)
    write_json(folder / f"{task_name}.json", result)
    if points:
        write_rows(folder / f"{task_name}.parquet", pa.concat_tables(points))
    return result


def _task_facts(name: str, task: TaskSpec, spec: SweepSpec, prepared: Json, large: Json) -> Json:
    """What a task's results say before any of its runs is read. prepared, large: facts of both."""
    facts: Json = {
        "task": name,
        "group": task.group,
        "metrics": {},
        "num_rows": prepared["num_rows"],
        "rules": spec.cascade.deferral,
        "costs": [{"kind": cost.kind, "unit": UNITS[cost.kind]} for cost in spec.cascade.costs],
        "baseline": BASELINE,
        "wanted": {
            "strata": list(strata(training_tree(spec), spec.search.stratify)),
            "confirm_seeds": spec.search.confirm_seeds,
            "num_samples": spec.search.num_samples,
            "max_steps": spec.training.steps,
            "rungs": rungs(spec),
        },
        "large": large,
        "strata": {},
    }
    if noise := prepared.get("label_noise"):
        facts["label_noise"] = noise
    return facts


def _large_latency(answers: Path) -> Latency:
    found = read_json(answers / MANIFEST)["facts"].get("latency") if (answers / MANIFEST).exists() else None
    if found is None:
        raise StorageError(
            f"{answers}: the large model's seconds were not measured (its answers were made by an older catsweep); the cost "
            "model latency expects `latency` in its manifest.json. Remove the folder and run `catsweep run` again, or leave "
            "latency out"
        )
    return Latency.from_dict(found)


def summarise(
    root: Path, sweep: str, results: list[Json], *, other: Recomputation | None = None, key: str | None = None
) -> Json:
    """The comparisons over all tasks (see comparing.compare) and the budget that was spent: summary.json beside the results.

    Small tasks are left out, and so are the members of mixtures, which have macro results of their own, unless the sweep is
    one mixture and no more. key: `results_key` before the first of them was computed; None where nothing can have changed.
    """
    found = read_sweep(root / sweep)
    mixtures = [unit for unit in found[1] if isinstance(unit, MixtureSpec)] if found else []
    only_one = len(mixtures) == 1 and found is not None and len(found[1]) == 1
    tasks = [result for result in results if result["strata"] and not is_small(result)]
    tasks = [result for result in tasks if only_one or "mixture" not in result]
    left_out = [result["task"] for result in results if is_small(result)]
    summary = {
        "version": RESULTS_VERSION,
        "key": key or results_key(root, sweep, other),
        **defined(compare(tasks)),
        "budget": budget(results),
        "tasks": [result["task"] for result in tasks],
        "left_out_small": left_out,
    }
    if split := macro_splits(tasks):
        summary["gain_splits"] = defined(split)
    if mixtures:
        summary["mixtures"] = [
            _macro(
                results_folder(root, sweep, other),
                name,
                [result for result in results if result.get("mixture") == name],
            )
            for name in (mixture.task for mixture in mixtures)
            if any(result.get("mixture") == name for result in results)
        ]
    write_json(results_folder(root, sweep, other) / "summary.json", summary)
    return summary


def _macro(folder: Path, name: str, results: list[Json]) -> Json:
    draws = [load_draws(folder / f"{result['task']}.npz") for result in results]
    return dict(defined(macro_result(name, results, draws, [is_small(result) for result in results])))


def results_key(root: Path, sweep: str, other: Recomputation | None = None) -> str:
    """A key of everything that the results of a sweep, or those of other settings, are computed from."""
    found = read_sweep(root / sweep)
    records = [*read_records(root / sweep, "trials"), *read_records(root / sweep, "confirm")]
    settings = other.cascade.to_json() if other else found[0].cascade.to_json() if found else None
    tasks = result_names(found[1]) if found else []
    seeds, samples = (found[0].search.confirm_seeds, found[0].search.num_samples) if found else (0, 0)
    runs = [[record.trial_id, record.status, record.ended_at] for record in records]
    names = list(strata(training_tree(found[0]), found[0].search.stratify)) if found else []
    return digest([RESULTS_VERSION, settings, seeds, samples, tasks, names, runs])


def results_up_to_date(root: Path, sweep: str) -> bool:
    """Whether the results on storage are those of the records and settings on storage."""
    path = root / sweep / "curves" / "summary.json"
    return path.exists() and read_json(path).get("key") == results_key(root, sweep)


def is_small(result: Json) -> bool:
    """Whether a task has too few test rows for a macro claim."""
    return bool(result["num_rows"]["test"] < MIN_TEST_ROWS)


def result_names(units: Sequence[TaskSpec | MixtureSpec]) -> list[str]:
    """What `compute_task` computes: every task, and every member of every mixture."""
    return [result_name(unit, task) for unit in units for task in members(unit)]


def _sweep_of(folder: Path, name: str) -> tuple[SweepSpec, TaskSpec | MixtureSpec, TaskSpec, list[TrialRecord]]:
    found = existing_sweep(folder)
    spec, units = found
    unit, task = next((unit, task) for unit in units for task in members(unit) if result_name(unit, task) == name)
    records = [*read_records(folder, "trials", unit.task), *read_records(folder, "confirm", unit.task)]
    return spec, unit, task, [record for record in records if record.task == unit.task]


def _answers_key(root: Path, sweep: str, task: str) -> str:
    return str(read_json(root / sweep / "prepared" / f"{task}.json")["keys"]["answers"])


def _stratum_facts(folder: Path, records: list[TrialRecord], winner: TrialRecord, spec: SweepSpec) -> Json:
    num_clients = mean_clients(strata(training_tree(spec), spec.search.stratify)[winner.stratum])
    budgeted = [record for record in records if record.role == "trial" and record.number < spec.search.num_samples]
    searched = [record for record in budgeted if record.stratum == winner.stratum]
    runs = confirmed(records, winner, spec.search.confirm_seeds)
    kept = [
        step["train/kept_share"]
        for run in runs
        for step in read_steps(folder / run.trial_id)
        if "train/kept_share" in step
    ]
    return {
        "winner": {"number": winner.number, "parameters": winner.parameters, "objective": winner.objective},
        "num_trials": len(searched),
        "num_steps": round(num_clients * sum(record.num_steps for record in searched)),
        "train_flops": sum(_spent_flops(record, winner, spec) for record in searched),
        "statuses": {
            status: sum(record.status == status for record in searched) for status in {r.status for r in searched}
        },
        "seeds": [run.seed for run in runs],
        "trial_ids": [run.trial_id for run in runs],
        "kept_share": float(np.mean(kept)) if kept else None,
        **({"noise": noise} if (noise := detector(runs)) else {}),
        "warnings": [text for run in [*searched, *runs] if (text := starved(folder / run.trial_id, run)) is not None],
        "small_parameters": winner.num_parameters,
    }


def _spent_flops(record: TrialRecord, winner: TrialRecord, spec: SweepSpec) -> float:
    """Training FLOPs of a trial. One that did not end by itself has written no count: a step of it costs what one of the
    winner's does, for its own batch size."""
    if record.status == "finished":
        return record.train_flops
    size, winners_size = (run.parameters.get("batch_size", spec.training.batch_size) for run in (record, winner))
    return float(record.num_steps * winner.train_flops / winner.num_steps * size / winners_size)


def _metric_results(runs: dict[str, list[Run]], by_rule: Draws, spec: SweepSpec, metric: Metric) -> Json:
    """by_rule: bootstrap draws, of the first rule at least."""
    first_rule = spec.cascade.deferral[0]
    if not runs:
        return {"scale": metric.scale, "lowest": metric.lowest, "signature": metric.signature, "strata": {}}
    draws = by_rule[first_rule]
    some = next(iter(runs.values()))[0]
    large = next(iter(next(iter(draws.values()))))
    anchor = gap_anchor(runs, first_rule)
    results: Json = {
        "scale": metric.scale,
        "lowest": metric.lowest,
        "signature": metric.signature,
        "large": {**vars(large.quality_large_interval), "cost_flops": float(some.test.costs["flops"][1].mean())},
        "strata": {},
    }
    by_stratum = {
        stratum: rule_results(found, spec.cascade.deferral, metric, anchor) for stratum, found in runs.items()
    }
    firsts = {stratum: found[first_rule] for stratum, found in by_stratum.items()}
    saved = savings(runs, firsts, spec.cascade)
    for stratum, found in runs.items():
        own = draws[stratum]
        entry: Json = {
            "quality_small": mean_interval(
                [item.quality_small for item in own], [item.quality_small_draws for item in own]
            ),
            "audc": mean_interval([item.audc for item in own], [item.audc_draws for item in own]),
            "cost_small_flops": float(np.mean([run.test.costs["flops"][0].mean() for run in found])),
            "rules": by_stratum[stratum],
            "savings": saved[stratum],
            "costs": cost_results(found, spec.cascade, anchor),
            "curve": mean_curve(found, first_rule, metric),
            "facts": _facts(found, metric),
        }
        if len(by_rule) > 1:
            entry["deferral"] = rule_comparison(found, {rule: drawn[stratum] for rule, drawn in by_rule.items()})
        if stratum != BASELINE and BASELINE in draws:
            base = {run.record.seed: item for run, item in zip(runs[BASELINE], draws[BASELINE], strict=True)}
            pairs = [
                (item, base[run.record.seed]) for run, item in zip(found, own, strict=True) if run.record.seed in base
            ]
            if pairs:
                entry["difference"] = mean_interval(
                    [a.audc - b.audc for a, b in pairs], [a.audc_draws - b.audc_draws for a, b in pairs]
                )
        results["strata"][stratum] = entry
    split = split_gains(gain_splits(strata(training_tree(spec), spec.search.stratify)), runs, draws)
    return results | ({"gain_splits": split} if split else {})


def _facts(runs: list[Run], metric: Metric) -> dict[str, int]:
    """What to know about the curves on test (see Metric.facts): of counts, the largest of any seed."""
    facts = [metric.facts(run.test.small_statistics, run.test.large_statistics) for run in runs]
    return {name: max(found[name] for found in facts) for name in facts[0]}


def defined(value: Any) -> Any:
    """Plain data with None for every number that is not defined: a correlation of answers that are all equal."""
    if isinstance(value, dict):
        return {key: defined(item) for key, item in value.items()}
    if isinstance(value, list):
        return [defined(item) for item in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def _all_draws(draws: dict[str, list[Bootstrap]]) -> dict[str, FloatArray]:
    """The draws of all runs as macro.Draws."""
    found = {f"audc/{stratum}": np.array([item.audc_draws for item in runs]) for stratum, runs in draws.items()}
    found |= {
        f"quality_small/{stratum}": np.array([item.quality_small_draws for item in runs])
        for stratum, runs in draws.items()
    }
    if draws:
        found["quality_large"] = next(iter(draws.values()))[0].quality_large_draws
    return found


def results_on_storage(root: Path, sweep: str, other: Recomputation | None = None) -> tuple[list[Json], Json]:
    """What `compute_task` and `summarise` wrote, in the order of the sweep's tasks. Raises StorageError."""
    found = existing_sweep(root / sweep)
    folder = results_folder(root, sweep, other)
    paths = [folder / f"{name}.json" for name in result_names(found[1])]
    summary = read_json(folder / "summary.json")
    if summary.get("version") != RESULTS_VERSION:
        raise StorageError(
            f"{folder} was computed by another version of catsweep; `catsweep curves {sweep}` computes it again from the rows"
        )
    return [read_json(path) for path in paths if path.exists()], summary


def with_macros(results: list[Json], summary: Json) -> list[Json]:
    """The results with the macro result of each mixture before its members."""
    macros = {macro["task"]: macro for macro in summary.get("mixtures", [])}
    found = []
    for result in results:
        if (macro := macros.pop(result.get("mixture"), None)) is not None:
            found.append(macro)
        found.append(result)
    return found


def first_metric(result: Json) -> tuple[str, Any]:
    """Name and results of the metric that is searched."""
    name = next(iter(result["metrics"]))
    return name, result["metrics"][name]
