from __future__ import annotations

import pytest
from pool_checks import read_pool, share_a_group

from catsweep.errors import DataError
from catsweep.spec.package import EmojiNames


def test_emoji_names_are_plain_words_without_skin_tones() -> None:
    pool = read_pool(EmojiNames(target_language="fr"))
    by_id = {row["id"]: row for row in pool}
    assert len(pool) > 1_800
    assert (by_id["🏠"]["source"], by_id["🏠"]["target"]) == ("house", "maison")
    assert "👋" in by_id
    assert not any("\U0001f3fb" <= character <= "\U0001f3ff" for row in pool for character in row["id"])
    assert not any("skin tone" in row["source"] or "peau" in row["target"].split() for row in pool)
    assert not any(set(row["source"] + row["target"]) & set("_:") for row in pool)


@pytest.mark.parametrize("language", ["fr", "de", "zh"])
def test_emoji_that_share_a_name_in_either_language_share_a_group(language: str) -> None:
    pool = read_pool(EmojiNames(target_language=language))
    assert share_a_group(pool, "source", "target", "emoji")


def test_several_languages_give_a_row_a_pair_and_one_group_an_emoji() -> None:
    pool = read_pool(EmojiNames(source_language=["en", "de"], target_language=["en", "fr"], max_characters=28))
    pairs = {(row["source_language"], row["target_language"]) for row in pool}
    assert pairs == {("en", "fr"), ("de", "en"), ("de", "fr")}
    assert share_a_group(pool, "source", "target", "emoji")
    by_id = {row["id"]: row for row in pool}
    assert (by_id["🏠:de-fr"]["source"], by_id["🏠:de-fr"]["target"]) == ("haus", "maison")
    assert max(len(row[column]) for row in pool for column in ("source", "target")) == 28


def test_an_unknown_language_of_emoji_is_refused_with_the_known_ones() -> None:
    with pytest.raises(DataError) as error:
        read_pool(EmojiNames(target_language="xx"))
    assert str(error.value) == (
        "package emoji: found no language 'xx'; expected one of en, es, ja, ko, pt, it, fr, de, fa, id, zh, ru, tr, ar."
    )
