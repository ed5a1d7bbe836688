"""Read a sweep file with its tasks. Everything that is wrong is reported at once."""

from __future__ import annotations

import fnmatch
import functools
import importlib.resources
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from catsweep.errors import Problem, SpecError
from catsweep.spec.agreement import agreement_problems, federated_problems
from catsweep.spec.base import Spec
from catsweep.spec.checkpoints import resolve_checkpoints
from catsweep.spec.dimensions import dimension_classes, examples, parse_space, raw_dimensions
from catsweep.spec.include import read_with_includes
from catsweep.spec.mixture import MixtureEntry, MixtureSpec
from catsweep.spec.paths import is_file, resolved, yaml_files
from catsweep.spec.search import DEFAULT_STRATIFY
from catsweep.spec.source import FilesSource, SplitsSource
from catsweep.spec.sweep import SweepSpec
from catsweep.spec.task import FLAT_KEYS, TaskSpec
from catsweep.spec.templates import task_origin, template_problems
from catsweep.spec.training import TrainingSpec
from catsweep.spec.yaml import (
    MAX_PROBLEMS,
    Document,
    KeyPath,
    apply_override,
    did_you_mean,
    field_paths,
    read_yaml,
    validation_problems,
)

DATA_ROOT_VARIABLE = "CATSWEEP_DATA"
MAX_ENTRIES = 5_000
"""Entries of a sweep's list of tasks, those of its mixtures included."""
MAX_NAME = 300
"""Characters of an entry that can be a task's name or a pattern of names."""
TASK_KEYS = ("output_type", "doc_to_text", "doc_to_target")
"""Keys that a task has and a sweep does not."""
FIXED_FIELDS = ("steps", "max_prompt_tokens", "max_target_tokens")
"""Fields of `training` that no space may draw: rungs and budget follow from the first, a task's data from the others."""


@dataclass(frozen=True)
class Sweep:
    """A sweep with its tasks and mixtures resolved."""

    spec: SweepSpec
    tasks: tuple[TaskSpec | MixtureSpec, ...]
    document: Document
    files: dict[str, Path] = field(default_factory=dict)
    """The file of each task, by name."""


def load_sweep(path: Path, overrides: tuple[str, ...] | list[str] = ()) -> Sweep:
    """Read and check a sweep file.

    overrides: `dotted.path=value` of the command line. Raises SpecError with every problem of the sweep file and of
    the task files that it lists.
    """
    sweep, problems = check_sweep(path, overrides)
    if problems or sweep is None:
        raise SpecError(problems)
    return sweep


def check_sweep(path: Path, overrides: tuple[str, ...] | list[str] = ()) -> tuple[Sweep | None, list[Problem]]:
    """The sweep with the tasks that could be read, or None where its own settings are wrong; and every problem. Raises
    SpecError where the file is no map."""
    document = read_yaml(path)
    if not isinstance(document.data, dict):
        raise SpecError([document.problem((), found=type(document.data).__name__, expected="a map of settings")])
    if "tasks" not in document.data and (key := next((key for key in TASK_KEYS if key in document.data), None)):
        expected = "a sweep, which names this file under `tasks:`; `catsweep init NAME` writes one"
        raise SpecError([document.problem((key,), found=f"{key!r}: this is the file of a task", expected=expected)])
    for override in overrides:
        apply_override(document, override)
    problems = resolve_checkpoints(document)
    spec: SweepSpec | None = None
    problems += _set_data_root(document)
    try:
        spec = SweepSpec.model_validate(document.data)
    except ValidationError as error:
        problems += validation_problems(error, document, SweepSpec)
    problems += space_problems(document)
    problems += stratify_problems(document)
    problems += agreement_problems(document)
    problems += federated_problems(document, spec) if spec and not problems else []
    shelf = Shelf(document)
    tasks: tuple[TaskSpec | MixtureSpec, ...] = ()
    if isinstance(document.data.get("tasks"), list):
        is_sound = spec is not None and not problems
        tasks, task_problems = resolve_units(document.data["tasks"], shelf)
        problems += task_problems
        if is_sound and spec is not None:
            return Sweep(spec, tasks, document, shelf.origin), problems
    return None, problems


