"""Rows that installed packages ship: emoji names, lemmas, words of close languages. No network, no licence to accept.

Each reader gives one pool, a pure function of its spec and the package's version, in which every row has two further
columns: `id`, and `group`, the default group key. Reading dictionaries takes seconds, so a pool is kept as Parquet
under `<cache>/packages/<key>`.
"""

from __future__ import annotations

import heapq
import importlib.metadata
import itertools
import platform
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, assert_never

import pyarrow as pa
import pyarrow.parquet as pq

from catsweep import records
from catsweep.errors import DataError
from catsweep.spec.base import digest
from catsweep.spec.package import EmojiNames, LanguageIdentification, Lemmas, PackageReader
from catsweep.spec.source import PackageSource
from catsweep.spec.yaml import did_you_mean
from catsweep.tasks.splits import components, hash_key

POOL_VERSION = 1
"""Raise it when a reader picks other rows: it is part of the cache key."""

MIN_LETTERS, MAX_LETTERS = 2, 24

CANDIDATES = 4
"""Words of a language that are looked at for each row that it gives: some are skipped, as another language is full."""

Pool = list[dict[str, str]]


def read_package(source: PackageSource, cache: Path) -> list[dict[str, Any]]:
    """The pool of a reader, from the cache or made. cache: the folder of all caches. Raises DataError."""
    versions = package_versions(source.reader)
    facts = {"reader": source.reader.to_json(), "packages": versions, "pool": POOL_VERSION}
    folder = cache / "packages" / digest(facts)
    if not records.is_complete(folder):
        pool = _make_pool(source.reader)
        with records.building(folder, **facts) as temporary:
            pq.write_table(pa.Table.from_pylist(pool), temporary / "pool.parquet", compression="zstd")
    rows: list[dict[str, Any]] = pq.read_table(folder / "pool.parquet").to_pylist()
    return rows


def package_versions(reader: PackageReader) -> dict[str, str]:
    """The version of each package that a reader needs; of "python", the standard library, Python's.

    Raises DataError where one is not installed.
    """
    return {package: _version(package, reader.kind) for package in reader.packages}


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


def _make_pool(reader: PackageReader) -> Pool:
    match reader:
        case EmojiNames():
            return emoji_names(reader)
        case Lemmas():
            return lemmas(reader)
        case LanguageIdentification():
            return language_identification(reader)
        case _:
            assert_never(reader)


def emoji_names(reader: EmojiNames) -> Pool:
    """Columns source, target: the names of every emoji without a skin tone, one row an emoji, in Unicode's order.

    Group: rows that share a name, whatever the case, in either language.
    """
    import emoji

    for language in (reader.source_language, reader.target_language):
        _check_language(language, "emoji", emoji.LANGUAGES)
    emoji.config.load_language([reader.source_language, reader.target_language])
    pool = []
    for sequence, data in emoji.EMOJI_DATA.items():
        is_base = data["status"] == emoji.STATUS["fully_qualified"] and not any(map(_is_skin_tone, sequence))
        if is_base and reader.source_language in data and reader.target_language in data:
            source, target = (_plain_name(data[key]) for key in (reader.source_language, reader.target_language))
            if reader.max_characters is None or max(len(source), len(target)) <= reader.max_characters:
                pool.append({"id": sequence, "source": source, "target": target})
    return _with_groups(pool, "source", "target")


def lemmas(reader: Lemmas) -> Pool:
    """Columns form, lemma: pairs of different words of 2 to 24 letters, the first `max_pairs` in hash order.

    Group: the lemma; lemmas that are also forms of others, or differ in case only, are one group.
    """
    _check_simplemma(reader.language)
    dictionary = _dictionary(reader.language)

    def pairs() -> Iterator[tuple[str, str]]:
        for form in dictionary:
            if _is_word(form):
                lemma = dictionary[form]
                if lemma != form and _is_word(lemma):
                    yield form, lemma

    picked = heapq.nsmallest(reader.max_pairs, pairs(), key=lambda pair: hash_key(f"{pair[0]}\t{pair[1]}"))
    pool = [{"id": form, "form": form, "lemma": lemma} for form, lemma in picked]
    return _with_groups(pool, "form", "lemma")


