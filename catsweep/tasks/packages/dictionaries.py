"""Words from the dictionaries of simplemma, form -> lemma: lemmas, languages of words, and where words break (pyphen).

A dictionary has up to four million words and takes seconds to decode, so each is decoded once, and the words with the
smallest hashes are kept in the cache for all readers. A word has the same hash in every language, so that words which
several languages share are picked in all of them.
"""

from __future__ import annotations

import importlib.metadata
import itertools
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from catsweep.cache import building, is_complete
from catsweep.spec.base import digest
from catsweep.spec.package import Hyphenation, LanguageIdentification, Lemmas
from catsweep.tasks.packages.pools import Pool, check_known, quick_hash, with_groups

MIN_LETTERS, MAX_LETTERS = 2, 24

MIN_HYPHENATED_LETTERS = 6

CANDIDATES = 40_000
"""Words of a language that are kept for a language identification."""

FIRST_WORDS = 120_000
"""Words of a language that are kept for all readers: three times as many as any of them picks."""

Word = tuple[int, str, str]
"""Hash, form, lemma."""

Accept = Callable[[str, str], bool]
"""Whether a reader takes a form with its lemma."""


def lemmas(reader: Lemmas, cache: Path | None = None) -> Pool:
    """Pairs of different words of 2 to 24 letters, the first `max_pairs` in hash order.

    Group: the lemma; lemmas that are also forms of others, or differ in case only, are one group.
    """
    check_simplemma(reader.language)
    picked = first_words(reader.language, reader.max_pairs, lambda form, lemma: form != lemma and is_word(lemma), cache)
    return with_groups([{"id": form, "form": form, "lemma": lemma} for _, form, lemma in picked], "form", "lemma")


def language_identification(reader: LanguageIdentification, cache: Path | None = None) -> Pool:
    """Lower-case words in hash order, the same number of rows for every language.

    A picked word gives a row for every language whose dictionary has it, so that its ambiguity is all there. Group: the
    connected component of shared word or lemma across the languages.
    """
    languages = list(dict.fromkeys(reader.languages))
    for language in languages:
        check_simplemma(language)
    kept = {
        language: first_words(language, CANDIDATES, lambda form, lemma: form.islower(), cache) for language in languages
    }
    full = [words[-1][0] for words in kept.values() if len(words) == CANDIDATES]
    limit = min(full, default=2**32)  # below it every language has all its words
    homes: dict[str, dict[str, str]] = {}
    for language, words in kept.items():
        for number, form, lemma in words:
            if number <= limit:
                homes.setdefault(form, {})[language] = lemma
    num_rows = reader.max_rows // len(languages)
    while True:
        picked, counts = _pick_balanced(homes, languages, num_rows)
        if min(counts.values()) == num_rows:
            break
        num_rows = min(counts.values())  # a language has too few words of its own: all give as many as it can
    pool: Pool = [
        {"id": f"{word}:{language}", "word": word, "language": language, "lemma": lemma}
        for word in picked
        for language, lemma in homes[word].items()
    ]
    return with_groups(pool, "word", "lemma")


def hyphenation(reader: Hyphenation, cache: Path | None = None) -> Pool:
    """Words that pyphen breaks at least once, in hash order. Group: shared word or lemma."""
    import pyphen

    check_simplemma(reader.language)
    check_known(reader.language, "language", "pyphen", sorted({code.split("_")[0] for code in pyphen.LANGUAGES}))
    patterns = pyphen.Pyphen(lang=pyphen.language_fallback(reader.language) or _of_a_territory(reader.language))
    words = first_words(
        reader.language,
        3 * reader.max_rows // 2,  # few long words have no break
        lambda form, lemma: len(form) >= MIN_HYPHENATED_LETTERS and form.islower(),
        cache,
    )
    pool: Pool = []
    for _, form, lemma in words:
        hyphenated = patterns.inserted(form)
        if hyphenated != form and len(pool) < reader.max_rows:
            num_parts = hyphenated.count("-") + 1
            pool.append({"id": form, "word": form, "hyphenated": hyphenated, "num_parts": num_parts, "lemma": lemma})
    return with_groups(pool, "word", "lemma")