def column_problems(sweep: Sweep, task: TaskSpec, columns: set[str]) -> list[Problem]:
    """Every place of a task's file that names a column which its rows do not have. columns: those of a row."""
    file = sweep.files.get(task.task)
    return [] if file is None else template_problems(task, read_with_includes(file), columns)


def _set_data_root(document: Document) -> list[Problem]:
    """Make `data_root` absolute: relative to the file in which it stands, else CATSWEEP_DATA. Workers, which may have
    another environment, get it with the spec. Returns what is wrong with it."""
    given = document.data.get("data_root", os.environ.get(DATA_ROOT_VARIABLE))
    if not isinstance(given, str) or not given:
        return []
    folder = resolved(Path(given), document.path.parent if "data_root" in document.data else Path())
    if folder is None:
        return [document.problem(("data_root",), found=repr(given[:80]), expected="a folder's path")]
    document.data["data_root"] = str(folder)
    return []


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
    num_wrong = 0
    for value, origin in examples(parse_space(space)):
        if max(num_wrong, len(problems)) >= MAX_PROBLEMS:
            break
        try:
            TrainingSpec.model_validate({**training, **value})
        except ValidationError as error:
            num_wrong += 1
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
    problems: list[Problem] = []
    known = sorted(field_paths(TrainingSpec))
    for index, path in enumerate(paths if isinstance(paths, list) else []):
        if isinstance(path, str) and path not in known:
            expected = f"a dotted path of `training`, such as {', '.join(DEFAULT_STRATIFY)}"
            hint = did_you_mean(path, known) if len(problems) < MAX_PROBLEMS else ""
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
    """All shipped task files (and those beside a sweep file, which win) by task name, taken from their paths.

    Files whose names begin with an underscore are there to be included.
    """
    found: dict[str, Path] = {}
    for root in (search_spaces_folder() / "tasks", folder / "tasks" if folder else None):
        if root is not None and root.is_dir():
            files = [file for file in sorted(root.rglob("*.yaml")) if not file.name.startswith("_")]
            found |= {str(file.relative_to(root).with_suffix("")): file for file in files}
    return found


def resolve_units(entries: list[Any], shelf: Shelf) -> tuple[tuple[TaskSpec | MixtureSpec, ...], list[Problem]]:
    """The tasks and mixtures that a sweep lists, in its order and each once. Entries that are no valid ones are left
    out: the sweep's own validation reports them."""
    document = shelf.document
    inside = [entry.get("tasks") for entry in entries if isinstance(entry, dict)]
    num_entries = len(entries) + sum(len(names) for names in inside if isinstance(names, list))
    if num_entries > MAX_ENTRIES:
        expected = f"at most {MAX_ENTRIES:,}: a pattern, a tag or a group names many tasks at once"
        return (), [document.problem(("tasks",), found=f"{num_entries:,} entries", expected=expected)]
    units: dict[str, TaskSpec | MixtureSpec] = {}
    problems: list[Problem] = []
    for index, entry in enumerate(entries):
        keys: KeyPath = ("tasks", index)
        if not isinstance(entry, dict) or "mixture" not in entry:
            for task in shelf.tasks([entry], [keys]):
                held = units.setdefault(task.task, task)
                if held is not task:  # a shelf gives the same task once
                    found = f"the name {task.task!r} again"
                    problems.append(
                        document.problem(keys, found=found, expected="every name of a task or mixture once")
                    )
            continue
        try:
            mixture = MixtureEntry.model_validate(entry)
        except ValidationError:
            continue
        inner = [(*keys, "tasks", number) for number in range(len(mixture.tasks))]
        before = len(shelf.problems)
        members = shelf.tasks(entry["tasks"], inner)
        if len(shelf.problems) > before:
            continue
        if len(members) < 2:
            found = f"{len(members)} task{'' if len(members) == 1 else 's'}"
            problems.append(document.problem((*keys, "tasks"), found=found, expected="at least two tasks in a mixture"))
            continue
        if mixture.mixture in units:
            found = f"the name {mixture.mixture!r} again"
            problems.append(
                document.problem((*keys, "mixture"), found=found, expected="every name of a task or mixture once")
            )
            continue
        units[mixture.mixture] = MixtureSpec(
            task=mixture.mixture,
            members=tuple(members),
            sampling=mixture.sampling,
            min_task_delta=mixture.min_task_delta,
        )
    problems = shelf.problems + problems
    for name, unit in units.items():
        clash = next((other for other in units if isinstance(unit, MixtureSpec) and other.startswith(f"{name}/")), None)
        if clash is not None:
            found = f"mixture {name!r} beside a task {clash!r}"
            expected = "a mixture whose name begins no task's name: their folders would mix"
            problems.append(document.problem(("tasks",), found=found, expected=expected))
    return tuple(units.values()), problems


