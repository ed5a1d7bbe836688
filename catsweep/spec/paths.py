"""Paths that stand in YAML. Some are none that a file can have: too long, with a null character, of a user that is not there."""

from __future__ import annotations

import os
from itertools import islice
from pathlib import Path

MAX_FOLDERS = 500
"""So many folders are looked through for a file whose name is close to one that is not there."""


def is_file(path: Path) -> bool:
    """Whether a file is there."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def is_folder(path: Path) -> bool:
    """Whether a folder is there."""
    try:
        return path.is_dir()
    except (OSError, ValueError):
        return False


def resolved(path: Path, folder: Path = Path()) -> Path | None:
    """The absolute path, relative ones below a folder and ~ as the user's home; None where no file can have it."""
    try:
        return (folder / path.expanduser()).resolve()
    except (OSError, ValueError, RuntimeError):
        return None


def yaml_files(folder: Path) -> list[str]:
    """Names, relative to a folder, of the YAML files below it; of a large tree, those that are found first."""
    return sorted(
        str((Path(where) / name).relative_to(folder))
        for where, _, names in islice(os.walk(folder), MAX_FOLDERS)
        for name in names
        if name.endswith(".yaml")
    )
