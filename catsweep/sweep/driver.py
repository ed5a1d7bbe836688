"""A whole sweep: check what is on storage, prepare, search and confirm."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path

from catsweep import storage
from catsweep.damage import damaged_answers, set_aside_damaged
from catsweep.errors import StorageError
from catsweep.records import TrialRecord, confirmed, winners, write_sweep
from catsweep.spec.load import Sweep
from catsweep.spec.mixture import MixtureSpec
from catsweep.spec.task import TaskSpec
from catsweep.sweep.changes import check_unchanged
from catsweep.sweep.cluster import Cluster, check_fits, check_shared, only_driver, only_driver_on_cluster
from catsweep.sweep.heartbeat import beating
from catsweep.sweep.prepare import Preparation, PrepareTask
from catsweep.sweep.progress import Event, Progress
from catsweep.sweep.search import Search
from catsweep.sweep.trainable import RunTrial
from catsweep.sweep.tuning import SweepSearcher, tune_search


@dataclass(frozen=True)
class SweepResult:
    """What a sweep found, by (task, stratum). A stratum in which no trial finished is in neither map.

    confirmed: finished confirm runs of each winner, by seed. failed_tasks: error text of each task that could not be
    prepared. records: every record of the sweep, confirm runs of former winners included.
    """

    winners: dict[tuple[str, str], TrialRecord]
    confirmed: dict[tuple[str, str], list[TrialRecord]]
    failed_tasks: dict[str, str]
    records: list[TrialRecord] = field(repr=False)

    @property
    def failed_trials(self) -> list[TrialRecord]:
        """Trials that ended with an error of their own."""
        return [record for record in self.records if record.status == "failed"]


def run_sweep(
    sweep: Sweep,
    *,
    root: Path,
    run_trial: RunTrial,
    prepare_task: PrepareTask,
    on_event: Callable[[Event], None],
    on_record: Callable[[Path, TrialRecord], None],
    cluster: Cluster | None = None,
    before_start: Callable[[Cluster], None] | None = None,
    take_over: bool = False,
) -> SweepResult:
    """Run whatever of a sweep is not on storage yet; where all of it is, Ray is not started.

    A run that failed (not one that diverged) is tried once more by each driver, from its own checkpoint.

    run_trial, prepare_task: top-level functions, which travel to the workers. on_event, on_record: called in this
    process for each line of progress, and with folder and record of each run that ended. cluster: stays connected for
    the caller; without it Ray is let go at the end. before_start: called where something is left to run, before
    any of it starts; what it raises travels on. take_over: also where a driver on another machine runs the sweep; that one ends.

    Raises SweepChangedError, StorageError (another driver, a damaged file), ClusterError.
    """
    folder = root / sweep.spec.name
    with only_driver(folder), _beating(folder, take_over) as lost:
        storage.pull_sweep(root, sweep.spec.name, exact=True)
        check_unchanged(sweep, folder)
        write_sweep(folder, sweep.spec, sweep.tasks)
        damaged = set_aside_damaged(folder)
        search = Search(sweep, folder)
        lost.append(search)
        failed = search.retry_failed()
        progress = Progress(search, on_event, on_record)
        progress.tell("start", f"{sweep.spec.name}: {len(sweep.tasks)} tasks, {search.num_runs} runs")
        if failed:
            progress.tell("warning", f"{len(failed)} runs that failed are tried again: {failed[0].trial_id} ...")
        if damaged:
            text = f"{len(damaged)} runs were damaged on storage and are made again: {damaged[0]} ..."
            progress.tell("warning", text)
        ended = [task for task in sweep.tasks if task not in search.unfinished_tasks]
        again = [task for task in ended if damaged_answers(root, sweep.spec.name, task)]
        if again:
            text = f"the large model's answers to {', '.join(task.task for task in again)} are damaged and made again"
            progress.tell("warning", text)
        if again or not search.finished:
            with Cluster(folder / "logs") if cluster is None else nullcontext(cluster) as connected:
                _run(search, again, root, run_trial, prepare_task, progress, connected, before_start)
        progress.tell("end", f"{sweep.spec.name}: {search.num_runs - search.num_remaining} runs in {folder}")
        return _result(search)


@contextmanager
def _beating(folder: Path, take_over: bool) -> Iterator[list[Search]]:
    """Hold the sweep against other machines; whatever search is put into the list ends where one of them takes over."""
    searches: list[Search] = []

    def on_loss(error: StorageError) -> None:
        for search in searches:
            search.error = error

    with beating(folder, on_loss, take_over=take_over):
        yield searches


def _run(
    search: Search,
    again: list[TaskSpec | MixtureSpec],
    root: Path,
    run_trial: RunTrial,
    prepare_task: PrepareTask,
    progress: Progress,
    cluster: Cluster,
    before_start: Callable[[Cluster], None] | None,
) -> None:
    """again: tasks without runs that are left, but whose preparation is not whole any more."""
    spec = search.spec
    cluster.connect()
    with only_driver_on_cluster(search.folder):
        check_fits(cluster.nodes(), spec.resources)
        check_shared(root)
        progress.tell("connected", f"{len(cluster.nodes())} nodes; Ray's log is {cluster.logs / 'driver.log'}")
        if before_start is not None:
            before_start(cluster)
        preparation = Preparation([*search.unfinished_tasks, *again], spec, prepare_task, root)
        searcher = SweepSearcher(search, preparation, cluster, progress)
        while not searcher.may_start(wait_seconds=0.5) and not search.finished:
            search.raise_error()
        if not search.finished:
            tune_search(searcher, run_trial, root)
        while preparation.num_unfinished:
            searcher.may_start(wait_seconds=0.5)
            search.raise_error()


@contextmanager
def holding(folder: Path) -> Iterator[Callable[[], None]]:
    """Hold a sweep whose runs have ended while its results are computed and logged. Yields what raises StorageError where a
    driver elsewhere took over meanwhile. Raises StorageError where one runs the sweep."""
    lost: list[StorageError] = []

    def still_held() -> None:
        if lost:
            raise lost[0]

    with only_driver(folder), beating(folder, lost.append):
        yield still_held


def _result(search: Search) -> SweepResult:
    records = search.records
    best = winners(records, search.spec)
    runs = {key: confirmed(records, record, search.spec.search.confirm_seeds) for key, record in best.items()}
    return SweepResult(best, runs, dict(search.failed_tasks), records)
