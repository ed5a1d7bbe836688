"""Rows from files: jsonl, csv, tsv, parquet, and aligned plain text. Errors name file and line."""

from __future__ import annotations

import codecs
import csv
import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from catsweep.errors import DataError
from catsweep.spec.source import FilesSource

MAX_FIELD_CHARACTERS = 100_000_000
PARQUET_BUFFER = 2**16
"""Bytes of each column that are read at once."""


def read_files(source: FilesSource, split: str, max_rows: int | None = None) -> Iterator[dict[str, Any]]:
    """The rows of one split, "train", "validation" or "test", as they are read; the first `max_rows` of them. Raises
    DataError."""
    files = {"train": source.train, "validation": source.validation, "test": source.test}[split]
    if isinstance(files, dict):
        rows = _aligned(files)
    else:
        assert files is not None, f"the source has no split {split}"
        readers = {"jsonl": read_json_lines, "csv": _csv, "tsv": _tsv, "parquet": _parquet}
        rows = readers[source.format](Path(files))
    try:
        yield from itertools.islice(rows, max_rows)
    except OSError as error:
        path = error.filename or files
        raise DataError(
            f"{path}: {error.strerror or error}; expected a readable {source.format} file for split {split}. "
            "File names in a task's YAML are relative to that YAML"
        ) from None


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Numbered lines, cut at line feeds only: a text may hold other characters that Python calls line breaks."""
    with path.open("rb") as file:
        for number, raw in enumerate(file, start=1):
            try:
                text = raw.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                is_wide = number == 1 and raw[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
                found = f"{error.reason} at byte {error.start}"
                move = f"convert it with `iconv -f {'utf-16' if is_wide else 'latin1'} -t utf-8`, for example"
                raise DataError(f"{path}:{number}: found {found}; expected UTF-8: {move}") from None
            yield number, text.removesuffix("\n").removesuffix("\r")


def read_json_lines(path: Path) -> Iterator[dict[str, Any]]:
    """The objects of a file that holds one a line. Raises DataError."""
    for number, line in _lines(path):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise DataError(f"{path}:{number}: found broken JSON ({error}); expected one object a line") from None
        if not isinstance(row, dict):
            raise DataError(f"{path}:{number}: found {type(row).__name__}; expected an object of column: value")
        yield row


def _csv(path: Path) -> Iterator[dict[str, Any]]:
    csv.field_size_limit(MAX_FIELD_CHARACTERS)
    reader = csv.reader((line + "\n" for _, line in _lines(path)), strict=True)
    header: list[str] = []
    while True:
        try:
            values = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise DataError(f"{path}:{reader.line_num}: found broken CSV ({error}); expected RFC 4180") from None
        if not header:
            header = _header(path, values, ",")
        elif values:
            yield _record(path, reader.line_num, header, values)


def _tsv(path: Path) -> Iterator[dict[str, Any]]:
    """Tab-separated values without quoting: every quotation mark is text."""
    header: list[str] = []
    for number, line in _lines(path):
        values = line.split("\t")
        if not header:
            header = _header(path, values, "\t")
        elif line:
            yield _record(path, number, header, values)


def _header(path: Path, names: list[str], separator: str) -> list[str]:
    other = next((sign for sign in ",;\t|" if len(names) == 1 and sign in names[0] and sign != separator), None)
    if other is not None:
        move = {"\t": "set `format: tsv`", ",": "set `format: csv`"}.get(other, "write the file so")
        raise DataError(f"{path}:1: found one column {names[0]!r}; expected columns between {separator!r}: {move}")
    if len(set(names)) < len(names) or not all(name.strip() for name in names):
        raise DataError(f"{path}:1: found the header {names}; expected a different name for every column")
    return names


def _record(path: Path, line: int, header: list[str], values: list[str]) -> dict[str, Any]:
    if len(values) != len(header):
        raise DataError(f"{path}:{line}: found {len(values)} values; expected {len(header)}: {', '.join(header)}")
    return dict(zip(header, values, strict=True))


def open_parquet(file: Any) -> pq.ParquetFile:
    """A Parquet file whose row groups are read in pieces: as Arrow does it by default, a whole one lies in memory, which may
    be the whole file. file: open, or a path."""
    return pq.ParquetFile(file, pre_buffer=False, buffer_size=PARQUET_BUFFER)


def _parquet(path: Path) -> Iterator[dict[str, Any]]:
    try:
        with path.open("rb") as raw, open_parquet(raw) as file:
            for batch in file.iter_batches(batch_size=1_000):
                yield from batch.to_pylist()
    except pa.ArrowException as error:
        raise DataError(f"{path}: found no readable Parquet ({error}); expected a Parquet file") from None


def _aligned(files: dict[str, str]) -> Iterator[dict[str, Any]]:
    """Line i of each file is a column of row i."""
    columns = {name: _lines(Path(path)) for name, path in files.items()}
    for values in itertools.zip_longest(*columns.values()):
        if None in values:
            counts = {path: sum(1 for _ in _lines(Path(path))) for path in files.values()}
            shown = ", ".join(f"{path} {count}" for path, count in counts.items())
            raise DataError(f"found aligned files of different length: {shown} lines; expected the same number in each")
        yield dict(zip(columns, [text for _, text in values], strict=True))
