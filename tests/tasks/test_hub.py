from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from catsweep.errors import DataError
from catsweep.spec.source import HubSource
from catsweep.tasks import hub
from catsweep.tasks.hub import read_hub

ROWS: list[dict[str, Any]] = [{"text": "a", "label": 0}, {"text": "b", "label": 1}]


@pytest.fixture
def dataset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A dataset of two training shards and a validation split at owner/name, configuration `small`."""
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    folder = tmp_path / "owner" / "name"
    (folder / "small").mkdir(parents=True)
    for index, row in enumerate(ROWS):
        pq.write_table(pa.Table.from_pylist([row]), folder / "small" / f"train-0000{index}-of-00002.parquet")
    pq.write_table(pa.Table.from_pylist(ROWS[:1]), folder / "small" / "validation.parquet")
    return folder


def read(dataset: Path, source: HubSource, split: str, max_rows: int | None = None) -> list[dict[str, Any]]:
    return read_hub(source, split, max_rows, data_root=dataset.parents[1])


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


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"dataset_name": "smal"},
         "{folder}: found no configuration 'smal'; expected one of small. Did you mean 'small'?"),
        ({"dataset_name": "small", "training_split": "training"},
         "dataset owner/name small in {folder}/small: found no split 'training'; expected one of: train, validation. "
         "Did you mean 'train'?"),
        ({"data_files": {"train": "large/*"}},
         "{folder}: found no file for data_files train: 'large/*'; expected Parquet files"),
        ({"data_files": {"tune": "*"}},
         "dataset owner/name in data_files: found no split 'train'; expected one of: tune."),
    ],
)  # fmt: skip
def test_errors_name_what_the_folder_holds(dataset: Path, fields: dict[str, Any], expected: str) -> None:
    source = HubSource.model_validate({"dataset_path": "owner/name"} | fields)
    with pytest.raises(DataError) as error:
        read(dataset, source, source.training_split)
    assert str(error.value) == expected.format(folder=dataset)


def test_a_dataset_that_nobody_has_says_what_was_tried(dataset: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    root = dataset.parents[1]
    with pytest.raises(DataError) as error:
        read(dataset, HubSource(dataset_path="nobody/nothing", dataset_name="rte"), "test")
    assert str(error.value) == (
        f"hub dataset nobody/nothing rte, split 'test': tried {root}/nobody/nothing, the folder nobody/nothing, and the "
        "hub (ConnectionError: Couldn't reach 'nobody/nothing' on the Hub (OfflineModeIsEnabled)); expected one of them "
        "to hold it. Check the name, or where there is no network put the Parquet files at "
        "<folder>/nobody/nothing/rte/test-00000-of-00001.parquet and set CATSWEEP_DATA=<folder>"
    )


def test_the_library_reads_the_same_rows_as_the_local_way(dataset: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", dataset.parent / "library")
    source = HubSource(dataset_path=str(dataset / "small"))
    assert hub._remote_rows(source, "train", None) == ROWS
    assert hub._remote_rows(source, "train", 1) == ROWS[:1]


def test_other_formats_than_parquet_are_refused(tmp_path: Path) -> None:
    (tmp_path / "json").mkdir()
    (tmp_path / "json" / "train.jsonl").write_text('{"a": 1}\n')
    with pytest.raises(DataError, match=r"dataset; expected Parquet\. Try `revision: refs/convert/parquet`"):
        hub._remote_rows(HubSource(dataset_path=str(tmp_path / "json")), "train", None)
