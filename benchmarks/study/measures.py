"""Every number of docs/results.md, from the packed rows of a sweep (docs/results/<sweep>/) with catsweep's own functions.

What catsweep's results have already comes from curves.compute_task and comparing.compare. Computed here, from the same draws:
differences to other losses than xent, and audc's two halves. With A1(d) the quality of S on what it keeps and A2(d) that of L
on what it gets, a mean metric has quality(d) = (1-d) A1(d) + d A2(d), hence audc = (A1 + A2) / 2 with A1 = 2 * integral of
(1-d) A1(d) and A2 = 2 * integral of d A2(d): means over all deferral rates, each weighted by the share of queries that the
model answers. A1/2 is the audc of rows on which L scores 0, A2/2 of rows on which S does.
"""

from __future__ import annotations

import functools
import hashlib
import json
import multiprocessing
import os
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from catsweep.cascade.compare import Bootstrap, System, bootstrap_curves, macro_difference, macro_mean
from catsweep.cascade.metrics import metric_of
from catsweep.cascade.ragged import FloatArray
from catsweep.compact import FILES, read_packed, stored_large_facts, unpack
from catsweep.comparing import compare
from catsweep.curves import (
    RESULTS_VERSION,
    compute_task,
    defined,
    is_small,
    result_names,
    results_on_storage,
    summarise,
)
from catsweep.deferral import gap_anchor, mean_interval
from catsweep.records import confirmed, existing_sweep, read_json, read_records, read_rows, winners, write_json
from catsweep.report.tables import NO_QUALITY
from catsweep.runs import Run, read_run
from catsweep.spec.base import Json
from catsweep.spec.search import BASELINE
from catsweep.spec.sweep import SweepSpec

CAT, CONTROL = "cat_xent/either", "cat_xent/shuffled"
RULE = "mean"
TOKEN_RULES = ("mean", "sum", "max", "quantile:0.8", "token_entropy", "token_margin")
CHOICE_RULES = ("choice_max_probability", "choice_margin", "choice_entropy")
LEARNED = "learned"
RULES = (*TOKEN_RULES, *CHOICE_RULES, LEARNED)
RULE_STRATA = (BASELINE, CAT)
"""The deferral rules are compared on runs of these strata; of the others only the first rule's uncertainties are packed."""
QUANTITIES = ("audc", "A1", "A2")
NEAR_BASELINE = 0.05
"""L is near chance where it is not this share of the range better than the best answer that needs no model. [ours]"""


@dataclass(frozen=True)
class Numbers:
    """A sweep's numbers. results, summary: as curves.results_on_storage returns them, under the deferral rule mean.
    further: by task differences by quantity, reference and stratum. rules: results under all rules, of RULE_STRATA.
    runs: the lines of runs.parquet."""

    results: list[Json]
    summary: Json
    further: dict[str, Json]
    rules: list[Json]
    runs: list[Json]

    @property
    def tasks(self) -> list[Json]:
        """The results of the tasks that count in macro means: those with confirmed runs and enough test rows."""
        return [result for result in self.results if first_strata(result) and not is_small(result)]


def first_strata(result: Json) -> Json:
    """The strata with confirmed runs, under the first metric."""
    strata: Json = next(iter(result["metrics"].values()))["strata"]
    return strata


def read_numbers(folder: Path, *, cache: Path | None, with_rules: bool) -> Numbers:
    """The numbers of a packed sweep; with a cache folder they are kept there until the packed rows change."""
    content = b"".join((folder / f"{name}.parquet").read_bytes() for name in FILES) + Path(__file__).read_bytes()
    key = hashlib.sha256(content + f"{RESULTS_VERSION} {with_rules}".encode()).hexdigest()[:16]
    kept = None if cache is None else cache / f"{folder.name}-{key}.json"
    if kept is not None and kept.exists():
        return Numbers(**read_json(kept))
    numbers = compute_numbers(folder, with_rules=with_rules)
    if kept is not None:
        write_json(kept, vars(numbers))
    return numbers


