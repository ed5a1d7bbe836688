"""Groups and mixtures in a sweep's list of tasks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from catsweep.errors import SpecError
from catsweep.records import read_sweep, write_sweep
from catsweep.spec.load import Sweep, load_sweep
from catsweep.spec.mixture import (
    EqualSampling,
    ExamplesProportional,
    MixtureSpec,
    TemperatureSampling,
    members,
    result_name,
    sampling_rates,
)
from catsweep.spec.task import TaskSpec

SWEEP = """\
name: made
small: {{pretrained: some/model}}
large: {{pretrained: some/larger-model}}
training: {{steps: 10}}
tasks: {tasks}
"""
MIXTURE = "[{mixture: both, tasks: [emoji/en-fr, lemma/es]}]"


def load(folder: Path, tasks: str) -> Sweep:
    (folder / "made.yaml").write_text(SWEEP.format(tasks=tasks))
    return load_sweep(folder / "made.yaml")


def problem(folder: Path, tasks: str) -> str:
    with pytest.raises(SpecError) as caught:
        load(folder, tasks)
    return str(caught.value)


def mixture(folder: Path, tasks: str) -> MixtureSpec:
    (unit,) = load(folder, tasks).tasks
    assert isinstance(unit, MixtureSpec)
    return unit


def test_a_group_selects_all_tasks_of_a_kind(tmp_path: Path) -> None:
    tasks = load(tmp_path, "[{group: language_identification}]").tasks
    assert tasks
    assert {task.group for task in tasks} == {"language_identification"}


def test_a_task_that_several_entries_name_stands_once(tmp_path: Path) -> None:
    names = [task.task for task in load(tmp_path, "[lemma/es, {group: lemmatisation}, lemma/*]").tasks]
    assert names.count("lemma/es") == 1


def test_an_unknown_group_is_an_error_with_a_hint(tmp_path: Path) -> None:
    text = problem(tmp_path, "[{group: lemmatization}]")
    assert "made.yaml:5: tasks.0.group: found 'lemmatization'; expected a group of tasks: " in text
    assert "Did you mean 'lemmatisation'?" in text


def test_a_mixture_is_one_unit_with_its_members_in_order(tmp_path: Path) -> None:
    unit = mixture(tmp_path, "[{mixture: three, tasks: [lemma/es, {group: language_identification}, emoji/en-fr]}]")
    names = [task.task for task in members(unit)]
    assert names[0] == "lemma/es"
    assert names[-1] == "emoji/en-fr"
    assert "langid/nordic" in names
    assert result_name(unit, members(unit)[0]) == "three/lemma/es"
    assert unit.sampling == ExamplesProportional()


def test_a_mixture_may_stand_beside_its_own_members(tmp_path: Path) -> None:
    units = load(tmp_path, "[lemma/es, {mixture: both, tasks: [emoji/en-fr, lemma/es]}]").tasks
    assert [unit.task for unit in units] == ["lemma/es", "both"]
    assert isinstance(units[0], TaskSpec)


def test_sampling_takes_a_name_or_a_map(tmp_path: Path) -> None:
    assert mixture(tmp_path, MIXTURE.replace("]}", "], sampling: equal}")).sampling == EqualSampling()
    text = MIXTURE.replace("]}", "], sampling: {kind: temperature, temperature: 3, cap: 500}}")
    assert mixture(tmp_path, text).sampling == TemperatureSampling(temperature=3, cap=500)


def test_a_mixture_comes_back_from_storage(tmp_path: Path) -> None:
    sweep = load(tmp_path, "[emoji/en-de, {mixture: both, tasks: [emoji/en-fr, lemma/es], min_task_delta: 0.01}]")
    write_sweep(tmp_path, sweep.spec, sweep.tasks)
    assert read_sweep(tmp_path) == (sweep.spec, sweep.tasks)


@pytest.mark.parametrize(
    ("tasks", "message"),
    [
        (
            "[{mixture: one, tasks: [lemma/es]}]",
            "made.yaml:5: tasks.0.tasks: found 1 task; expected at least two tasks in a mixture",
        ),
        (
            "[{mixture: both, tasks: [lemma/es, lemma/xx]}]",
            "tasks.0.tasks.1: found 'lemma/xx'; expected a task, a pattern, a tag, or a .yaml file",
        ),
        (
            f"[{MIXTURE[1:-1]}, {MIXTURE[1:-1]}]",
            "tasks.1.mixture: found the name 'both' again; expected every name of a task or mixture once",
        ),
        (
            MIXTURE.replace("both", "lemma").replace("[{", "[lemma/cs, {"),
            "found mixture 'lemma' beside a task 'lemma/cs'; expected a mixture whose name begins no task's name",
        ),
        (
            MIXTURE.replace("]}", "], sampling: {kind: proportional}}"),
            "tasks.0.sampling.kind: found kind 'proportional'; expected kind: one of examples_proportional, equal, temperature",
        ),
        (
            MIXTURE.replace("]}", "], sampling: {kind: equal, cap: 3}}"),
            "tasks.0.sampling.cap: found unknown key 'cap'; expected one of kind",
        ),
        (MIXTURE.replace("]}", "], min_task_delta: -1}"), "tasks.0.min_task_delta: found -1"),
        ("[{mixture: both}]", "tasks.0.tasks: found nothing; expected a value (The members"),
        ("[{grup: lemmatisation}]", "tasks.0.grup: found unknown key 'grup'; expected one of group. Did you mean 'group'?"),
        ("[3]", "tasks.0: found 3; expected"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_mixture_is_said_with_its_line(tmp_path: Path, tasks: str, message: str) -> None:
    assert message in problem(tmp_path, tasks)


@pytest.mark.parametrize(
    ("sampling", "rates"),
    [
        (EqualSampling(), [1 / 3, 1 / 3, 1 / 3]),
        (ExamplesProportional(), [0.01, 0.09, 0.9]),
        (ExamplesProportional(cap=900), [100 / 1900, 900 / 1900, 900 / 1900]),
        (TemperatureSampling(temperature=2), [10 / 134.868, 30 / 134.868, 94.868 / 134.868]),
        (TemperatureSampling(temperature=1, cap=900), [100 / 1900, 900 / 1900, 900 / 1900]),
    ],
    ids=["equal", "proportional", "capped", "temperature", "temperature of 1 is proportional"],
)
def test_shares_follow_the_numbers_of_examples(sampling: Any, rates: list[float]) -> None:
    assert sampling_rates(sampling, [100, 900, 9000]) == pytest.approx(rates, rel=1e-5)
