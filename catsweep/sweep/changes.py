"""Whether a sweep may go on in the folder of an earlier one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from catsweep.errors import SweepChangedError
from catsweep.records import read_sweep
from catsweep.space import strata, training_tree
from catsweep.spec.base import Json
from catsweep.spec.cascade import uses_cost
from catsweep.spec.dimensions import Choice, Constant, Interval, Mapping, Node
from catsweep.spec.load import Sweep
from catsweep.spec.mixture import MixtureSpec
from catsweep.spec.model import LargePretrained
from catsweep.spec.sweep import SweepSpec
from catsweep.spec.task import TaskSpec

_NOTHING = "nothing"


def check_unchanged(sweep: Sweep, folder: Path) -> None:
    """Raises SweepChangedError where the trials on storage could not be compared with those of this sweep.

    Budget, confirm seeds, resources and cascade may change (but the first deferral rule may not, nor the first cost model
    where an objective names a cost: objectives use them); tasks and strata may be added.
    """
    stored = read_sweep(folder)
    if stored is None:
        return
    before = _fixed(*stored)
    after = _fixed(sweep.spec, sweep.tasks)
    for part in ("tasks", "search.space, stratum"):  # what was added is no change
        after[part] = {name: value for name, value in after[part].items() if name in before[part]}
    difference = _first_difference(before, after, "")
    if difference is not None:
        path, old, new = difference
        raise SweepChangedError(
            f"{path} is {new!r}, but the trials in {folder} were made with {old!r}; the two cannot be compared. "
            "Change it back, or give the sweep a new name (name=NAME behind the file)"
        )


def _fixed(spec: SweepSpec, tasks: tuple[TaskSpec | MixtureSpec, ...]) -> Json:
    """What must stay as it is."""
    data = spec.to_json()
    search = data["search"]
    for name in ("num_samples", "confirm_seeds", "stratify", "space"):
        del search[name]
    parts = strata(training_tree(spec), spec.search.stratify)
    del data["data"]["verify"]
    if isinstance(spec.large, LargePretrained) and spec.large.endpoint is not None:
        data["large"]["endpoint"] = spec.large.endpoint.identity()
    return {
        **{name: data[name] for name in ("small", "large", "distribution", "training", "data", "search")},
        **({"chain": data["chain"]} if "chain" in data else {}),
        "cascade.deferral.0": spec.cascade.deferral[0],
        **({"cascade.costs.0": data["cascade"]["costs"][0]} if uses_cost(search["metric"]) else {}),
        "tasks": {task.task: _unit(task) for task in tasks},
        "search.space, stratum": {name: _plain(tree) for name, tree in parts.items()},
    }


def _unit(unit: TaskSpec | MixtureSpec) -> Json:
    if not isinstance(unit, MixtureSpec):
        return _task(unit)
    return unit.to_json() | {"members": {task.task: _task(task) for task in unit.members}}


def _task(task: TaskSpec) -> Json:
    """A task without its notes, and without the places of its rows, whose content is checked elsewhere
    (prepare.check_sources)."""
    return task.to_json() | {"source": task.data_key()["source"], "metadata": {"version": task.metadata.version}}


def _plain(node: Node) -> Any:
    """A tree as plain data, without the labels of options, which move when options are added before them."""
    match node:
        case Constant(value):
            return value
        case Interval(lower, upper, log, integer):
            return {"lower": lower, "upper": upper, "log": log, "integer": integer}
        case Choice((option,), _):
            return _plain(option)
        case Choice(options, _):
            return {"options": [_plain(option) for option in options]}
        case Mapping(children):
            return {key: _plain(child) for key, child in children.items()}


def _first_difference(old: Any, new: Any, path: str) -> tuple[str, Any, Any] | None:
    if not (isinstance(old, dict) and isinstance(new, dict)):
        return None if old == new else (path, old, new)
    for key in [*old, *(key for key in new if key not in old)]:
        inner = f"{path}.{key}" if path else key
        if found := _first_difference(old.get(key, _NOTHING), new.get(key, _NOTHING), inner):
            return found
    return None
