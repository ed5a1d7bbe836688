"""The course of a sweep: which trial runs next, and what became of it. Knows storage and samplers, not Ray.

Each (task, stratum) is a study of its own: search up to the budget, then confirm the winner with new seeds. There is
no restore: a study starts from the records on storage, runs what was left unfinished or has failed, and suggests the
rest.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from catsweep import storage
from catsweep.damage import set_aside_record
from catsweep.errors import StorageError
from catsweep.records import (
    NO_SPACE,
    SECOND_OBJECTIVE,
    Status,
    StepMetrics,
    TrialRecord,
    guards,
    largest_loss,
    read_json,
    read_record,
    winners,
    write_json,
    write_record,
)
from catsweep.retention import prune_weights
from catsweep.space import Scalar, build_confirm, build_trial, check_search, strata, training_tree
from catsweep.spec.dimensions import Node
from catsweep.spec.load import Sweep
from catsweep.spec.mixture import MixtureSpec
from catsweep.spec.search import BASELINE, ObjectiveSpec, has_gap
from catsweep.spec.sweep import SweepSpec, TrialSpec
from catsweep.spec.task import TaskSpec
from catsweep.sweep.anchor import Anchor, fix_anchor, guides, read_anchor
from catsweep.sweep.studies import Observation, Told, suggest
from catsweep.sweep.watch import forget_empty_stacks, hang_text, hung

Asked = tuple[int, list[ObjectiveSpec], list[Observation]]
"""What a suggestion is drawn from: the trial's number, what is optimised, and the trials so far."""


@dataclass
class Running:
    """A trial in flight, as far as the driver has heard of it."""

    spec: TrialSpec
    started_at: float
    last: StepMetrics | None = None
    stopped: bool = False  # the scheduler ended it early
    failure: tuple[Status, str] | None = None  # status and error text, as its process reported them
    death: str = ""  # why its process died


