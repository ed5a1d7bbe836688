"""Characters of Unicode, from the unicodedata of this Python."""

from __future__ import annotations

import re
import sys
import unicodedata

from catsweep.spec.package import Characters
from catsweep.tasks.packages.pools import Pool, first_by_hash

MAX_NAME = 48

_NUMBERED = re.compile(r"\d[A-Z]*$|^HANGUL SYLLABLE|^CUNEIFORM SIGN|^NUSHU|^TANGUT")
"""Names that end in a number, and those that spell a script's own numbering."""

_ALIKE = re.compile(r"\b(SMALL|CAPITAL|LETTER|DIGIT|NUMBER)\b")


def characters(reader: Characters) -> Pool:
    """Named characters in hash order. Group: the name without its case."""
    pool: Pool = []
    for number in range(sys.maxunicode + 1):
        name = unicodedata.name(chr(number), "")
        if name and len(name) <= MAX_NAME and not _NUMBERED.search(name):
            pool.append({
                "id": f"U+{number:04X}",
                "character": chr(number),
                "code_point": f"U+{number:04X}",
                "name": name,
                "category": unicodedata.category(chr(number)),
                "bidirectional": unicodedata.bidirectional(chr(number)),
                "group": " ".join(_ALIKE.sub(" ", name).split()) or name,
            })  # fmt: skip
    return first_by_hash(pool, reader.max_rows, lambda row: str(row["id"]))
