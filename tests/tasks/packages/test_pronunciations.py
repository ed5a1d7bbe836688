from __future__ import annotations

import pytest
from pool_checks import read_pool, share_a_group

from catsweep.spec.package import Pronunciations
from catsweep.tasks.packages.pools import Pool
from catsweep.tasks.packages.pronunciations import without_stress


@pytest.fixture(scope="module")
def words() -> Pool:
    return read_pool(Pronunciations(max_rows=150_000))


def test_a_word_with_two_pronunciations_accepts_both(words: Pool) -> None:
    tomato = next(row for row in words if row["word"] == "tomato")
    assert len(tomato["pronunciations"]) == len(tomato["phonemes"]) == 2
    assert (tomato["stress"], tomato["num_syllables"]) == ("012", "3")
    assert sum(len(row["pronunciations"]) > 1 for row in words) > 1_000


def test_words_that_sound_alike_share_a_group_and_accept_each_other(words: Pool) -> None:
    by_word = {row["word"]: row for row in words}
    assert by_word["sea"]["group"] == by_word["see"]["group"]
    assert {"sea", "see"} <= set(by_word["sea"]["spellings"])
    assert all(row["spellings"][0] == row["word"] for row in words)
    assert share_a_group(words, "word", "first_phonemes")


def test_words_are_ascii_letters_with_a_vowel(words: Pool) -> None:
    assert len(words) > 100_000
    assert all(row["word"].isascii() and row["word"].isalpha() and row["stress"] for row in words)
    assert not any(character.isdigit() for row in words for spoken in row["phonemes"] for character in spoken)


def test_stress_is_told_by_digits() -> None:
    assert without_stress("K AE1 T") == "K AE T"
