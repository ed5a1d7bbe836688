"""One split of a dataset, wherever it was found."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from catsweep.spec.source import Alternative, HubLocation

BATCH_ROWS = 1_000
Batches = Callable[[int, int], Iterator[pa.RecordBatch]]


@dataclass(frozen=True)
class HubSplit:
    """A split that can be read.

    location: the place of the source where it was found. where: dataset and place, for messages. schema: of its rows,
    with Hugging Face's metadata where there is any. num_rows: rows that can be read. num_all_rows: rows of the whole
    split; None where this is a part of it, or where that is not known. batches(start, stop): those rows. files: local
    files. revision: commit on the hub.
    """

    location: HubLocation
    where: str
    schema: pa.Schema
    num_rows: int
    num_all_rows: int | None
    batches: Batches
    files: tuple[Path, ...] = ()
    revision: str | None = None


def with_renamed_columns(split: HubSplit) -> HubSplit:
    """The split under the column names of the source's first place, where this one says what they are."""
    names = split.location.rename if isinstance(split.location, Alternative) else {}
    if not names:
        return split
    new = [names.get(name, name) for name in split.schema.names]
    schema = pa.schema([field.with_name(name) for field, name in zip(split.schema, new, strict=True)])
    features = {names.get(name, name): feature for name, feature in hub_features(split.schema).items()}
    if features:
        schema = schema.with_metadata({"huggingface": json.dumps({"info": {"features": features}})})

    def batches(start: int, stop: int) -> Iterator[pa.RecordBatch]:
        return (batch.rename_columns(new) for batch in split.batches(start, stop))

    return replace(split, schema=schema, batches=batches)


def hub_features(schema: pa.Schema) -> dict[str, Any]:
    """The features that Hugging Face wrote into a schema; empty where it did not."""
    text = (schema.metadata or {}).get(b"huggingface")
    features: dict[str, Any] = json.loads(text).get("info", {}).get("features", {}) if text else {}
    return features


def shown(location: HubLocation) -> str:
    """A place of a dataset in one line."""
    return " ".join(part for part in (location.dataset_path, location.dataset_name, location.revision) if part)


def batches_of_table(table: pa.Table) -> Batches:
    """The rows of a table as a split gives them: those from a first one up to another, some at once."""
    return lambda start, stop: iter(table.slice(start, stop - start).to_batches(max_chunksize=BATCH_ROWS))
