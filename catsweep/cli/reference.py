"""Writes the YAML reference (docs/yaml.md) from the specs: `make docs`."""

from __future__ import annotations

import json
import sys
import types
import typing
from typing import Annotated, Any

from pydantic.fields import FieldInfo

from catsweep.spec.base import Spec
from catsweep.spec.dimensions import ChoiceDimension, RandintDimension, UniformDimension
from catsweep.spec.sweep import SweepSpec
from catsweep.spec.task import TaskSpec

INTRO = """\
# YAML reference

Written from the specs by `make docs`; a test keeps it up to date. Unknown keys are errors, and every error names file
and line. On the command line `key.path=value` overrides any of these.
"""


def reference() -> str:
    """The whole page as Markdown."""
    sections = [INTRO, "## A sweep\n", *_sections(SweepSpec, set())]
    sections += ["## Dimensions of `search.space`\n"]
    seen: set[type[Spec]] = set()
    for dimension in (ChoiceDimension, UniformDimension, RandintDimension):
        sections += _sections(dimension, seen)
    sections += ["## A task\n", *_sections(TaskSpec, set())]
    return "\n".join(sections)


def _sections(spec: type[Spec], seen: set[type[Spec]]) -> list[str]:
    """A table of this class's fields, then those of the classes that its fields hold."""
    if spec in seen:
        return []
    seen.add(spec)
    lines = [
        f"### {spec.__name__}\n",
        f"{' '.join((spec.__doc__ or '').split())}\n",
        "| key | type | default | meaning |",
        "|---|---|---|---|",
    ]
    for name, info in spec.model_fields.items():
        default = "required" if info.is_required() else f"`{_plain(info.default)}`"
        meaning = (info.description or "Tells the variants apart").replace("|", "\\|")
        lines.append(f"| `{name}` | {_type(info.annotation)} | {default} | {meaning}{_bounds(info)} |")
    lines.append("")
    for info in spec.model_fields.values():
        for inner in _specs(info.annotation):
            lines += _sections(inner, seen)
    return lines


def _plain(value: Any) -> str:
    if isinstance(value, Spec):
        return "{" + ", ".join(f"{key}: {_plain(item)}" for key, item in value.to_json().items()) + "}"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {_plain(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(_plain(item) for item in value) + "]"
    return (value or "''") if isinstance(value, str) else json.dumps(value)


def _bounds(info: FieldInfo) -> str:
    names = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below"}
    found = [
        f"{text} {getattr(item, key)}" for item in info.metadata for key, text in names.items() if hasattr(item, key)
    ]
    return f" ({', '.join(found)})" if found else ""


def _type(annotation: Any) -> str:
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Annotated:
        return _type(arguments[0])
    if origin in (typing.Union, types.UnionType):
        return " or ".join(dict.fromkeys(_type(argument) for argument in arguments))
    if origin is typing.Literal:
        return " or ".join(f"`{argument}`" for argument in arguments)
    if origin is list:
        return f"list of {_type(arguments[0])}"
    if origin is dict:
        return "map"
    if isinstance(annotation, type) and issubclass(annotation, Spec):
        return f"[{annotation.__name__}](#{annotation.__name__.lower()})"
    return {str: "text", int: "integer", float: "number", bool: "true or false", type(None): "null"}.get(
        annotation, "any"
    )


def _specs(annotation: Any) -> list[type[Spec]]:
    if isinstance(annotation, type) and issubclass(annotation, Spec):
        return [annotation]
    return [spec for argument in typing.get_args(annotation) for spec in _specs(argument)]


if __name__ == "__main__":
    sys.stdout.write(reference())
