"""From a search space to trials: the strata that share a budget, drawn settings, rungs and seeds.

Pure functions of specs. What draws a number stands behind `Chooser`, so that Optuna is one of several ways to draw.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from typing import Any, Protocol

from catsweep.errors import Problem, SpecError
from catsweep.spec.base import digest
from catsweep.spec.dimensions import Choice, Constant, Interval, Mapping, Node, parse_space
from catsweep.spec.mixture import MixtureEntry, MixtureSpec
from catsweep.spec.search import BASELINE, AshaScheduler
from catsweep.spec.sweep import SweepSpec, TrialSpec
from catsweep.spec.task import TaskSpec
from catsweep.spec.training import TrainingSpec

Scalar = str | float | int | bool | None

NUM_CONFIRM_SEEDS = 1_000
"""Seeds below this are kept for confirm runs; search trials never draw them."""


@dataclass(frozen=True)
class Place:
    """Where a dimension lies. path: dotted, for people. name: the path with the labels of the options that lead to
    it, for samplers: one name always has one distribution."""

    path: str
    name: str


class Chooser(Protocol):
    """Draws one dimension at a time."""

    def categorical(self, place: Place, shown: list[Scalar]) -> int:
        """The index of one of the options, which are given as a person sees them."""

    def number(self, place: Place, interval: Interval) -> float:
        """A number of the interval, an int where the interval is one of integers."""


def training_tree(spec: SweepSpec) -> Node:
    """All fields of `training` with the space laid over them; a field of the space replaces that field as a whole."""
    return parse_space({**spec.training.to_json(), **spec.search.space})


def strata(node: Node, paths: list[str]) -> dict[str, Node]:
    """The parts of a space that get a budget of their own, each as the tree that is left of the space, by name.

    paths: dotted paths whose values tell strata apart. A name is their values joined by slashes; a path that an option
    does not have is left out. Options with equal values stay a choice. Without any value the one name is "all".
    Raises SpecError where a path leads to something that is neither a value nor a choice of values.
    """
    parts: dict[tuple[str, ...], Node] = {(): node}
    for path in paths:
        finer: dict[tuple[str, ...], Node] = {}
        for names, tree in parts.items():
            for value, restricted in _partition(tree, tuple(path.split(".")), path).items():
                finer[names if value is None else (*names, value)] = restricted
        parts = finer
    named = {"/".join(names) or "all": tree for names, tree in parts.items()}
    if len(named) < len(parts):
        raise SpecError([Problem("search.stratify", ", ".join(paths), "two strata of one name", "different names")])
    return named


def check_guards(spec: SweepSpec) -> None:
    """Raise SpecError where a mixture has `min_task_delta` but no stratum is the baseline that it is judged against."""
    names = list(strata(training_tree(spec), spec.search.stratify))
    for index, entry in enumerate(spec.tasks):
        if isinstance(entry, MixtureEntry) and entry.min_task_delta is not None and BASELINE not in names:
            found = f"min_task_delta {entry.min_task_delta} with the strata {', '.join(names)}"
            expected = f"a stratum named {BASELINE}, which the others are compared with"
            hint = "Give search.space.loss the option {kind: xent}, or leave min_task_delta out"
            raise SpecError([Problem("sweep", f"tasks.{index}.min_task_delta", found, expected, hint)])


def draw(node: Node, chooser: Chooser) -> tuple[Any, dict[str, Scalar]]:
    """One value of a space, and what was drawn for it by dotted path.

    A choice of maps is shown by its `kind`; a choice with one option left is noted but costs no draw. An interval
    among the options has the path of the choice plus `uniform`, `loguniform` or `randint`.
    """
    parameters: dict[str, Scalar] = {}
    return _draw(node, chooser, Place("", ""), parameters), parameters


def build_trial(
    spec: SweepSpec, task: TaskSpec | MixtureSpec, stratum: str, number: int, value: Any, parameters: dict[str, Scalar]
) -> TrialSpec:
    """The search trial with this number; `value` is what `draw` gave for the stratum's part of `training_tree`."""
    training = TrainingSpec.model_validate(value)
    return TrialSpec(
        sweep=spec.name,
        task=task,
        stratum=stratum,
        number=number,
        role="trial",
        seed=trial_seed(spec.search.sampler.seed, task.task, number),
        parameters=parameters,
        small=spec.small,
        large=spec.large,
        distribution=spec.distribution,
        training=training,
        data=spec.data,
        objective=spec.search.metric,
        deferral=spec.cascade.deferral[0],
        evaluate_at=_rungs(spec, training.steps),
        evaluation_batch_size=spec.resources.evaluation_batch_size,
    )