def compute_numbers(folder: Path, *, with_rules: bool) -> Numbers:
    """Unpack a sweep into a folder of its own and compute everything, in as many processes as there are cores."""
    large = stored_large_facts(folder)
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary) / "all"
        name = unpack(folder, root, rules=[RULE])
        names = result_names(existing_sweep(root / name)[1])
        found = [{**result, "large": large[result["task"]]} for result in each(compute_task, names, root, name)]
        summarise(root, name, found)
        further = dict(zip(names, each(further_differences, names, root, name), strict=True))
        rules: list[Json] = []
        if with_rules:
            root = Path(temporary) / "rules"
            unpack(folder, root, rules=RULES, strata=lambda stratum: stratum in RULE_STRATA)
            rules = each(compute_task, names, root, name)
        summary = results_on_storage(Path(temporary) / "all", name)[1]
    columns = (
        "task",
        "stratum",
        "number",
        "role",
        "status",
        "learning_rate",
        "objective",
        "num_steps",
        "train_flops",
        "seconds",
    )
    runs = read_packed(folder, "runs").select(list(columns)).to_pylist()
    return Numbers(found, summary, further, rules, runs)


def each(function: Callable[[Path, str, str], Json], names: Sequence[str], root: Path, sweep: str) -> list[Json]:
    """The function's result for each task."""
    one = functools.partial(function, root, sweep)
    workers = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if workers == 1 or len(names) < 4:
        return [one(name) for name in names]
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        return list(pool.map(one, names))


def further_differences(root: Path, sweep: str, task_name: str) -> Json:
    """Paired differences of a task by quantity, reference and stratum, as `difference` of the results; and under
    `calibration` the qualities there of the baseline's small model, mean over seeds, and of the large one."""
    spec, units = existing_sweep(root / sweep)
    task = next(unit for unit in units if unit.task == task_name)
    read = [record for role in ("trials", "confirm") for record in read_records(root / sweep, role, task_name)]
    records = [record for record in read if record.task == task_name]
    answers = read_json(root / sweep / "prepared" / f"{task_name}.json")["keys"]["answers"]
    large, metric = read_rows(root / "cache" / "answers" / answers / "rows.parquet"), metric_of(task.metric_list[0])
    best = {stratum: record for (_, stratum), record in winners(records, spec).items()}
    runs = {
        stratum: [
            read_run(root / sweep, record, large, metric, None, cascade=spec.cascade)
            for record in confirmed(records, winner, spec.search.confirm_seeds)
        ]
        for stratum, winner in best.items()
    }
    runs = {stratum: own for stratum, own in runs.items() if own}
    if not runs:
        return {}
    quantities = QUANTITIES if metric.is_mean else QUANTITIES[:1]
    found = {quantity: differences_of(quantity, runs, spec) for quantity in quantities}
    return found | {"calibration": gap_anchor(runs, RULE)}


def differences_of(quantity: str, runs: dict[str, list[Run]], spec: SweepSpec) -> Json:
    """By reference and stratum, of every pair of strata that `is_reference` asks for."""
    systems = {
        f"{stratum}\n{run.record.seed}": system_of(quantity, run) for stratum, own in runs.items() for run in own
    }
    test = next(iter(runs.values()))[0].test
    drawn = bootstrap_curves(
        systems,
        groups=test.groups,
        metric=test.metric,
        num_resamples=spec.cascade.num_resamples,
        seed=spec.cascade.seed,
    )
    factor = 1.0 if quantity == "audc" else 2.0
    found: Json = {}
    for reference in filter(is_reference, runs):
        found[reference] = {
            stratum: paired(drawn, stratum, reference, runs, factor) for stratum in runs if stratum != reference
        }
    return found


def is_reference(stratum: str) -> bool:
    """Plain fine-tuning in one place or on clients, plain distillation, and the control."""
    return stratum.split("/")[0] in (BASELINE, "dist") or stratum == CONTROL


def system_of(quantity: str, run: Run) -> System:
    """A run's test rows; for A1 and A2 (mean metrics) the other model's values are 0."""
    test = run.test
    small, large = test.small_statistics, test.large_statistics
    if quantity == "A1":
        large = without_values(large)
    elif quantity == "A2":
        small = without_values(small)
    return System(test.signals.ids, small, large, test.uncertainty(RULE))


