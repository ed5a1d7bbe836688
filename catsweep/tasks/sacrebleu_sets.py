"""Rows of a test set that sacrebleu knows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from catsweep.errors import DataError
from catsweep.spec.source import SacrebleuSource


def read_sacrebleu(
    source: SacrebleuSource, data_root: Path | None, max_rows: int | None = None
) -> list[dict[str, Any]]:
    """Rows `{translation: {cs: "...", en: "..."}, references: ["...", ...]}` in the order of the test set."""
    raise DataError(f"test set {source.test_set} {source.langpair}: test sets of sacrebleu cannot be read yet")


def sacrebleu_fingerprint(source: SacrebleuSource, data_root: Path | None) -> str:
    """A key of the content."""
    raise DataError(f"test set {source.test_set} {source.langpair}: test sets of sacrebleu cannot be read yet")
