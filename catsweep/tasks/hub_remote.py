"""Splits of datasets on the Hugging Face hub, through its library: downloaded whole, or streamed up to a row."""

from __future__ import annotations

import functools
import itertools
import re
import socket
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pyarrow as pa
import pyarrow.parquet as pq

from catsweep.cache import building, is_complete
from catsweep.errors import DataError
from catsweep.spec.base import digest
from catsweep.spec.source import HubLocation
from catsweep.tasks.hub_split import BATCH_ROWS, HubSplit, batches_of_table, shown
from catsweep.tasks.slices import Slice

MAX_STREAMED_ROWS = 10_000
"""More rows than this are streamed once, into the cache."""


def open_remote(
    location: HubLocation, part: Slice, *, cache: Path | None = None, max_rows: int | None = None
) -> HubSplit:
    """A split of the hub, of which at least the slice can be read. Raises DataError.

    Where the slice is a number of first rows, or max_rows is given, only these are downloaded; from MAX_STREAMED_ROWS
    on they are kept in the cache.
    """
    with _library_errors(location):
        builder = _builder(location)
        known = (builder.info.splits or {}).get(part.split)
        num_all_rows = known.num_examples if known is not None and known.num_examples else None
        needed = min((limit for limit in (part.prefix, max_rows) if limit is not None), default=None)
        where = f"hub dataset {shown(location)}"
        if needed is None or not _can_stream(builder):
            dataset = _load(location, part.split)
            batches = _batches_of(dataset)
            schema = dataset.features.arrow_schema
            return HubSplit(location, where, schema, len(dataset), len(dataset), batches, revision=builder.hash)
        table = _first_rows(location, part.split, needed, builder.hash, cache)
        return HubSplit(
            location, where, table.schema, table.num_rows, num_all_rows, batches_of_table(table), revision=builder.hash
        )


def remote_revision(location: HubLocation) -> str:
    """The commit of a dataset, or what its library tells versions apart by. Raises DataError where it is unreachable."""
    if location.revision and re.fullmatch(r"[0-9a-f]{40}", location.revision):
        return location.revision
    return _remote_revision(location.dataset_path, location.dataset_name, location.revision)


@functools.lru_cache(maxsize=1024)
def _remote_revision(path: str, name: str | None, revision: str | None) -> str:
    location = HubLocation(dataset_path=path, dataset_name=name, revision=revision)
    with _library_errors(location):
        return str(_builder(location).hash)


def _builder(location: HubLocation) -> Any:
    import datasets  # takes seconds, and a local folder does without
    from datasets.packaged_modules.cache.cache import Cache
    from datasets.packaged_modules.csv.csv import Csv
    from datasets.packaged_modules.json.json import Json
    from datasets.packaged_modules.parquet.parquet import Parquet
    from datasets.packaged_modules.text.text import Text

    builder = datasets.load_dataset_builder(location.dataset_path, location.dataset_name, **_keywords(location))
    if not isinstance(
        builder, Parquet | Json | Csv | Text | Cache
    ):  # Cache: downloaded before, the hub is out of reach
        raise DataError(
            f"hub dataset {shown(location)}: found a {builder.__class__.__name__} dataset; expected Parquet, JSON, CSV or "
            "text. Try `revision: refs/convert/parquet`, where the hub keeps a Parquet copy, or use `kind: files`"
        )
    pinned = location.revision and re.fullmatch(r"[0-9a-f]{40}", location.revision)
    if isinstance(builder, Cache) and pinned and builder.hash != location.revision:
        raise DataError(
            f"hub dataset {shown(location)}: found only revision {builder.hash} in the library's cache, and the hub is out "
            f"of reach; expected {location.revision}"
        )
    return builder


def _can_stream(builder: Any) -> bool:
    return type(builder).__name__ != "Cache"


def _keywords(location: HubLocation) -> dict[str, Any]:
    return {"revision": location.revision, "data_files": location.data_files}


def _load(location: HubLocation, split: str, *, streaming: bool = False) -> Any:
    import datasets

    return datasets.load_dataset(
        location.dataset_path, location.dataset_name, split=split, streaming=streaming, **_keywords(location)
    )


def _first_rows(location: HubLocation, split: str, num_rows: int, revision: str, cache: Path | None) -> pa.Table:
    if cache is None or num_rows <= MAX_STREAMED_ROWS:
        return _stream(location, split, num_rows)
    folder = cache / "hub" / digest([location.to_json(), split, num_rows, revision])
    if not is_complete(folder):
        with building(folder, dataset=shown(location), split=split, num_rows=num_rows) as temporary:
            pq.write_table(_stream(location, split, num_rows), temporary / "rows.parquet")
    return pq.read_table(folder / "rows.parquet", memory_map=True)


def _stream(location: HubLocation, split: str, num_rows: int) -> pa.Table:
    stream = _load(location, split, streaming=True)
    rows = list(itertools.islice(stream, num_rows))
    schema = stream.features.arrow_schema if stream.features else None
    return pa.Table.from_pylist(rows, schema=schema)


def _batches_of(dataset: Any) -> Any:
    def batches(start: int, stop: int) -> Iterator[pa.RecordBatch]:
        part = dataset.select(range(start, stop)).with_format("arrow")
        for table in part.iter(batch_size=BATCH_ROWS):
            yield from table.to_batches()

    return batches


@contextmanager
def _library_errors(location: HubLocation) -> Iterator[None]:
    """The library, the network and the hub raise dozens of kinds; here they become one line. Without a network the
    library would try for half a minute: then it looks into its cache alone."""
    try:
        with _offline_without_network():
            yield
    except DataError:
        raise
    except Exception as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:300]
        raise DataError(f"hub dataset {shown(location)}: {type(error).__name__}: {reason}") from error


def hub_is_out_of_reach() -> bool:
    """Whether the library is told to stay offline, or the hub's host has no address here."""
    import datasets.config
    import huggingface_hub.constants

    offline = datasets.config.HF_HUB_OFFLINE or huggingface_hub.constants.HF_HUB_OFFLINE
    return bool(offline) or _is_cut_off(huggingface_hub.constants.ENDPOINT)


@contextmanager
def _offline_without_network() -> Iterator[None]:
    import datasets.config
    import huggingface_hub.constants

    settings = [datasets.config, huggingface_hub.constants]
    before = [setting.HF_HUB_OFFLINE for setting in settings]
    if not any(before) and _is_cut_off(huggingface_hub.constants.ENDPOINT):
        for setting in settings:
            setting.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        for setting, value in zip(settings, before, strict=True):
            setting.HF_HUB_OFFLINE = value


@functools.lru_cache(maxsize=8)
def _is_cut_off(endpoint: str) -> bool:
    """Whether the hub's host has no address here and no proxy could know it."""
    if urllib.request.getproxies():
        return False
    try:
        socket.getaddrinfo(urlsplit(endpoint).hostname, 443)
    except OSError:
        return True
    return False
