"""`catsweep clean NAME`: what of a sweep may go, and with --yes deletes it."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

from catsweep.cli.console import output
from catsweep.records import existing_sweep, storage_root
from catsweep.retention import removable, remove
from catsweep.sweep.cluster import only_driver
from catsweep.sweep.heartbeat import refuse_a_living_one


def clean_command(name: str, *, out: Path | None, keep: int | None, cache: bool, yes: bool, as_json: bool) -> None:
    """List it, and delete it where `yes`. Rows, records, steps and results are never among it.

    Raises StorageError where there is no sweep, or, with `yes`, where a driver runs it; with `cache` too, where one runs any
    sweep of the root.
    """
    root = storage_root(out)
    existing_sweep(root / name)
    with contextlib.ExitStack() as held:
        if yes:  # a cache that a sweep is about to use is named by nobody yet
            sweeps = sorted(path.parent for path in root.glob("*/sweep.json")) if cache else [root / name]
            for folder in sweeps:
                held.enter_context(only_driver(folder))
                refuse_a_living_one(folder)
        items = removable(root, name, keep=keep, cache=cache)
        total = sum(item.num_bytes for item in items)
        if yes:
            remove(items)
    if as_json:
        listed = [{"path": str(item.path), "bytes": item.num_bytes, "why": item.why} for item in items]
        output.print_json(json.dumps({"items": listed, "total_bytes": total, "deleted": yes}))
        return
    lines = [f"{item.num_bytes / 1e6:12,.2f} MB  {item.path.relative_to(root)}  ({item.why})" for item in items]
    end = "deleted" if yes else "nothing was deleted: the same command with --yes deletes them"
    lines.append(f"{total / 1e6:12,.2f} MB in {len(items)} places; {end}" if items else f"nothing of {name} may go")
    output.print("\n".join(lines), markup=False, highlight=False, soft_wrap=True)
