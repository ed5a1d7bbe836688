"""Types of columns as text: `string`, `int`, `float`, `bool`, `ClassLabel`, `list<string>`, `{a: string, b: list<int>}`.

The width of a number does not count: conversions of a dataset change it, and rows stay the same. `any` fits every type.
"""

from __future__ import annotations

import re

SIMPLE = ("string", "int", "float", "bool", "ClassLabel", "any")

_TOKEN = re.compile(r"\s*([A-Za-z_][\w.-]*|[<>{}:,])")
_OTHER_NAMES = {"str": "string", "text": "string", "large_string": "string", "double": "float", "boolean": "bool"}


def canonical_type(text: str) -> str:
    """The type in one way of writing: fields of structs sorted, no widths. Raises ValueError where it is none."""
    tokens = _TOKEN.findall(text)
    if "".join(tokens) != re.sub(r"\s", "", text):
        raise ValueError(_refusal(text))
    try:
        result, rest = _parse(tokens)
    except (IndexError, KeyError):
        raise ValueError(_refusal(text)) from None
    if rest:
        raise ValueError(_refusal(text))
    return result


def fits(expected: str, found: str) -> bool:
    """Whether a canonical type is the expected one, which may hold `any`."""
    pattern = re.escape(expected).replace("any", r".+")
    return expected == "any" or re.fullmatch(pattern, found) is not None


def _parse(tokens: list[str]) -> tuple[str, list[str]]:
    head, rest = tokens[0], tokens[1:]
    if head == "{":
        fields = {}
        while True:
            name, colon, rest = rest[0], rest[1], rest[2:]
            if colon != ":":
                raise KeyError(colon)
            fields[name], rest = _parse(rest)
            mark, rest = rest[0], rest[1:]
            if mark == "}":
                return "{" + ", ".join(f"{name}: {fields[name]}" for name in sorted(fields)) + "}", rest
            if mark != ",":
                raise KeyError(mark)
    if head == "list":
        if rest[0] != "<":
            raise KeyError(rest[0])
        inner, rest = _parse(rest[1:])
        if rest[0] != ">":
            raise KeyError(rest[0])
        return f"list<{inner}>", rest[1:]
    name = _OTHER_NAMES.get(head, re.sub(r"^u?(int|float)\d+$", r"\1", head))
    if name not in SIMPLE:
        raise KeyError(name)
    return name, rest


def _refusal(text: str) -> str:
    return f"{text!r} is no type: write one of {', '.join(SIMPLE)}, list<...>, or {{name: ...}}"
