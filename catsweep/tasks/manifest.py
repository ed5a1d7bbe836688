"""manifest.json of a data root: what `catsweep fetch` wrote, with hashes. Paths in it are relative to the root."""

from __future__ import annotations

import hashlib
import json
from functools import lru_cache
from pathlib import Path
from typing import Any

from catsweep.errors import DataError
from catsweep.records import write_json
from catsweep.spec.base import Json

MANIFEST = "manifest.json"


def read_manifest(root: Path) -> dict[str, Json]:
    """Path of a file -> its facts: sha256, num_rows, columns, split, where it came from, and `sample` where it holds
    only the first rows. Empty where the root has no manifest. Raises DataError where it is damaged."""
    path = root / MANIFEST
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        files: dict[str, Json] = data["files"]
    except FileNotFoundError:
        return {}
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{path}: found no manifest ({type(error).__name__}: {error}); expected what `catsweep fetch` writes. Fetch "
            "again into this folder, or remove the file"
        ) from None
    return files


def write_manifest(root: Path, files: dict[str, Json]) -> None:
    """Write manifest.json at once, so that a killed fetch leaves the former one."""
    write_json(root / MANIFEST, {"version": 1, "files": dict(sorted(files.items()))})


def sampled_rows(root: Path | None, files: list[Path]) -> int | None:
    """The number of rows that the manifest states for the files of one split, where they are a sample of it."""
    if root is None:
        return None
    manifest = read_manifest(root)
    facts: list[dict[str, Any]] = [manifest.get(relative_name(root, file), {}) for file in files]
    if not any("sample" in entry for entry in facts):
        return None
    return sum(int(entry.get("num_rows", 0)) for entry in facts)


def relative_name(root: Path, file: Path) -> str:
    """The path of a file below the root, with slashes; the whole path where it lies elsewhere."""
    return file.relative_to(root).as_posix() if file.is_relative_to(root) else file.as_posix()


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file's content. Raises DataError where it cannot be read."""
    try:
        status = path.stat()
        return _sha256(path, status.st_size, status.st_mtime_ns)
    except OSError as error:
        raise DataError(
            f"{path}: {error.strerror}; expected a data file of a task. Check the path in the task's YAML"
        ) from None


@lru_cache(maxsize=4096)
def _sha256(path: Path, size: int, mtime_ns: int) -> str:
    """Hashed once in a process, while size and time of change stay the same."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
