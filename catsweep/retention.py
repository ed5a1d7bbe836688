"""What of a sweep's files may go: weights beyond the best N, checkpoints that nobody goes on from, what Ray left.

Rows, records, steps and results are never among it.
"""

from __future__ import annotations

import shutil
import time
from dataclasses import dataclass
from pathlib import Path

from catsweep import storage
from catsweep.errors import StorageError
from catsweep.records import (
    TrialRecord,
    confirmed,
    existing_sweep,
    read_json,
    read_records,
    winners,
)
from catsweep.spec.search import lower_is_better
from catsweep.spec.sweep import SweepSpec

LEFTOVER_SECONDS = 24 * 3600
"""A half-made folder of the cache that is older belongs to a process that was killed."""
CACHE_KINDS = ("data", "large", "signal", "folds", "clients")
"""Kinds of cached folders that may go: what they hold can be made again from what stays. Not `answers`, which are rows."""


@dataclass(frozen=True)
class Item:
    """A folder or file that may go. why: what it is, for people."""

    path: Path
    num_bytes: int
    why: str


def kept_runs(records: list[TrialRecord], spec: SweepSpec, keep: int | None) -> set[str]:
    """Ids of the confirm runs whose weights stay: the best `keep` over the whole sweep, or all of the winners' (None).

    Objectives of two tasks cannot be compared, so the best run of every task comes first, then the second of every task,
    and so on; in a round tasks come in the sweep's order of records [ours].
    """
    sign = -1.0 if lower_is_better(spec.search.objectives[0]) else 1.0
    of_task: dict[str, list[TrialRecord]] = {}
    for winner in winners(records, spec).values():
        of_task.setdefault(winner.task, []).extend(confirmed(records, winner, spec.search.confirm_seeds))
    ranked: list[tuple[int, TrialRecord]] = []
    for runs in of_task.values():
        best_first = sorted(runs, key=lambda run: (-sign * (run.objective or 0.0), run.trial_id))
        ranked += list(enumerate(best_first))
    order = [run.trial_id for _, run in sorted(ranked, key=lambda pair: pair[0])]
    return set(order if keep is None else order[:keep])


def prune_weights(folder: Path, records: list[TrialRecord], spec: SweepSpec) -> None:
    """Delete the weights of confirm runs beyond `keep_models`; nothing where all stay."""
    if spec.keep_models is None:
        return
    kept = kept_runs(records, spec, spec.keep_models)
    for record in records:
        if record.role == "confirm" and record.trial_id not in kept:
            storage.delete(folder / record.trial_id / "model")


def removable(root: Path, sweep: str, *, keep: int | None = None, cache: bool = False) -> list[Item]:
    """What may go of a sweep that no driver runs. keep: weights of so many confirm runs stay; None: as the sweep says.

    cache: also folders of the cache that no other sweep of the root names; the sweep would make them again. Raises
    StorageError where there is no sweep.
    """
    folder = root / sweep
    if storage.place_of(root) is not None:
        raise StorageError(
            f"{sweep} lies on an object store; clean looks into folders only. Delete the folders checkpoint/ and model/ that "
            "nobody needs with the store's own tools, or set keep_models in the sweep"
        )
    spec, _ = existing_sweep(folder)
    records = [*read_records(folder, "trials"), *read_records(folder, "confirm")]
    kept = kept_runs(records, spec, spec.keep_models if keep is None else keep)
    items = []
    for record in records:
        run = folder / record.trial_id
        if record.status != "failed":  # a failed one goes on from it
            items.append(_item(run / "checkpoint", "checkpoint of a run that has ended"))
        if record.role == "confirm" and record.trial_id not in kept:
            items.append(_item(run / "model", "weights that are not among those to keep"))
    items += [_item(folder / "logs" / name, "what Ray left") for name in ("tune", "train")]
    items += [_item(path, "half-written by a process that was killed") for path in _leftovers(folder)]
    if cache:
        items += [_item(path, "cache that no other sweep names") for path in _own_cache(root, sweep)]
    for kind in sorted((root / "cache").glob("*")):
        old = [
            path for path in kind.glob(".*") if path.is_dir() and time.time() - path.stat().st_mtime > LEFTOVER_SECONDS
        ]
        items += [_item(path, "half-made by a process that was killed a day ago or earlier") for path in sorted(old)]
    return [item for item in items if item.path.exists()]


def remove(items: list[Item]) -> int:
    """Delete them; returns the bytes that are free now."""
    for item in items:
        storage.delete(item.path)
    return sum(item.num_bytes for item in items)


def size(path: Path) -> int:
    """Bytes of a file, or of all files in a folder; 0 where there is none."""
    if not path.is_dir():
        return path.stat().st_size if path.exists() else 0
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())


def check_space(root: Path, sweep: str, needed_bytes: float) -> None:
    """Raises StorageError where the disk of the root has no room for what is still missing of so many bytes."""
    missing, free = needed_bytes - bytes_on_storage(root, sweep), free_bytes(root)
    if missing > free:
        raise StorageError(
            f"{sweep} needs about {missing / 1e9:,.2f} GB more below {root}, where {free / 1e9:,.2f} GB are free; expected "
            "room for all of it. Free some (`catsweep clean NAME` lists what may go), give --out on a larger disk, or lower "
            "keep_models; `catsweep plan` shows what takes how much"
        )


def free_bytes(root: Path) -> int:
    """Free bytes of the disk that the root is on, or will be."""
    return shutil.disk_usage(next(path for path in (root, *root.parents) if path.exists())).free


def bytes_on_storage(root: Path, sweep: str) -> int:
    """Bytes of a sweep's folder, and of the cached folders that it names."""
    return size(root / sweep) + sum(size(path) for path in _named(root, sweep))


def _item(path: Path, why: str) -> Item:
    return Item(path, size(path), why)


def _leftovers(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob(".*") if path.name != ".driver.lock")


def _named(root: Path, sweep: str) -> set[Path]:
    """The cached folders that a sweep's prepared tasks name, those of its chain included."""
    found = set()
    for path in (root / sweep / "prepared").rglob("*.json"):
        facts = read_json(path)
        for part in (facts, *facts.get("chain", {}).values()):
            found |= {root / "cache" / kind / key for kind, key in part.get("keys", {}).items() if key}
    return found


def _own_cache(root: Path, sweep: str) -> list[Path]:
    others = [path.parent.name for path in root.glob("*/sweep.json") if path.parent.name != sweep]
    shared = set().union(*(_named(root, other) for other in others))
    return sorted(path for path in _named(root, sweep) - shared if path.parent.name in CACHE_KINDS)