def first_words(language: str, max_words: int, accept: Accept, cache: Path | None) -> list[Word]:
    """`pick_words` of a language's dictionary, which is decoded only where what the cache keeps of it does not do.

    cache: the folder of all caches; None: nothing is kept.
    """
    if cache is not None:
        path = _kept_words(language, cache)
        accepted = (word for word in _read_words(path) if accept(word[1], word[2]))
        picked = list(itertools.islice(accepted, max_words))
        if len(picked) == max_words or pq.read_metadata(path).num_rows < FIRST_WORDS:
            return picked
    return pick_words(dictionary(language), max_words, accept)


def _kept_words(language: str, cache: Path) -> Path:
    """The file of a language's first words of letters, in the order of their hashes; made where it is missing."""
    facts = {"first_words": FIRST_WORDS, "language": language, "simplemma": importlib.metadata.version("simplemma")}
    folder = cache / "packages" / digest(facts)
    if not is_complete(folder):
        words = pick_words(dictionary(language), FIRST_WORDS, lambda form, lemma: True)
        columns = [list(column) for column in zip(*words, strict=True)]
        with building(folder, **facts) as temporary:
            table = pa.table(columns, names=["hash", "form", "lemma"])
            pq.write_table(table, temporary / "words.parquet", compression="zstd")
    return folder / "words.parquet"


def _read_words(path: Path) -> Iterator[Word]:
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(batch_size=10_000):
            yield from zip(*(column.to_pylist() for column in batch.columns), strict=True)


def pick_words(words: Mapping[str, str], max_words: int, accept: Accept) -> list[Word]:
    """At most so many accepted words of 2 to 24 letters, those with the smallest hashes, in their order."""
    share = 2 * max_words / max(1, len(words))  # of the hashes; more of them where too few words are accepted
    while True:
        picked = sorted(_below(words, int(min(1.0, share) * 2**32), accept))
        if len(picked) >= max_words or share >= 1.0:
            return picked[:max_words]
        share *= 4


def _below(words: Mapping[str, str], limit: int, accept: Accept) -> Iterator[Word]:
    crc32 = zlib.crc32  # quick_hash, without a call for each of millions
    for form in words:
        number = crc32(form.encode("utf-8", "surrogatepass"))
        if number < limit and is_word(form):
            lemma = words[form]
            if accept(form, lemma):
                yield number, form, lemma


def _pick_balanced(
    homes: Mapping[str, Mapping[str, str]], languages: list[str], num_rows: int
) -> tuple[list[str], Counter[str]]:
    """Words whose rows are at most `num_rows` for each language, and these counts."""
    counts: Counter[str] = Counter(dict.fromkeys(languages, 0))
    sizes = Counter(language for languages_of_word in homes.values() for language in languages_of_word)
    ordered = sorted(homes, key=_by_hash)
    picked: set[str] = set()
    for language in sorted(languages, key=lambda language: (sizes[language], language)):  # the smallest first
        for word in ordered:
            if counts[language] == num_rows:
                break
            free = language in homes[word] and all(counts[home] < num_rows for home in homes[word])
            if free and word not in picked:
                picked.add(word)
                counts.update(homes[word].keys())
    return sorted(picked, key=_by_hash), counts


def _by_hash(word: str) -> tuple[int, str]:
    return quick_hash(word), word


def dictionary(language: str) -> Mapping[str, str]:
    """Form -> lemma. Made anew at every call, so that no dictionary outlives its reader."""
    from simplemma.strategies.dictionaries.dictionary_factory import DefaultDictionaryFactory

    found: Mapping[str, str] = DefaultDictionaryFactory(cache_max_size=1).get_dictionary(language)
    return found


def check_simplemma(language: str) -> None:
    """Raise DataError for a language that simplemma does not have."""
    from simplemma.strategies.dictionaries.dictionary_factory import SUPPORTED_LANGUAGES

    check_known(language, "language", "simplemma", sorted(SUPPORTED_LANGUAGES))


def is_word(text: str) -> bool:
    """Whether a text is 2 to 24 letters and nothing else."""
    return MIN_LETTERS <= len(text) <= MAX_LETTERS and text.isalpha()


def _of_a_territory(language: str) -> str:
    import pyphen

    return min(str(code) for code in pyphen.LANGUAGES if code.split("_")[0] == language)
