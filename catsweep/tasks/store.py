"""Rows and examples on storage instead of in memory: what a process holds does not grow with the texts of a task."""

from __future__ import annotations

import itertools
import os
import pickle
import tempfile
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, overload

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

CHUNK_ROWS = 1_000
"""Examples that are made or read at once."""


@dataclass(frozen=True)
class Example:
    """One row of a task as text.

    id: unique within the task and stable. group: rows of one group never lie in two splits. prompt: without the
    delimiter. target: the answer that is trained on; for choices `choices[label]`. references: all accepted answers; the
    target is the first of them unless the task has `doc_to_reference`. choices and label: empty and -1 for generation.
    sources: keys of the source text, where they were asked for (see tasks.overlap).
    key: the row's question, where a metric asks for it.
    """

    id: str
    group: str
    prompt: str
    target: str
    references: tuple[str, ...]
    choices: tuple[str, ...] = ()
    label: int = -1
    sources: frozenset[bytes] = frozenset()
    key: str | None = None


SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("group", pa.string()),
        ("prompt", pa.string()),
        ("target", pa.string()),
        ("references", pa.list_(pa.string())),
        ("choices", pa.list_(pa.string())),
        ("label", pa.int64()),
        ("sources", pa.list_(pa.binary())),
        ("key", pa.string()),
    ]
)
"""The fields of `Example`."""

SOURCES = SCHEMA.get_field_index("sources")


class Spool:
    """Pieces of bytes in a temporary file that ends with this object, in the order in which they came."""

    def __init__(self) -> None:
        self.file = tempfile.TemporaryFile(prefix="catsweep-")  # noqa: SIM115  (it lives as long as the object)
        self.offsets = array("q", [0])

    def append(self, piece: bytes) -> None:
        """Add a piece; `flush` before it is read."""
        self.file.write(piece)
        self.offsets.append(self.offsets[-1] + len(piece))

    def flush(self) -> None:
        """What was added can be read from here on."""
        self.file.flush()

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, index: int) -> bytes:
        start, stop = self.offsets[index], self.offsets[index + 1]
        return os.pread(self.file.fileno(), stop - start, start)


class RowSpool:
    """Rows of any columns on storage, in the order in which they came."""

    def __init__(self, rows: Iterable[dict[str, Any]]) -> None:
        self.pieces = Spool()
        for row in rows:
            self.pieces.append(pickle.dumps(row, protocol=pickle.HIGHEST_PROTOCOL))
        self.pieces.flush()

    def __len__(self) -> int:
        return len(self.pieces)

    def __getitem__(self, index: int) -> dict[str, Any]:
        row: dict[str, Any] = pickle.loads(self.pieces[index])
        return row


class StoredExamples(Sequence[Example]):
    """Examples in an Arrow file, memory-mapped, or some of them."""

    def __init__(self, path: Path, indices: NDArray[np.int64] | None = None) -> None:
        self.path = path
        with pa.memory_map(str(path)) as file, pa.ipc.open_file(file) as reader:
            self.table: pa.Table = reader.read_all()
        self.indices = np.arange(self.table.num_rows) if indices is None else indices

    def select(self, positions: NDArray[np.bool_] | NDArray[np.int64]) -> StoredExamples:
        """Those at these positions, in this order; a mask of booleans works as well."""
        return StoredExamples(self.path, self.indices[positions])

    def column(self, name: str) -> list[Any]:
        """One field of all examples, for example `group`."""
        values: list[Any] = self.table.column(name).take(pa.array(self.indices)).to_pylist()
        return values

    def texts(self, *names: str) -> Iterator[tuple[str, ...]]:
        """Some fields of all examples, each a text: for example (prompt, target)."""
        for start in range(0, len(self), CHUNK_ROWS):
            some = self._taken(self.indices[start : start + CHUNK_ROWS])
            yield from zip(*(some.column(name).to_pylist() for name in names), strict=True)

    def __len__(self) -> int:
        return len(self.indices)

    @overload
    def __getitem__(self, index: int) -> Example: ...
    @overload
    def __getitem__(self, index: slice) -> list[Example]: ...
    def __getitem__(self, index: int | slice) -> Example | list[Example]:
        if isinstance(index, slice):
            return _examples(self._taken(self.indices[index]))
        return _examples(self._taken(self.indices[[index]]))[0]

    def __iter__(self) -> Iterator[Example]:
        for start in range(0, len(self), CHUNK_ROWS):
            yield from self[start : start + CHUNK_ROWS]

    def _taken(self, indices: NDArray[np.int64]) -> pa.Table:
        """These rows. Arrow copies all of a table of many pieces to take rows of it, so it sees those in between only."""
        if not len(indices):
            return self.table.slice(0, 0)
        first, last = int(indices.min()), int(indices.max())
        between = self.table.slice(first, last - first + 1)
        is_whole = last - first + 1 == len(indices) and bool((np.diff(indices) == 1).all())
        return between if is_whole else between.take(pa.array(indices - first))


def write_examples(path: Path, examples: Iterable[Example]) -> int:
    """Write examples as they come; returns their number."""
    num_rows = 0
    rows = iter(examples)
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, SCHEMA) as writer:
        while chunk := list(itertools.islice(rows, CHUNK_ROWS)):
            columns = [[getattr(example, name) for example in chunk] for name in SCHEMA.names]
            columns[SOURCES] = [sorted(sources) for sources in columns[SOURCES]]
            writer.write_table(pa.table(columns, schema=SCHEMA))
            num_rows += len(chunk)
    return num_rows


def _examples(table: pa.Table) -> list[Example]:
    columns = [table.column(name).to_pylist() for name in SCHEMA.names]
    return [
        Example(row_id, group, prompt, target, tuple(references), tuple(choices), label, frozenset(sources), key)
        for row_id, group, prompt, target, references, choices, label, sources, key in zip(*columns, strict=True)
    ]
