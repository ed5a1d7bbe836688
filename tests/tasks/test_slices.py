"""Slices mean what they mean to Hugging Face's own library."""

from __future__ import annotations

import datasets
import pytest

from catsweep.tasks.slices import Slice, parse_slice

SLICES = [
    "train",
    "train[:10]",
    "train[5:]",
    "train[-7:]",
    "train[:-7]",
    "train[10%:20%]",
    "train[:33%]",
    "train[-10%:]",
    "train[5:25%]",
]


@pytest.mark.parametrize("text", SLICES)
@pytest.mark.parametrize("num_rows", [21, 100, 1_003])
def test_bounds_are_those_of_the_library(text: str, num_rows: int) -> None:
    (instruction,) = datasets.ReadInstruction.from_spec(text).to_absolute({"train": num_rows})
    assert parse_slice(text).bounds(num_rows) == (
        instruction.from_ or 0,
        num_rows if instruction.to is None else instruction.to,
    )


def test_a_slice_of_a_small_sample_is_what_there_is_of_it() -> None:
    assert parse_slice("train[:100000]").bounds(50) == (0, 50)
    assert parse_slice("train[100:200]").bounds(50) == (50, 50)


@pytest.mark.parametrize(
    ("text", "prefix"),
    [("train", None), ("train[:10]", 10), ("train[5:10]", 10), ("train[:10%]", None), ("train[:-1]", None), ("train[-5:9]", None)],
)  # fmt: skip
def test_the_rows_that_a_slice_needs_are_known_from_the_text_or_not(text: str, prefix: int | None) -> None:
    assert parse_slice(text).prefix == prefix
    assert parse_slice("a.b-c[:3]") == Slice("a.b-c", None, (3, False))
