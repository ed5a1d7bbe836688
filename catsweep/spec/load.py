"""Read a sweep file with its tasks. Everything that is wrong is reported at once."""

from __future__ import annotations

import fnmatch
import importlib.resources
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from catsweep.errors import Problem, SpecError
from catsweep.spec.dimensions import dimension_classes, examples, parse_space, raw_dimensions
from catsweep.spec.search import DEFAULT_STRATIFY
from catsweep.spec.sweep import SweepSpec
from catsweep.spec.task import FilesSource, TaskSpec
from catsweep.spec.training import TrainingSpec
from catsweep.spec.yaml import (
    Document,
    KeyPath,
    apply_override,
    did_you_mean,
    field_paths,
    read_yaml,
    validation_problems,
)

FIXED_FIELDS = ("steps", "max_prompt_tokens", "max_target_tokens")
"""Fields of `training` that no space may draw: rungs and budget follow from the first, a task's data from the others."""


@dataclass(frozen=True)
class Sweep:
    """A sweep with its tasks resolved."""

    spec: SweepSpec
    tasks: tuple[TaskSpec, ...]
    document: Document


def load_sweep(path: Path, overrides: tuple[str, ...] | list[str] = ()) -> Sweep:
    """Read and check a sweep file.

    overrides: `dotted.path=value` of the command line. Raises SpecError with every problem of the sweep file and of
    the task files that it lists.
    """
    document = read_yaml(path)
    if not isinstance(document.data, dict):
        raise SpecError([document.problem((), found=type(document.data).__name__, expected="a map of settings")])
    for override in overrides:
        apply_override(document, override)
    problems: list[Problem] = []
    spec: SweepSpec | None = None
    try:
        spec = SweepSpec.model_validate(document.data)
    except ValidationError as error:
        problems += validation_problems(error, document, SweepSpec)
    problems += space_problems(document)
    problems += stratify_problems(document)
    names = document.data.get("tasks")
    tasks: tuple[TaskSpec, ...] = ()
    if isinstance(names, list) and all(isinstance(name, str) for name in names):
        tasks, task_problems = resolve_tasks(names, document)
        problems += task_problems
    if problems or spec is None:
        raise SpecError(problems)
    return Sweep(spec, tasks, document)


def space_problems(document: Document) -> list[Problem]:
    """What is wrong with `search.space`: bad dimensions, and options that give no valid `training`."""
    search = document.data.get("search")
    space = search.get("space") if isinstance(search, dict) else None
    if not isinstance(space, dict):
        return []
    prefix: KeyPath = ("search", "space")
    problems: list[Problem] = []
    for keys, value in raw_dimensions(space):
        classes, kind = dimension_classes(), value["space"]
        if str(kind) not in classes:
            expected, hint = f"space: one of {', '.join(classes)}", did_you_mean(str(kind), classes)
            place = (*prefix, *keys, "space")
            problems.append(document.problem(place, found=f"space {kind!r}", expected=expected, hint=hint))
            continue
        try:
            classes[str(kind)].model_validate(value)
        except ValidationError as error:
            problems += validation_problems(error, document, classes[str(kind)], prefix=(*prefix, *keys))
    for key in space:
        if key in FIXED_FIELDS:
            expected = f"a field other than {', '.join(FIXED_FIELDS)}: all trials of a task share them"
            problems.append(document.problem((*prefix, key), found=f"the field {key!r}", expected=expected))
    training = document.data.get("training")
    if problems or not isinstance(training, dict):
        return problems
    seen = set()
    for value, origin in examples(parse_space(space)):
        try:
            TrainingSpec.model_validate({**training, **value})
        except ValidationError as error:
            shifted = {keys: (*prefix, *source) for keys, source in origin.items()}
            shifted |= {(key,): ("training", key) for key in training if key not in value}
            for problem in validation_problems(error, document, TrainingSpec, origin=shifted):
                # What `training` itself lacks or has wrong is reported there.
                own = problem.path.split(".")[:3] in [[*prefix], *([*prefix, str(key)] for key in value)]
                if own and problem not in seen:
                    seen.add(problem)
                    problems.append(problem)
    return problems


