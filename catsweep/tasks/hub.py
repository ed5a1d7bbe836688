"""Rows of a dataset of the Hugging Face hub, or of a local folder in its layout. Files of data only, never remote code.

Local folders come first, for each place that the source names: the data root joined with `dataset_path`, then
`dataset_path` itself. Layout: `<folder>[/<dataset_name>][/data]/<split>[-00000-of-00001].parquet`, or what `data_files`
says; where that names no Parquet file, a .parquet file of the same name will do, which is what `catsweep fetch` writes.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from catsweep.errors import DataError, OutOfReachError
from catsweep.spec.source import Alternative, HubLocation, HubSource
from catsweep.spec.yaml import did_you_mean
from catsweep.tasks.expect import check_expectation
from catsweep.tasks.files import open_parquet, read_json_lines
from catsweep.tasks.hub_remote import hub_is_out_of_reach, open_remote
from catsweep.tasks.hub_split import BATCH_ROWS, HubSplit, batches_of_table, shown, with_renamed_columns
from catsweep.tasks.manifest import sampled_rows
from catsweep.tasks.slices import Slice, parse_slice

Verify = Literal["all", "schema"]


def read_hub(
    source: HubSource,
    split: str,
    max_rows: int | None = None,
    *,
    data_root: Path | None = None,
    cache: Path | None = None,
    verify: Verify = "all",
) -> Iterator[dict[str, Any]]:
    """The rows of a split, or of a slice of it, named as the dataset names it, as they are
    read; the first `max_rows` of them.

    cache: folder for slices of datasets that are too large to download. Raises DataError: no such dataset or split,
    another dataset than the source expects, an empty slice.
    """
    part = parse_slice(split)
    found = find_split(source, part, data_root=data_root, cache=cache, max_rows=max_rows)
    found = with_renamed_columns(found)
    check_split(source, found, part.split, verify)
    start, stop = part.bounds(found.num_rows)
    stop = stop if max_rows is None else min(stop, start + max_rows)
    if start >= stop and found.num_rows:
        raise DataError(f"{found.where}: found no row in {split!r} of {found.num_rows} rows; expected at least one")
    return (row for batch in found.batches(start, stop) for row in batch.to_pylist())


def check_split(source: HubSource, found: HubSplit, split: str, verify: Verify) -> None:
    """Raise DataError where a split, its columns renamed, is not what the source expects of the place it was found in."""
    location = found.location
    own = location.expect if isinstance(location, Alternative) else None
    num_rows = found.num_all_rows if verify == "all" else None
    check_expectation(own or source.expect, found.schema, num_rows, split=split, where=found.where)


def find_split(
    source: HubSource, part: Slice, *, data_root: Path | None, cache: Path | None = None, max_rows: int | None = None
) -> HubSplit:
    """A split in the first place that holds it: all local folders in order, then the hub. Raises DataError."""
    tried: list[str] = []
    for location in source.locations:
        for folder in local_folders(location, data_root):
            try:
                return _open_local(location, folder, part.split, data_root)
            except _NotHereError as error:
                tried.append(str(error))
    for location in source.locations:
        try:
            return open_remote(location, part, cache=cache, max_rows=max_rows)
        except DataError as error:
            tried.append(str(error))
    places = (
        f"neither as a folder {source.dataset_path} nor on the hub (no data root: set `data_root` or CATSWEEP_DATA)"
    )
    if data_root is not None:
        root = str(data_root) if data_root.is_dir() else f"{data_root} (there is no such folder)"
        places = f"neither in {root}, nor as a folder {source.dataset_path}, nor on the hub"
    text = (
        f"hub dataset {shown(source)}, split {part.split!r}: found it {places}: "
        f"{'; '.join(tried)}. Check the name; where there is no network, run "
        "`catsweep fetch TASKS --to DIR` on a machine that has one, and give that DIR as `data_root` or CATSWEEP_DATA"
    )
    if hub_is_out_of_reach():
        raise OutOfReachError(
            text, f"{shown(source)}, split {part.split!r}: not on this machine, nor is the hub in reach"
        )
    raise DataError(text)


def local_folders(location: HubLocation, data_root: Path | None) -> list[Path]:
    """The local folders of a place that are there, the one below the data root first."""
    candidates = [data_root / location.dataset_path] if data_root else []
    candidates.append(Path(location.dataset_path).expanduser())
    return [candidate for candidate in dict.fromkeys(candidates) if candidate.is_dir()]


def local_files(source: HubSource, split: str, data_root: Path | None) -> list[Path] | None:
    """The local files of a split, or None where it has to come from the hub."""
    for location in source.locations:
        for folder in local_folders(location, data_root):
            try:
                return _files(location, folder, split)
            except _NotHereError:
                continue
    return None


def fetched_file(location: HubLocation, split: str) -> Path:
    """Where `catsweep fetch` puts a split, relative to the data root: a place that this module reads."""
    folder = Path(location.dataset_path)
    if location.data_files is None:
        return folder / (location.dataset_name or "") / f"{split}-00000-of-00001.parquet"
    pattern = Path(location.data_files[split].replace("**/", "").replace("*", split))
    return folder / pattern.with_suffix(".parquet")


class _NotHereError(DataError):
    """A local folder does not hold the split; another place may."""


def _open_local(location: HubLocation, folder: Path, split: str, data_root: Path | None) -> HubSplit:
    files = _files(location, folder, split)
    where = f"dataset {shown(location)} in {folder}"
    if any(file.suffix in (".jsonl", ".json") for file in files):
        table = pa.Table.from_pylist([row for file in files for row in read_json_lines(file)])
        return HubSplit(
            location, where, table.schema, table.num_rows, table.num_rows, batches_of_table(table), tuple(files)
        )
    opened = [_open_parquet(path) for path in files]
    num_rows = sum(file.metadata.num_rows for file in opened)
    sample = sampled_rows(data_root, files)
    if sample is not None and sample != num_rows:
        raise DataError(
            f"{where}, split {split!r}: found {num_rows} rows; expected {sample}, as manifest.json says. Run `catsweep "
            "fetch` again"
        )

    def batches(start: int, stop: int) -> Iterator[pa.RecordBatch]:
        return itertools.chain.from_iterable(_ranges(files, start, stop))

    num_all_rows = None if sample is not None else num_rows
    return HubSplit(location, where, opened[0].schema_arrow, num_rows, num_all_rows, batches, tuple(files))


def _files(location: HubLocation, folder: Path, split: str) -> list[Path]:
    if location.data_files is not None:
        if split not in location.data_files:
            raise _no_split(location, split, sorted(location.data_files), "data_files")
        pattern = location.data_files[split]
        fetched = Path(pattern.replace("**/", "").replace("*", split)).with_suffix(".parquet")
        found = sorted(folder.glob(pattern)) or [file for file in (folder / fetched,) if file.is_file()]
        if not found:
            raise _NotHereError(
                f"{folder}: found no file for data_files {split}: {pattern!r}; expected Parquet files or lines of JSON"
            )
        return found
    below = folder / location.dataset_name if location.dataset_name else folder
    if not below.is_dir():
        names = sorted(path.name for path in folder.iterdir() if path.is_dir())
        hint = did_you_mean(str(location.dataset_name), names)
        text = f"{folder}: found no configuration {location.dataset_name!r}; expected one of {', '.join(names)}. {hint}"
        raise _NotHereError(text.rstrip(". "))
    files = [*below.glob("*.parquet"), *below.glob("data/*.parquet")]
    found = sorted(file for file in files if _split_name(file) == split)
    if not found:
        raise _no_split(location, split, sorted({_split_name(file) for file in files}), str(below))
    return found


def _split_name(file: Path) -> str:
    """`train` of train-00000-of-00001.parquet and of train.parquet."""
    return file.stem.split("-", 1)[0]


def _open_parquet(path: Path) -> pq.ParquetFile:
    try:
        return open_parquet(path)
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{path}: found no readable Parquet ({error}); expected a Parquet file") from None


def _ranges(files: list[Path], start: int, stop: int) -> Iterator[Iterator[pa.RecordBatch]]:
    """Rows start to stop of the files behind one another; what lies before them is not read."""
    first = 0
    for path in files:
        with _open_parquet(path) as file:
            for group in range(file.num_row_groups):
                num_rows = file.metadata.row_group(group).num_rows
                low, high = max(start - first, 0), min(stop - first, num_rows)
                first += num_rows
                if low < high:
                    yield _slices(file.iter_batches(batch_size=BATCH_ROWS, row_groups=[group]), low, high)


def _slices(batches: Iterator[pa.RecordBatch], start: int, stop: int) -> Iterator[pa.RecordBatch]:
    first = 0
    for batch in batches:
        low, high = max(start - first, 0), min(stop - first, batch.num_rows)
        first += batch.num_rows
        if low < high:
            yield batch.slice(low, high - low)
        if first >= stop:
            return


def _no_split(location: HubLocation, split: str, names: list[str], where: str) -> _NotHereError:
    hint = did_you_mean(split, names)
    listed = ", ".join(names) or "no Parquet file at all"
    text = f"dataset {shown(location)} in {where}: found no split {split!r}; expected one of: {listed}"
    return _NotHereError(f"{text}. {hint}" if hint else text)
