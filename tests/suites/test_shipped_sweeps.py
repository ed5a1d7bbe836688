"""Every sweep in search_spaces/ loads and can be planned, on made-up rows where its data lie on the hub."""

from __future__ import annotations

from pathlib import Path

import datasets
import pytest
from hub_columns import COPIES
from made_rows import make_dataset

from catsweep.plan import make_plan
from catsweep.spec.load import Sweep, load_sweep, load_task, search_spaces_folder, task_files

TINY = "{model_type: llama, hidden_size: 16, intermediate_size: 16, num_hidden_layers: 1, num_attention_heads: 2}"
WITHOUT_CHECKPOINTS = (
    f"small={{config: {TINY}, tokenizer: {{kind: byte}}}}",
    f"large={{config: {TINY}, finetune: {{steps: 10, learning_rate: 1.0e-3}}}}",
)
MANY = 11
"""A sweep of more tasks than this takes minutes to plan where nothing is cached: the slow tests plan it."""
SWEEPS = ("*.yaml", "ablations/*.yaml")
FILES = sorted(path for pattern in SWEEPS for path in search_spaces_folder().glob(pattern))


def load(path: Path, root: Path) -> Sweep:
    """A shipped sweep on made-up rows; checkpoints, which may be out of reach, are replaced by tiny models."""
    replaced = WITHOUT_CHECKPOINTS if "pretrained:" in path.read_text() else ()
    return load_sweep(path, (f"data_root={root}", "data.verify=schema", *replaced))


def check_plan(sweep: Sweep, root: Path, made: Path) -> None:
    names = {task.task for task in sweep.tasks} | {member for task in sweep.tasks for member in _members(task)}
    for name in names & set(COPIES):
        make_dataset(made, COPIES[name])
    plan = make_plan(sweep, root=root)
    assert plan.problems == []
    assert [task.task for task in plan.tasks] == [task.task for task in sweep.tasks]
    assert all(task.flops > 0 and min(task.num_rows.values()) > 0 for task in plan.tasks)


def _members(task: object) -> list[str]:
    return [member.task for member in getattr(task, "members", [])]


@pytest.fixture
def made(tmp_path: Path) -> Path:
    datasets.disable_progress_bars()
    return tmp_path / "made"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_shipped_sweep_can_be_planned(path: Path, tmp_path: Path, made: Path) -> None:
    sweep = load(path, made)
    assert sweep.tasks
    if len(sweep.tasks) <= MANY:
        check_plan(sweep, tmp_path / "root", made)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_shipped_sweep_of_many_tasks_can_be_planned(path: Path, tmp_path: Path, made: Path) -> None:
    sweep = load(path, made)
    if len(sweep.tasks) > MANY:
        check_plan(sweep, tmp_path / "root", made)
    assert sweep.tasks


def test_every_yaml_file_is_a_sweep_a_task_or_there_to_be_included() -> None:
    folder = search_spaces_folder()
    tasks = set(task_files().values())
    for path in folder.rglob("*.yaml"):
        if path not in FILES and not path.name.startswith("_"):
            assert path in tasks
            assert load_task(path).task == str(path.relative_to(folder / "tasks").with_suffix(""))
