"""Places and languages of the world: towns with an airport (airportsdata), ISO 3166-2 and ISO 639-3 (pycountry)."""

from __future__ import annotations

from collections import Counter

from catsweep.spec.package import Airports, LanguageCodes, Subdivisions
from catsweep.tasks.packages.cldr import english_territories
from catsweep.tasks.packages.pools import Pool, first_by_hash, with_groups

LANGUAGE_TYPES = {"L": "living", "E": "extinct", "H": "historical", "A": "ancient", "C": "constructed"}
"""ISO 639-3; special codes are left out."""


def airports(reader: Airports) -> Pool:
    """A row a town of a country (its first airport by code), in hash order. Group: the town's name or the airport's."""
    import airportsdata

    countries = english_territories()
    towns: dict[str, dict[str, str]] = {}
    for code, airport in sorted(airportsdata.load("ICAO").items()):
        if airport["city"] and airport["country"] in countries and (airport["iata"] or not reader.with_iata):
            towns.setdefault(f"{airport['city'].casefold()}:{airport['country']}", {**airport, "code": code})
    counts: Counter[str] = Counter()
    pool: Pool = []
    for key in first_by_hash(towns, len(towns), str):
        town = towns[key]
        counts[town["country"]] += 1
        if counts[town["country"]] <= reader.max_rows_a_country:
            pool.append({
                "id": town["code"],
                "city": town["city"],
                "name": town["name"],
                "iata": town["iata"],
                "country": countries[town["country"]],
                "country_code": town["country"],
                "region": town["tz"].split("/")[0],
            })  # fmt: skip
    return with_groups(pool, "city", "name")


def subdivisions(reader: Subdivisions) -> Pool:
    """Every subdivision of every country, by code. Group: its name."""
    import pycountry

    countries = {country.alpha_2: getattr(country, "common_name", country.name) for country in pycountry.countries}
    pool: Pool = [
        {
            "id": item.code,
            "name": item.name,
            "country": countries[item.country_code],
            "country_code": item.country_code,
            "code": item.code,
            "type": item.type,
        }
        for item in sorted(pycountry.subdivisions, key=lambda item: str(item.code))
    ]
    return with_groups(pool, "name")


def language_codes(reader: LanguageCodes) -> Pool:
    """Every language of ISO 639-3, by code. Group: the first word of its name."""
    import pycountry

    pool: Pool = [
        {"id": item.alpha_3, "name": item.name, "code": item.alpha_3, "type": LANGUAGE_TYPES[item.type]}
        for item in sorted(pycountry.languages, key=lambda item: str(item.alpha_3))
        if item.type in LANGUAGE_TYPES
    ]
    first = with_groups([{**row, "first_word": row["name"].replace(",", " ").split()[0]} for row in pool], "first_word")
    return [{**row, "group": grouped["group"]} for row, grouped in zip(pool, first, strict=True)]