class Shelf:
    """The task files that a sweep's entries pick from, each read once."""

    def __init__(self, document: Document) -> None:
        self.document = document
        self.folder = document.path.parent
        self.files = task_files(self.folder) | _names_given(self.folder)
        self.problems: list[Problem] = []
        self._loaded: dict[Path, TaskSpec | None] = {}
        self._tags: dict[str, list[Path]] | None = None
        self.origin: dict[str, Path] = {}
        """The file of each task that was loaded, by name."""

    def tasks(self, entries: list[Any], keys: list[KeyPath]) -> list[TaskSpec]:
        """The tasks of some entries, each once, in their order. What is wrong with them goes to `problems`."""
        chosen: dict[Path, None] = {}
        for entry, key in zip(entries, keys, strict=True):
            chosen |= dict.fromkeys(self._matches(entry, key))
        found = [self._load(file) for file in chosen]
        return [task for task in found if task is not None]

    def _matches(self, entry: Any, keys: KeyPath) -> list[Path]:
        if isinstance(entry, dict) and isinstance(entry.get("group"), str):
            matches = self.tags.get(f"group {entry['group']}", [])
            if not matches:
                groups = [name.removeprefix("group ") for name in self.tags if name.startswith("group ")]
                expected = f"a group of tasks: {', '.join(sorted(groups))}"
                self._problem((*keys, "group"), entry["group"], expected, groups)
            return matches
        if not isinstance(entry, str):
            return []
        if entry.endswith((".yaml", ".yml")):
            if is_file(self.folder / entry):
                return [self.folder / entry]
            expected = f"a task file; paths are relative to {self.folder.resolve()}"
            self._problem(keys, entry, expected, self._there, ", no such file")
            return []
        if len(entry) <= MAX_NAME and (found := fnmatch.filter(self.files, entry)):
            return [self.files[task] for task in found]
        if entry not in self.tags:
            names = [name for name in self.tags if not name.startswith("group ")]
            number = f"there are {len(set(self.files.values()))} tasks (`catsweep ls --tasks`)"
            expected = f"a task, a pattern, a tag, or a .yaml file; {number}"
            self._problem(keys, entry, expected, [*self.files, *names])
        return self.tags.get(entry, [])

    @functools.cached_property
    def _there(self) -> list[str]:
        """The YAML files that a missing one could be."""
        return yaml_files(self.folder)

    @property
    def tags(self) -> dict[str, list[Path]]:
        """Files by tag and by group, and by group alone as `group NAME`."""
        if self._tags is None:
            self._tags = _by_tag(self.files)
        return self._tags

    def _load(self, file: Path) -> TaskSpec | None:
        if file not in self._loaded:
            self._loaded[file] = None
            try:
                task = load_task(file)
            except SpecError as error:
                self.problems += error.problems
                return None
            if task.task in self.origin:
                found = f"the task name {task.task!r} again (first in {self.origin[task.task]})"
                self.problems.append(Problem(f"{file}:1", "task", found, "every task name once"))
                return None
            self._loaded[file] = task
            self.origin[task.task] = file
        return self._loaded[file]

    def _problem(self, keys: KeyPath, name: str, expected: str, options: list[str], what: str = "") -> None:
        """A name that is none of the options. Of very many such names only the first get a hint."""
        hint = did_you_mean(name, options) if len(self.problems) < MAX_PROBLEMS else ""
        found = f"{name!r}{what}" if len(name) <= MAX_NAME else f"{name[:80]!r}... of {len(name):,} characters{what}"
        self.problems.append(self.document.problem(keys, found=found, expected=expected, hint=hint))


