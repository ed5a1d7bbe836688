"""Keys that follow the content of a task's rows."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from catsweep.errors import DataError
from catsweep.tasks import fingerprint
from catsweep.tasks.fingerprint import source_fingerprint


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "root" / "a" / "b"
    folder.mkdir(parents=True)
    for split in ("train", "test", "other"):
        pq.write_table(pa.table({"x": [split]}), folder / f"{split}.parquet")
    return tmp_path / "root"


def test_a_local_copy_counts_by_the_files_of_its_splits_and_not_by_its_place(
    root: Path, tmp_path: Path, make_task: Any
) -> None:
    task = make_task(source={"kind": "hub", "dataset_path": "a/b", "test_split": "test[:1]"})
    key = source_fingerprint(task, root)
    shutil.copytree(root, tmp_path / "copy")
    assert source_fingerprint(task, tmp_path / "copy") == key
    pq.write_table(pa.table({"x": ["changed"]}), root / "a" / "b" / "other.parquet")
    assert source_fingerprint(task, root) == key
    pq.write_table(pa.table({"x": ["changed"]}), root / "a" / "b" / "test.parquet")
    assert source_fingerprint(task, root) != key


def test_the_hub_counts_by_its_commit_also_where_none_is_given(make_task: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    commits = iter(["one", "one", "two"])
    monkeypatch.setattr(fingerprint, "remote_revision", lambda location: next(commits))
    task = make_task(source={"kind": "hub", "dataset_path": "no/where"})
    first, second, third = (source_fingerprint(task) for _ in range(3))
    assert first == second != third


def test_a_pinned_commit_needs_no_hub_and_anything_else_does(make_task: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    pinned, other = (
        make_task(source={"kind": "hub", "dataset_path": "no/where", "revision": digit * 40}) for digit in "ab"
    )
    assert source_fingerprint(pinned) != source_fingerprint(other)
    with pytest.raises(DataError, match="task toy: hub dataset no/where, split 'train': found it neither "):
        source_fingerprint(make_task(source={"kind": "hub", "dataset_path": "no/where"}))


def test_each_part_of_a_split_source_counts(root: Path, tmp_path: Path, make_task: Any) -> None:
    (tmp_path / "t.csv").write_text("x\n1\n")
    parts = {
        "train": {"kind": "hub", "dataset_path": "a/b"},
        "test": {"kind": "files", "format": "csv", "train": str(tmp_path / "t.csv")},
    }
    task = make_task(source={"kind": "splits", **parts})
    key = source_fingerprint(task, root)
    (tmp_path / "t.csv").write_text("x\n2\n")
    assert source_fingerprint(task, root) != key
