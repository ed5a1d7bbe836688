"""The suites' tasks on real rows of public datasets, where a folder of them lies beside the repository."""

from __future__ import annotations

from pathlib import Path

import pytest

from catsweep.spec.load import load_task, task_files
from catsweep.spec.source import HubSource
from catsweep.tasks.examples import TaskExamples, load_task_data

HUB = Path(__file__).parents[3] / "shared" / "data" / "hub"
needs_rows = pytest.mark.skipif(not HUB.is_dir(), reason=f"{HUB} is absent")


def load(name: str, only_split: str | None = None) -> TaskExamples:
    """A task of real rows; only_split: cut all splits from this one, where the folder holds no other."""
    task = load_task(task_files()[name])
    assert isinstance(task.source, HubSource)
    if only_split is not None:
        changed = {"training_split": only_split, "validation_split": None, "test_split": None}
        task = task.model_copy(update={"source": task.source.model_copy(update=changed)})
    return load_task_data(task, data_root=HUB, verify="schema")


@needs_rows
@pytest.mark.parametrize(
    ("name", "num_test", "answers"),
    [
        ("superglue/boolq", 3_270, {"no", "yes"}),
        ("flan2021/bool_q", 3_270, {"no", "yes"}),
        ("superglue/rte", 277, {"no", "yes"}),
        ("flan2021/rte", 277, {"no", "yes"}),
    ],
)
def test_choices_on_real_rows(name: str, num_test: int, answers: set[str]) -> None:
    test = load(name).splits["test"]
    assert len(test) == num_test
    assert {example.target for example in test} == answers


@needs_rows
def test_worked_solutions_and_their_numbers_on_real_rows() -> None:
    whole, number = load("longform/gsm8k").splits["test"], load("longform/gsm8k_number").splits["test"]
    assert len(whole) == len(number) == 1_319
    assert all(long.target.endswith(f"#### {short.target}") for long, short in zip(whole, number, strict=True))


@needs_rows
@pytest.mark.parametrize(("name", "split"), [("xsum", "test"), ("natural_questions", "validation")])
def test_generation_on_real_rows(name: str, split: str) -> None:
    splits = load(f"flan2021/{name}", split).splits
    assert min(len(examples) for examples in splits.values()) >= 99
    assert all(example.references for example in splits["test"])
