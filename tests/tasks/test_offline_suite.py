"""The tasks that read installed packages: search_spaces/tasks with the tag `offline`."""

from __future__ import annotations

from collections import Counter
from itertools import combinations
from pathlib import Path

import pytest

from catsweep.spec.load import load_sweep, named_tasks, search_spaces_folder
from catsweep.spec.source import PackageSource
from catsweep.spec.task import TaskSpec
from catsweep.tasks.examples import load_task_data
from catsweep.tasks.splits import MIN_TEST_ROWS, SPLITS

QUICK = (
    "emoji/en-fr", "emoji/language", "cldr/territories", "cldr/romance-en", "cldr/table-slavic", "numbers/de", "dates/da",
    "dates/locale-nordic", "places/city-country", "places/subdivision-country", "codes/airport", "codes/language",
    "unicode/category",
)  # fmt: skip
"""A task of each reader that takes at most about two seconds."""


@pytest.fixture(scope="module")
def suite() -> tuple[TaskSpec, ...]:
    return named_tasks(["offline"], search_spaces_folder())


def test_the_suite_has_many_tasks_of_many_kinds_and_both_output_types(suite: tuple[TaskSpec, ...]) -> None:
    kinds = Counter(task.group for task in suite)
    assert len(suite) >= 80
    assert len(kinds) >= 8
    assert max(kinds.values()) <= 0.4 * len(suite)
    output_types = Counter(task.output_type for task in suite)
    assert min(output_types["multiple_choice"], output_types["generate_until"]) >= 20
    assert all(isinstance(task.source, PackageSource) for task in suite)


def test_the_sweep_lists_the_whole_suite(suite: tuple[TaskSpec, ...]) -> None:
    sweep = load_sweep(search_spaces_folder() / "offline.yaml")
    assert {task.task for task in sweep.tasks} == {task.task for task in suite}


def test_a_task_is_named_as_its_file_and_tagged_with_its_folder(suite: tuple[TaskSpec, ...]) -> None:
    files = {task.task: search_spaces_folder() / "tasks" / f"{task.task}.yaml" for task in suite}
    assert all(file.is_file() for file in files.values())
    assert all(task.task.split("/")[0] in task.tag for task in suite)


FOLDERS = sorted({task.task.split("/")[0] for task in named_tasks(["offline"], search_spaces_folder())})


@pytest.mark.parametrize("name", QUICK)
def test_splits_share_no_key_and_no_row_and_answers_fit(name: str, cache: Path) -> None:
    (task,) = named_tasks([name], search_spaces_folder())
    assert_sound(task, cache)


@pytest.mark.slow
@pytest.mark.parametrize("folder", FOLDERS)
def test_every_task_of_a_folder_is_as_sound(folder: str, cache: Path) -> None:
    for task in named_tasks([f"{folder}/*"], search_spaces_folder()):
        if "offline" in task.tag:
            assert_sound(task, cache)


def assert_sound(task: TaskSpec, cache: Path) -> None:
    data = load_task_data(task, cache=cache)
    for one, other in combinations(SPLITS, 2):
        assert not {row.group for row in data.splits[one]} & {row.group for row in data.splits[other]}
        assert not {row.id for row in data.splits[one]} & {row.id for row in data.splits[other]}
    rows = data.splits["test"]
    small = task.metadata.notes.endswith("Fewer than 500 test rows.")
    assert small == (len(rows) < MIN_TEST_ROWS)
    assert len({row.target for row in rows}) > 1
    if task.output_type == "generate_until":  # characters, as the sweep's tokeniser reads them, and the end
        fits = [len(row.target) < task.generation_kwargs.max_gen_toks for row in rows]
        assert sum(fits) >= 0.99 * len(rows)


def test_no_answer_of_a_named_thing_lies_in_train_in_any_language(cache: Path) -> None:
    (task,) = named_tasks(["cldr/territories"], search_spaces_folder())
    splits = load_task_data(task, cache=cache).splits
    names = {
        split: {text.casefold() for row in splits[split] for text in (row.prompt[3:], row.target)} for split in SPLITS
    }
    assert not names["train"] & names["test"]
    assert any(row.prompt.startswith("fr:") for row in splits["test"])
