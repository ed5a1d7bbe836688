"""`catsweep plan`: what a sweep will do and cost, as a table and a few lines a task; and whether a cluster could run it."""

from __future__ import annotations

import json
from pathlib import Path

from rich.table import Table

from catsweep import storage
from catsweep.cli.console import complain, output, tell, warn
from catsweep.cli.estimate import fits, hours
from catsweep.errors import CatsweepError, ClusterError, OutOfReachError
from catsweep.plan import Plan, TaskPlan, make_plan
from catsweep.prepare import check_sources
from catsweep.records import storage_root
from catsweep.retention import bytes_on_storage, free_bytes
from catsweep.spec.load import Sweep, load_sweep
from catsweep.spec.model import FinetuneSpec
from catsweep.sweep.changes import check_unchanged

SHOWN_SPLITS = ("train", "validation", "calibration", "test")


def plan_command(
    file: Path,
    overrides: list[str],
    *,
    out: Path | None,
    as_json: bool,
    cluster: str | None = None,
    flops_per_second: float | None = None,
) -> int:
    """Print the plan of a sweep. Returns the exit code: 2 where a task could not be planned, or where nothing of the sweep
    could ever start on the cluster.

    cluster: a cluster's file or address; without it nobody is asked. flops_per_second: what one accelerator reaches.
    """
    sweep, root = load_sweep(file, overrides), storage_root(out)
    storage.pull_sweep(root, sweep.spec.name)
    plan = make_plan(sweep, root=root)
    _warn_of_refusal(sweep, root)
    _warn_of_full_disk(plan, root)
    problems, room = list(plan.problems), ""
    try:
        room = fits(sweep.spec, cluster)
    except ClusterError as error:
        problems.append(str(error))
    for problem in problems:
        complain(f"error: {problem}")
    for text in plan.advice:
        complain(text)
    if as_json:
        total = {} if flops_per_second is None else {"accelerator_hours": plan.accelerator_hours(flops_per_second)}
        output.print_json(json.dumps({**plan.to_json(), **total}))
    elif plan.tasks:
        output.print(_table(plan))
        _print_totals(plan, free_bytes(root))
        for task in plan.tasks:
            _print_task(task, sweep.spec.large.finetune)
        for line in [*hours(plan, sweep.spec, root, flops_per_second), *([room] if room else [])]:
            tell(line)
    return 2 if problems else 0


def _warn_of_refusal(sweep: Sweep, root: Path) -> None:
    try:
        check_unchanged(sweep, root / sweep.spec.name)
        check_sources(root, sweep.spec, sweep.tasks)
    except OutOfReachError:
        return  # the plan has said so
    except CatsweepError as error:
        warn(f"`run` will refuse: {error}")


def _warn_of_full_disk(plan: Plan, root: Path) -> None:
    missing = plan.to_json()["total"]["disk_bytes_at_peak"] - bytes_on_storage(root, plan.sweep)
    if missing > (free := free_bytes(root)):
        warn(f"`run` will refuse: {_size(missing)} more are needed below {root}, where {_size(free)} are free")


def _table(plan: Plan) -> Table:
    """A line a task, and below a mixture one a member."""
    table = Table(title=f"{plan.sweep}: {len(plan.strata)} strata ({', '.join(plan.strata)})", title_justify="left")
    for column in ("task", "train", "val", "cal", "test", "runs", "done", "FLOPs", "cached"):
        table.add_column(column, justify="left" if column == "task" else "right", no_wrap=True)
    for task in plan.tasks:
        rows = [str(task.num_rows[split]) for split in SHOWN_SPLITS]
        runs = f"{task.num_search_trials}+{task.num_confirm_runs}"
        cached = f"{sum(task.cached.values())} of {len(task.cached)}"
        table.add_row(task.task, *rows, runs, str(task.num_done), f"{task.flops:.1e}", cached)
        for member in task.members:
            rows = [str(member.num_rows[split]) for split in SHOWN_SPLITS]
            table.add_row(f" {member.task}", *rows, "", "", "", "")
    return table


def _print_totals(plan: Plan, free: int) -> None:
    """Trials, FLOPs and disk of the whole sweep, how its tasks are cut, and what checkpoints take meanwhile."""
    total = plan.to_json()["total"]
    tell(
        f"{total['num_search_trials']} search trials ({plan.num_samples} a task and stratum, evaluated after steps "
        f"{', '.join(map(str, plan.rungs))}) and {total['num_confirm_runs']} confirm runs; about {total['flops']:.2e} FLOPs "
        f"and {_size(total['disk_bytes'])} on disk, MLflow included ({_size(free)} are free)"
    )
    if held := sum(task.num_rows.get("large_train", 0) for task in plan.tasks):
        tell(f"train: rows for the small models; the large ones train on {held:,} others (large.finetune.holdout)")
    by_text: dict[str, list[str]] = {}
    for name, text in plan.splits.items():
        by_text.setdefault(text, []).append(name)
    for text, names in by_text.items():
        tell(f"{', '.join(names)}: {text}")
    checkpoints = {
        "a large model in training": max(task.disk_bytes_large_checkpoint for task in plan.tasks),
        "a trial in flight": max(task.disk_bytes_trial_checkpoint for task in plan.tasks),
    }
    shown = ", ".join(f"{_size(size)} for {what}" for what, size in checkpoints.items() if size)
    if shown:
        tell(f"checkpoints, until each ends: up to {shown}")


def _print_task(task: TaskPlan, finetune: FinetuneSpec | None) -> None:
    """Sizes, where the FLOPs go, what is still to be made, and warnings."""
    flops = {
        "large model": task.flops_large_finetune,
        **({"its fold models": task.flops_folds} if task.flops_folds else {}),
        "its pass": task.flops_large_pass,
        **({"further models": task.flops_chain} if task.flops_chain else {}),
        "search": task.flops_search,
        "confirm": task.flops_confirm,
    }
    shares = ", ".join(f"{name} {part / task.flops:.0%}" for name, part in flops.items())
    missing = ", ".join(name for name, there in task.cached.items() if not there) or "nothing"
    tell(
        f"{task.task}: S {task.small_parameters:,} and L {task.large_parameters:,} parameters; FLOPs: {shares}; "
        f"still to make: {missing}"
    )
    for line in _signal_notes(task, finetune):
        tell(f"{task.task}: {line}")
    for member in task.members:
        tell(f"{task.task}: {member.describe()}")
    for line in task.warnings:
        warn(line)


def _signal_notes(task: TaskPlan, finetune: FinetuneSpec | None) -> list[str]:
    """What another way to the large model's signal costs beside `holdout`."""
    if finetune is None or finetune.holdout is not None:
        return []
    if finetune.cross_fit is None:
        return [
            "unseen_signal: false: the signal is L's on its own training targets, far better than L is in use; preparing "
            "measures by how much"
        ]
    rest = task.flops - task.flops_folds
    return [
        f"cross_fit: {finetune.cross_fit} trains L {finetune.cross_fit + 1} times instead of once: {task.flops_folds:.1e} "
        f"FLOPs of accelerator work more than holdout's {rest:.1e} ({task.flops_folds / rest:+.0%})"
    ]


def _size(num_bytes: float) -> str:
    """12 MiB."""
    for factor, unit in ((2**40, "TiB"), (2**30, "GiB")):
        if num_bytes >= factor:
            return f"{num_bytes / factor:.1f} {unit}"
    return f"{num_bytes / 2**20:.1f} MiB" if num_bytes < 2**24 else f"{num_bytes / 2**20:.0f} MiB"
