from __future__ import annotations

import pytest

from catsweep.spec.types import canonical_type, fits


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("string", "string"),
        ("int32", "int"),
        ("float64", "float"),
        ("double", "float"),
        ("list< int64 >", "list<int>"),
        ("{b: list<string>, a: {x: bool}}", "{a: {x: bool}, b: list<string>}"),
        ("list<{text: large_string}>", "list<{text: string}>"),
    ],
)
def test_types_have_one_way_of_writing(text: str, expected: str) -> None:
    assert canonical_type(text) == expected


@pytest.mark.parametrize(
    "text", ["", "strin", "list", "list<string", "{a string}", "{a: string", "string>", "list[int]", "a: b"]
)
def test_what_is_no_type_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is no type: write one of string"):
        canonical_type(text)


def test_any_fits_every_type() -> None:
    assert fits("any", "list<int>")
    assert fits("{a: any, b: int}", "{a: list<string>, b: int}")
    assert not fits("{a: any, b: int}", "{a: list<string>, b: string}")
    assert not fits("string", "int")