def language_identification(reader: LanguageIdentification) -> Pool:
    """Columns word, language, lemma: lower-case words in hash order, the same number of rows for every language.

    Words are picked by hash, first for the language with the smallest dictionary. A picked word gives a row for every
    language whose dictionary has it, so that its ambiguity is all there. Group: the connected component of shared
    word or lemma across the languages.
    """
    for language in reader.languages:
        _check_simplemma(language)
    dictionaries = {language: _dictionary(language) for language in dict.fromkeys(reader.languages)}
    by_size = sorted(dictionaries, key=lambda language: (len(dictionaries[language]), language))
    num_rows = reader.max_rows // len(by_size)
    candidates = {}
    for language in by_size:
        words = (word for word in dictionaries[language] if _is_word(word) and word.islower())
        candidates[language] = heapq.nsmallest(CANDIDATES * num_rows, words, key=hash_key)
    while True:
        picked, counts = _pick_balanced(by_size, candidates, dictionaries, num_rows)
        if min(counts.values()) == num_rows:
            break
        num_rows = min(counts.values())  # a language has too few words of its own: all give as many as it can
    pool = [
        {"id": f"{word}:{language}", "word": word, "language": language, "lemma": dictionaries[language][word]}
        for word in picked
        for language in by_size
        if word in dictionaries[language]
    ]
    return _with_groups(pool, "word", "lemma")


def _pick_balanced(
    languages: list[str],
    candidates: Mapping[str, list[str]],
    dictionaries: Mapping[str, Mapping[str, str]],
    num_rows: int,
) -> tuple[list[str], Counter[str]]:
    """Words whose rows are at most `num_rows` for each language, and these counts."""
    counts: Counter[str] = Counter(dict.fromkeys(languages, 0))
    picked: dict[str, None] = {}
    for language, word in itertools.chain.from_iterable(
        ((language, word) for word in candidates[language]) for language in languages
    ):
        if counts[language] < num_rows and word not in picked:
            homes = [home for home in languages if word in dictionaries[home]]
            if all(counts[home] < num_rows for home in homes):
                picked[word] = None
                counts.update(homes)
    return sorted(picked, key=hash_key), counts


def _with_groups(pool: Pool, *columns: str) -> Pool:
    """Add `group`: rows that share a text of these columns, ignoring case, have the same."""
    keys = components([[row[column].casefold() for column in columns] for row in pool])
    return [{**row, "group": key} for row, key in zip(pool, keys, strict=True)]


def _dictionary(language: str) -> Mapping[str, str]:
    """Form -> lemma. Made anew at every call, so that no dictionary outlives its reader."""
    from simplemma.strategies.dictionaries.dictionary_factory import DefaultDictionaryFactory

    dictionary: Mapping[str, str] = DefaultDictionaryFactory(cache_max_size=1).get_dictionary(language)
    return dictionary


def _check_simplemma(language: str) -> None:
    from simplemma.strategies.dictionaries.dictionary_factory import SUPPORTED_LANGUAGES

    _check_language(language, "simplemma", sorted(SUPPORTED_LANGUAGES))


def _check_language(language: str, package: str, known: list[str]) -> None:
    if language not in known:
        hint = did_you_mean(language, known)
        raise DataError(
            f"package {package}: found no language {language!r}; expected one of {', '.join(known)}. {hint}".rstrip()
        )


def _is_word(text: str) -> bool:
    return MIN_LETTERS <= len(text) <= MAX_LETTERS and text.isalpha()


def _is_skin_tone(character: str) -> bool:
    return "\U0001f3fb" <= character <= "\U0001f3ff"


def _plain_name(name: str) -> str:
    """`first quarter moon` of `:first_quarter_moon:`."""
    return " ".join(name.replace("_", " ").replace(":", " ").split())
