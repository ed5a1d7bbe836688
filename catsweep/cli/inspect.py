"""`catsweep validate`, `plan` and `ls`: look, and change nothing."""

from __future__ import annotations

import json
from pathlib import Path

from rich.table import Table

from catsweep.cli.console import errors, output
from catsweep.errors import CatsweepError, SpecError
from catsweep.plan import make_plan
from catsweep.records import read_records, read_sweep, storage_root
from catsweep.spec.load import load_sweep, load_task, task_files
from catsweep.tasks.examples import preview


def validate_command(file: Path, overrides: list[str], *, out: Path | None) -> int:
    """Print every problem, or three rendered rows of each task. Returns the exit code: 2 where anything is wrong."""
    try:
        sweep = load_sweep(file, overrides)
    except SpecError as error:
        for problem in error.problems:
            errors.print(str(problem), style="red", markup=False, highlight=False, soft_wrap=True)
        return 2
    code = 0
    for task in sweep.tasks:
        try:
            rows = preview(task, 3, cache=storage_root(out) / "cache")
        except CatsweepError as error:
            errors.print(str(error), style="red", markup=False, highlight=False, soft_wrap=True)
            code = 2
            continue
        output.print(f"{task.task} ({task.group})", style="bold", markup=False)
        for row in rows:
            shown = f"  {row.prompt + task.target_delimiter!r} -> {row.target!r}"
            choices = f"  choices {list(row.choices)}" if row.choices else ""
            output.print(shown + choices, markup=False, highlight=False, soft_wrap=True)
    if code == 0:
        output.print(f"{file}: ok, {len(sweep.tasks)} tasks", markup=False, highlight=False)
    return code


def plan_command(file: Path, overrides: list[str], *, out: Path | None, as_json: bool) -> None:
    """Print the plan of a sweep."""
    plan = make_plan(load_sweep(file, overrides), root=storage_root(out))
    total = plan.to_json()["total"]
    if as_json:
        output.print_json(json.dumps(plan.to_json()))
        return
    table = Table(title=f"{plan.sweep}: {len(plan.strata)} strata ({', '.join(plan.strata)})")
    for column in (
        "task",
        "rows train/val/cal/test",
        "search",
        "confirm",
        "done",
        "S params",
        "L params",
        "FLOPs",
        "cached",
    ):
        table.add_column(column, justify="left" if column in ("task", "cached") else "right")
    for task in plan.tasks:
        rows = "/".join(str(task.num_rows[split]) for split in ("train", "validation", "calibration", "test"))
        cached = ", ".join(name for name, there in task.cached.items() if there) or "nothing"
        table.add_row(
            task.task, rows, str(task.num_search_trials), str(task.num_confirm_runs), str(task.num_done),
            f"{task.small_parameters:,}", f"{task.large_parameters:,}", f"{task.flops:.2e}", cached,
        )  # fmt: skip
    output.print(table)
    output.print(
        f"{total['num_search_trials']} search trials ({plan.num_samples} a task and stratum, evaluated after steps "
        f"{', '.join(map(str, plan.rungs))}) and {total['num_confirm_runs']} confirm runs; at most {total['flops']:.2e} FLOPs "
        f"and {total['disk_bytes'] / 2**20:.0f} MiB on disk",
        markup=False, highlight=False,
    )  # fmt: skip


def ls_command(*, out: Path | None, tasks: bool, as_json: bool) -> None:
    """List sweeps or tasks."""
    if tasks:
        found = [load_task(path) for path in task_files(Path.cwd()).values()]
        rows = [
            {"task": task.task, "group": task.group, "metrics": [m.metric for m in task.metric_list]} for task in found
        ]
    else:
        root = storage_root(out)
        rows = []
        for folder in sorted(path.parent for path in root.glob("*/sweep.json")):
            sweep = read_sweep(folder)
            assert sweep is not None
            counts = {role: len(read_records(folder, role)) for role in ("trials", "confirm")}
            rows.append(
                {"sweep": folder.name, "tasks": len(sweep[1]), **counts, "report": (folder / "report.html").exists()}
            )
    if as_json:
        output.print_json(json.dumps(rows))
        return
    if not rows:
        output.print(f"no sweeps below {storage_root(out)}", markup=False)
        return
    table = Table(*[str(key) for key in rows[0]])
    for row in rows:
        table.add_row(*[", ".join(value) if isinstance(value, list) else str(value) for value in row.values()])
    output.print(table)
