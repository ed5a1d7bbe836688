from __future__ import annotations

from collections import Counter

import pytest
from pool_checks import read_pool

from catsweep.errors import DataError
from catsweep.spec.package import NumberWords
from catsweep.tasks.packages.number_words import drawn_numbers


def test_numbers_of_all_lengths_are_drawn_and_written_out() -> None:
    pool = read_pool(NumberWords(language="en", max_digits=4, max_rows=2_000))
    assert len(pool) == 2_000
    words = {row["number"]: row["words"] for row in pool}
    assert words["7"] == "seven"
    assert words["42"] == "forty-two"
    sizes = Counter(len(number) for number in words)
    assert sizes[1] == 10
    assert sizes[2] == 90
    assert sizes[3] > 500
    assert sizes[4] > 500


def test_ordinals_are_another_form() -> None:
    pool = read_pool(NumberWords(language="de", form="ordinal", max_digits=3, max_rows=500))
    assert next(row["words"] for row in pool if row["number"] == "7") == "siebte"


def test_draws_are_different_and_fewer_are_a_beginning_of_more() -> None:
    assert sorted(drawn_numbers(3, 5_000)) == list(range(1_000))
    assert drawn_numbers(6, 100) == drawn_numbers(6, 1_000)[:100]


def test_an_unknown_language_of_num2words_is_refused() -> None:
    with pytest.raises(DataError, match="package num2words: found no language 'xx'; expected one of am, ar"):
        read_pool(NumberWords(language="xx"))
