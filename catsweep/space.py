"""From a search space to trials: the strata that share a budget, drawn settings, rungs and seeds.

Pure functions of specs. What draws a number stands behind `Chooser`, so that Optuna is one of several ways to draw.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any, Protocol

from catsweep.errors import Problem, SpecError
from catsweep.spec.base import digest
from catsweep.spec.cascade import objective_cost
from catsweep.spec.dimensions import Choice, Constant, Interval, Mapping, Node, examples, parse_space
from catsweep.spec.federated import FederatedSpec
from catsweep.spec.mixture import MixtureEntry, MixtureSpec
from catsweep.spec.search import BASELINE, GridSampler, ObjectiveSpec, evaluation_steps, has_gap
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


def mean_clients(tree: Node) -> float:
    """How many models train side by side in a trial of a stratum, each for all steps: of several options the mean."""
    options = [value["federated"] for value, _ in examples(tree)]
    return fmean(1 if option is None else option["clients"] for option in options)


def federated_options(spec: SweepSpec) -> list[FederatedSpec]:
    """The federated settings that the trials of a sweep may have, each once; of an interval both ends."""
    tree = parse_space({"federated": spec.training.to_json()["federated"], **spec.search.space})
    found = [value["federated"] for value, _ in examples(tree) if value["federated"] is not None]
    return list({digest(value): FederatedSpec.model_validate(value) for value in found}.values())


def check_search(spec: SweepSpec) -> None:
    """Raise SpecError where the strata do not fit what is searched: a mixture with `min_task_delta` but without the baseline
    that it is judged against, an objective with a gap that no baseline starts, or a grid with fewer points than trials."""
    parts = strata(training_tree(spec), spec.search.stratify)
    _check_guards(spec, list(parts))
    _check_gap(spec, list(parts))
    if isinstance(spec.search.sampler, GridSampler):
        for name, tree in parts.items():
            size = grid_size(tree)
            if size < spec.search.num_samples:
                found = f"num_samples {spec.search.num_samples}, but the grid of stratum {name} has {size} points"
                hint = "Lower it, give the choices of every stratum as many options, or use the sampler random or tpe"
                raise SpecError([Problem("sweep", "search.num_samples", found, f"at most {size}", hint)])


def grid_size(node: Node) -> int:
    """How many combinations the choices of a space have. Raises SpecError for an interval, which has no grid."""
    match node:
        case Constant():
            return 1
        case Mapping(children):
            return math.prod(grid_size(child) for child in children.values())
        case Choice(options, _):
            return sum(grid_size(option) for option in options)
        case Interval():
            found = f"an interval from {node.lower:g} to {node.upper:g}"
            hint = "List the values as {space: choice, options: [...]}, or use the sampler random or tpe"
            raise SpecError([Problem("sweep", "search.space", found, "choices only, as the sampler is a grid", hint)])


def grid_point(node: Node, number: int) -> tuple[Any, dict[str, Scalar]]:
    """Combination `number` of a space, as `draw` returns it. The last choice of the file changes first."""
    wheels = _Wheels()
    for _ in range(number):
        draw(node, wheels)
        wheels.turn()
    return draw(node, wheels)


class _Wheels:
    """Makes the choices of one combination after the other, like the wheels of an odometer. A choice that an option
    leads to has a wheel only while that option is on."""

    def __init__(self) -> None:
        self.wheels: list[tuple[int, int]] = []  # index and number of options of each choice
        self.position = 0

    def categorical(self, place: Place, shown: list[Scalar]) -> int:
        if self.position == len(self.wheels):
            self.wheels.append((0, len(shown)))
        index, _ = self.wheels[self.position]
        self.position += 1
        return index

    def number(self, place: Place, interval: Interval) -> float:
        raise AssertionError(f"check_search lets no interval into a grid: {place}")

    def turn(self) -> None:
        """Go on to the next combination, of a space with enough of them."""
        self.position = 0
        while self.wheels[-1][0] + 1 == self.wheels[-1][1]:
            self.wheels.pop()
        index, size = self.wheels.pop()
        self.wheels.append((index + 1, size))


def _check_guards(spec: SweepSpec, names: list[str]) -> None:
    for index, entry in enumerate(spec.tasks):
        if isinstance(entry, MixtureEntry) and entry.min_task_delta is not None and BASELINE not in names:
            found = f"min_task_delta {entry.min_task_delta} with the strata {', '.join(names)}"
            expected = f"a stratum named {BASELINE}, which the others are compared with"
            hint = "Give search.space.loss the option {kind: xent}, or leave min_task_delta out"
            raise SpecError([Problem("sweep", f"tasks.{index}.min_task_delta", found, expected, hint)])


def _check_gap(spec: SweepSpec, names: list[str]) -> None:
    """Raise SpecError where an objective has a gap, but there is no baseline to measure it from, or a mixture, of which
    every member would have a quality of its own to reach."""
    if not any(map(has_gap, spec.search.objectives)):
        return
    if BASELINE not in names:
        found, expected = f"gap with the strata {', '.join(names)}", f"a stratum named {BASELINE}, which it starts from"
        hint = "Give search.space.loss the option {kind: xent}, or take `quality` in place of `gap`"
        raise SpecError([Problem("sweep", "search.metric", found, expected, hint)])
    if any(isinstance(entry, MixtureEntry) for entry in spec.tasks):
        found, expected = "gap with a mixture", "tasks that stand alone"
        raise SpecError([Problem("sweep", "search.metric", found, expected, "Take audc or quality_at_cost")])


def draw(node: Node, chooser: Chooser) -> tuple[Any, dict[str, Scalar]]:
    """One value of a space, and what was drawn for it by dotted path.

    A choice of maps is shown by its `kind`; a choice with one option left is noted but costs no draw. An interval
    among the options has the path of the choice plus `uniform`, `loguniform` or `randint`.
    """
    parameters: dict[str, Scalar] = {}
    return _draw(node, chooser, Place("", ""), parameters), parameters


def only_drawn(node: Node) -> Node:
    """The tree without what is fixed, as deep as no choice is made: the same draws, and a value without the rest."""
    if not isinstance(node, Mapping):
        return node
    searched = {key: child for key, child in node.children.items() if not isinstance(child, Constant)}
    return Mapping({key: only_drawn(child) for key, child in searched.items()})


def build_trial(
    spec: SweepSpec,
    task: TaskSpec | MixtureSpec,
    stratum: str,
    number: int,
    value: Any,
    parameters: dict[str, Scalar],
    objectives: Sequence[ObjectiveSpec] = (),
) -> TrialSpec:
    """The search trial with this number; `value` is what `draw` gave for the stratum's part of `training_tree`.

    objectives: in place of the sweep's, where these depend on the task (a gap).
    """
    training = TrainingSpec.model_validate(value)
    first, *second = objectives or spec.search.objectives
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
        objective=first,
        second_objective=second[0] if second else None,
        deferral=spec.cascade.deferral[0],
        cost=objective_cost(spec.cascade),
        evaluate_at=evaluation_steps(spec.search.scheduler, training.steps),
        evaluation_batch_size=spec.resources.evaluation_batch_size,
        parallel=spec.resources.parallel,
    )


def build_confirm(winner: TrialSpec, index: int) -> TrialSpec:
    """Confirm run number `index` of a stratum's winner: the same settings with a new seed."""
    return winner.model_copy(update={"role": "confirm", "seed": confirm_seed(index)})


def rungs(spec: SweepSpec) -> list[int]:
    """The steps after which a trial is evaluated: grace_period * reduction_factor^i below `steps`, and `steps`."""
    return evaluation_steps(spec.search.scheduler, spec.training.steps)


def trial_seed(sweep_seed: int, task: str, number: int) -> int:
    """Seed of a search trial. The same for all strata, so that their start weights and data order are paired."""
    return NUM_CONFIRM_SEEDS + int(digest([sweep_seed, task, number]), 16) % (2**31 - NUM_CONFIRM_SEEDS)


def confirm_seed(index: int) -> int:
    """Seed of a confirm run, from 1 up. The same for all tasks and strata, and never that of a search trial."""
    return 1 + index


def _partition(node: Node, keys: tuple[str, ...], path: str) -> dict[str | None, Node]:
    """The tree restricted to each value at `keys`; None where the path does not exist."""
    match node:
        case Constant(value) if not keys and not isinstance(value, dict | list):
            return {"null" if value is None else str(value).lower() if isinstance(value, bool) else str(value): node}
        case Constant(list() as values) if not keys and all(isinstance(value, str) for value in values):
            return {"+".join(values): node}
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
