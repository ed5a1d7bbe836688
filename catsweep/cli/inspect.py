"""`catsweep validate` and `ls`: look, and change nothing. What loads torch is imported where it is used, so that `ls`, and
`validate` where the YAML is wrong, answer at once."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

from catsweep import storage
from catsweep.cli.console import complain, output, plural, print_table
from catsweep.errors import CatsweepError, Problem, SpecError
from catsweep.records import read_records, read_sweep, storage_root
from catsweep.space import check_search
from catsweep.spec.load import Sweep, check_sweep, column_problems, load_task, named_tasks, task_files
from catsweep.spec.mixture import MixtureSpec, members
from catsweep.spec.model import ScratchModel
from catsweep.spec.task import TaskSpec
from catsweep.tasks.examples import first_columns, preview
from catsweep.tasks.stats import task_stats


def validate_command(file: Path, overrides: list[str], *, out: Path | None) -> int:
    """Print every problem, and three rendered rows of each sound task. Returns the exit code: 2 where anything is wrong."""
    try:
        sweep, problems = check_sweep(file, overrides)
        if sweep is not None:
            check_search(sweep.spec)
    except SpecError as error:
        sweep, problems = None, error.problems
    for problem in problems:
        complain(str(problem))
    if sweep is None:
        return 2
    has_bad_config = _print_config_problems(sweep)
    code = 2 if problems or has_bad_config else 0
    for task in {task.task: task for unit in sweep.tasks for task in members(unit)}.values():
        if not _print_rows(sweep, task, storage_root(out) / "cache"):
            code = 2
    for mixture in [unit for unit in sweep.tasks if isinstance(unit, MixtureSpec)]:
        text = f"mixture {mixture.task} of {', '.join(task.task for task in mixture.members)}"
        output.print(text, markup=False, highlight=False, soft_wrap=True)
    if code == 0:
        output.print(f"{file}: ok, {_count_of_units(sweep)}", markup=False, highlight=False, soft_wrap=True)
    return code


def _print_rows(sweep: Sweep, task: TaskSpec, cache: Path) -> bool:
    """Print three rendered rows of a task, or what is wrong with it: every column that its rows do not have. Returns
    whether all is well."""
    reading: Any = {"cache": cache, "data_root": sweep.spec.data_folder, "verify": sweep.spec.data.verify}
    try:
        rows = preview(task, **reading)
    except CatsweepError as error:
        found: list[Problem] = []
        with contextlib.suppress(CatsweepError):  # no row can be read: the first error says why
            found = column_problems(sweep, task, first_columns(task, **reading))
        for line in [str(problem) for problem in found] or [str(error)]:
            complain(line)
        return False
    output.print(f"{task.task} ({task.group})", style="bold", markup=False)
    for row in rows:
        shown = f"  {row.prompt + task.target_delimiter!r} -> {row.target!r}"
        choices = f"  choices {list(row.choices)}" if row.choices else ""
        output.print(shown + choices, markup=False, highlight=False, soft_wrap=True)
    return True


def _print_config_problems(sweep: Sweep) -> bool:
    """Print what transformers refuses in the configs of models from scratch. Returns whether there is anything."""
    scratch = {name: spec for name in ("small", "large") if isinstance(spec := getattr(sweep.spec, name), ScratchModel)}
    if not scratch:
        return False
    from catsweep.models import load_config

    found = False
    for name, spec in scratch.items():
        try:
            load_config(spec)
        except CatsweepError as error:
            text = f"{sweep.document.where((name, 'config'))}: {name}.{error}"
            complain(text)
            found = True
    return found


def _count_of_units(sweep: Sweep) -> str:
    """`2 tasks, 1 mixture of 5 tasks`."""
    mixtures = [unit for unit in sweep.tasks if isinstance(unit, MixtureSpec)]
    num_tasks = len(sweep.tasks) - len(mixtures)
    parts = [plural(num_tasks, "task")] if num_tasks or not mixtures else []
    if mixtures:
        num_members = len({task.task for mixture in mixtures for task in mixture.members})
        parts.append(f"{plural(len(mixtures), 'mixture')} of {plural(num_members, 'task')}")
    return ", ".join(parts)


def ls_command(*, out: Path | None, tasks: bool, as_json: bool) -> None:
    """List sweeps or tasks."""
    rows = _task_rows() if tasks else _sweep_rows(storage_root(out))
    if as_json:
        output.print_json(json.dumps(rows))
    elif rows:
        print_table(list(rows[0]), [[_cell(value) for value in row.values()] for row in rows])
    else:
        output.print(f"no sweeps below {storage_root(out)}", markup=False)


def stats_command(names: list[str], *, out: Path | None, as_json: bool) -> int:
    """Print rows and baseline of the named tasks (patterns and tags too), else of all. Returns the exit code: 2 where a
    task could not be read."""
    found, code = [], 0
    for task in named_tasks(names, Path.cwd()):
        try:
            found.append(task_stats(task, cache=storage_root(out) / "cache"))
        except CatsweepError as error:
            complain(str(error))
            code = 2
    if as_json:
        output.print_json(json.dumps([stats.to_json() for stats in found]))
        return code
    columns = ["task", "group", "train", "val", "cal", "test", "metric", "baseline", "quality", "size"]
    lines = []
    for stats in found:
        rows = [str(stats.num_rows[split]) for split in ("train", "validation", "calibration", "test")]
        quality = stats.baseline_quality
        shown = f"{quality:.3f}" if stats.scale == 1 else f"{quality:.1f}"
        small = "small" if stats.is_small else ""
        lines.append([stats.task, stats.group, *rows, stats.metric, stats.baseline, shown, small])
    if not lines:
        return code
    print_table(columns, lines, numbers={"train", "val", "cal", "test", "quality"})
    output.print(
        f"{plural(len(found), 'task')} of {plural(len({stats.group for stats in found}), 'kind')}, "
        f"{sum(stats.is_small for stats in found)} small "
        "(fewer than 500 test rows); baseline: of what needs no model the best on validation, judged on test",
        markup=False, highlight=False, soft_wrap=True,
    )  # fmt: skip
    return code


def _cell(value: object) -> str:
    """A value of `--json` as people read it."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _task_rows() -> list[dict[str, object]]:
    found = [load_task(path) for path in task_files(Path.cwd()).values()]
    return [
        {"task": task.task, "group": task.group, "metrics": [metric.metric for metric in task.metric_list]}
        for task in found
    ]


def _sweep_rows(root: Path) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = []
    for name in storage.folders(root):
        storage.pull_sweep(root, name)
    for folder in sorted(path.parent for path in root.glob("*/sweep.json")):
        sweep = read_sweep(folder)
        assert sweep is not None
        trials, confirm = len(read_records(folder, "trials")), len(read_records(folder, "confirm"))
        report = (folder / "report.html").exists()
        rows.append(
            {"sweep": folder.name, "tasks": len(sweep[1]), "trials": trials, "confirm": confirm, "report": report}
        )
    return rows