def stratify_problems(document: Document) -> list[Problem]:
    """Paths of `search.stratify` that no `training` could have: a typo there would leave strata together."""
    search = document.data.get("search")
    paths = search.get("stratify") if isinstance(search, dict) else None
    problems = []
    for index, path in enumerate(paths if isinstance(paths, list) else []):
        known = sorted(field_paths(TrainingSpec))
        if isinstance(path, str) and path not in known:
            expected = f"a dotted path of `training`, such as {', '.join(DEFAULT_STRATIFY)}"
            hint = did_you_mean(path, known)
            problems.append(
                document.problem(("search", "stratify", index), found=repr(path), expected=expected, hint=hint)
            )
    return problems


def search_spaces_folder() -> Path:
    """The folder of YAML files that catsweep ships: inside the wheel, or beside the package in a checkout."""
    package = Path(str(importlib.resources.files("catsweep")))
    inside = package / "search_spaces"
    return inside if inside.is_dir() else package.parent / "search_spaces"


def task_files(folder: Path | None = None) -> dict[str, Path]:
    """All shipped task files (and those beside a sweep file, which win) by task name, taken from their paths."""
    found: dict[str, Path] = {}
    for root in (search_spaces_folder() / "tasks", folder / "tasks" if folder else None):
        if root is not None and root.is_dir():
            found |= {str(file.relative_to(root).with_suffix("")): file for file in sorted(root.rglob("*.yaml"))}
    return found


def resolve_tasks(names: list[str], document: Document) -> tuple[tuple[TaskSpec, ...], list[Problem]]:
    """The tasks that a sweep lists, in its order and each once."""
    folder = document.path.parent
    files = task_files(folder)
    chosen: dict[Path, None] = {}
    problems: list[Problem] = []
    tags: dict[str, list[Path]] | None = None
    for index, name in enumerate(names):
        if name.endswith((".yaml", ".yml")):
            if (folder / name).is_file():
                chosen[folder / name] = None
                continue
            there = [str(file.relative_to(folder)) for file in sorted(folder.rglob("*.yaml"))]
            expected = f"a task file; paths are relative to {folder}"
            place, hint = ("tasks", index), did_you_mean(name, there)
            problems.append(document.problem(place, found=f"{name!r}, no such file", expected=expected, hint=hint))
            continue
        matches = [files[task] for task in fnmatch.filter(files, name)]
        if not matches:
            tags = tags if tags is not None else _by_tag(files)
            matches = tags.get(name, [])
        if not matches:
            hint = did_you_mean(name, [*files, *tags]) if tags is not None else ""
            expected = (
                f"a task, a pattern, a tag, or a .yaml file; there are {len(files)} tasks (`catsweep ls --tasks`)"
            )
            problems.append(document.problem(("tasks", index), found=repr(name), expected=expected, hint=hint))
        chosen |= dict.fromkeys(matches)
    tasks: dict[str, TaskSpec] = {}
    origin: dict[str, Path] = {}
    for file in chosen:
        try:
            task = load_task(file)
        except SpecError as error:
            problems += error.problems
            continue
        if task.task in tasks:
            found = f"the task name {task.task!r} again (first in {origin[task.task]})"
            problems.append(Problem(f"{file}:1", "task", found, "every task name once"))
        tasks[task.task] = task
        origin[task.task] = file
    return tuple(tasks.values()), problems


def load_task(path: Path) -> TaskSpec:
    """Read one task file; file names in it are relative to its folder. Raises SpecError."""
    document = read_yaml(path)
    if not isinstance(document.data, dict):
        raise SpecError([document.problem((), found=type(document.data).__name__, expected="a map of settings")])
    try:
        task = TaskSpec.model_validate(document.data)
    except ValidationError as error:
        raise SpecError(validation_problems(error, document, TaskSpec)) from None
    if isinstance(task.source, FilesSource):
        task = task.model_copy(update={"source": _absolute(task.source, path.parent.resolve())})
    return task


def _absolute(source: FilesSource, folder: Path) -> FilesSource:
    def resolve(value: str | dict[str, str] | None) -> str | dict[str, str] | None:
        if isinstance(value, dict):
            return {key: str(folder / name) for key, name in value.items()}
        return None if value is None else str(folder / value)

    update = {name: resolve(getattr(source, name)) for name in ("train", "validation", "test")}
    return source.model_copy(update=update)


def _by_tag(files: dict[str, Path]) -> dict[str, list[Path]]:
    tags: dict[str, list[Path]] = {}
    for file in files.values():
        data = read_yaml(file).data
        if isinstance(data, dict):
            for tag in [*(data.get("tag") or []), data.get("group")]:
                tags.setdefault(str(tag), []).append(file)
    return tags
