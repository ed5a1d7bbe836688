from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from catsweep.spec.task import TaskSpec
from catsweep.tasks.examples import load_examples
from catsweep.tasks.stats import task_stats

MakeTask = Callable[..., TaskSpec]


def write(path: Path, rows: list[dict[str, Any]]) -> str:
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
    assert (stats.baseline, stats.baseline_quality) == ("frequent", pytest.approx(1 - copied))
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


def test_the_baseline_is_chosen_on_validation_and_judged_on_test(make_task: MakeTask, tmp_path: Path) -> None:
    def rows(split: str, num: int, share_copied: float) -> str:
        found = [(f"{split}{i}", f"{split}{i}" if i < share_copied * num else "same") for i in range(num)]
        return write(tmp_path / f"{split}.jsonl", [{"question": asked, "answer": answer} for asked, answer in found])

    files = {
        "train": rows("train", 200, 0.5),
        "validation": rows("validation", 100, 0.7),
        "test": rows("test", 100, 0.2),
    }
    stats = task_stats(make_task(source={"kind": "files", "format": "jsonl", **files}))
    assert stats.baselines == {"copy": pytest.approx(0.2), "frequent": pytest.approx(0.8)}
    assert (stats.baseline, stats.to_json()["baseline_quality"]) == ("copy", pytest.approx(0.2))


def test_of_many_answers_the_most_frequent_counts_and_of_equal_ones_the_first_by_alphabet(
    make_task: MakeTask, tmp_path: Path
) -> None:
    answers = ["d", "b", "b", "a", "c", "c"]
    rows = [{"question": f"q{i}", "answer": answers[i % 6]} for i in range(300)]
    files = {"train": write(tmp_path / "train.jsonl", rows)}
    for split, wanted in (("validation", "bcd"), ("test", "bbca")):
        found = [{"question": f"{split}{i}", "answer": wanted[i % len(wanted)]} for i in range(120)]
        files[split] = write(tmp_path / f"{split}.jsonl", found)
    task = make_task(source={"kind": "files", "format": "jsonl", **files})
    train = Counter(row.target for row in load_examples(task)["train"])
    best = min(train, key=lambda answer: (-train[answer], answer))
    shares = {"b": 0.5, "c": 0.25, "a": 0.25, "d": 0.0}
    assert task_stats(task).baselines == {"frequent": pytest.approx(shares[best]), "copy": 0.0}


def test_choices_that_differ_from_row_to_row_are_answered_by_the_place_that_is_right_most_often(
    make_task: MakeTask, tmp_path: Path
) -> None:
    rows = [{"question": f"q{i}", "one": f"x{i}", "two": f"y{i}", "right": i % 3 > 0} for i in range(600)]
    source = {"kind": "files", "format": "jsonl", "train": write(tmp_path / "rows.jsonl", rows)}
    task = make_task(source=source, doc_to_choice=["{{one}}", "{{two}}"], doc_to_target="right")
    test = load_examples(task)["test"]
    assert task_stats(task).baselines == {"majority": pytest.approx(sum(row.label == 1 for row in test) / len(test))}


def test_a_question_counts_as_a_whole_where_the_metric_says_so(make_task: MakeTask, tmp_path: Path) -> None:
    rows = [
        {"question": f"q{i}", "answer": "yes" if i % 10 == 0 else "no", "question_key": f"k{i // 4}"}
        for i in range(1_200)
    ]
    source = {"kind": "files", "format": "jsonl", "train": write(tmp_path / "rows.jsonl", rows)}
    task = make_task(source=source, metric_list=[{"metric": "multirc_em"}])
    whole: dict[str, list[bool]] = {}
    for row in load_examples(task)["test"]:
        whole.setdefault(str(row.key), []).append(row.target == "no")
    share = sum(map(all, whole.values())) / len(whole)
    assert 0 < share < 1
    stats = task_stats(task)
    assert stats.baselines["frequent"] == pytest.approx(share)
    assert (stats.metric, stats.baseline) == ("multirc_em", "frequent")
