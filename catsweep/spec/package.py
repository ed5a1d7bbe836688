"""Readers of installed packages: which package's data a task reads, and which part of it.

`packages` names the distributions that a reader needs; "python" is the standard library. Their versions are part of the
key of what is cached.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from catsweep.spec.base import Spec


class EmojiNames(Spec):
    """Names of emoji in two languages, from the package emoji: columns source, target. Skin tones are dropped."""

    packages: ClassVar[tuple[str, ...]] = ("emoji",)
    kind: Literal["emoji_names"] = "emoji_names"
    source_language: str = Field("en", description="Language of column `source`", pattern=r"^[a-z]{2}$")
    target_language: str = Field(description="Language of column `target`", pattern=r"^[a-z]{2}$")
    max_characters: int | None = Field(None, description="Leave out names longer than this in either language", ge=1)


class Lemmas(Spec):
    """Form -> lemma pairs from the dictionaries of simplemma: columns form, lemma. Group key: the lemma."""

    packages: ClassVar[tuple[str, ...]] = ("simplemma",)
    kind: Literal["lemmas"] = "lemmas"
    language: str = Field(description="Language code of simplemma", pattern=r"^[a-z]{2,3}$")
    max_pairs: int = Field(20_000, description="At most so many pairs, picked by hash", ge=100)


class LanguageIdentification(Spec):
    """Which of a few close languages a word belongs to, from simplemma: columns word, language, lemma.

    A word that belongs to several languages gives a row for each, so labels are truly noisy. Every language has the
    same number of rows. Group key: the connected component of shared word or lemma across the languages.
    """

    packages: ClassVar[tuple[str, ...]] = ("simplemma",)
    kind: Literal["language_identification"] = "language_identification"
    languages: list[str] = Field(description="Language codes of simplemma", min_length=2, max_length=16)
    max_rows: int = Field(20_000, description="At most so many rows, picked by hash of the word", ge=100)


PackageReader = Annotated[EmojiNames | Lemmas | LanguageIdentification, Field(discriminator="kind")]
