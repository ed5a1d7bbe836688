"""Names of emoji in 14 languages, from the package emoji."""

from __future__ import annotations

from catsweep.spec.package import EmojiNames
from catsweep.tasks.packages.pools import Pool, check_known, with_groups


def emoji_names(reader: EmojiNames) -> Pool:
    """The names of every emoji without a skin tone, in Unicode's order; a row an emoji and pair of languages.

    The id is the emoji, of several pairs with the languages behind it.
    """
    import emoji

    sources, targets = (
        [languages] if isinstance(languages, str) else languages
        for languages in (reader.source_language, reader.target_language)
    )
    for language in (*sources, *targets):
        check_known(language, "language", "emoji", emoji.LANGUAGES)
    emoji.config.load_language(list(dict.fromkeys([*sources, *targets])))
    pairs = [(source, target) for source in sources for target in targets if source != target]
    pool: Pool = []
    for sequence, data in emoji.EMOJI_DATA.items():
        if data["status"] != emoji.STATUS["fully_qualified"] or any(map(_is_skin_tone, sequence)):
            continue
        names = {language: _plain_name(data[language]) for language in (*sources, *targets) if language in data}
        for source, target in pairs:
            if source in names and target in names and _fits(names[source], names[target], reader.max_characters):
                pool.append({
                    "id": sequence if len(pairs) == 1 else f"{sequence}:{source}-{target}",
                    "emoji": sequence,
                    "source": names[source],
                    "target": names[target],
                    "source_language": source,
                    "target_language": target,
                })  # fmt: skip
    return with_groups(pool, "source", "target", "emoji")


def _fits(source: str, target: str, max_characters: int | None) -> bool:
    return max_characters is None or max(len(source), len(target)) <= max_characters


def _is_skin_tone(character: str) -> bool:
    return "\U0001f3fb" <= character <= "\U0001f3ff"


def _plain_name(name: str) -> str:
    """`first quarter moon` of `:first_quarter_moon:`."""
    return " ".join(name.replace("_", " ").replace(":", " ").split())
