"""Suggestions of one study: what to try next, given how the trials so far went.

There is one study for each task and stratum, and it holds no state: a suggestion is a pure function of the sampler's
seed, the task, the trial's number and the trials so far. So a search that was killed, or is extended, goes on as if it
had never stopped, and strata start from the same points. What is kept between suggestions, `Told`, only saves time.
"""

from __future__ import annotations

import copy
import logging
import random
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import optuna

from catsweep.errors import StorageError
from catsweep.space import Place, Scalar, draw, grid_point, only_drawn
from catsweep.spec.base import digest
from catsweep.spec.dimensions import Interval, Node
from catsweep.spec.search import GridSampler, ObjectiveSpec, SamplerSpec, TpeSampler, lower_is_better


@dataclass(frozen=True)
class Observation:
    """A trial as the sampler sees it. value: its last objective; None while it runs. violation: how far it breaks a
    constraint; above 0 it may not win. None without a constraint. second: the second of two objectives."""

    number: int
    parameters: dict[str, Scalar]
    value: float | None
    violation: float | None = None
    second: float | None = None


Told = dict[tuple[int, float | None, float | None, float | None], optuna.trial.FrozenTrial]
"""Trials that ended as Optuna takes them, by number, value, violation and second value. To make them anew for each
suggestion takes half of its time."""


def suggest(
    tree: Node,
    sampler: SamplerSpec,
    objectives: Sequence[ObjectiveSpec],
    task: str,
    number: int,
    history: list[Observation],
    told: Told | None = None,
) -> tuple[Any, dict[str, Scalar]]:
    """Settings of trial `number`, as `space.draw` returns them.

    history: trials that ran or are running. Trials that diverged or failed are left out: they say nothing that a
    sampler could rank. With two objectives TPE looks for their Pareto set. The first trials, and all of a random search, do
    not look at the history. told: what earlier suggestions of the same study made; it is added to.
    """
    told = {} if told is None else told
    if isinstance(sampler, GridSampler):
        return grid_point(tree, number)
    if not isinstance(sampler, TpeSampler) or number < sampler.num_startup_trials:
        return draw(tree, _Independent((sampler.seed, task, number)))
    seed = int(digest([sampler.seed, task, number]), 16) % 2**32
    if (logger := logging.getLogger("optuna")).level != logging.ERROR:  # to set it looks at every logger of the process
        logger.setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # several samplers' options are marked experimental
        tpe = optuna.samplers.TPESampler(seed=seed, n_startup_trials=1, multivariate=True, constant_liar=True)
        directions = ["minimize" if lower_is_better(objective) else "maximize" for objective in objectives]
        study = optuna.create_study(directions=directions, sampler=tpe)
        searched = only_drawn(tree)
        # Sorted, so that the order in which trials happened to finish changes nothing.
        for observation in sorted(history, key=lambda observation: observation.number):
            key = (observation.number, observation.value, observation.violation, observation.second)
            trial = told.get(key) or _optuna_trial(searched, observation, len(objectives))
            if trial.state == optuna.trial.TrialState.COMPLETE:
                told[key] = trial
            study.add_trial(trial)
        return draw(tree, _Asking(study.ask()))


def _optuna_trial(tree: Node, observation: Observation, num_objectives: int) -> optuna.trial.FrozenTrial:
    replay = _Replay(observation.parameters)
    try:
        draw(tree, replay)
    except (KeyError, ValueError) as error:
        raise StorageError(
            f"trial {observation.number} on storage has parameters {observation.parameters}, which the space cannot "
            f"give ({error}); expected the space of the sweep that made it. Use a new sweep name"
        ) from None
    values = [value for value in (observation.value, observation.second)[:num_objectives] if value is not None]
    is_complete = len(values) == num_objectives
    trial = optuna.trial.create_trial(
        state=optuna.trial.TrialState.COMPLETE if is_complete else optuna.trial.TrialState.RUNNING,
        values=values if is_complete else None,
        params=replay.values,
        distributions=replay.distributions,
        constraints=None if observation.violation is None else {"min_task_delta": observation.violation},
    )
    trial.__class__ = _Told
    return trial


class _Told(optuna.trial.FrozenTrial):  # type: ignore[misc]
    """A trial that its study may take as it is: Optuna's deep copies and checks of all of them are half of a suggestion's time
    where there are hundreds."""

    def __deepcopy__(self, memo: dict[int, Any]) -> _Told:
        return copy.copy(self)

    def _validate(self) -> None:
        """It was checked when it was made."""


class _Independent:
    """Draws each dimension from a generator of its own, seeded with its path and not with the stratum, so that what
    two strata share starts from the same values."""

    def __init__(self, key: tuple[int, str, int]) -> None:
        self.key = key

    def categorical(self, place: Place, shown: list[Scalar]) -> int:
        return int(self._uniform(place) * len(shown))

    def number(self, place: Place, interval: Interval) -> float:
        share = self._uniform(place)
        if interval.integer:
            lower, upper = int(interval.lower), int(interval.upper)
            return lower + int(share * (upper + 1 - lower))
        if interval.log:
            return min(interval.upper, interval.lower * float((interval.upper / interval.lower) ** share))
        return interval.lower + share * (interval.upper - interval.lower)

    def _uniform(self, place: Place) -> float:
        return random.Random(digest([*self.key, place.path])).random()


class _Asking:
    """Asks an Optuna trial for each dimension."""

    def __init__(self, trial: optuna.Trial) -> None:
        self.trial = trial

    def categorical(self, place: Place, shown: list[Scalar]) -> int:
        return int(self.trial.suggest_categorical(place.name, range(len(shown))))

    def number(self, place: Place, interval: Interval) -> float:
        if interval.integer:
            return int(self.trial.suggest_int(place.name, int(interval.lower), int(interval.upper)))
        return float(self.trial.suggest_float(place.name, interval.lower, interval.upper, log=interval.log))


class _Replay:
    """Walks the tree along parameters that were drawn before, and notes Optuna's names, values and distributions."""

    def __init__(self, parameters: dict[str, Scalar]) -> None:
        self.parameters = parameters
        self.values: dict[str, Any] = {}
        self.distributions: dict[str, Any] = {}

    def categorical(self, place: Place, shown: list[Scalar]) -> int:
        index = shown.index(self.parameters[place.path])
        self._note(place, index, _distribution(shown))
        return index

    def number(self, place: Place, interval: Interval) -> float:
        value = self.parameters[place.path]
        if isinstance(value, str) or value is None:
            raise ValueError(f"{place.path} is {value!r}, not a number")
        self._note(place, value, _distribution(interval))
        return value

    def _note(self, place: Place, value: float, distribution: Any) -> None:
        self.values[place.name] = value
        self.distributions[place.name] = distribution


def _distribution(dimension: Interval | list[Scalar]) -> Any:
    if isinstance(dimension, list):
        return optuna.distributions.CategoricalDistribution(range(len(dimension)))
    if dimension.integer:
        return optuna.distributions.IntDistribution(int(dimension.lower), int(dimension.upper))
    return optuna.distributions.FloatDistribution(dimension.lower, dimension.upper, log=dimension.log)
