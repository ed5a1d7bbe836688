"""A copy of what tasks read, made from a local folder in the hub's layout: the hub itself is out of reach here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from catsweep.spec.task import TaskSpec
from catsweep.tasks.examples import load_examples, preview
from catsweep.tasks.expect import label_names
from catsweep.tasks.fetch import OUT_OF_REACH, fetch
from catsweep.tasks.manifest import read_manifest

FEATURES = datasets.Features({"question": datasets.Value("string"), "answer": datasets.ClassLabel(names=["no", "yes"])})


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data root with the dataset a/b: 300 training and 60 test rows."""
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    folder = tmp_path / "root" / "a" / "b"
    folder.mkdir(parents=True)
    for split, num_rows in (("train", 300), ("test", 60)):
        rows = [{"question": f"{split} {n}?", "answer": n % 2} for n in range(num_rows)]
        pq.write_table(
            pa.Table.from_pylist(rows, schema=FEATURES.arrow_schema), folder / f"{split}.parquet", row_group_size=40
        )
    return tmp_path / "root"


def hub(make_task: Any, **fields: Any) -> TaskSpec:
    source = {"kind": "hub", "dataset_path": "a/b", "test_split": "test", **fields}
    return make_task(source=source, doc_to_target="answer", doc_to_choice=["no", "yes"])  # type: ignore[no-any-return]


def run(tasks: list[TaskSpec], to: Path, root: Path | None, max_rows: int | None = None) -> list[str]:
    """The lines of a fetch that has no problem."""
    lines: list[str] = []
    assert fetch(tasks, to, data_root=root, max_rows=max_rows, tell=lines.append) == []
    return lines


def test_a_copy_gives_the_same_examples_and_says_what_it_holds(root: Path, tmp_path: Path, make_task: Any) -> None:
    expect = {"labels": {"answer": ["no", "yes"]}, "num_rows": {"train": 300, "test": 60}}
    task = hub(make_task, expect=expect)
    assert [line.split(",")[0] for line in run([task], tmp_path / "to", root)] == [
        "a/b/train-00000-of-00001.parquet: 300 rows", "a/b/test-00000-of-00001.parquet: 60 rows",
    ]  # fmt: skip
    copied, given = (load_examples(task, data_root=folder) for folder in (tmp_path / "to", root))
    assert {split: list(rows) for split, rows in copied.items()} == {split: list(rows) for split, rows in given.items()}
    manifest = read_manifest(tmp_path / "to")
    assert sorted(manifest) == ["a/b/test-00000-of-00001.parquet", "a/b/train-00000-of-00001.parquet"]
    facts = manifest["a/b/train-00000-of-00001.parquet"]
    assert (facts["num_rows"], facts["columns"], facts["split"]) == (
        300,
        {"question": "string", "answer": "ClassLabel"},
        "train",
    )
    assert (facts["dataset"], facts["revision"], "sample" in facts) == ("a/b", None, False)
    assert label_names(pq.read_schema(tmp_path / "to" / "a" / "b" / "train-00000-of-00001.parquet")) == {
        "answer": ["no", "yes"]
    }


def test_a_second_fetch_keeps_what_is_right_and_replaces_what_is_not(
    root: Path, tmp_path: Path, make_task: Any
) -> None:
    task, to = hub(make_task), tmp_path / "to"
    run([task], to, root)
    train, test = (to / "a" / "b" / f"{split}-00000-of-00001.parquet" for split in ("train", "test"))
    before = train.stat().st_mtime_ns
    test.write_bytes(test.read_bytes()[:-1] + b"x")
    lines = run([task], to, root)
    assert [line.split(": ")[1].split(",")[0] for line in lines] == ["kept", "60 rows"]
    assert train.stat().st_mtime_ns == before
    assert all("kept" in line for line in run([task], to, None))


def test_a_sample_is_marked_and_grows_when_more_is_asked_for(root: Path, tmp_path: Path, make_task: Any) -> None:
    task, to = hub(make_task, expect={"num_rows": {"train": 300}}), tmp_path / "to"
    run([task], to, root, max_rows=20)
    assert {facts["sample"] for facts in read_manifest(to).values()} == {20}
    assert [row.prompt for row in preview(task, 100, data_root=to)] == [f"train {n}?" for n in range(20)]
    assert all("kept" in line for line in run([task], to, root, max_rows=10))
    run([task], to, root)
    assert not any("sample" in facts for facts in read_manifest(to).values())
    assert len(preview(task, 1_000, data_root=to)) == 300


def test_a_sample_of_a_sample_stays_one(root: Path, tmp_path: Path, make_task: Any) -> None:
    task = hub(make_task)
    run([task], tmp_path / "one", root, max_rows=20)
    run([task], tmp_path / "two", tmp_path / "one")
    assert read_manifest(tmp_path / "two")["a/b/train-00000-of-00001.parquet"]["sample"] == 20


