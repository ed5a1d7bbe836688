from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from pool_checks import read_pool, share_a_group

from catsweep.errors import DataError
from catsweep.spec.package import Hyphenation, LanguageIdentification, Lemmas
from catsweep.tasks.package import make_pool
from catsweep.tasks.packages import dictionaries
from catsweep.tasks.packages.pools import Pool, quick_hash

MALAY = LanguageIdentification(languages=["ms", "id"], max_rows=2_001)


@pytest.fixture(scope="module")
def malay() -> Pool:
    return read_pool(MALAY)


def test_lemmas_are_different_words_of_letters_picked_by_hash() -> None:
    pool = read_pool(Lemmas(language="lv", max_pairs=3_000))
    assert len(pool) == 3_000
    for row in pool:
        assert row["form"] != row["lemma"]
        assert all(text.isalpha() and 2 <= len(text) <= 24 for text in (row["form"], row["lemma"]))
    hashes = [quick_hash(row["form"]) for row in pool]
    assert hashes == sorted(hashes)
    fewer = read_pool(Lemmas(language="lv", max_pairs=1_000))
    assert [row["id"] for row in fewer] == [row["id"] for row in pool[:1_000]]
    assert share_a_group(pool, "form", "lemma")


def test_all_words_are_looked_at_where_few_are_accepted() -> None:
    words = {"".join(chr(97 + number // 26**place % 26) for place in range(4)): "x" for number in range(5_000)}
    picked = dictionaries.pick_words(words, 100, lambda form, lemma: form.endswith("a"))
    wanted = sorted((quick_hash(word), word, "x") for word in words if word.endswith("a"))
    assert picked == wanted[:100]
    assert dictionaries.pick_words(words, 10_000, lambda form, lemma: form.endswith("a")) == wanted


def test_languages_are_balanced_and_a_word_has_a_row_for_each_of_its_languages(malay: Pool) -> None:
    assert Counter(row["language"] for row in malay) == {"ms": 1_000, "id": 1_000}
    words = {language: dictionaries.dictionary(language) for language in ("ms", "id")}
    rows = {(row["word"], row["language"]) for row in malay}
    homes = Counter(word for word, _ in rows)
    assert set(homes.values()) == {1, 2}  # truly noisy: some words are of both languages
    for word in homes:
        assert {language for language in words if word in words[language]} == {
            language for language in words if (word, language) in rows
        }


def test_words_linked_by_a_lemma_of_another_language_lie_in_one_group(malay: Pool) -> None:
    assert share_a_group(malay, "word", "lemma")
    assert max(Counter(row["group"] for row in malay).values()) < len(malay) / 10  # no giant component


def test_the_kept_words_of_a_language_give_what_its_whole_dictionary_gives(
    malay: Pool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    readers = [MALAY, Lemmas(language="ms", max_pairs=500), Hyphenation(language="id", max_rows=300)]
    whole = [malay, *(make_pool(reader) for reader in readers[1:])]
    assert make_pool(MALAY, tmp_path) == malay
    with monkeypatch.context() as patched:
        patched.setattr(dictionaries, "dictionary", lambda language: pytest.fail(f"{language} is decoded again"))
        assert [make_pool(reader, tmp_path) for reader in readers] == whole
    monkeypatch.setattr(dictionaries, "FIRST_WORDS", 200)  # too few for what these readers pick
    assert [make_pool(reader, tmp_path) for reader in readers] == whole


def test_reading_twice_gives_the_same_rows(malay: Pool) -> None:
    assert read_pool(MALAY) == malay


def test_languages_with_too_few_words_of_their_own_give_as_many_rows_as_all_can(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    words = {"xa": [f"a{chr(97 + i)}" for i in range(20)], "xb": [f"a{chr(97 + i)}" for i in range(26)]}
    monkeypatch.setattr(dictionaries, "check_simplemma", lambda language: None)
    monkeypatch.setattr(dictionaries, "dictionary", lambda language: {word: word for word in words[language]})
    pool = read_pool(LanguageIdentification(languages=["xa", "xb"], max_rows=100))
    assert Counter(row["language"] for row in pool) == {"xa": 20, "xb": 20}


def test_a_large_dictionary_leaves_no_word_of_a_small_one_without_its_second_row(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    small = {f"{chr(97 + i)}{chr(97 + j)}" for i in range(26) for j in range(26)}
    large = {f"{word}{chr(97 + k)}" for word in small for k in range(10)} | set(sorted(small)[::2])
    words = {"xa": small, "xb": large}
    monkeypatch.setattr(dictionaries, "CANDIDATES", 1_000)
    monkeypatch.setattr(dictionaries, "check_simplemma", lambda language: None)
    monkeypatch.setattr(dictionaries, "dictionary", lambda language: dict.fromkeys(sorted(words[language]), "lemma"))
    pool = read_pool(LanguageIdentification(languages=["xa", "xb"], max_rows=100))
    rows = {(row["word"], row["language"]) for row in pool}
    assert {(word, other) for word, _ in rows for other in words if word in words[other]} == rows


def test_a_hyphenated_word_is_the_word_with_hyphens() -> None:
    pool = read_pool(Hyphenation(language="sl", max_rows=1_000))
    assert len(pool) == 1_000
    for row in pool:
        assert row["hyphenated"].replace("-", "") == row["word"]
        assert row["num_parts"] == row["hyphenated"].count("-") + 1 >= 2
    assert share_a_group(pool, "word", "lemma")


def test_an_unknown_language_of_simplemma_is_refused_with_the_known_ones() -> None:
    with pytest.raises(DataError, match="package simplemma: found no language 'jp'; expected one of ar, ast, bg"):
        read_pool(Lemmas(language="jp"))
    with pytest.raises(DataError, match="package pyphen: found no language 'cy'; expected one of af, as, be"):
        read_pool(Hyphenation(language="cy"))
