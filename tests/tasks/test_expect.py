"""Whether a dataset is the one that its task expects."""

from __future__ import annotations

from typing import Any

import datasets
import pyarrow as pa
import pytest

from catsweep.errors import DataError
from catsweep.spec.source import Expectation
from catsweep.tasks.expect import check_expectation, column_types, label_names

FEATURES = datasets.Features(
    {
        "text": datasets.Value("string"),
        "label": datasets.ClassLabel(names=["no", "yes"]),
        "idx": {"paragraph": datasets.Value("int32"), "question": datasets.Value("int32")},
        "answers": datasets.List(datasets.Value("string")),
        "score": datasets.Value("float32"),
    }
)
SCHEMA: pa.Schema = FEATURES.arrow_schema


def check(counted: int | None = 7, /, **expect: Any) -> None:
    check_expectation(Expectation.model_validate(expect), SCHEMA, counted, split="train", where="dataset a/b in D")


def test_types_and_labels_are_read_from_the_schema() -> None:
    assert column_types(SCHEMA) == {
        "text": "string", "label": "ClassLabel", "idx": "{paragraph: int, question: int}", "answers": "list<string>",
        "score": "float",
    }  # fmt: skip
    assert label_names(SCHEMA) == {"label": ["no", "yes"]}


def test_what_is_as_expected_passes() -> None:
    check(
        columns={
            "text": "string",
            "label": "ClassLabel",
            "idx": "{question: int64, paragraph: int8}",
            "answers": "any",
        },
        labels={"label": ["no", "yes"]},
        num_rows={"train": 7, "test": 9},
    )
    check(columns=["score", "text"])
    check(None, num_rows={"train": 8})
    with pytest.raises(DataError):  # 7 were counted; without a count nothing is compared
        check(num_rows={"train": 8})


def test_every_difference_is_shown_with_both_sides() -> None:
    with pytest.raises(DataError) as error:
        check(
            columns={"txt": "string", "score": "int", "answers": "string"},
            labels={"label": ["yes", "no"], "text": ["a"]},
            num_rows={"train": 8},
        )
    assert str(error.value) == (
        "dataset a/b in D, split 'train': found the columns answers, idx, label, score, text; expected 'txt' among them "
        "(Did you mean 'text'?); found column 'score' of type float; expected int; found column 'answers' of type "
        "list<string>; expected string; found the labels ['no', 'yes'] in column 'label'; expected ['yes', 'no']; found no "
        "names of labels in column 'text'; expected ['a']; found 7 rows; expected 8 (`data.verify: schema` leaves row "
        "counts uncompared). The dataset is another one, or it has changed: look at it, then correct `expect` and what "
        "depends on it, or pin a `revision`"
    )
