"""Row steps of a task as pure functions of rows; their specs are in catsweep/spec/process.py."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from catsweep.spec.process import ProcessStep

Rows = list[dict[str, Any]]


def apply_steps(steps: Sequence[ProcessStep], rows: Rows, place: str) -> Rows:
    """The rows after all steps, in their order. place: task and split, for messages. Raises DataError."""
    raise NotImplementedError