def named_tasks(names: list[str], folder: Path) -> tuple[TaskSpec, ...]:
    """The tasks that someone names outside a sweep file: names, patterns, tags, files relative to a folder; all shipped
    ones where none is named. Raises SpecError."""
    document = Document(folder / "tasks", {"tasks": names}, sources={(): "command line"})
    units, problems = resolve_units(list(names or ["*"]), Shelf(document))
    if problems:
        raise SpecError(problems)
    return tuple(unit for unit in units if isinstance(unit, TaskSpec))


def load_task(path: Path) -> TaskSpec:
    """Read one task file with what it includes; file names in it are relative to the file in which they stand. Raises
    SpecError."""
    document = read_with_includes(path)
    if not isinstance(document.data, dict):
        raise SpecError([document.problem((), found=type(document.data).__name__, expected="a map of settings")])
    if "source" in document.data and (flat := [key for key in FLAT_KEYS if key in document.data]):
        expected = "either `source` or the keys of a hub source at the top level"
        raise SpecError([document.problem((key,), found=f"{key!r} beside `source`", expected=expected) for key in flat])
    try:
        task = TaskSpec.model_validate(document.data)
    except ValidationError as error:
        origin: dict[KeyPath, KeyPath] = {(): ()}
        if "source" not in document.data and "dataset_path" in document.data:
            origin[("source",)] = ()
            origin |= {("source", key): (key,) for key in FLAT_KEYS}
        raise SpecError(validation_problems(error, document, TaskSpec, origin=origin)) from None
    if problems := template_problems(task, document):
        raise SpecError(problems)
    absolute = task.model_copy(update={"source": _absolute(task.source, document, ("source",))})
    return absolute.with_origin(task_origin(task, document))


AnySource = TypeVar("AnySource", bound=Spec)


def _absolute(source: AnySource, document: Document, keys: KeyPath) -> AnySource:
    """The source with its files at absolute paths."""
    given = [name for name in ("train", "validation", "test") if getattr(source, name, None) is not None]
    update: dict[str, Any] = {}
    if isinstance(source, SplitsSource):
        update = {name: _absolute(getattr(source, name), document, (*keys, name)) for name in given}
    elif isinstance(source, FilesSource):
        for name in given:
            value, folder = getattr(source, name), document.file_of((*keys, name)).parent.resolve()
            is_map = isinstance(value, dict)
            update[name] = {key: str(folder / file) for key, file in value.items()} if is_map else str(folder / value)
    return source.model_copy(update=update)


def _names_given(folder: Path) -> dict[str, Path]:
    """The task files beside a sweep file by the names that they give; those that cannot be read have none. Shipped files are
    named as they lie, so nobody has to read them for that."""
    if folder.resolve() == search_spaces_folder().resolve():
        return {}
    found = {}
    for file in sorted((folder / "tasks").rglob("*.yaml")):
        data = _data_of(file)
        if isinstance(data.get("task"), str) and not file.name.startswith("_"):
            found[data["task"]] = file
    return found


def _by_tag(files: dict[str, Path]) -> dict[str, list[Path]]:
    tags: dict[str, list[Path]] = {}
    for file in dict.fromkeys(files.values()):
        data = _data_of(file)
        given, group = data.get("tag"), data.get("group")
        names = [*(given if isinstance(given, list) else [given]), group, f"group {group}"]
        for name in names:
            if isinstance(name, str):
                tags.setdefault(name, []).append(file)
    return tags


def _data_of(file: Path) -> dict[str, Any]:
    """The settings of a file; nothing where it cannot be read, which whoever names it is told."""
    try:
        data = read_with_includes(file).data
    except SpecError:
        return {}
    return data if isinstance(data, dict) else {}
