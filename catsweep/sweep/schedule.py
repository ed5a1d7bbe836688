"""Which trial gets a process that is free, and early stopping: one ASHA for each (task, stratum), so that strata never stop
each other."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, TrialScheduler

from catsweep.records import read_steps
from catsweep.spec.search import AshaScheduler, lower_is_better
from catsweep.sweep.search import Search
from catsweep.sweep.trainable import forget_decision, tell_decision


class SweepScheduler(FIFOScheduler):  # type: ignore[misc]
    """Passes every call on to the ASHA of the trial's study. Confirm runs are never stopped.

    What earlier drivers heard of a study's trials is told to its ASHA first, so that a search that goes on after a
    kill stops trials at the same marks.
    """

    def __init__(self, search: Search) -> None:
        super().__init__()
        self.search = search
        self.ashas: dict[tuple[str, str], Any] = {}

    def choose_trial_to_run(self, tune_controller: Any) -> Any:
        """The newest trial that waits, or None.

        A process that got free goes to the trial that is chosen here, and where that one had asked for a process of its
        own, Tune kills this. The oldest waiting trial is the one whose process is starting: given to it, every trial
        that ends would kill a start, and a slot whose start takes longer than a trial would never be used.
        """
        live = tune_controller.get_live_trials()  # not all trials that there ever were: Tune asks at every event
        waiting = {trial.config["trial_id"]: trial for trial in live if trial.status == "PENDING"}
        if not waiting:
            self._look_ahead()
        newest = next((trial_id for trial_id in reversed(self.search.running) if trial_id in waiting), None)
        return waiting.get(newest)

    def _look_ahead(self) -> None:
        """All that can run does: time for the next suggestion."""
        try:
            if not self.search.error:
                self.search.look_ahead()
        except Exception as error:
            self.search.error = error

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        """A trial joins its study's ASHA, with what it reported before it was interrupted."""
        forget_decision(self.search.folder / trial.config["trial_id"])
        if (asha := self._asha(trial)) is not None:
            asha.on_trial_add(tune_controller, trial)
            self._tell_stored(asha, trial, trial.config["trial_id"])

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """CONTINUE or STOP. A final report always continues: the trial is about to end by itself."""
        if self.search.error:
            return str(TrialScheduler.STOP)
        trial_id = trial.config["trial_id"]
        metrics = self.search.heard(trial_id, result)
        if metrics is None or metrics.final:
            return str(TrialScheduler.CONTINUE)
        asha = self._asha(trial)
        stop = asha is not None and asha.on_trial_result(tune_controller, trial, result) == TrialScheduler.STOP
        if stop:
            self.search.running[trial_id].stopped = True
        if self.search.spec.resources.num_workers > 1:  # its workers end by themselves
            tell_decision(self.search.folder / trial_id, metrics.step, stop=self.search.running[trial_id].stopped)
            return str(TrialScheduler.CONTINUE)
        return str(TrialScheduler.STOP if stop else TrialScheduler.CONTINUE)

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
        """A trial ended by itself or was stopped."""
        if (asha := self._asha(trial)) is not None:
            asha.on_trial_complete(tune_controller, trial, result)

    def on_trial_error(self, tune_controller: Any, trial: Any) -> None:
        """A trial's process died. Tune may start it again."""
        self.search.running[trial.config["trial_id"]].death = str(trial.get_error() or "its process died")
        if (asha := self._asha(trial)) is not None:
            asha.on_trial_error(tune_controller, trial)

    def on_trial_remove(self, tune_controller: Any, trial: Any) -> None:
        """A trial that had not started is taken away."""
        if (asha := self._asha(trial)) is not None:
            asha.on_trial_remove(tune_controller, trial)

    def _asha(self, trial: Any) -> Any:
        spec = self.search.running[trial.config["trial_id"]].spec
        settings = self.search.spec.search.scheduler
        if spec.role == "confirm" or not isinstance(settings, AshaScheduler) or len(spec.evaluate_at) < 2:
            return None
        key = (spec.task.task, spec.stratum)
        if key not in self.ashas:
            mode = "min" if lower_is_better(spec.objective) else "max"
            self.ashas[key] = asha = ASHAScheduler(
                time_attr="step", metric="objective", mode=mode, max_t=spec.training.steps,
                grace_period=settings.grace_period, reduction_factor=settings.reduction_factor, stop_last_trials=False,
            )  # fmt: skip
            study = self.search.studies[key]
            for trial_id in study.records:
                known = study.trials.get(trial_id)
                if known is None or known.objective != spec.objective:
                    continue  # a confirm run, or a baseline's trial from before its gap was known
                stored = SimpleNamespace(trial_id=trial_id)
                asha.on_trial_add(None, stored)
                self._tell_stored(asha, stored, trial_id)
        return self.ashas[key]

    def _tell_stored(self, asha: Any, trial: Any, trial_id: str) -> None:
        for line in read_steps(self.search.folder / trial_id):
            if "validation/objective" in line:
                result = {"step": line["step"], "objective": line["validation/objective"]}
                asha.on_trial_result(None, trial, result)
