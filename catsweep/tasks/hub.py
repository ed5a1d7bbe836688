"""Rows of a dataset of the Hugging Face hub, or of a local folder in its layout. Parquet only, never remote code.

A local folder is tried first: CATSWEEP_DATA joined with `dataset_path`, then `dataset_path` itself. Layout:
`<folder>[/<dataset_name>][/data]/<split>[-00000-of-00001].parquet`. A local folder has no revisions.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from catsweep.errors import DataError
from catsweep.spec.source import HubSource
from catsweep.spec.yaml import did_you_mean

DATA_FOLDER_VARIABLE = "CATSWEEP_DATA"


def read_hub(
    source: HubSource, split: str, max_rows: int | None = None, *, data_root: Path | None = None
) -> list[dict[str, Any]]:
    """The rows of a split, named as the dataset names it; the first `max_rows` of them. Raises DataError."""
    folder = local_folder(source, data_root)
    if folder is not None:
        rows = _local_rows(_local_files(source, folder, split))
        return list(itertools.islice(rows, max_rows))
    return _remote_rows(source, split, max_rows, data_root)


def local_folder(source: HubSource, data_root: Path | None) -> Path | None:
    """The local folder that holds the dataset, or None where it has to come from the hub."""
    candidates = [data_root / source.dataset_path] if data_root else []
    candidates.append(Path(source.dataset_path).expanduser())
    return next((candidate for candidate in candidates if candidate.is_dir()), None)


def _local_files(source: HubSource, folder: Path, split: str) -> list[Path]:
    if source.data_files is not None:
        if split not in source.data_files:
            raise _no_split(source, split, sorted(source.data_files), "data_files")
        found = sorted(folder.glob(source.data_files[split]))
        if not found:
            raise DataError(
                f"{folder}: found no file for data_files {split}: {source.data_files[split]!r}; expected Parquet files"
            )
        return found
    below = folder / source.dataset_name if source.dataset_name else folder
    if not below.is_dir():
        names = sorted(path.name for path in folder.iterdir() if path.is_dir())
        hint = did_you_mean(str(source.dataset_name), names)
        raise DataError(
            f"{folder}: found no configuration {source.dataset_name!r}; expected one of {', '.join(names)}. {hint}"
        )
    files = [*below.glob("*.parquet"), *below.glob("data/*.parquet")]
    found = sorted(file for file in files if _split_name(file) == split)
    if not found:
        raise _no_split(source, split, sorted({_split_name(file) for file in files}), str(below))
    return found


def _split_name(file: Path) -> str:
    """`train` of train-00000-of-00001.parquet and of train.parquet."""
    return file.stem.split("-", 1)[0]


def _local_rows(files: list[Path]) -> Iterator[dict[str, Any]]:
    for path in files:
        try:
            with pq.ParquetFile(path) as file:
                for batch in file.iter_batches(batch_size=1_000):
                    yield from batch.to_pylist()
        except (OSError, pa.ArrowException) as error:
            raise DataError(f"{path}: found no readable Parquet ({error}); expected a Parquet file") from None


def _remote_rows(
    source: HubSource, split: str, max_rows: int | None, data_root: Path | None = None
) -> list[dict[str, Any]]:
    import datasets  # takes seconds, and a local folder does without
    from datasets.packaged_modules.cache.cache import Cache
    from datasets.packaged_modules.parquet.parquet import Parquet

    keywords: dict[str, Any] = {"revision": source.revision, "data_files": source.data_files}
    try:
        builder = datasets.load_dataset_builder(source.dataset_path, source.dataset_name, **keywords)
        if not isinstance(builder, Parquet | Cache):  # Cache: downloaded before, and the hub cannot be reached now
            raise DataError(
                f"hub dataset {_shown(source)}: found a {builder.__class__.__name__} dataset; expected Parquet. Try "
                "`revision: refs/convert/parquet`, where the hub keeps a Parquet copy, or download it and use `kind: files`"
            )
        if max_rows is not None and isinstance(builder, Parquet):
            stream = datasets.load_dataset(
                source.dataset_path, source.dataset_name, split=split, streaming=True, **keywords
            )
            return list(itertools.islice(stream, max_rows))
        rows: list[dict[str, Any]] = datasets.load_dataset(
            source.dataset_path, source.dataset_name, split=split, **keywords
        ).to_list()
        return rows[:max_rows]
    except DataError:
        raise
    except Exception as error:  # the library, the network and the hub raise dozens of kinds
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:300]
        raise DataError(_unreachable(source, split, data_root, f"{type(error).__name__}: {reason}")) from error


def _unreachable(source: HubSource, split: str, root: Path | None, reason: str) -> str:
    tried = f"{root}/{source.dataset_path}, " if root else f"{DATA_FOLDER_VARIABLE} (not set), "
    return (
        f"hub dataset {_shown(source)}, split {split!r}: tried {tried}the folder {source.dataset_path}, and the hub "
        f"({reason}); expected one of them to hold it. Check the name, or where there is no network put the Parquet "
        f"files at <folder>/{source.dataset_path}/{f'{source.dataset_name}/' if source.dataset_name else ''}{split}"
        f"-00000-of-00001.parquet and set {DATA_FOLDER_VARIABLE}=<folder>"
    )


def _shown(source: HubSource) -> str:
    return " ".join(part for part in (source.dataset_path, source.dataset_name, source.revision) if part)


def _no_split(source: HubSource, split: str, names: list[str], where: str) -> DataError:
    hint = did_you_mean(split, names)
    shown = ", ".join(names) or "no Parquet file at all"
    return DataError(
        f"dataset {_shown(source)} in {where}: found no split {split!r}; expected one of: {shown}. {hint}".rstrip()
    )
