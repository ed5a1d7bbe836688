from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pytest

from catsweep.health import KeptShareWatch, measure_chance, near_chance_answers
from catsweep.plan import make_plan
from catsweep.prepare import prepare_task
from catsweep.records import TrialRecord, append_step
from catsweep.spec.load import Sweep
from catsweep.spec.task import TaskSpec
from catsweep.tasks.store import Example, StoredExamples, write_examples
from catsweep.trial import Member, with_warnings

MakeTask = Callable[..., TaskSpec]
CHOICES = ("yes", "no")


def stored(folder: Path, name: str, labels: list[int]) -> StoredExamples:
    examples = [
        Example(f"{name}:{index}", f"{name} {index}", "q", CHOICES[label], (CHOICES[label],), CHOICES, label)
        for index, label in enumerate(labels)
    ]
    write_examples(folder / f"{name}.arrow", examples)
    return StoredExamples(folder / f"{name}.arrow")


def chance_of(task: TaskSpec, folder: Path, num_right: int) -> dict[str, Any]:
    """Of a model that answers so many of 100 validation rows rightly; 60 of them are `no`, as are most training rows."""
    train, judged = stored(folder, "train", [1] * 7 + [0] * 3), stored(folder, "validation", [1] * 60 + [0] * 40)
    right = [[float(index < num_right), 1.0] for index in range(100)]
    rows = pa.table({"group": judged.column("group"), "statistics/accuracy": right})
    return measure_chance(task, train, judged, rows).to_json()


def test_a_model_whose_interval_holds_the_majoritys_quality_is_warned_of(make_task: MakeTask, tmp_path: Path) -> None:
    task = make_task(doc_to_choice=["yes", "no"])
    chance = chance_of(task, tmp_path, 65)
    assert (chance["quality"], chance["baseline"]) == (0.65, 0.6)
    # The standard error of a share of .65 in 100 rows is .048; 1.96 of it on both sides.
    assert chance["low"] == pytest.approx(0.556, abs=0.02)
    assert chance["high"] == pytest.approx(0.744, abs=0.02)
    (text,) = near_chance_answers(task, chance)
    assert text.startswith("toy: THE LARGE MODEL IS NEAR CHANCE: accuracy 0.650 (0.5")
    assert "the most frequent training answer to every row gets 0.600" in text
    assert "large.finetune.steps" in text


def test_a_model_that_is_clearly_better_or_not_judged_is_not(make_task: MakeTask, tmp_path: Path) -> None:
    task = make_task(doc_to_choice=["yes", "no"])
    assert near_chance_answers(task, chance_of(task, tmp_path, 80)) == []
    assert near_chance_answers(task, {"quality": 0.5, "low": None, "high": None, "baseline": 0.6}) == []


def test_preparing_and_then_the_plan_say_that_the_large_model_is_near_chance(
    make_sweep: Callable[..., Sweep], tmp_path: Path
) -> None:
    large = {"config": make_sweep().spec.large.to_json()["config"]}
    sweep = make_sweep(large=large | {"finetune": {"steps": 1, "batch_size": 4, "learning_rate": 1e-6}})
    assert make_plan(sweep, root=tmp_path).tasks[0].warnings == []
    facts = prepare_task(sweep.tasks[0], sweep.spec, root=tmp_path)
    (text,) = [text for text in facts["warnings"] if "NEAR CHANCE" in text]
    assert text in make_plan(sweep, root=tmp_path).tasks[0].warnings
    other = make_sweep(large=large | {"finetune": {"steps": 2, "batch_size": 4, "learning_rate": 1e-6}})
    assert text not in make_plan(other, root=tmp_path).tasks[0].warnings  # it was another model


@pytest.mark.parametrize(("kept", "is_told"), [(0.01, True), (0.3, False)])
def test_a_record_holds_what_makes_its_numbers_mean_little(kept: float, is_told: bool, tmp_path: Path) -> None:
    append_step(tmp_path, 90, {"train/kept_share": kept})
    record = TrialRecord(
        trial_id="t", task="t", stratum="cat_xent/either", number=0, role="trial", seed=1, status="finished",
        parameters={}, num_steps=100, objective=0.5, metrics={}, started_at=0.0, ended_at=1.0, facts={"host": "h"},
    )  # fmt: skip
    prepared = SimpleNamespace(facts={"large_warnings": ["near chance"] if is_told else []})
    unit = [Member(None, prepared)]  # type: ignore[arg-type]
    found = with_warnings(record, tmp_path, unit).facts
    assert found["host"] == "h"
    if is_told:
        assert found["warnings"][0] == "near chance"
        assert "its filter kept at most 1.0% of the target tokens" in found["warnings"][1]
    else:
        assert "warnings" not in found
        assert dataclasses.replace(record) == with_warnings(record, tmp_path, unit)


@pytest.mark.parametrize(
    ("shares", "num_lines"),
    [
        ({1: 0.9, 20: 0.0, 40: 0.01, 50: 0.0, 60: 0.0}, 1),
        ({1: 0.0, 20: 0.0, 40: 0.2, 50: 0.0, 60: 0.0}, 0),
        ({20: 0.0, 40: 0.0}, 0),
    ],
)
def test_training_says_once_at_its_middle_that_its_filter_keeps_nothing(
    shares: dict[int, float], num_lines: int, caplog: pytest.LogCaptureFixture
) -> None:
    watch = KeptShareWatch("cat_xent", 100)
    with caplog.at_level(logging.WARNING):
        for step, share in shares.items():
            watch.see(step, share)
    assert len(caplog.messages) == num_lines
    for text in caplog.messages:
        assert text.startswith("by step 50 of 100 the filter of cat_xent has kept at most 1.0% of the target tokens")
