"""Rows that installed packages ship: names, words, dates, code, places. No network, no licence to accept.

Each reader (catsweep.tasks.packages) gives one pool, a pure function of its spec and the packages' versions. Reading
takes up to seconds, so a pool is kept as Parquet under `<cache>/packages/<key>`.
"""

from __future__ import annotations

import importlib.metadata
import platform
from collections.abc import Iterator
from pathlib import Path
from typing import Any, assert_never

import pyarrow as pa
import pyarrow.parquet as pq

from catsweep.cache import building, is_complete
from catsweep.errors import DataError
from catsweep.spec import package as spec
from catsweep.spec.base import digest
from catsweep.spec.source import PackageSource
from catsweep.tasks.packages import characters, cldr, dictionaries, places, python_code
from catsweep.tasks.packages.emoji_names import emoji_names
from catsweep.tasks.packages.number_words import number_words
from catsweep.tasks.packages.pools import Pool
from catsweep.tasks.packages.pronunciations import pronunciations

POOL_VERSION = 2
"""Raise it when a reader picks other rows: it is part of the cache key."""


def read_package(source: PackageSource, cache: Path) -> Iterator[dict[str, Any]]:
    """The rows of a reader's pool, from the cache or made. cache: the folder of all caches. Raises DataError."""
    versions = package_versions(source.reader)
    facts = {"reader": source.reader.to_json(), "packages": versions, "pool": POOL_VERSION}
    folder = cache / "packages" / digest(facts)
    if not is_complete(folder):
        pool = make_pool(source.reader, cache)
        with building(folder, **facts) as temporary:
            pq.write_table(pa.Table.from_pylist(pool), temporary / "pool.parquet", compression="zstd")
    with pq.ParquetFile(folder / "pool.parquet") as file:
        for batch in file.iter_batches(batch_size=1_000):
            yield from batch.to_pylist()


def package_versions(reader: spec.PackageReader) -> dict[str, str]:
    """The version of each package that a reader needs; of "python", the standard library, Python's.

    Raises DataError where one is not installed.
    """
    return {package: _version(package, reader.kind) for package in reader.packages}


def make_pool(reader: spec.PackageReader, cache: Path | None = None) -> Pool:
    """The rows of a reader, made anew. cache: where what several readers need is kept; None: nowhere."""
    match reader:
        case spec.EmojiNames():
            return emoji_names(reader)
        case spec.Lemmas():
            return dictionaries.lemmas(reader, cache)
        case spec.LanguageIdentification():
            return dictionaries.language_identification(reader, cache)
        case spec.Hyphenation():
            return dictionaries.hyphenation(reader, cache)
        case spec.Pronunciations():
            return pronunciations(reader)
        case spec.CldrNames():
            return cldr.cldr_names(reader)
        case spec.Dates():
            return cldr.dates(reader)
        case spec.NumberWords():
            return number_words(reader)
        case spec.PythonFunctions():
            return python_code.python_functions(reader)
        case spec.PythonStatements():
            return python_code.python_statements(reader)
        case spec.Airports():
            return places.airports(reader)
        case spec.Subdivisions():
            return places.subdivisions(reader)
        case spec.LanguageCodes():
            return places.language_codes(reader)
        case spec.Characters():
            return characters.characters(reader)
        case _:
            assert_never(reader)


def _version(package: str, kind: str) -> str:
    if package == "python":
        return platform.python_version()
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        raise DataError(
            f"package {package}: found no installed version; reader {kind} takes its rows from it. Run: "
            "pip install 'catsweep[offline]'"
        ) from None
