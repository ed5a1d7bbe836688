"""`catsweep run`, `curves NAME` and `report`: the whole path, and its last steps alone."""

from __future__ import annotations

import functools
import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from catsweep.cli.console import errors, output
from catsweep.curves import compute_task, results_on_storage, results_up_to_date, summarise
from catsweep.errors import StorageError
from catsweep.records import read_sweep, storage_root
from catsweep.report.page import write_report
from catsweep.report.tables import render_table, results_table
from catsweep.spec.base import Json
from catsweep.spec.load import load_sweep
from catsweep.sweep.cluster import Cluster
from catsweep.sweep.driver import SweepResult, run_sweep
from catsweep.sweep.jobs import map_tasks
from catsweep.sweep.progress import Event
from catsweep.tracking import Tracker, default_tracking_uri, prepare_store


def run_command(file: Path, overrides: list[str], *, out: Path | None, tracking_uri: str | None) -> int:
    """Run a sweep to its report. Returns the exit code: 1 where a task or a trial failed."""
    from catsweep.prepare import prepare_task
    from catsweep.trial import run_trial

    sweep = load_sweep(file, overrides)
    root = storage_root(out)
    name = sweep.spec.name
    uri = tracking(root, tracking_uri)
    tracker = Tracker(uri, root, name, warn)
    with Cluster(root / name / "logs") as cluster, live_events() as on_event:
        result = run_sweep(
            sweep,
            root=root,
            run_trial=run_trial,
            prepare_task=prepare_task,
            on_event=on_event,
            on_record=tracker.log_record,
            cluster=cluster,
        )
        results, summary = compute_curves(root, name, cluster)
    finish(root, name, tracker, results, summary, failed=failures(result))
    show(root, name, results, summary, uri)
    for line in failures(result):
        errors.print(line, style="red", markup=False, highlight=False, soft_wrap=True)
    return 1 if failures(result) else 0


def curves_command(name: str, *, out: Path | None, tracking_uri: str | None, as_json: bool) -> None:
    """Compute all curves of a sweep again as Ray tasks, and log them. Loads no model."""
    root = storage_root(out)
    uri = tracking(root, tracking_uri)
    with Cluster(root / name / "logs") as cluster:
        results, summary = compute_curves(root, name, cluster, again=True)
    finish(root, name, Tracker(uri, root, name, warn), results, summary, failed=[])
    if as_json:
        output.print_json(json.dumps({"tasks": results, "summary": summary}))
    else:
        show(root, name, results, summary, uri)


def report_command(name: str, *, out: Path | None, as_json: bool) -> None:
    """Print the results table and write the report, from the curves on storage."""
    root = storage_root(out)
    results, summary = results_on_storage(root, name)
    if as_json:
        output.print_json(json.dumps([vars(row) for row in results_table(results, summary)]))
        return
    write_report(root, name)
    show(root, name, results, summary, default_tracking_uri(root))


def tracking(root: Path, chosen: str | None) -> str:
    """The tracking URI, its database made."""
    uri = chosen or os.environ.get("MLFLOW_TRACKING_URI") or default_tracking_uri(root)
    root.mkdir(parents=True, exist_ok=True)
    prepare_store(uri)
    return uri


def compute_curves(root: Path, name: str, cluster: Cluster, *, again: bool = False) -> tuple[list[Json], Json]:
    """Curves of all tasks as Ray tasks; those on storage where they are of the same runs and settings."""
    found = read_sweep(root / name)
    if found is None:
        raise StorageError(
            f"{root / name} holds no sweep; expected sweep.json. `catsweep ls` lists the sweeps of {root}"
        )
    if not again and results_up_to_date(root, name):
        return results_on_storage(root, name)
    prepared = [task.task for task in found[1] if (root / name / "prepared" / f"{task.task}.json").exists()]
    results = map_tasks(functools.partial(compute_task, root, name), prepared, cluster=cluster)
    return results, summarise(root, name, results)


def finish(root: Path, name: str, tracker: Tracker, results: list[Json], summary: Json, *, failed: list[str]) -> None:
    """Log what the driver has not logged yet, and write the report."""
    write_report(root, name)
    tracker.log_results(results, summary)
    tracker.log_sweep("FAILED" if failed else "FINISHED")


def failures(result: SweepResult) -> list[str]:
    """A line for each task and trial that failed."""
    lines = [f"task {task} could not be prepared: {text}" for task, text in result.failed_tasks.items()]
    return lines + [f"{record.trial_id} failed: {record.error}" for record in result.failed_trials]


def show(root: Path, name: str, results: list[Json], summary: Json, uri: str) -> None:
    """The end of every run: the table, the report's path, the command that opens MLflow."""
    output.print(render_table(results_table(results, summary)))
    output.print(f"report: {root / name / 'report.html'}", markup=False, highlight=False, soft_wrap=True)
    command = (
        "make mlflow-ui" if uri == default_tracking_uri(storage_root()) else f"mlflow server --backend-store-uri {uri}"
    )
    shown = f"mlflow: {uri}" if uri.startswith("http") else f"mlflow: {command}"
    output.print(shown, markup=False, highlight=False, soft_wrap=True)


def warn(text: str) -> None:
    """A problem that stops nothing."""
    errors.print(f"warning: {text}", style="yellow", markup=False, highlight=False, soft_wrap=True)


@contextmanager
def live_events() -> Iterator[Callable[[Event], None]]:
    """Print a line an event, and on a terminal a bar with the time that is left below them."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=errors, transient=True, disable=not errors.is_terminal) as progress:
        bar = progress.add_task("runs", total=None)

        def on_event(event: Event) -> None:
            left = f", {clock(event.eta_seconds)} left" if event.eta_seconds is not None else ""
            progress.update(bar, completed=event.num_ended, total=event.num_total, description=f"runs{left}")
            if event.kind != "trial_started":
                prefix = f"{time.strftime('%H:%M:%S')} [{event.num_ended}/{event.num_total}{left}]"
                errors.print(f"{prefix} {event.text}", markup=False, highlight=False, soft_wrap=True)

        yield on_event


def clock(seconds: float) -> str:
    """1:05:09 or 5:09."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
