"""Runs whose record does not count: they failed and are tried again, or what they left was damaged on storage."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Literal

from catsweep import storage
from catsweep.cache import is_complete
from catsweep.errors import StorageError
from catsweep.records import read_json, read_record, rows_as_written
from catsweep.spec.mixture import MixtureSpec, members, result_name
from catsweep.spec.task import TaskSpec


def set_aside_record(folder: Path, why: Literal["failed", "damaged"] = "failed") -> Path:
    """Rename record.json to record.failed-1.json (-2 ...): the trial has not ended, and goes on where it stopped."""
    number = next(n for n in itertools.count(1) if not (folder / f"record.{why}-{n}.json").exists())
    aside = (folder / "record.json").rename(folder / f"record.{why}-{number}.json")
    storage.put(aside)
    storage.delete(folder / "record.json")
    return aside


def set_aside_damaged(sweep_folder: Path) -> list[Path]:
    """Let runs whose record or rows are damaged run again; returns their folders.

    Rows of search trials are compared by size only: nobody reads them once their trial has ended, with few exceptions
    that compare hashes.
    """
    damaged = []
    for path in sorted(sweep_folder.glob("trials/**/record.json")) + sorted(
        sweep_folder.glob("confirm/**/record.json")
    ):
        try:
            read_record(path.parent)
            rows, known = path.parent / "rows.parquet", (read_json(path).get("seal") or {}).get("rows")
            whole = known is None or (rows.exists() and rows.stat().st_size == known[0])
            if whole and path.relative_to(sweep_folder).parts[0] == "confirm":
                whole = not rows.exists() or rows_as_written(rows)
        except StorageError:
            whole = False
        if not whole:
            set_aside_record(path.parent, "damaged")
            damaged.append(path.parent)
    return damaged


def damaged_answers(root: Path, sweep: str, unit: TaskSpec | MixtureSpec) -> list[Path]:
    """Folders with rows of large models that a unit's results are computed from and that are missing or damaged.

    Empty where the unit was not prepared.
    """
    results = [result_name(unit, task) for task in members(unit)]  # a mixture's own keys name no folders
    return [path for name in results for path in answer_folders(root, sweep, name) if not is_complete(path)]


def answer_folders(root: Path, sweep: str, result: str) -> list[Path]:
    """Folders with the rows of the large model, and of each model of the chain, that a result is computed from."""
    path = root / sweep / "prepared" / f"{result}.json"
    facts = read_json(path) if path.exists() else {}
    parts = [facts, *facts.get("chain", {}).values()] if facts else []
    keys = [part.get("keys", {}).get("answers") for part in parts]
    return [root / "cache" / "answers" / key for key in keys if key]
