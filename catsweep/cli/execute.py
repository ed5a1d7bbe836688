"""The parts of `catsweep run` and `catsweep curves` that need Ray: the sweep, its curves, and logging beside it."""

from __future__ import annotations

import contextlib
import functools
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from catsweep import storage
from catsweep.cli.console import errors, warn
from catsweep.curves import result_names, results_key, results_on_storage, results_up_to_date, summarise
from catsweep.mixture import prepare_unit
from catsweep.plan import make_plan
from catsweep.prepare import check_sources
from catsweep.records import TrialRecord, existing_sweep, write_json
from catsweep.redact import redact
from catsweep.report.page import write_report
from catsweep.retention import check_space
from catsweep.spec.base import Json
from catsweep.spec.load import Sweep
from catsweep.sweep.cluster import Cluster, ForeignLines
from catsweep.sweep.driver import SweepResult, holding, run_sweep
from catsweep.sweep.jobs import compute_on_a_node, map_tasks
from catsweep.sweep.progress import Event
from catsweep.trial import run_trial

if TYPE_CHECKING:
    from catsweep.tracking import Tracker


@dataclass(frozen=True)
class Execution:
    """How a run of the driver ended. failed: a line for each task and trial that failed. complete: nothing is left to
    run or to log."""

    failed: list[str]
    complete: bool


def execute(sweep: Sweep, *, root: Path, uri: str, command: str, take_over: bool = False) -> Execution:
    """Run whatever of a sweep is not on storage, compute its curves, log and report them. command: what stands behind
    `catsweep run`, for the report."""
    name = sweep.spec.name
    check_sources(root, sweep.spec, sweep.tasks)
    with (
        Cluster(root / name / "logs") as cluster,
        contextlib.redirect_stdout(ForeignLines()),
        live_events() as on_event,
        Logging(uri, root, name) as logging,
    ):
        result = run_sweep(
            sweep,
            root=root,
            run_trial=run_trial,
            prepare_task=prepare_unit,
            on_event=on_event,
            on_record=logging.log_record,
            cluster=cluster,
            take_over=take_over,
            before_start=functools.partial(refuse_what_does_not_fit, sweep, root),
        )
        with holding(root / name) as still_held:
            write_json(root / name / "command.json", {"run": command})
            say("all runs have ended: curves of every task")
            results, summary = compute_curves(root, name, cluster, logging.log_task)
            still_held()
            failed = failures(result)
            say("report, and what MLflow does not have yet")
            complete = logging.log_results(results, summary, failed=bool(failed))
    return Execution(failed, complete and not failed)


def refuse_what_does_not_fit(sweep: Sweep, root: Path, cluster: Cluster) -> None:
    """Raises StorageError where the disk of the root has no room for what `plan` says that the sweep leaves on it. The tasks are
    read on the cluster, and lie in the cache then."""
    if storage.place_of(root) is not None:  # an object store has no end
        return
    say("the tasks are read, to see whether the disk has room for what the sweep leaves")
    plan = make_plan(sweep, root=root, map_function=functools.partial(map_tasks, cluster=cluster))
    total = plan.to_json()["total"]
    check_space(root, sweep.spec.name, total["disk_bytes_at_peak"])


def recompute(name: str, *, root: Path, uri: str) -> tuple[list[Json], Json]:
    """Compute all curves of a sweep again, log and report them. Raises StorageError where there is none, or where a driver runs
    it."""
    existing_sweep(root / name)
    with (
        holding(root / name),
        Cluster(root / name / "logs") as cluster,
        contextlib.redirect_stdout(ForeignLines()),
        Logging(uri, root, name) as logging,
    ):
        results, summary = compute_curves(root, name, cluster, logging.log_task, again=True)
        logging.log_results(results, summary, failed=False)
    return results, summary


def compute_curves(
    root: Path, name: str, cluster: Cluster, on_task: Callable[[Json], None], *, again: bool = False
) -> tuple[list[Json], Json]:
    """Curves of all tasks as Ray tasks; those on storage where they are of the same runs and settings.

    on_task: called with each task's results as soon as they are computed."""
    if not again and results_up_to_date(root, name):
        return results_on_storage(root, name)
    key = results_key(root, name)  # of what is there before anything is computed: runs may end meanwhile
    found = existing_sweep(root / name)
    prepared = [task for task in result_names(found[1]) if (root / name / "prepared" / f"{task}.json").exists()]
    results = map_tasks(functools.partial(compute_on_a_node, root, name), prepared, cluster=cluster, on_result=on_task)
    storage.get_folder(root / name / "curves")
    return results, summarise(root, name, results, key=key)


class Logging:
    """Logs to MLflow from one thread beside the sweep: importing mlflow, making the database and writing a run take
    seconds that no trial should wait for. The records on storage are the truth: what a kill cuts off is logged by the
    next command."""

    def __init__(self, uri: str, root: Path, name: str) -> None:
        self.uri, self.root, self.name = uri, root, name
        self.thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="mlflow")

    def __enter__(self) -> Logging:
        self.tracker = self.thread.submit(self._start)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.thread.shutdown(wait=kind is None, cancel_futures=kind is not None)

    def log_record(self, folder: Path, record: TrialRecord) -> None:
        """Log a run that ended, some time later. Raises what the store raised when it was opened."""
        if self.tracker.done():
            self.tracker.result()
        self.thread.submit(lambda: self.tracker.result().log_record(folder, record))

    def log_task(self, result: Json) -> None:
        """Log one task's results, some time later."""
        self.thread.submit(lambda: self.tracker.result().log_task(result))

    def log_results(self, results: list[Json], summary: Json, *, failed: bool) -> bool:
        """Write the report, and log it with the results and whatever has not been logged yet: whether all of it was."""
        tracker = self.tracker.result()
        # In the thread that draws for MLflow too: matplotlib's settings are those of the whole process.
        self.thread.submit(write_report, self.root, self.name).result()
        self.thread.submit(tracker.log_results, results, summary).result()
        self.thread.submit(tracker.log_sweep, "failed" if failed else "finished").result()
        return tracker.complete

    def _start(self) -> Tracker:
        from catsweep.tracking import Tracker, prepare_store

        self.root.mkdir(parents=True, exist_ok=True)
        prepare_store(self.uri)
        tracker = Tracker(self.uri, self.root, self.name, warn)
        # A driver that was killed may have left records that it had not logged: the end of this run looks at all.
        tracker.complete = False
        return tracker


def failures(result: SweepResult) -> list[str]:
    """A line for each task and trial that failed."""
    lines = [f"task {task} could not be prepared: {text}" for task, text in result.failed_tasks.items()]
    lines += [f"{record.trial_id} failed: {record.error}" for record in result.failed_trials]
    return [redact(line) for line in lines]


def say(text: str) -> None:
    """A line of progress."""
    errors.print(f"{time.strftime('%H:%M:%S')} {text}", markup=False, highlight=False, soft_wrap=True)


@contextlib.contextmanager
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
