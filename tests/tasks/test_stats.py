from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from catsweep.spec.task import TaskSpec
from catsweep.tasks.examples import load_examples
from catsweep.tasks.stats import task_stats

MakeTask = Callable[..., TaskSpec]


def write(path: Path, rows: list[dict[str, str]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_generation_is_measured_against_copying_and_the_most_frequent_answer(
    make_task: MakeTask, tmp_path: Path
) -> None:
    rows = [{"question": f"fr:word{i}", "answer": "same" if i % 4 else f"word{i}"} for i in range(1_000)]
    task = make_task(source={"kind": "files", "format": "jsonl", "train": write(tmp_path / "rows.jsonl", rows)})
    stats = task_stats(task)
    test = load_examples(task)["test"]
    copied = sum(row.target != "same" for row in test) / len(test)
    assert stats.baselines == {"copy": pytest.approx(copied), "frequent": pytest.approx(1 - copied)}
    assert stats.baseline == ("frequent", pytest.approx(1 - copied))
    assert stats.num_rows == {"train": 700, "validation": 100, "calibration": 100, "test": 100}
    assert stats.is_small
    assert stats.to_json()["baseline"] == "frequent"


def test_choices_are_measured_against_the_most_frequent_choice_of_train(make_task: MakeTask, tmp_path: Path) -> None:
    rows = [{"question": f"q{i}", "answer": "no" if i % 3 else "yes"} for i in range(6_000)]
    source = {"kind": "files", "format": "jsonl", "train": write(tmp_path / "rows.jsonl", rows)}
    task = make_task(source=source, doc_to_choice=["yes", "no"], doc_to_target="answer")
    stats = task_stats(task)
    test = load_examples(task)["test"]
    assert stats.baselines == {"majority": pytest.approx(sum(row.target == "no" for row in test) / len(test))}
    assert stats.num_rows["test"] == 600
    assert not stats.is_small