class Study:
    """One (task, stratum): its budget, its trials so far, and what it wants next."""

    def __init__(self, spec: SweepSpec, task: TaskSpec | MixtureSpec, stratum: str, tree: Node, folder: Path) -> None:
        self.spec, self.task, self.stratum, self.tree, self.folder = spec, task, stratum, tree, folder
        self.budget = spec.search.num_samples
        self.trials = self._stored("trials")
        stored = [*self.trials, *self._stored("confirm")]
        self.records = {
            trial_id: record for trial_id in stored if (record := read_record(folder / trial_id)) is not None
        }
        self.running: set[str] = set()
        self.told: Told = {}
        self.delta: float | None = None  # min_task_delta of a mixture, judged against the baseline's study
        self.baseline: Study | None = None
        self.anchor: Anchor | None = None  # where an objective has a gap: fixed once the baseline has been searched
        self._remaining: int | None = None
        self._ahead: tuple[Asked, tuple[Any, dict[str, Scalar]]] | None = None

    def next(self) -> TrialSpec | None:
        """The trial to run now; its spec.json is on storage. None: wait, or nothing is left."""
        if self.objectives is None:
            return None
        trial = self._next_confirm() if self.searched else self._next_search()
        if trial is not None:
            self.running.add(trial.trial_id)
            path = self.folder / trial.trial_id / "spec.json"
            if not path.exists():
                write_json(path, trial.to_json())
        return trial

    def look_ahead(self) -> bool:
        """Make the suggestion that `next` would take now, so that it is ready when a slot gets free; returns whether there is a
        trial to give. Where one of this study ends before, its result counts, and `next` makes another."""
        if self.objectives is None:
            return False
        if self.searched:
            return self._next_confirm() is not None
        if self._unfinished() is None:
            number = self._next_number()
            if number is None:
                return False
            self._suggestion(number)
        return True

    def end(self, record: TrialRecord) -> None:
        """Take the record of a trial that ended."""
        self.running.discard(record.trial_id)
        self.records[record.trial_id] = record
        self.count_again()

    def retry_failed(self) -> list[TrialRecord]:
        """Let runs that failed under an earlier driver run once more, where the sweep still wants them.

        Their records are set aside (record.failed-1.json ...) and returned. Runs that diverged are results, and stay.
        """
        wanted = {trial.trial_id for trial in (*self.budgeted, *self._confirm_runs())}
        failed = [record for name, record in self.records.items() if name in wanted and record.status == "failed"]
        for record in failed:
            set_aside_record(self.folder / record.trial_id)
            del self.records[record.trial_id]
        return failed

    def count_again(self) -> None:
        """The study's records or its objective have changed, or those of its baseline."""
        self._remaining = None

    @property
    def searched(self) -> bool:
        """Whether the whole budget has been tried."""
        return len([trial for trial in self.budgeted if trial.trial_id in self.records]) == self.budget

    @property
    def winner(self) -> TrialSpec | None:
        """The best finished trial so far."""
        records = [*self.records.values(), *(self.baseline.records.values() if self.baseline else [])]
        found = winners(records, self.spec).get((self.task.task, self.stratum))
        return self.trials[found.trial_id] if found else None

    @property
    def objectives(self) -> list[ObjectiveSpec] | None:
        """What trials optimise now. With a gap the baseline goes first, guided by audc, and the others wait: None."""
        wanted = self.spec.search.objectives
        if self.anchor is not None:
            return self.anchor.resolve(wanted)
        if not any(map(has_gap, wanted)):
            return wanted
        return guides(wanted) if self.stratum == BASELINE else None

    @property
    def waits(self) -> bool:
        """Whether the trial that all others are guarded against is not known yet."""
        return self.baseline is not None and not self.baseline.searched

    @property
    def remaining(self) -> int:
        """Runs that have not ended, those of the confirmation included. Kept until a record comes: the whole sweep's are asked
        for several times a trial, and to find a winner takes a look at all records."""
        if self._remaining is None:
            self._remaining = self._count_remaining()
        return self._remaining

    def _count_remaining(self) -> int:
        searching = [trial for trial in self.budgeted if trial.trial_id in self.records]
        left = self.budget - len(searching)
        if left:
            return left + self.spec.search.confirm_seeds
        if self.waits:
            return self.spec.search.confirm_seeds
        return sum(trial.trial_id not in self.records for trial in self._confirm_runs())

    @property
    def budgeted(self) -> list[TrialSpec]:
        """The search trials within the budget."""
        return [trial for trial in self.trials.values() if trial.number < self.budget]

    def _next_search(self) -> TrialSpec | None:
        if (trial := self._unfinished()) is not None:
            return trial
        number = self._next_number()
        if number is None:
            return None
        value, parameters = self._suggestion(number)
        trial = build_trial(self.spec, self.task, self.stratum, number, value, parameters, self.objectives or [])
        self.trials[trial.trial_id] = trial
        return trial

    def _unfinished(self) -> TrialSpec | None:
        """A trial that an earlier driver began."""
        for trial in self.budgeted:
            if trial.trial_id not in self.records and trial.trial_id not in self.running:
                return trial
        return None

    def _next_number(self) -> int | None:
        """The number of the next trial to suggest; None: enough run already, or all are there."""
        if len(self.running) >= max(2, self.budget // 4):
            return None
        taken = {trial.number for trial in self.trials.values()}
        return next((number for number in range(self.budget) if number not in taken), None)

    def _suggestion(self, number: int) -> tuple[Any, dict[str, Scalar]]:
        """Settings of trial `number`, kept until what they are drawn from changes."""
        asked = number, self.objectives or [], self._history()
        if self._ahead is None or self._ahead[0] != asked:
            _, objectives, history = asked
            sampler = self.spec.search.sampler
            found = suggest(self.tree, sampler, objectives, self.task.task, number, history, self.told)
            self._ahead = asked, found
        return self._ahead[1]

    def _next_confirm(self) -> TrialSpec | None:
        if self.waits:
            return None
        waiting = (trial for trial in self._confirm_runs() if trial.trial_id not in {*self.records, *self.running})
        return next(waiting, None)

    def _confirm_runs(self) -> list[TrialSpec]:
        winner = self.winner
        if winner is None:
            return []
        first, *second = self.objectives or self.spec.search.objectives
        judged = winner.model_copy(update={"objective": first, "second_objective": second[0] if second else None})
        return [build_confirm(judged, index) for index in range(self.spec.search.confirm_seeds)]

    def _history(self) -> list[Observation]:
        history = []
        reference = self.baseline.winner if self.baseline else None
        best = self.baseline.records[reference.trial_id] if self.baseline and reference else None
        for trial_id, trial in self.trials.items():
            record = self.records.get(trial_id)
            if record is None:
                history.append(Observation(trial.number, trial.parameters, None))
            elif record.status in ("finished", "stopped") and record.objective is not None:
                violation = None
                if best is not None and self.delta is not None:
                    violation = largest_loss(record, best, self.spec) - self.delta
                second = record.metrics.get(SECOND_OBJECTIVE)
                history.append(Observation(trial.number, trial.parameters, record.objective, violation, second))
        return history

    def _stored(self, role: str) -> dict[str, TrialSpec]:
        found = {}
        folder = self.folder / role / self.task.task / self.stratum.replace("/", "+")
        for path in sorted(folder.glob("*/spec.json")):
            try:
                trial = TrialSpec.model_validate(read_json(path))
            except ValidationError as error:
                raise StorageError(
                    f"{path} was written by another version of catsweep ({error}); give the sweep a new name"
                ) from None
            found[trial.trial_id] = trial
        return found


class Search:
    """All studies of a sweep. Gives the next trial, and turns what is heard of trials into records."""

    def __init__(self, sweep: Sweep, folder: Path) -> None:
        self.spec, self.folder = sweep.spec, folder
        parts = strata(training_tree(sweep.spec), sweep.spec.search.stratify)
        self.studies = {
            (task.task, stratum): Study(sweep.spec, task, stratum, tree, folder)
            for task in sweep.tasks
            for stratum, tree in parts.items()
        }
        check_search(sweep.spec)
        for task, delta in guards(sweep.spec).items():
            for (name, stratum), study in self.studies.items():
                if name == task and stratum != BASELINE:
                    study.baseline, study.delta = self.studies[task, BASELINE], delta
        self.running: dict[str, Running] = {}
        self.ready: set[str] = set()
        self.failed_tasks: dict[str, str] = {}
        self._is_ahead = False  # whether `look_ahead` has nothing new to see
        self.fix_anchors()
        self.error: Exception | None = None  # of our own code inside Tune or of another thread; see `raise_error`

    def retry_failed(self) -> list[TrialRecord]:
        """Let what failed under an earlier driver run once more; returns the records that were set aside."""
        failed = [record for study in self.studies.values() for record in study.retry_failed()]
        for study in self.studies.values():  # a baseline's records count for others too
            study.count_again()
        return failed

    def next(self) -> TrialSpec | None:
        """The next trial of the study that has got least so far, or None where all must wait or are done."""
        self._is_ahead = False
        for study in self._in_turn():
            if (trial := study.next()) is not None:
                self.running[trial.trial_id] = Running(trial, time.time())
                return trial
        return None

    def look_ahead(self) -> None:
        """While no slot is free: make the suggestion that `next` would take now. Not where half of what runs is of the same
        study: it would be made twice."""
        if self._is_ahead:
            return
        self._is_ahead = True
        for study in self._in_turn():
            if 2 * len(study.running) >= len(self.running) or study.look_ahead():
                return

    def _in_turn(self) -> list[Study]:
        """Studies that have runs left, from the one that has got least so far. A trial that ends does not change their order."""
        usable = self.ready - set(self.failed_tasks)
        open_studies = [study for study in self.studies.values() if study.task.task in usable and study.remaining]
        return sorted(open_studies, key=lambda study: len(study.records) + len(study.running))

    def raise_error(self) -> None:
        """Raise what our own code met where nobody could catch it, or another thread found: a driver elsewhere took over."""
        if self.error:
            raise self.error

    @property
    def finished(self) -> bool:
        """Whether nothing is left to run."""
        return not any(study.remaining for study in self.studies.values() if study.task.task not in self.failed_tasks)

    @property
    def num_runs(self) -> int:
        """Runs of search and confirmation that the sweep asks for."""
        return len(self.studies) * (self.spec.search.num_samples + self.spec.search.confirm_seeds)

    @property
    def num_remaining(self) -> int:
        """Those of them that have not ended."""
        return sum(study.remaining for study in self.studies.values())

    @property
    def unfinished_tasks(self) -> list[TaskSpec | MixtureSpec]:
        """Tasks that have runs left, each once."""
        return list({study.task.task: study.task for study in self.studies.values() if study.remaining}.values())

    @property
    def records(self) -> list[TrialRecord]:
        """All records, old and new, of search and confirmation."""
        return [record for study in self.studies.values() for record in study.records.values()]

    def heard(self, trial_id: str, result: dict[str, Any]) -> StepMetrics | None:
        """Take what a trial's process reported: metrics, or that it failed. Returns the metrics."""
        running = self.running[trial_id]
        running.started_at = result.get("started_at", running.started_at)
        if result.get("failure") == "no_space":  # every trial would fail: the sweep ends, and none of them has ended
            self.error = StorageError(f"{trial_id} could not write its files ({result['error']}): {NO_SPACE}")
            return None
        if "failure" in result:
            running.failure = (result["failure"], result["error"])
            return None
        if "objective" not in result:
            return None
        metrics = {key: value for key, value in result.items() if key.startswith("validation/")}
        running.last = StepMetrics(result["step"], result["objective"], metrics, result["final"])
        return running.last

    def end(self, trial_id: str) -> TrialRecord:
        """A trial has ended. Returns its record: a finished trial has written it itself, for others it is written here."""
        self._is_ahead = False
        running = self.running.pop(trial_id)
        forget_empty_stacks(self.folder / trial_id)
        storage.get_folder(self.folder / trial_id, skip=storage.NOT_PULLED)
        record = read_record(self.folder / trial_id)
        if record is None:
            record = _record(running, self.folder)
            write_record(self.folder / trial_id, record)
        if record.status != "failed":  # a failed one may go on; nobody else needs the checkpoint again
            storage.delete(self.folder / trial_id / "checkpoint")
        ended = self.studies[record.task, record.stratum]
        ended.end(record)
        for study in self.studies.values():
            if study.baseline is ended:
                study.count_again()
        if record.role == "confirm" and self.spec.keep_models is not None:
            prune_weights(self.folder, self.records, self.spec)
        self.fix_anchors(record.task)
        return record

    def fix_anchors(self, task: str | None = None) -> None:
        """Where an objective has a gap: fix the quality to reach on each task (or on one) whose baseline has been searched,
        and judge the baseline's own trials by it. A task whose baseline has no finished trial fails."""
        if not any(map(has_gap, self.spec.search.objectives)):
            return
        for (name, stratum), baseline in self.studies.items():
            if stratum != BASELINE or task not in (None, name) or baseline.anchor is not None:
                continue
            anchor = read_anchor(self.folder, name)
            if anchor is None and baseline.searched:
                records = [baseline.records[trial.trial_id] for trial in baseline.budgeted]
                try:
                    anchor = fix_anchor(self.folder, baseline.task, records, self.spec)
                except StorageError as error:
                    self.failed_tasks[name] = str(error)
                    continue
                baseline.records |= {trial.trial_id: _stored(self.folder, trial) for trial in baseline.budgeted}
            for (other, _), study in self.studies.items():
                if other == name:
                    study.anchor = anchor
                    study.count_again()


def _stored(folder: Path, trial: TrialSpec) -> TrialRecord:
    record = read_record(folder / trial.trial_id)
    assert record is not None, f"{trial.trial_id} has ended"
    return record


def _record(running: Running, folder: Path) -> TrialRecord:
    status: Status = "failed"
    error = running.death or "the trial ended without a record.json"
    if running.failure is not None:
        status, error = running.failure
    elif running.stopped:
        status, error = "stopped", ""
    if status == "failed" and hung(stacks := folder / running.spec.trial_id):
        error = f"{error.rstrip()}\n{hang_text(stacks)}"
    spec, last = running.spec, running.last
    return TrialRecord(
        trial_id=spec.trial_id,
        task=spec.task.task,
        stratum=spec.stratum,
        number=spec.number,
        role=spec.role,
        seed=spec.seed,
        status=status,
        parameters=dict(spec.parameters),
        num_steps=last.step if last else 0,
        objective=last.objective if last else None,
        metrics=last.metrics if last else {},
        started_at=running.started_at,
        ended_at=time.time(),
        error=error,
    )
