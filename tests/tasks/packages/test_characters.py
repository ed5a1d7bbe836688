from __future__ import annotations

from pool_checks import read_pool

from catsweep.spec.package import Characters


def test_characters_have_names_and_categories() -> None:
    pool = read_pool(Characters(max_rows=100_000))
    by_id = {row["id"]: row for row in pool}
    assert by_id["U+0041"]["name"] == "LATIN CAPITAL LETTER A"
    assert by_id["U+0041"]["character"] == "A"
    assert by_id["U+0041"]["category"] == "Lu"
    assert by_id["U+0041"]["group"] == by_id["U+0061"]["group"] != by_id["U+0042"]["group"]
    assert len(pool) > 15_000
    assert not any(row["name"].startswith("CJK UNIFIED") for row in pool)


def test_fewer_characters_are_a_beginning_of_more() -> None:
    assert read_pool(Characters(max_rows=100)) == read_pool(Characters(max_rows=1_000))[:100]
