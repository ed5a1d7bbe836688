"""Whole numbers in words, from num2words."""

from __future__ import annotations

import itertools

from catsweep.spec.package import NumberWords
from catsweep.tasks.groups import hash_key
from catsweep.tasks.packages.pools import Pool, check_known


def number_words(reader: NumberWords) -> Pool:
    """Numbers of one digit, of two, and so on in equal parts, as far as there are so many; drawn by hash."""
    from num2words import CONVERTER_CLASSES, num2words

    check_known(reader.language, "language", "num2words", sorted(CONVERTER_CLASSES))
    pool: Pool = []
    for number in drawn_numbers(reader.max_digits, reader.max_rows):
        words = num2words(number, lang=reader.language, to=reader.form)
        pool.append({"id": str(number), "number": str(number), "words": " ".join(words.split()), "group": str(number)})
    return pool


def drawn_numbers(max_digits: int, max_numbers: int) -> list[int]:
    """Different numbers of at most so many digits; the i-th draw is of a length by turns, by a hash of i."""
    drawn: dict[int, None] = {}
    all_numbers = 10**max_digits
    for index in itertools.count():
        if len(drawn) >= min(max_numbers, all_numbers):
            return list(drawn)
        num_digits = 1 + index % max_digits
        first = 10 ** (num_digits - 1) if num_digits > 1 else 0
        value = int.from_bytes(hash_key(f"number {index}")[:8], "big")
        drawn[first + value % (10**num_digits - first)] = None
    raise AssertionError("unreachable")
