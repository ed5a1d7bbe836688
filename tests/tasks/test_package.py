from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from catsweep.errors import DataError
from catsweep.spec.package import EmojiNames, LanguageIdentification, Lemmas, PackageReader
from catsweep.spec.source import PackageSource
from catsweep.tasks import package
from catsweep.tasks.package import read_package
from catsweep.tasks.splits import hash_key


def read(reader: PackageReader, cache: Path) -> list[dict[str, Any]]:
    return read_package(PackageSource(reader=reader), cache)


def test_emoji_names_are_plain_words_without_skin_tones(cache: Path) -> None:
    pool = read(EmojiNames(target_language="fr"), cache)
    by_id = {row["id"]: row for row in pool}
    assert len(by_id) == len(pool) > 1_800
    assert by_id["🏠"] == {"id": "🏠", "source": "house", "target": "maison", "group": "house"}
    assert "👋" in by_id
    assert not any("\U0001f3fb" <= character <= "\U0001f3ff" for row in pool for character in row["id"])
    assert not any("skin tone" in row["source"] or "peau" in row["target"].split() for row in pool)
    assert not any(set(row["source"] + row["target"]) & set("_:") for row in pool)


def test_emoji_that_share_a_name_in_either_language_share_a_group(cache: Path) -> None:
    for language in ("fr", "de", "zh"):
        pool = read(EmojiNames(target_language=language), cache)
        for column in ("source", "target"):
            groups: dict[str, set[str]] = {}
            for row in pool:
                groups.setdefault(row[column].casefold(), set()).add(row["group"])
            assert all(len(found) == 1 for found in groups.values())


def test_lemmas_are_different_words_of_letters_picked_by_hash(cache: Path) -> None:
    pool = read(Lemmas(language="lv", max_pairs=3_000), cache)
    assert len({row["id"] for row in pool}) == len(pool) == 3_000
    for row in pool:
        assert row["form"] != row["lemma"]
        assert all(text.isalpha() and 2 <= len(text) <= 24 for text in (row["form"], row["lemma"]))
    hashes = [hash_key(f"{row['form']}\t{row['lemma']}") for row in pool]
    assert hashes == sorted(hashes)
    fewer = read(Lemmas(language="lv", max_pairs=1_000), cache)
    assert [row["id"] for row in fewer] == [row["id"] for row in pool[:1_000]]


def test_a_word_in_any_role_or_case_lies_in_one_group(cache: Path) -> None:
    groups: dict[str, set[str]] = {}
    for row in read(Lemmas(language="lv", max_pairs=3_000), cache):
        for column in ("form", "lemma"):
            groups.setdefault(row[column].casefold(), set()).add(row["group"])
    assert all(len(found) == 1 for found in groups.values())


def test_languages_are_balanced_and_a_word_has_a_row_for_each_of_its_languages(cache: Path) -> None:
    pool = read(LanguageIdentification(languages=["ms", "id"], max_rows=2_001), cache)
    assert Counter(row["language"] for row in pool) == {"ms": 1_000, "id": 1_000}
    assert len({row["id"] for row in pool}) == 2_000
    dictionaries = {language: package._dictionary(language) for language in ("ms", "id")}
    rows = {(row["word"], row["language"]) for row in pool}
    homes = Counter(word for word, _ in rows)
    assert set(homes.values()) == {1, 2}  # truly noisy: some words are of both languages
    for word in homes:
        assert {language for language in dictionaries if word in dictionaries[language]} == {
            language for language in dictionaries if (word, language) in rows
        }


def test_words_linked_by_a_lemma_of_another_language_lie_in_one_group(cache: Path) -> None:
    groups: dict[str, set[str]] = {}
    pool = read(LanguageIdentification(languages=["ms", "id"], max_rows=2_001), cache)
    for row in pool:
        for column in ("word", "lemma"):
            groups.setdefault(row[column].casefold(), set()).add(row["group"])
    assert all(len(found) == 1 for found in groups.values())
    assert max(Counter(row["group"] for row in pool).values()) < len(pool) / 10  # no giant component


def test_languages_with_too_few_words_of_their_own_give_as_many_rows_as_all_can(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = {"xa": [f"a{chr(97 + i)}" for i in range(20)], "xb": [f"a{chr(97 + i)}" for i in range(26)]}
    monkeypatch.setattr(package, "_check_simplemma", lambda language: None)
    monkeypatch.setattr(package, "_dictionary", lambda language: {word: word for word in words[language]})
    pool = package.language_identification(LanguageIdentification(languages=["xa", "xb"], max_rows=100))
    assert Counter(row["language"] for row in pool) == {"xa": 20, "xb": 20}


def test_a_pool_is_made_once_and_made_again_when_it_is_damaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reader = EmojiNames(target_language="de")
    pool = read(reader, tmp_path)
    files = list(tmp_path.rglob("pool.parquet"))
    assert len(files) == 1
    with monkeypatch.context() as patched:
        patched.setattr(package, "emoji_names", lambda reader: pytest.fail("the pool is made again"))
        assert read(reader, tmp_path) == pool
    files[0].write_bytes(b"damaged")
    assert read(reader, tmp_path) == pool
    read(EmojiNames(target_language="it"), tmp_path)
    assert len(list(tmp_path.rglob("pool.parquet"))) == 2


def test_an_unknown_language_is_refused_with_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(DataError) as error:
        read(EmojiNames(target_language="xx"), tmp_path)
    assert str(error.value) == (
        "package emoji: found no language 'xx'; expected one of en, es, ja, ko, pt, it, fr, de, fa, id, zh, ru, tr, ar."
    )
    with pytest.raises(DataError, match="package simplemma: found no language 'jp'; expected one of ar, ast, bg"):
        read(Lemmas(language="jp"), tmp_path)
    assert not list(tmp_path.rglob("*.parquet"))


def test_a_missing_package_names_the_extra_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(EmojiNames, "packages", ("no-such-package",))
    with pytest.raises(DataError) as error:
        read(EmojiNames(target_language="fr"), tmp_path)
    assert str(error.value) == (
        "package no-such-package: found no installed version; reader emoji_names takes its rows from it. Run: "
        "pip install 'catsweep[offline]'"
    )
