"""What makes two texts the same, and repairs and spoilings of single texts for the row steps that name them."""

from __future__ import annotations

import ast
import re

from catsweep.spec.process import CleanText

_BREAKS = re.compile(r"[ \t]*(?:<br[ \t]*/?>[ \t]*)+", re.IGNORECASE)
_BYTES = re.compile(r"b(['\"]).*\1", re.DOTALL)


def plain_text(text: str) -> str:
    """The text without letter case, and with one space for each run of white space: equal for copies of one text."""
    return " ".join(text.casefold().split())


def clean(text: str, step: CleanText) -> str:
    """The text with the repairs that the step names."""
    if step.strip_byte_repr:
        text = without_byte_repr(text)
    if step.unescape_quotes:
        text = re.sub(r'\\"+', '"', text).replace("\\n", "\n")
    if step.strip_html_breaks:
        text = _BREAKS.sub("\n", text)
    if step.drop_angle_tags:
        text = re.sub(r"[ \t]*<[^<>\n]*>", "", text)
    if step.normalise_newlines:
        text = re.sub(r"\r\n?|[\u2028\u2029\u0085]", "\n", text)
    return text


def without_byte_repr(text: str) -> str:
    """The text inside `b'...'`, as Python writes bytes, without white space around it; any other text as it is."""
    if not _BYTES.fullmatch(text.strip()):
        return text
    try:
        value = ast.literal_eval(text.strip())
    except (SyntaxError, ValueError):
        return text
    return value.decode("utf-8", "replace").strip() if isinstance(value, bytes) else text


def fix_punct_source(text: str) -> str:
    """The text without every character that is neither part of a word nor white space."""
    return re.sub(r"[^\w\s]", "", text)


def word_segment_source(text: str) -> str:
    """The text without spaces."""
    return text.replace(" ", "")
