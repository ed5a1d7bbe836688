from __future__ import annotations

from typing import Any

import pytest

from catsweep.tasks.sources import describe_splits

HUB = {"kind": "hub", "dataset_path": "a/b"}
FILES = {"kind": "files", "format": "csv", "train": "a.csv"}


@pytest.mark.parametrize(
    ("source", "text"),
    [
        (HUB | {"test_split": "validation"}, "test is the source's 'validation'; validation and calibration are cut from train by whole groups"),
        (HUB | {"training_split": "train[:99]", "validation_split": "validation", "test_split": "test"}, "train is the source's 'train[:99]'; calibration is cut from train by whole groups"),
        (FILES, "validation, calibration and test are cut from train by whole groups"),
    ],
)  # fmt: skip
def test_it_is_said_where_each_split_comes_from(source: dict[str, Any], text: str, make_task: Any) -> None:
    assert describe_splits(make_task(source=source).source) == text