def without_values(statistics: FloatArray) -> FloatArray:
    """Statistics [value, 1] of a mean metric with value 0."""
    return statistics * np.array([0.0, 1.0])


def paired(
    drawn: dict[str, Bootstrap], stratum: str, reference: str, runs: dict[str, list[Run]], factor: float
) -> Json | None:
    seeds = [run.record.seed for run in runs[stratum]]
    both = [run.record.seed for run in runs[reference] if run.record.seed in seeds]
    pairs = [(drawn[f"{stratum}\n{seed}"], drawn[f"{reference}\n{seed}"]) for seed in both]
    if not pairs:
        return None
    return mean_interval(
        [factor * (a.audc - b.audc) for a, b in pairs], [factor * (a.audc_draws - b.audc_draws) for a, b in pairs]
    )


def compared(numbers: Numbers, quantity: str, reference: str, only: Sequence[str] | None = None) -> Json:
    """Macro differences of a quantity to a reference by stratum, as comparing.compare gives them to xent: all are secondary,
    so that Holm's correction is over all losses. only: names of tasks."""
    shaped = []
    for result in numbers.tasks:
        found = numbers.further[result["task"]].get(quantity, {}).get(reference)
        if found is None or (only is not None and result["task"] not in only):
            continue
        name, metric = next(iter(result["metrics"].items()))
        no_rules: Json = {"rules": {"": []}}
        strata = {f"{stratum}\n": {"difference": difference} | no_rules for stratum, difference in found.items()}
        plain = {"scale": metric["scale"], "strata": {BASELINE: no_rules, **strata}}
        shaped.append({
            "task": result["task"], "group": result["group"], "rules": [""], "wanted": {"strata": []},
            "metrics": {name: plain},
        })  # fmt: skip
    macro = defined(compare(shaped))
    return {
        part: {name.removesuffix("\n"): item for name, item in macro[part].items()}
        for part in ("macro", "p_value_holm")
    }


def flags(numbers: Numbers, stats: Sequence[Json]) -> dict[str, list[str]]:
    """By task why its numbers say little, by the qualities on calibration: no test number leaves a task out. stats:
    docs/task_stats.json."""
    known = {item["task"]: item["baseline_quality"] / item["scale"] for item in stats}
    found: dict[str, list[str]] = {}
    for result in numbers.results:
        anchor = numbers.further[result["task"]].get("calibration")
        if anchor is None:
            continue
        scale = next(iter(result["metrics"].values()))["scale"]
        small, large = anchor[0] / scale, anchor[1] / scale
        reasons = []
        if small <= NO_QUALITY:
            reasons.append("S at the floor")
        if result["task"] in known and large < known[result["task"]] + NEAR_BASELINE:
            reasons.append("L near chance")
        elif large <= small:
            reasons.append("L not better than S")
        if reasons:
            found[result["task"]] = reasons
    return found


def by_rate(numbers: Numbers) -> dict[str, dict[float, tuple[float, int]]]:
    """By stratum and learning rate: macro mean over tasks of audc on validation of the search's trials, as a share of the
    range, and on how many tasks this rate won. Trials that did not finish count as 0."""
    counted = {result["task"]: result for result in numbers.tasks}
    scale = {name: next(iter(result["metrics"].values()))["scale"] for name, result in counted.items()}
    cells: dict[str, dict[float, dict[str, float]]] = {}
    for run in numbers.runs:
        if run["role"] == "trial" and run["task"] in counted and run["learning_rate"] is not None:
            value = run["objective"] if run["status"] == "finished" and run["objective"] is not None else 0.0
            own = cells.setdefault(run["stratum"], {}).setdefault(run["learning_rate"], {})
            own[run["task"]] = value / scale[run["task"]]
    found: dict[str, dict[float, tuple[float, int]]] = {}
    for stratum, rates in cells.items():
        winners_of = [result["strata"][stratum]["winner"] for result in counted.values() if stratum in result["strata"]]
        won = [float(winner["parameters"]["learning_rate"]) for winner in winners_of]
        found[stratum] = {
            rate: (macro_mean([counted[name]["group"] for name in own], list(own.values())), won.count(rate))
            for rate, own in sorted(rates.items())
        }
    return found


