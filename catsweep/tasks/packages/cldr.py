"""What CLDR knows of languages and locales, as Babel ships it: names of things, and how dates are written."""

from __future__ import annotations

import datetime
from typing import Any

from catsweep.spec.package import CldrNames, CldrTable, Dates
from catsweep.tasks.groups import components
from catsweep.tasks.packages.pools import Pool, check_known, first_by_hash


def cldr_names(reader: CldrNames) -> Pool:
    """Names in two languages, the things in hash order. Group: shared thing or name."""
    languages = list(dict.fromkeys([*reader.source_languages, *reader.target_languages]))
    names = {language: _names(language, reader.tables) for language in languages}
    pairs = [
        (source, target) for source in reader.source_languages for target in reader.target_languages if source != target
    ]
    things = sorted({thing for named in names.values() for thing in named})
    groups = dict(zip(things, components([_links(thing, names) for thing in things]), strict=True))
    pool: Pool = []
    for table, code in first_by_hash(things, len(things), ":".join):
        for source, target in pairs:
            texts = [names[language].get((table, code), "") for language in (source, target)]
            if all(0 < len(text) <= reader.max_characters for text in texts):
                pool.append({
                    "id": f"{table}:{code}:{source}-{target}",
                    "code": code,
                    "table": table,
                    "source": texts[0],
                    "target": texts[1],
                    "source_language": source,
                    "target_language": target,
                    "group": groups[table, code],
                })  # fmt: skip
    return pool[: reader.max_rows]


def dates(reader: Dates) -> Pool:
    """Each date, drawn from the years by hash, gives a row for each locale and style."""
    from babel.dates import format_date

    locales = {name: _locale(name) for name in reader.locales}
    first, last = (
        datetime.date(reader.first_year, 1, 1),
        datetime.date(max(reader.first_year, reader.last_year), 12, 31),
    )
    days = range(first.toordinal(), last.toordinal() + 1)
    num_dates = min(len(days), reader.max_rows // (len(locales) * len(reader.styles)))
    pool: Pool = []
    for day in first_by_hash(days, num_dates, lambda day: f"date {day}"):
        date = datetime.date.fromordinal(day)
        for name, locale in locales.items():
            for style in reader.styles:
                pool.append({
                    "id": f"{date.isoformat()}:{name}:{style}",
                    "iso": date.isoformat(),
                    "locale": name,
                    "style": style,
                    "text": format_date(date, format=style, locale=locale),
                    "weekday": f"{date:%A}",
                    "group": date.isoformat(),
                })  # fmt: skip
    return pool


def english_territories() -> dict[str, str]:
    """CLDR's English name of every territory, by its code of ISO 3166."""
    return dict(_locale("en").territories)


def _names(language: str, tables: list[CldrTable]) -> dict[tuple[str, str], str]:
    """(table, code) -> name."""
    locale = _locale(language)
    return {(table, code): name for table in tables for code, name in _table(locale, table).items()}


def _table(locale: Any, table: CldrTable) -> dict[str, str]:
    match table:
        case "territories":  # regions of the world have numbers, such as 419
            return {code: name for code, name in locale.territories.items() if code.isalpha()}
        case "cities":
            english = {zone: zone.split("/")[-1].replace("_", " ") for zone in _zones_of_cities()}
            found = {zone: names["city"] for zone, names in locale.time_zones.items() if "city" in names}
            return (english | found) if locale.language == "en" else found
        case "units":
            return {code: _one(names) for code, names in locale.unit_display_names.items() if "-per-" not in code}
        case _:
            return dict(getattr(locale, table))


def _one(lengths: Any) -> str:
    return str(lengths.get("long") or "")


def _zones_of_cities() -> list[str]:
    """Time zones that belong to a territory; English names most of their cities as the zone is called."""
    from babel.core import get_global

    return sorted(zone for zone in get_global("zone_territories") if "/" in zone and not zone.startswith("Etc/"))


def _links(thing: tuple[str, str], names: dict[str, dict[tuple[str, str], str]]) -> list[str]:
    texts = {named[thing].casefold() for named in names.values() if named.get(thing)}
    return [":".join(thing), *sorted(texts)]


def _locale(name: str) -> Any:
    from babel.core import Locale
    from babel.localedata import locale_identifiers

    check_known(name, "locale", "babel", sorted(locale_identifiers()))
    return Locale.parse(name)
