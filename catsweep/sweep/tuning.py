"""The search as Tune sees it: one searcher and one run over all tasks and strata."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path
from typing import Any

from ray import tune
from ray.tune.search import Searcher

from catsweep.sweep.cluster import Cluster, num_slots, worker_resources
from catsweep.sweep.prepare import Preparation, UnitResult
from catsweep.sweep.progress import Progress
from catsweep.sweep.schedule import SweepScheduler
from catsweep.sweep.search import Search
from catsweep.sweep.trainable import RunTrial, trainable


class SweepSearcher(Searcher):  # type: ignore[misc]
    """Gives Tune the next trial of the search, and the search what became of it."""

    def __init__(self, search: Search, preparation: Preparation, cluster: Cluster, progress: Progress) -> None:
        super().__init__()
        self.search, self.preparation, self.cluster, self.progress = search, preparation, cluster, progress
        self.trial_ids: dict[str, str] = {}  # Tune's id -> ours
        self._nodes: tuple[float, list[dict[str, float]]] = (0.0, [])

    def may_start(self, wait_seconds: float) -> bool:
        """Whether a trial could start now; waits so long for a task that gets ready."""
        for prepared in self.preparation.poll(wait_seconds):
            self._take(prepared)
        return bool(self.search.ready) and self.max_in_flight() > 0

    def max_in_flight(self) -> int:
        """How many trials may be in flight: as many as leave room for every unit that could run now.

        Processes of trials never give their place up while the search lasts, so units must never wait for one.
        """
        if time.monotonic() - self._nodes[0] > 2.0:
            self._nodes = (time.monotonic(), self.cluster.nodes())
        resources = self.search.spec.resources
        workers = self.preparation.num_unfinished * resources.large.num_workers
        return num_slots(self._nodes[1], resources, [worker_resources(resources.large)] * workers)

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        """The next trial, None to wait, or FINISHED."""
        try:
            for prepared in self.preparation.poll():
                self._take(prepared)
            if self.search.finished or self.search.error:
                return str(Searcher.FINISHED)
            if len(self.search.running) >= self.max_in_flight():
                return None
            trial = self.search.next()
            if trial is None:
                return None
            self.trial_ids[trial_id] = trial.trial_id
            self.progress.trial_started(trial.trial_id)
            return {"trial_id": trial.trial_id}
        except Exception as error:
            self.search.error = error
            return str(Searcher.FINISHED)

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """A trial ended, was stopped, or its process died for good."""
        if self.search.error:  # the run is being torn down; the trial stays unfinished
            return
        try:
            self.progress.trial_ended(self.search.end(self.trial_ids.pop(trial_id)))
        except Exception as failure:
            self.search.error = failure

    def save(self, checkpoint_path: str) -> None:
        """Nothing: a search starts from the records on storage."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing: see `save`."""

    def _take(self, prepared: UnitResult) -> None:
        if prepared.error:
            self.search.failed_tasks[prepared.task] = prepared.error
            self.progress.tell("task_failed", f"{prepared.task} failed: {prepared.error.strip().splitlines()[-1]}")
        else:
            self.search.ready.add(prepared.task)
            self.progress.tell("task_ready", f"{prepared.task} ready after {prepared.seconds:.1f} s")
            for text in prepared.facts.get("warnings", []):
                self.progress.tell("warning", text)


def tune_search(searcher: SweepSearcher, run_trial: RunTrial, root: Path) -> None:
    """Run trials until the search has finished. Raises what our own code raised inside Tune."""
    search = searcher.search
    workers = search.spec.resources
    os.environ.setdefault("TUNE_MAX_PENDING_TRIALS_PG", "64")  # start processes side by side; we cap them ourselves
    tune.run(
        trainable(run_trial, root, search.folder, workers),
        search_alg=searcher,
        scheduler=SweepScheduler(search),
        num_samples=-1,
        reuse_actors=workers.num_workers == 1,
        max_failures=2,  # processes that die are started again; errors of a trial never get here
        raise_on_failed_trial=False,
        trial_dirname_creator=lambda trial: trial.trial_id,
        storage_path=str(search.folder / "logs"),
        name="tune",
        verbose=0,
    )
    shutil.rmtree(search.folder / "logs" / "tune", ignore_errors=True)
    search.raise_error()
