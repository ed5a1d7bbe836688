"""The base of all specs: frozen, unknown keys are errors, every field has help and a bound."""

from __future__ import annotations

import hashlib
import json
from typing import Annotated, Any, ClassVar

from pydantic import BaseModel, ConfigDict, StringConstraints

Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
"""A folder name: letters, digits, dot, dash, underscore; never a path."""

TaskName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*){0,3}$")]
"""A task's name: up to four folder names joined by slashes."""

Json = dict[str, Any]


class Mismatch(ValueError):
    """Fields that do not go together: what a validator found, and what it expected; the message names both."""

    def __init__(self, *, found: str, expected: str) -> None:
        super().__init__(f"{found}; expected {expected}")
        self.found, self.expected = found, expected


class Spec(BaseModel):
    """A frozen piece of settings. YAML reads `1e-5` as text; pydantic turns numeric text into the number that a
    field asks for, so specs see numbers."""

    other_keys: ClassVar[tuple[str, ...]] = ()
    """Keys that a YAML file may have besides the fields; whoever reads the file takes them away."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, validate_default=True)

    def to_json(self) -> Json:
        """The spec as plain JSON data, every default written out."""
        return self.model_dump(mode="json")

    def digest(self) -> str:
        """A hex key of 16 characters that changes when any field does."""
        return digest(self.to_json())


def digest(value: object) -> str:
    """A hex key of 16 characters of plain JSON data; the order of keys does not matter."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]