def build_confirm(winner: TrialSpec, index: int) -> TrialSpec:
    """Confirm run number `index` of a stratum's winner: the same settings with a new seed."""
    return winner.model_copy(update={"role": "confirm", "seed": confirm_seed(index)})


def rungs(spec: SweepSpec) -> list[int]:
    """The steps after which a trial is evaluated: grace_period * reduction_factor^i below `steps`, and `steps`."""
    return _rungs(spec, spec.training.steps)


def trial_seed(sweep_seed: int, task: str, number: int) -> int:
    """Seed of a search trial. The same for all strata, so that their start weights and data order are paired."""
    return NUM_CONFIRM_SEEDS + int(digest([sweep_seed, task, number]), 16) % (2**31 - NUM_CONFIRM_SEEDS)


def confirm_seed(index: int) -> int:
    """Seed of a confirm run, from 1 up. The same for all tasks and strata, and never that of a search trial."""
    return 1 + index


def _rungs(spec: SweepSpec, steps: int) -> list[int]:
    result: list[int] = []
    if isinstance(spec.search.scheduler, AshaScheduler):
        rung = spec.search.scheduler.grace_period
        while rung < steps:
            result.append(rung)
            rung *= spec.search.scheduler.reduction_factor
    return [*result, steps]


def _partition(node: Node, keys: tuple[str, ...], path: str) -> dict[str | None, Node]:
    """The tree restricted to each value at `keys`; None where the path does not exist."""
    match node:
        case Constant(value) if not keys and not isinstance(value, dict | list):
            return {"null" if value is None else str(value).lower() if isinstance(value, bool) else str(value): node}
        case Choice(options, labels):
            groups: dict[str | None, list[tuple[Node, int]]] = {}
            for option, label in zip(options, labels, strict=True):
                for value, restricted in _partition(option, keys, path).items():
                    groups.setdefault(value, []).append((restricted, label))
            return {
                value: Choice(tuple(option for option, _ in group), tuple(label for _, label in group))
                for value, group in groups.items()
            }
        case Mapping(children) if keys:
            if keys[0] not in children:
                return {None: node}
            inner = _partition(children[keys[0]], keys[1:], path)
            return {value: Mapping({**children, keys[0]: child}) for value, child in inner.items()}
        case Constant() if keys:
            return {None: node}
    found = "an interval" if isinstance(node, Interval) else "a map or a list"
    raise SpecError([Problem("search.stratify", path, found, "a path to a value, or to a choice of values")])


def _draw(node: Node, chooser: Chooser, place: Place, parameters: dict[str, Scalar]) -> Any:
    match node:
        case Constant(value):
            return value
        case Interval():
            parameters[place.path] = number = chooser.number(place, node)
            return number
        case Mapping(children):
            return {
                key: _draw(child, chooser, Place(_join(place.path, key), _join(place.name, key)), parameters)
                for key, child in children.items()
            }
        case Choice(options, labels):
            shown = _shown(options)
            index = chooser.categorical(place, shown) if len(options) > 1 else 0
            parameters[place.path] = shown[index]
            option = options[index]
            path = f"{place.path}.{shown[index]}" if isinstance(option, Interval | Choice) else place.path
            return _draw(option, chooser, Place(path, f"{place.name}[{labels[index]}]"), parameters)


def _join(path: str, key: str) -> str:
    return f"{path}.{key}" if path else key


def _shown(options: tuple[Node, ...]) -> list[Scalar]:
    """How a person sees each option; equal ones are told apart by their place among the options."""
    texts: list[Scalar] = []
    for option in options:
        match option:
            case Constant(str() | float() | int() | None as scalar):  # a bool is an int
                texts.append(scalar)
            case Constant(value):
                texts.append(json.dumps(value, ensure_ascii=False))
            case Mapping({"kind": Constant(str() as kind)}):
                texts.append(kind)
            case Interval(_, _, log, integer):
                texts.append("randint" if integer else "loguniform" if log else "uniform")
            case Choice():
                texts.append("choice")
            case _:
                texts.append("map")
    counts = Counter(map(repr, texts))
    return [f"{text}#{index}" if counts[repr(text)] > 1 else text for index, text in enumerate(texts)]
