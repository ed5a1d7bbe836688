from __future__ import annotations

from collections import Counter

from pool_checks import read_pool, share_a_group

from catsweep.spec.package import Airports, LanguageCodes, Subdivisions


def test_towns_stand_once_a_country_and_no_country_has_too_many() -> None:
    pool = read_pool(Airports(max_rows_a_country=50))
    assert len({(row["city"].casefold(), row["country"]) for row in pool}) == len(pool) > 2_000
    counts = Counter(row["country"] for row in pool)
    assert max(counts.values()) == 50
    assert counts["France"] == 50
    assert share_a_group(pool, "city", "name")
    assert all(row["country"] and row["region"] for row in pool)


def test_airports_with_a_code_of_iata_have_three_letters() -> None:
    pool = read_pool(Airports(with_iata=True))
    assert len(pool) > 5_000
    assert all(len(row["iata"]) == 3 for row in pool)


def test_subdivisions_name_their_country() -> None:
    pool = read_pool(Subdivisions())
    bavaria = next(row for row in pool if row["code"] == "DE-BY")
    assert (bavaria["name"], bavaria["country"]) == ("Bayern", "Germany")
    assert len(pool) > 4_900
    assert share_a_group(pool, "name")


def test_languages_with_the_same_first_word_share_a_group() -> None:
    pool = read_pool(LanguageCodes())
    by_code = {row["code"]: row for row in pool}
    assert by_code["deu"]["name"] == "German"
    assert len({row["group"] for row in pool if row["name"].startswith("Southern ")}) == 1
    assert by_code["lat"]["type"] == "historical"
    assert len(pool) > 7_500
