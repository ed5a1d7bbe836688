"""Rows of a task's source, whatever its kind, by the splits that it gives."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, assert_never

from catsweep import records
from catsweep.spec.load import DATA_ROOT_VARIABLE
from catsweep.spec.source import FilesSource, HubPart, HubSource, PackageSource, SacrebleuSource, Source, SplitsSource
from catsweep.tasks.files import read_files
from catsweep.tasks.hub import Verify, read_hub
from catsweep.tasks.package import read_package
from catsweep.tasks.sacrebleu_sets import read_sacrebleu

__all__ = ["Reading", "Rows", "Verify", "data_root_of_environment", "describe_splits", "given_splits", "read_split"]

Rows = Iterator[dict[str, Any]]


@dataclass(frozen=True)
class Reading:
    """How sources are read.

    data_root: folder that holds copies of hub datasets and test sets; default CATSWEEP_DATA. cache: folder of caches,
    for pools of packages; default `<storage root>/cache`. verify: "schema" leaves row counts uncompared.
    """

    data_root: Path | None = field(default_factory=lambda: data_root_of_environment())
    cache: Path = field(default_factory=lambda: records.storage_root() / "cache")
    verify: Verify = "all"


def data_root_of_environment() -> Path | None:
    """The absolute folder that CATSWEEP_DATA names, if it is set."""
    folder = os.environ.get(DATA_ROOT_VARIABLE)
    return Path(folder).expanduser().resolve() if folder else None


def given_splits(source: Source) -> dict[str, str]:
    """The splits that a source gives ("train", and "validation" and "test" where there are any) -> what the source
    itself calls each: the test split of RTE is the public `validation`."""
    match source:
        case HubSource():
            names = {"train": source.training_split, "validation": source.validation_split, "test": source.test_split}
            return {split: name for split, name in names.items() if name is not None}
        case FilesSource() | SplitsSource():
            return {split: split for split in ("train", "validation", "test") if getattr(source, split) is not None}
        case PackageSource():
            return {"train": "train"}
        case _:
            assert_never(source)


def describe_splits(source: Source) -> str:
    """Which public split each split is, and which are cut from train: `test is the public validation split; ...`."""
    given = given_splits(source)
    named = [f"{split} is the source's {name!r}" for split, name in given.items() if split != name]
    missing = [split for split in ("validation", "calibration", "test") if split not in given]
    listed = " and ".join([", ".join(missing[:-1]), missing[-1]] if len(missing) > 1 else missing)
    verb = "are" if len(missing) > 1 else "is"
    return "; ".join([*named, f"{listed} {verb} cut from train by whole groups"])


def read_split(source: Source, split: str, reading: Reading, max_rows: int | None = None) -> Rows:
    """The rows of a given split as they are needed, or the first `max_rows` of them; where the source allows it no more
    are read. Raises DataError, now or while they are read."""
    match source:
        case HubSource():
            name = given_splits(source)[split]
            return read_hub(
                source, name, max_rows, data_root=reading.data_root, cache=reading.cache, verify=reading.verify
            )
        case FilesSource():
            return read_files(source, split, max_rows)
        case PackageSource():
            return itertools.islice(read_package(source, reading.cache), max_rows)
        case SplitsSource():
            return _read_part(getattr(source, split), reading, max_rows)
        case _:
            assert_never(source)


def _read_part(part: HubPart | FilesSource | PackageSource | SacrebleuSource, reading: Reading, n: int | None) -> Rows:
    match part:
        case HubPart():
            return read_split(part.as_source(), "train", reading, n)
        case SacrebleuSource():
            return iter(read_sacrebleu(part, reading.data_root, n))
        case _:
            return read_split(part, "train", reading, n)
