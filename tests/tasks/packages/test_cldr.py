from __future__ import annotations

import datetime
from collections import Counter

import pytest
from pool_checks import read_pool, share_a_group

from catsweep.errors import DataError
from catsweep.spec.package import CldrNames, Dates


def test_names_of_one_thing_are_paired_and_share_a_group() -> None:
    pool = read_pool(
        CldrNames(tables=["territories", "currencies"], source_languages=["en", "de"], target_languages=["fr", "en"])
    )
    by_id = {row["id"]: row for row in pool}
    assert (by_id["territories:DE:en-fr"]["source"], by_id["territories:DE:en-fr"]["target"]) == (
        "Germany",
        "Allemagne",
    )
    assert (by_id["territories:DE:de-en"]["source"], by_id["territories:DE:de-en"]["target"]) == (
        "Deutschland",
        "Germany",
    )
    assert "territories:DE:en-en" not in by_id
    assert share_a_group(pool, "source", "target", "code")
    assert not any(row["code"].isdigit() for row in pool)


@pytest.mark.parametrize("table", ["territories", "currencies", "languages", "scripts", "cities", "units"])
def test_every_table_has_names(table: str) -> None:
    pool = read_pool(CldrNames.model_validate({"tables": [table], "target_languages": ["ru"], "max_rows": 100}))
    assert len(pool) >= 90
    assert all(row["table"] == table and row["target"] and len(row["source"]) <= 40 for row in pool)


def test_fewer_rows_are_a_beginning_of_more() -> None:
    reader = CldrNames(tables=["languages"], target_languages=["it"], max_rows=100)
    pool = read_pool(reader.model_copy(update={"max_rows": 20_000}))
    assert len(pool) > 500
    assert read_pool(reader) == pool[:100]


def test_a_date_is_written_in_every_locale_and_style() -> None:
    pool = read_pool(
        Dates(locales=["en", "de"], styles=["medium", "full"], first_year=2000, last_year=2001, max_rows=400)
    )
    assert Counter((row["locale"], row["style"]) for row in pool) == {
        (locale, style): 100 for locale in ("en", "de") for style in ("medium", "full")
    }
    for row in pool:
        date = datetime.date.fromisoformat(row["iso"])
        assert 2000 <= date.year <= 2001
        assert row["group"] == row["iso"]
        assert str(date.day) in row["text"]
        assert str(date.year) in row["text"]
        if (row["locale"], row["style"]) == ("en", "full"):
            assert row["text"].startswith(f"{row['weekday']}, {date:%B}")
        if (row["locale"], row["style"]) == ("de", "medium"):
            assert row["text"] == f"{date:%d.%m.%Y}"


def test_an_unknown_locale_is_refused() -> None:
    with pytest.raises(DataError, match="package babel: found no locale 'zz'; expected one of "):
        read_pool(Dates(locales=["zz"]))
    with pytest.raises(DataError, match="package babel: found no locale 'xx'; expected one of "):
        read_pool(CldrNames(tables=["scripts"], target_languages=["xx"]))
