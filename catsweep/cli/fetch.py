"""`catsweep fetch`: copy what tasks read into a folder, for machines without a hub."""

from __future__ import annotations

from pathlib import Path

from catsweep.cli.console import complain, tell
from catsweep.errors import SpecError
from catsweep.spec.load import Shelf, load_sweep, resolve_units
from catsweep.spec.mixture import MixtureSpec
from catsweep.spec.task import TaskSpec
from catsweep.spec.yaml import Document, read_yaml
from catsweep.tasks.fetch import fetch
from catsweep.tasks.hub import Verify
from catsweep.tasks.sources import data_root_of_environment


def fetch_command(names: list[str], *, to: Path, max_rows: int | None, data_root: Path | None, verify: Verify) -> int:
    """Fetch tasks. Returns the exit code: 2 where a task is not known, or a split could not be had."""
    try:
        tasks = _tasks(names)
    except SpecError as error:
        for problem in error.problems:
            complain(str(problem))
        return 2
    root = data_root.expanduser().resolve() if data_root else data_root_of_environment()

    folder = to.expanduser().resolve()
    problems = fetch(tasks, folder, data_root=root, max_rows=max_rows, tell=tell, verify=verify)
    for line in problems:
        complain(line)
    if not problems:
        tell(
            f"{folder}: ok, the data of {len(tasks)} tasks. Read it with `data_root: {folder}` or CATSWEEP_DATA={folder}"
        )
    return 2 if problems else 0


def _tasks(names: list[str]) -> list[TaskSpec]:
    """The tasks of names, patterns, tags and task files; a sweep file stands for all of its tasks and mixtures."""
    found: dict[str, TaskSpec] = {}
    for name in names:
        units: tuple[TaskSpec | MixtureSpec, ...]
        if name.endswith((".yaml", ".yml")) and Path(name).is_file() and _is_sweep(Path(name)):
            units = load_sweep(Path(name)).tasks
        else:
            units, problems = resolve_units([name], Shelf(Document(Path.cwd() / "command line", {"tasks": [name]})))
            if problems:
                raise SpecError(problems)
        for unit in units:
            found |= {task.task: task for task in (unit.members if isinstance(unit, MixtureSpec) else [unit])}
    return list(found.values())


def _is_sweep(path: Path) -> bool:
    data = read_yaml(path).data
    return isinstance(data, dict) and "tasks" in data and "task" not in data
