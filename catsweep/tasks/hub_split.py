"""One split of a dataset, wherever it was found."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from catsweep.spec.source import HubLocation


@dataclass(frozen=True)
class HubSplit:
    """A split that can be read.

    where: dataset and place, for messages. schema: of its rows, with Hugging Face's metadata where there is any.
    num_rows: rows that can be read. num_all_rows: rows of the whole split; None where this is a part of it, or where
    that is not known. batches(start, stop): those rows. files: local files. revision: commit on the hub.
    """

    where: str
    schema: pa.Schema
    num_rows: int
    num_all_rows: int | None
    batches: Callable[[int, int], Iterator[pa.RecordBatch]]
    files: tuple[Path, ...] = ()
    revision: str | None = None


def shown(location: HubLocation) -> str:
    """A place of a dataset in one line."""
    return " ".join(part for part in (location.dataset_path, location.dataset_name, location.revision) if part)