@dataclass(frozen=True)
class RuleLine:
    """A deferral rule over all tasks that allow it, in units of the range: macro difference of audc to `mean` of the same
    runs (xent's, and cat_xent/either's), and of cat_xent/either to xent where both defer by this rule. chosen: on how many
    tasks it is the best on calibration, of xent and of cat_xent/either."""

    rule: str
    num_tasks: int
    to_mean: dict[str, Any]
    gain: Any
    chosen: dict[str, int]


def rule_lines(numbers: Numbers) -> list[RuleLine]:
    """The deferral rules, training held constant."""
    counted = [result for result in numbers.rules if not is_small(result)]
    lines = []
    for rule in RULES:
        own = []
        for result in counted:
            metric = next(iter(result["metrics"].values()))
            entries = {
                name: metric["strata"].get(name, {}).get("deferral", {}).get("rules", {}) for name in RULE_STRATA
            }
            if all(rule in entry for entry in entries.values()):
                own.append((result["group"], metric["scale"], entries))
        if not own:
            continue
        kinds = [kind for kind, _, _ in own]
        audc = {
            name: [entries[name][rule]["audc"]["value"] / scale for _, scale, entries in own] for name in RULE_STRATA
        }
        mean = {
            name: [entries[name][RULE]["audc"]["value"] / scale for _, scale, entries in own] for name in RULE_STRATA
        }
        chosen = {
            name: sum(
                next(iter(result["metrics"].values()))["strata"].get(name, {}).get("deferral", {}).get("chosen") == rule
                for result in counted
            )
            for name in RULE_STRATA
        }
        to_mean = {
            name: defined(vars(macro_difference(kinds, np.subtract(audc[name], mean[name])))) for name in RULE_STRATA
        }
        gain = defined(vars(macro_difference(kinds, np.subtract(audc[CAT], audc[BASELINE]))))
        lines.append(RuleLine(rule, len(own), to_mean, gain, chosen))
    return lines


def macro_audc(numbers: Numbers, stratum: str) -> float | None:
    """Macro mean of test audc of a stratum as a share of the range, over the tasks that have it."""
    own = []
    for result in numbers.tasks:
        metric = next(iter(result["metrics"].values()))
        if stratum in metric["strata"]:
            own.append((result["group"], metric["strata"][stratum]["audc"]["value"] / metric["scale"]))
    return macro_mean(*map(list, zip(*own, strict=True))) if own else None  # type: ignore[arg-type]


def chain_lines(numbers: Numbers) -> list[Json]:
    """By stratum and share of L's cost the macro difference of the whole chain to the pair that is best on calibration."""
    cells: dict[tuple[str, float], list[tuple[str, float]]] = {}
    for result in numbers.tasks:
        metric = next(iter(result["metrics"].values()))
        for stratum, entry in metric["strata"].items():
            for against in entry.get("chain", {}).get("against_best_pair", []):
                if against["value"] is not None:
                    own = cells.setdefault((stratum, against["share"]), [])
                    own.append((result["group"], against["value"] / metric["scale"]))
    return [
        {
            "stratum": stratum,
            "share": share,
            "num_tasks": len(own),
            **defined(vars(macro_difference([kind for kind, _ in own], [value for _, value in own]))),
        }
        for (stratum, share), own in sorted(cells.items())
    ]


def without(numbers: Numbers, names: Sequence[str]) -> Numbers:
    """The numbers without some tasks."""
    kept = [result for result in numbers.results if result["task"] not in names]
    left = replace(numbers, results=kept, rules=[result for result in numbers.rules if result["task"] not in names])
    return replace(left, summary={**numbers.summary, **defined(compare(left.tasks))})


def load_stats(path: Path) -> list[Json]:
    """docs/task_stats.json."""
    found: list[Json] = json.loads(path.read_text(encoding="utf-8"))
    return found
