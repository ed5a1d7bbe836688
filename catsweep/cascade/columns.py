"""The columns of a table of foreign results, and errors that name the cell and the next move."""

from __future__ import annotations

import csv
import difflib
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from catsweep.cascade.ragged import FloatArray
from catsweep.errors import TableError

CORRECT = ("small_correct", "large_correct")
OUTPUT = ("small_output", "large_output", "reference")
COST = ("small_cost", "large_cost")
KNOWN = ("id", "score", *CORRECT, *OUTPUT, *COST, "group")


class Columns:
    """The columns of a file, and the errors that name a cell of it. values: name -> cells, in the order of the file."""

    def __init__(self, path: Path, values: dict[str, list[Any]]) -> None:
        self.path, self.values = path, values

    def has(self, name: str) -> bool:
        return name in self.values

    def check_names(self) -> None:
        """Raises TableError for missing and misspelt columns, and for a table without rows."""
        found = list(self.values)
        for separator, what in ((";", "semicolons"), ("\t", "tabs")):
            if len(found) == 1 and separator in found[0]:
                raise TableError(
                    f"{self.path}: found one column, {found[0]!r}, with {what} in it; expected columns separated by commas. Save "
                    "the table with commas (in a spreadsheet: export, field delimiter), or as .parquet"
                )
        wanted = ["id", "score"]
        for names in (CORRECT, OUTPUT, COST):
            wanted += names if any(self.has(name) for name in names if name != "reference") else ()
        unknown = [name for name in self.values if name not in KNOWN and not re.fullmatch(r"reference_\d+", name)]
        spare = [name for name in (*KNOWN, "reference_2") if not self.has(name)]
        for name in wanted:
            if not self.has(name):
                self._fail_name(f"column {name!r} is missing", _close(name, unknown, 0.6))
        for name in unknown:
            if close := _close(name.strip().lower(), spare, 0.85):
                self._fail_name(f"column {name!r} is not known", close)
        if not any(self.has(name) for name in ("small_correct", "small_output")):
            expected = f"{' and '.join(CORRECT)}, or {', '.join(OUTPUT)}"
            raise TableError(f"{self.path}: found the columns {', '.join(self.values)}; expected also {expected}")
        if not self.values["id"]:
            raise TableError(f"{self.path}: found a header and no rows; expected one row or more")

    def text(self, name: str, *, empty: bool = False) -> list[str]:
        """A column of text. Raises TableError for a missing value, and for an empty one unless `empty`."""
        for row, value in enumerate(self.values[name]):
            if value is None or (value == "" and not empty):
                raise self.error(row, name, "text")
        return [str(value) for value in self.values[name]]

    def optional_text(self, name: str) -> list[str | None] | None:
        """A column of text, None for missing and empty cells; None where there is no such column."""
        if not self.has(name):
            return None
        return [None if value is None or value == "" else str(value) for value in self.values[name]]

    def unique_text(self, name: str) -> list[str]:
        """A column of text in which no value stands twice."""
        texts = self.text(name)
        seen: dict[str, int] = {}
        for row, text in enumerate(texts):
            if text in seen:
                raise self.error(row, name, f"a new one; row {seen[text] + 1} has it too")
            seen[text] = row
        return texts

    def numbers(self, name: str, expected: str, *, lowest: float = -np.inf) -> FloatArray:
        """A column of finite numbers of at least `lowest`; true and false count as 1 and 0."""
        result = np.empty(len(self.values[name]))
        for row, value in enumerate(self.values[name]):
            number = _number(value)
            if not (np.isfinite(number) and number >= lowest):
                raise self.error(row, name, expected)
            result[row] = number
        return result

    def references(self) -> list[list[str]]:
        """The accepted answers of each row, in the order of their columns."""
        first = self.text("reference", empty=True)
        more = sorted((name for name in self.values if re.fullmatch(r"reference_\d+", name)), key=_last_number)
        others = zip(*(self.values[name] for name in more), strict=True) if more else ((),) * len(first)
        return [[main, *(str(text) for text in rest if text)] for main, rest in zip(first, others, strict=True)]

    def error(self, row: int, name: str, expected: str) -> TableError:
        """An error of one cell; row counts from 0 behind the header."""
        value = self.values[name][row]
        found = "an empty cell" if value is None or value == "" else repr(value)
        return TableError(f"{self.where(row)}, column {name!r}: found {found}; expected {expected}")

    def where(self, row: int) -> str:
        """FILE:LINE of a csv (a cell may hold line breaks), FILE: row N of a parquet file."""
        if self.path.suffix.lower() != ".csv":
            return f"{self.path}: row {row + 1}"
        with self.path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file)
            line, seen = 1, -2
            for cells in reader:
                seen += bool(cells)
                if seen == row:
                    break
                line = reader.line_num + 1
        return f"{self.path}:{line}: row {row + 1}"

    def _fail_name(self, problem: str, close: str) -> None:
        hint = f". Did you mean {close!r}? Rename the column" if close else ""
        raise TableError(f"{self.path}: {problem}; found {', '.join(self.values)}{hint}")


def read_columns(path: Path) -> Columns:
    """The columns of a .csv or .parquet file. Raises TableError where it cannot be read.

    Cells of a csv are text as they stand, so that an id such as 007 survives.
    """
    kind = path.suffix.lower()
    if kind not in (".csv", ".parquet"):
        raise TableError(f"{path}: found a file of type {kind or 'none'}; expected .csv or .parquet")
    try:
        table = pa.parquet.read_table(path) if kind == ".parquet" else _read_csv(path)
    except FileNotFoundError:
        raise TableError(f"{path}: no such file; expected a table in .csv or .parquet") from None
    except (OSError, pa.ArrowException) as error:
        raise TableError(f"{path}: cannot be read as {kind[1:]}: {error}") from None
    twice = [name for name, count in Counter(table.column_names).items() if count > 1]
    if twice:
        raise TableError(f"{path}: column {twice[0]!r} stands more than once; expected each name once")
    cells = (column.to_pylist() for column in table.columns)
    return Columns(path, dict(zip(table.column_names, cells, strict=True)))


def _read_csv(path: Path) -> pa.Table:
    parse = pa.csv.ParseOptions(newlines_in_values=True)
    with pa.csv.open_csv(path, parse_options=parse) as reader:
        names = reader.schema.names
    convert = pa.csv.ConvertOptions(column_types=dict.fromkeys(names, pa.string()), strings_can_be_null=False)
    return pa.csv.read_csv(path, parse_options=parse, convert_options=convert)


def _number(value: Any) -> float:
    """The number of a cell, NaN where it is none."""
    if isinstance(value, str) and value.strip().lower() in ("true", "false"):
        return float(value.strip().lower() == "true")
    try:
        return float(value)
    except (TypeError, ValueError):
        return float("nan")


def _last_number(name: str) -> int:
    return int(name.rpartition("_")[2])


def _close(name: str, known: Sequence[str], cutoff: float) -> str:
    return next(iter(difflib.get_close_matches(name, known, n=1, cutoff=cutoff)), "")
