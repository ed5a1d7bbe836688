"""Questions about paths that settings name: a name that no file can have is no file, and no error."""

from __future__ import annotations

from pathlib import Path


def is_file(path: Path) -> bool:
    """Whether it is a file; false too where the name is longer than a file system takes."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def is_folder(path: Path) -> bool:
    """Whether it is a folder; false too where the name is longer than a file system takes."""
    try:
        return path.is_dir()
    except (OSError, ValueError):
        return False
