"""`catsweep curves NAME --deferral ... --cost ...`: a finished sweep under other deferral rules and cost models. Neither Ray
nor a model is loaded, and nothing of the sweep's own results changes."""

from __future__ import annotations

import functools
import json
import multiprocessing
import os
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from catsweep import storage
from catsweep.cascade.rules import parse_rule
from catsweep.cli.console import output, print_results
from catsweep.cli.run import show_rules
from catsweep.curves import (
    Recomputation,
    compute_task,
    result_names,
    results_folder,
    results_key,
    results_on_storage,
    summarise,
)
from catsweep.damage import damaged_answers
from catsweep.errors import Problem, SpecError
from catsweep.records import existing_sweep, storage_root
from catsweep.report.comparison import macro_table
from catsweep.report.page import write_report
from catsweep.report.tables import cost_unit, notes, render_table, results_table, shortfalls
from catsweep.spec.base import Json
from catsweep.spec.cascade import LEARNED, CascadeSpec, PriceCost

COSTS = "flops, latency, price, or price:A/B/C/D"
FEW_TASKS = 2
"""So many tasks are computed in this process: another one takes as long to start as they take."""


def recompute_command(name: str, rules: list[str], costs: list[str], *, out: Path | None, as_json: bool) -> None:
    """Compute, write and print the results of a sweep under these rules and cost models; where none are given, its own.

    Raises SpecError for unknown ones, StorageError where there is no sweep, or where seconds were not measured.
    """
    root = storage_root(out)
    storage.pull_sweep(root, name)
    found = existing_sweep(root / name)
    for task in found[1] if storage.place_of(root) else ():
        damaged_answers(root, name, task)  # which brings them
    other = Recomputation(override(found[0].cascade, rules, costs))
    if found[0].chain and other.cascade.deferral[0] == LEARNED:
        expected = (
            "another rule before it: chains are made under the first one, and the learned rule is fitted for S alone"
        )
        raise SpecError(
            [Problem("command line", "--deferral", "learned as the first rule of a sweep with a chain", expected)]
        )
    tasks = [task for task in result_names(found[1]) if (root / name / "prepared" / f"{task}.json").exists()]
    key = results_key(root, name, other)
    summary = summarise(root, name, compute_all(root, name, tasks, other), other=other, key=key)
    write_report(root, name, other)
    results = results_on_storage(root, name, other)[0]
    if as_json:
        output.print_json(json.dumps({"tasks": results, "summary": summary}))
        return
    rows = results_table(results, summary)
    print_results(render_table(rows))
    if (over_all := macro_table(summary, cost_unit(rows))) is not None:
        output.print()
        print_results(over_all)
    show_rules(results)
    folder = results_folder(root, name, other)
    lines = [
        *notes(rows),
        *shortfalls(results),
        f"wrote {folder}: results and points of each task, summary.json, report.html",
        f"{root / name / 'curves'}, the sweep's own results, and MLflow are as they were",
    ]
    output.print("\n".join(lines), markup=False, highlight=False, soft_wrap=True)


def compute_all(root: Path, name: str, tasks: Sequence[str], other: Recomputation) -> list[Json]:
    """The results of each task, computed in as many processes as there are cores."""
    one = functools.partial(compute_task, root, name, other=other)
    if len(tasks) <= FEW_TASKS:
        return [one(task) for task in tasks]
    workers = min(len(tasks), len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        return list(pool.map(one, tasks))


def override(cascade: CascadeSpec, rules: list[str], costs: list[str]) -> CascadeSpec:
    """The settings with other rules and cost models, each option a name or several with commas between. Raises SpecError."""
    chosen: dict[str, Any] = {}
    if rules:
        chosen["deferral"] = list(dict.fromkeys(_names(rules, "--deferral")))
        for rule in chosen["deferral"]:
            parse_rule(rule)
    if costs:
        chosen["costs"] = [_cost(text, cascade) for text in dict.fromkeys(_names(costs, "--cost"))]
    try:
        return CascadeSpec.model_validate({**cascade.to_json(), **chosen})
    except ValidationError as error:
        problems = [
            Problem("command line", "--cost" if detail["loc"][:1] == ("costs",) else "--deferral", str(detail["input"]),
                    detail["msg"].removeprefix("Value error, "))
            for detail in error.errors(include_url=False)
        ]  # fmt: skip
        raise SpecError(problems) from None


def _names(options: list[str], option: str) -> list[str]:
    names = [name.strip() for text in options for name in text.split(",")]
    if "" in names:
        raise SpecError([Problem("command line", option, "an empty name", "names with one comma between them")])
    return names


def _cost(text: str, cascade: CascadeSpec) -> Any:
    """A cost model as in YAML."""
    kind, _, numbers = text.partition(":")
    if kind != "price" and not numbers and kind in ("flops", "latency"):
        return kind
    if kind == "price" and not numbers:
        own = next((cost for cost in cascade.costs if isinstance(cost, PriceCost)), None)
        if own is not None:
            return own.to_json()
        expected = "price:A/B/C/D, dollars for a million tokens: in and out of the small model, then of the large one"
        raise SpecError([Problem("command line", "--cost", "price, but the sweep names no prices", expected)])
    parts = numbers.split("/")
    if kind != "price" or len(parts) != 4:
        raise SpecError([Problem("command line", "--cost", repr(text), COSTS)])
    small, large = (
        {"input_per_million": first, "output_per_million": second} for first, second in (parts[:2], parts[2:])
    )
    return {"kind": "price", "small": small, "large": large}