def test_no_more_is_fetched_than_the_largest_slice_of_all_tasks(root: Path, tmp_path: Path, make_task: Any) -> None:
    slices = [hub(make_task, training_split=f"train[:{n}]") for n in (50, 70)]
    run(slices, tmp_path / "to", root)
    assert read_manifest(tmp_path / "to")["a/b/train-00000-of-00001.parquet"]["num_rows"] == 70
    assert len(preview(slices[0], 100, data_root=tmp_path / "to")) == 50
    run([*slices, hub(make_task, training_split="train[50%:]")], tmp_path / "to", root)
    assert read_manifest(tmp_path / "to")["a/b/train-00000-of-00001.parquet"]["num_rows"] == 300


def test_an_alternative_is_copied_to_its_own_place_under_its_own_columns(
    root: Path, tmp_path: Path, make_task: Any
) -> None:
    copy = {"dataset_path": "a/b", "rename": {"question": "q"}}
    task = hub(make_task, dataset_path="gone/away", alternatives=[copy]).model_copy(update={"doc_to_text": "q"})
    run([task], tmp_path / "to", root)
    assert sorted(read_manifest(tmp_path / "to")) == [
        "a/b/test-00000-of-00001.parquet",
        "a/b/train-00000-of-00001.parquet",
    ]
    assert preview(task, 1, data_root=tmp_path / "to")[0].prompt == "train 0?"
    assert all("kept" in line for line in run([task], tmp_path / "to", None))


def test_data_files_are_copied_where_the_task_finds_them(root: Path, tmp_path: Path, make_task: Any) -> None:
    (root / "a" / "b" / "raw").mkdir()
    (root / "a" / "b" / "raw" / "x.jsonl").write_text('{"question": "json?", "answer": 1}\n')
    task = hub(make_task, data_files={"train": "raw/*.jsonl", "test": "te*.parquet"})
    run([task], tmp_path / "to", root)
    assert sorted(read_manifest(tmp_path / "to")) == ["a/b/raw/train.parquet", "a/b/tetest.parquet"]
    assert preview(task, 1, data_root=tmp_path / "to")[0].prompt == "json?"


def test_test_sets_and_parts_of_splits_are_copied_too(root: Path, tmp_path: Path, make_task: Any) -> None:
    for name, text in (("src.cs", "ahoj\nano\n"), ("ref.B.en", "hello\nyes\n")):
        (root / "wmt22").mkdir(exist_ok=True)
        (root / "wmt22" / f"generaltest2022.cs-en.{name}").write_text(text)
    part = {"kind": "hub", "dataset_path": "a/b", "split": "train[:30]"}
    test = {"kind": "sacrebleu", "langpair": "cs-en", "references": ["B"]}
    task = make_task(source={"kind": "splits", "train": part, "test": test})
    lines = run([task], tmp_path / "to", root)
    assert lines[1:] == ["wmt22/wmt22.cs-en.src.cs: 2 lines", "wmt22/wmt22.cs-en.ref.B.en: 2 lines"]
    assert [row["translation"] for row in read_test(task, tmp_path / "to")] == [
        {"cs": "ahoj", "en": "hello"}, {"cs": "ano", "en": "yes"},
    ]  # fmt: skip
    assert all("kept" in line for line in run([task], tmp_path / "to", root))


def read_test(task: TaskSpec, root: Path) -> list[dict[str, Any]]:
    from catsweep.tasks.sources import Reading, read_split

    return read_split(task.source, "test", Reading(data_root=root))


def test_what_cannot_be_had_or_is_not_as_expected_is_reported_and_the_rest_is_fetched(
    root: Path, tmp_path: Path, make_task: Any
) -> None:
    wrong = hub(make_task, expect={"num_rows": {"train": 7}}).model_copy(update={"task": "wrong"})
    gone = hub(make_task, dataset_path="no/where", test_split=None).model_copy(update={"task": "gone"})
    problems = fetch([wrong, gone], tmp_path / "to", data_root=root, max_rows=None, tell=lambda line: None)
    assert problems[0].startswith(f"task wrong: dataset a/b in {root}/a/b, split 'train': found 300 rows; expected 7")
    assert problems[1] == "task gone: no/where, split 'train': not on this machine, nor is the hub in reach"
    assert problems[2:] == [OUT_OF_REACH]  # one advice behind all, and not to run what was just run
    assert sorted(read_manifest(tmp_path / "to")) == ["a/b/test-00000-of-00001.parquet"]
    options: dict[str, Any] = {"data_root": root, "max_rows": None, "tell": lambda line: None}
    assert fetch([wrong], tmp_path / "to", **options, verify="schema") == []


def test_files_and_packages_need_no_copy(tmp_path: Path, make_task: Any) -> None:
    package = make_task(source={"kind": "package", "reader": {"kind": "lemmas", "language": "cs"}}, task="words")
    assert run([make_task(), package], tmp_path / "to", None) == [
        "toy: reads files; nothing to fetch",
        "words: reads an installed package; nothing to fetch",
    ]
