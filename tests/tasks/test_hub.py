from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from catsweep.errors import DataError
from catsweep.spec.source import Expectation, HubSource
from catsweep.tasks.hub import fetched_file, read_hub
from catsweep.tasks.hub_remote import open_remote
from catsweep.tasks.manifest import write_manifest
from catsweep.tasks.slices import parse_slice

ROWS: list[dict[str, Any]] = [{"text": "a", "label": 0}, {"text": "b", "label": 1}]


@pytest.fixture
def dataset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A dataset of two training shards and a validation split at owner/name, configuration `small`. No hub."""
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "library")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    folder = tmp_path / "owner" / "name"
    (folder / "small").mkdir(parents=True)
    for index, row in enumerate(ROWS):
        pq.write_table(pa.Table.from_pylist([row]), folder / "small" / f"train-0000{index}-of-00002.parquet")
    pq.write_table(pa.Table.from_pylist(ROWS[:1]), folder / "small" / "validation.parquet")
    return folder


def read(dataset: Path, source: HubSource, split: str, max_rows: int | None = None) -> list[dict[str, Any]]:
    return list(read_hub(source, split, max_rows, data_root=dataset.parents[1]))


def test_shards_of_a_local_folder_are_read_in_order(dataset: Path) -> None:
    source = HubSource(dataset_path="owner/name", dataset_name="small")
    assert read(dataset, source, "train") == ROWS
    assert read(dataset, source, "train", 1) == ROWS[:1]
    assert read(dataset, source, "validation") == ROWS[:1]
    assert read(dataset, HubSource(dataset_path=str(dataset / "small")), "train") == ROWS


def test_data_files_name_the_files_of_a_split(dataset: Path) -> None:
    files = {"train": "small/train-*.parquet", "tune": "small/valid*.parquet"}
    source = HubSource(dataset_path="owner/name", data_files=files)
    assert read(dataset, source, "train") == ROWS
    assert read(dataset, source, "tune") == ROWS[:1]


def test_files_of_data_files_may_be_lines_of_json_or_fetched_parquet(dataset: Path) -> None:
    (dataset / "raw").mkdir()
    (dataset / "raw" / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    source = HubSource(dataset_path="owner/name", data_files={"train": "raw/train.jsonl", "test": "raw/*.json"})
    assert read(dataset, source, "train") == ROWS
    assert fetched_file(source, "train") == Path("owner/name/raw/train.parquet")
    assert fetched_file(source, "test") == Path("owner/name/raw/test.parquet")
    pq.write_table(pa.Table.from_pylist(ROWS[:1]), dataset / "raw" / "test.parquet")
    assert read(dataset, source, "test") == ROWS[:1]


def test_slices_read_what_they_name_and_no_more(dataset: Path) -> None:
    rows = [{"text": str(n), "label": n % 2} for n in range(50)]
    pq.write_table(pa.Table.from_pylist(rows), dataset / "small" / "long.parquet", row_group_size=7)
    source = HubSource(dataset_path="owner/name", dataset_name="small")
    assert read(dataset, source, "long[10:25]") == rows[10:25]
    assert read(dataset, source, "long[-5:]") == rows[-5:]
    assert read(dataset, source, "long[20%:40%]", 3) == rows[10:13]
    assert read(dataset, source, "train[1:]") == ROWS[1:]
    with pytest.raises(DataError, match=r"found no row in 'long\[60:70\]' of 50 rows; expected at least one"):
        read(dataset, source, "long[60:70]")


def test_local_folders_of_all_alternatives_come_before_the_hub(dataset: Path) -> None:
    there = {"dataset_path": "owner/name", "dataset_name": "small"}
    source = HubSource.model_validate(
        {"dataset_path": "gone/away", "alternatives": [{"dataset_path": "no/where"}, there]}
    )
    assert read(dataset, source, "train") == ROWS


def test_an_alternative_may_name_its_columns_otherwise_and_have_another_size(dataset: Path) -> None:
    features = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["x", "y"])})
    table = pa.Table.from_pylist(ROWS, schema=features.arrow_schema)
    pq.write_table(table, dataset / "small" / "named.parquet")
    copy = {
        "dataset_path": "owner/name",
        "dataset_name": "small",
        "rename": {"label": "class"},
        "expect": {"labels": {"class": ["x", "y"]}, "columns": {"class": "ClassLabel"}, "num_rows": {"named": 2}},
    }
    expect = {"num_rows": {"named": 5}}
    source = HubSource.model_validate({"dataset_path": "no/where", "alternatives": [copy], "expect": expect})
    assert read(dataset, source, "named") == [{"text": "a", "class": 0}, {"text": "b", "class": 1}]
    strict = HubSource.model_validate(
        {"dataset_path": "no/where", "alternatives": [copy | {"expect": None}], "expect": expect}
    )
    with pytest.raises(DataError, match="found 2 rows; expected 5"):
        read(dataset, strict, "named")


def test_a_dataset_has_to_be_the_expected_one(dataset: Path) -> None:
    expect = {"columns": {"text": "string", "label": "ClassLabel"}, "num_rows": {"train": 3}}
    source = HubSource.model_validate({"dataset_path": "owner/name", "dataset_name": "small", "expect": expect})
    with pytest.raises(DataError) as error:
        read(dataset, source, "train[:1]")
    assert str(error.value).startswith(
        f"dataset owner/name small in {dataset}, split 'train': found column 'label' of type int; expected ClassLabel; found "
        "2 rows; expected 3 ("
    )
    counted = source.model_copy(update={"expect": Expectation(num_rows={"train": 3})})
    assert list(read_hub(counted, "train", data_root=dataset.parents[1], verify="schema")) == ROWS


def test_a_sample_is_not_compared_with_the_size_of_the_whole_split(dataset: Path) -> None:
    expect = Expectation(num_rows={"validation": 1_000})
    source = HubSource(dataset_path="owner/name", dataset_name="small", expect=expect)
    with pytest.raises(DataError, match="found 1 rows; expected 1000"):
        read(dataset, source, "validation")
    write_manifest(dataset.parents[1], {"owner/name/small/validation.parquet": {"num_rows": 1, "sample": 1}})
    assert read(dataset, source, "validation") == ROWS[:1]


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"dataset_name": "smal"},
         "{folder}: found no configuration 'smal'; expected one of small. Did you mean 'small'?"),
        ({"dataset_name": "small", "training_split": "training"},
         "dataset owner/name small in {folder}/small: found no split 'training'; expected one of: train, validation. "
         "Did you mean 'train'?"),
        ({"data_files": {"train": "large/*"}},
         "{folder}: found no file for data_files train: 'large/*'; expected Parquet files or lines of JSON"),
        ({"data_files": {"tune": "*"}},
         "dataset owner/name in data_files: found no split 'train'; expected one of: tune"),
    ],
)  # fmt: skip
def test_errors_name_what_the_folder_holds(dataset: Path, fields: dict[str, Any], expected: str) -> None:
    source = HubSource.model_validate({"dataset_path": "owner/name"} | fields)
    with pytest.raises(DataError) as error:
        read(dataset, source, source.training_split)
    assert expected.format(folder=dataset) in str(error.value)
    assert "catsweep fetch TASKS --to DIR" in str(error.value)


def test_a_dataset_that_nobody_has_says_what_was_tried_and_how_to_get_it(dataset: Path) -> None:
    source = HubSource.model_validate(
        {"dataset_path": "nobody/nothing", "dataset_name": "rte", "alternatives": [{"dataset_path": "no/body"}]}
    )
    with pytest.raises(DataError) as error:
        read(dataset, source, "test")
    assert str(error.value) == (
        f"hub dataset nobody/nothing rte, split 'test': found it neither in {dataset.parents[1]}, nor as a folder "
        "nobody/nothing, nor on the hub: hub dataset nobody/nothing rte: ConnectionError: Couldn't reach 'nobody/nothing' on "
        "the Hub (OfflineModeIsEnabled); hub dataset no/body: ConnectionError: Couldn't reach 'no/body' on the Hub "
        "(OfflineModeIsEnabled). Check the name; where there is no network, run `catsweep fetch TASKS --to DIR` on a "
        "machine that has one, and give that DIR as `data_root` or CATSWEEP_DATA"
    )
    with pytest.raises(DataError, match=r"neither as a folder nobody/nothing nor on the hub .no data root"):
        read_hub(source, "test")


def remote(path: Path, split: str, max_rows: int | None = None, cache: Path | None = None) -> Any:
    return open_remote(HubSource(dataset_path=str(path)), parse_slice(split), max_rows=max_rows, cache=cache)


def test_the_library_reads_the_same_rows_as_the_local_way(dataset: Path) -> None:
    whole = remote(dataset / "small", "train")
    assert [row for batch in whole.batches(0, 2) for row in batch.to_pylist()] == ROWS
    assert whole.num_all_rows == 2
    first = remote(dataset / "small", "train", 1)
    assert [row for batch in first.batches(0, 1) for row in batch.to_pylist()] == ROWS[:1]


def test_first_rows_of_a_large_dataset_are_streamed_once_into_the_cache(
    dataset: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("catsweep.tasks.hub_remote.MAX_STREAMED_ROWS", 1)
    split = remote(dataset / "small", "train[:2]", cache=tmp_path / "cache")
    assert [row for batch in split.batches(0, 2) for row in batch.to_pylist()] == ROWS
    monkeypatch.setattr("catsweep.tasks.hub_remote._stream", lambda *_: pytest.fail("streamed again"))
    assert remote(dataset / "small", "train[:2]", cache=tmp_path / "cache").num_rows == 2


def test_folders_of_images_and_the_like_are_refused(tmp_path: Path, dataset: Path) -> None:
    (tmp_path / "other" / "train").mkdir(parents=True)
    (tmp_path / "other" / "train" / "a.png").write_bytes(b"x")
    with pytest.raises(
        DataError, match=r"dataset; expected Parquet, JSON, CSV or text\. Try `revision: refs/convert/parquet`"
    ):
        remote(tmp_path / "other", "train")
