"""Columns of a row, also inside structs: `answers.text`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Row = Mapping[str, Any]


def column_value(row: Row, name: str) -> Any:
    """The value of a column; a dotted name reaches into structs, and of a list of structs gives the list of values.

    Raises KeyError where there is no such column.
    """
    if name in row:
        return row[name]
    head, dot, rest = name.partition(".")
    if not dot or head not in row:
        raise KeyError(name)
    return _inside(row[head], rest)


def _inside(value: Any, name: str) -> Any:
    if value is None:
        return None
    if isinstance(value, list):
        return [_inside(item, name) for item in value]
    if isinstance(value, Mapping):
        return column_value(value, name)
    raise KeyError(name)


def with_value(row: Row, name: str, value: Any) -> dict[str, Any]:
    """A copy of the row with another value in an existing column, also inside structs."""
    head, _, rest = name.partition(".")
    if name in row or not rest:
        return {**row, name: value}
    return {**row, head: with_value(row[head], rest, value)}
