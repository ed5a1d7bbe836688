"""Rows that belong to questions, and references that a metric cannot use, from a file to the statistics of an answer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from catsweep.answers import Answer
from catsweep.cascade.metrics import metric_of
from catsweep.data import write_task_data
from catsweep.errors import DataError
from catsweep.evaluate import answer_table
from catsweep.spec.model import ByteTokenizer
from catsweep.spec.task import TaskSpec
from catsweep.tasks.examples import SPLITS, load_examples, preview
from catsweep.tokenization import make_tokenizer


def make(folder: Path, metrics: list[dict[str, Any]], rows: list[dict[str, Any]], **settings: Any) -> TaskSpec:
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return TaskSpec.model_validate({
        "task": "suite/questions",
        "group": "reading",
        "source": {"kind": "files", "format": "jsonl", "train": str(path)},
        "output_type": "generate_until",
        "doc_to_text": "{{text}}",
        "doc_to_target": "answer",
        "metric_list": metrics,
        **settings,
    })  # fmt: skip


ROWS = [
    {"text": f"t{row}", "answer": str(row % 2), "question_key": f"q{row // 4}", "other": row // 2} for row in range(600)
]
EM = [{"metric": "multirc_em"}]


def test_every_row_has_its_question_and_a_question_lies_in_one_group(tmp_path: Path) -> None:
    splits = load_examples(make(tmp_path, EM, ROWS))
    group_of: dict[str, str] = {}
    for split in SPLITS:
        for example in splits[split]:
            assert example.key is not None
            assert group_of.setdefault(example.key, example.group) == example.group
            assert example.key == f"q{int(example.prompt[1:]) // 4}"
    assert len(set(group_of.values())) == 150


def test_the_key_may_be_a_template_and_other_metrics_need_none(tmp_path: Path) -> None:
    task = make(tmp_path, [{"metric": "multirc_em", "key": "pair {{other}}"}, {"metric": "accuracy"}], ROWS)
    assert [example.key for example in preview(task, 3)] == ["pair 0", "pair 0", "pair 1"]
    assert preview(make(tmp_path, [{"metric": "accuracy"}], ROWS), 1)[0].key is None


def test_a_missing_question_key_is_an_error_that_names_the_row(tmp_path: Path) -> None:
    rows = [{"text": "a", "answer": "b", "question": "1"}]
    with pytest.raises(
        DataError, match=r"row train:0 of rows.jsonl: key of multirc_em 'question_key': found no column.*Did you mean"
    ):
        preview(make(tmp_path, EM, rows))


@pytest.mark.parametrize(
    ("metric", "answer", "message"),
    [
        ({"metric": "pearson"}, "high", "pearson: found the reference 'high'; expected a number"),
        ({"metric": "macro_f1"}, ["a", "b"], r"macro_f1: found 2 references.*one right class"),
        ({"metric": "f1", "positive": "a"}, ["a", "b"], r"f1: found 2 references"),
    ],
)
def test_references_that_a_metric_cannot_use_are_found_before_anything_is_trained(
    tmp_path: Path, metric: dict[str, Any], answer: Any, message: str
) -> None:
    with pytest.raises(DataError, match=rf"row train:0 of rows.jsonl: metric {message}"):
        preview(make(tmp_path, [metric], [{"text": "x", "answer": answer}]))


def test_the_key_counts_for_the_cache_of_the_data_and_only_where_a_metric_asks_for_it(tmp_path: Path) -> None:
    plain = make(tmp_path, [{"metric": "accuracy"}], ROWS).data_key()
    assert "question_key" not in plain
    assert make(tmp_path, EM, ROWS).data_key() == plain | {"question_key": "question_key"}
    other = make(tmp_path, [{"metric": "multirc_em", "key": "other"}], ROWS).data_key()
    assert other == plain | {"question_key": "other"}


def test_rows_hold_the_statistics_of_questions(tmp_path: Path) -> None:
    task = make(tmp_path, EM, ROWS)
    tokenizer = make_tokenizer(ByteTokenizer(), [])
    splits = load_examples(task)
    data = write_task_data(
        tmp_path / "data", splits, task, tokenizer, "decoder", max_prompt_tokens=32, max_target_tokens=8
    )
    texts = data.texts("test")
    assert texts["key"].to_pylist() == [example.key for example in splits["test"]]
    metric = metric_of(task.metric_list[0])
    nothing = np.zeros(1, np.float32)
    answers = [Answer("1", 3, nothing, nothing, nothing) for _ in range(texts.num_rows)]
    rows = answer_table(answers, texts, "test", {metric.name: metric})
    statistics = np.array(rows["statistics/multirc_em"].to_pylist())
    assert metric.quality(statistics) == 0  # every question has rows of either answer
    assert metric.right(statistics).mean() == 0.5
