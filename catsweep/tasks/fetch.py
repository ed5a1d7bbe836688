"""A copy of what tasks read, for machines without a hub: Parquet in the layout of tasks.hub, and a manifest.

Each file is renamed into place before the manifest names it, so that a killed fetch goes on where it was: files whose
hash is that of the manifest are kept.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from catsweep.cache import held
from catsweep.errors import DataError, OutOfReachError
from catsweep.spec.base import Json, digest
from catsweep.spec.source import FilesSource, HubPart, HubSource, PackageSource, SacrebleuSource, SplitsSource
from catsweep.spec.task import TaskSpec
from catsweep.tasks.expect import column_types
from catsweep.tasks.hub import Verify, check_split, fetched_file, find_split
from catsweep.tasks.hub_split import HubSplit, with_renamed_columns
from catsweep.tasks.manifest import MANIFEST, read_manifest, sha256_of, write_manifest
from catsweep.tasks.sacrebleu_sets import downloaded_files, local_files
from catsweep.tasks.slices import Slice, parse_slice
from catsweep.tasks.sources import given_splits

Tell = Callable[[str], None]

OUT_OF_REACH = (
    "Run this command on a machine that reaches the hub, and copy the folder here; check the names of datasets where they "
    "are your own. Test sets may also lie below a data root as local files: docs/wmt22.md"
)


@dataclass(frozen=True)
class _Wanted:
    """A split that tasks read. num_rows: the first so many of its rows; None for all."""

    source: HubSource
    split: str
    num_rows: int | None
    task: str


def fetch(
    tasks: Sequence[TaskSpec],
    to: Path,
    *,
    data_root: Path | None,
    max_rows: int | None,
    tell: Tell,
    verify: Verify = "all",
) -> list[str]:
    """Copy every split that the tasks read into the folder `to`; returns a line for each that could not be had; where the
    hub is out of reach, one a task, and what to do.

    data_root: where local copies are looked for before the hub. max_rows: only the first so many rows of each split;
    where all tasks read a slice such as `train[:1000]`, no more is fetched either. tell: called with a line a file.
    verify: "schema" leaves row counts uncompared.
    """
    to.mkdir(parents=True, exist_ok=True)
    problems: list[str] = []
    far: dict[str, str] = {}

    def note(task: str, error: DataError) -> None:
        if isinstance(error, OutOfReachError):
            far.setdefault(task, f"task {task}: {error.short}")
        else:
            problems.append(f"task {task}: {error}")

    for wanted in _wanted_splits(tasks, max_rows):
        try:
            tell(_fetch_split(wanted, to, data_root, verify))
        except DataError as error:
            note(wanted.task, error)
    for name, source in _test_sets(tasks):
        try:
            for line in _fetch_test_set(source, to, data_root):
                tell(line)
        except DataError as error:
            note(name, error)
    for task in tasks:
        if isinstance(task.source, FilesSource | PackageSource):
            what = "files" if isinstance(task.source, FilesSource) else "an installed package"
            tell(f"{task.task}: reads {what}; nothing to fetch")
    return [*problems, *far.values(), *([OUT_OF_REACH] if far else [])]


def _wanted_splits(tasks: Sequence[TaskSpec], max_rows: int | None) -> list[_Wanted]:
    """Each split once, with as many rows as the task that needs most."""
    wanted: dict[str, _Wanted] = {}
    for task, source, split in _hub_splits(tasks):
        part = parse_slice(split)
        limits = [limit for limit in (part.prefix, max_rows) if limit is not None]
        num_rows = min(limits, default=None)
        key = digest([[location.to_json() for location in source.locations], part.split])
        if key in wanted:
            before = wanted[key].num_rows
            num_rows = None if before is None or num_rows is None else max(before, num_rows)
        wanted[key] = _Wanted(source, part.split, num_rows, task)
    return list(wanted.values())


def _hub_splits(tasks: Sequence[TaskSpec]) -> Iterable[tuple[str, HubSource, str]]:
    for task in tasks:
        source = task.source
        if isinstance(source, HubSource):
            for name in given_splits(source).values():
                yield task.task, source, name
        elif isinstance(source, SplitsSource):
            for part in (source.train, source.validation, source.test):
                if isinstance(part, HubPart):
                    yield task.task, part.as_source(), part.split


def _test_sets(tasks: Sequence[TaskSpec]) -> Iterable[tuple[str, SacrebleuSource]]:
    for task in tasks:
        if isinstance(task.source, SplitsSource):
            for part in (task.source.train, task.source.validation, task.source.test):
                if isinstance(part, SacrebleuSource):
                    yield task.task, part


def _fetch_split(wanted: _Wanted, to: Path, data_root: Path | None, verify: Verify) -> str:
    kept = _kept_file(wanted, to)
    if kept is not None:
        return kept
    part = Slice(wanted.split, None, None if wanted.num_rows is None else (wanted.num_rows, False))
    found = find_split(wanted.source, part, data_root=data_root)
    check_split(wanted.source, with_renamed_columns(found), wanted.split, verify)
    _, stop = part.bounds(found.num_rows)
    name = fetched_file(found.location, wanted.split)
    with held(to / MANIFEST):  # of two processes that fetch into one folder each keeps the other's entries
        _write_parquet(to / name, found, stop)
        facts = _facts(to / name, stop, wanted.split) | {
            "columns": column_types(found.schema),
            "dataset": found.location.dataset_path,
            "configuration": found.location.dataset_name,
            "revision": found.location.revision,
            "commit": found.revision,
        }
        if found.num_all_rows is None or stop < found.num_all_rows:
            facts["sample"] = stop
        write_manifest(to, read_manifest(to) | {name.as_posix(): facts})
    return f"{name.as_posix()}: {stop} rows, {facts['size'] / 2**20:.1f} MiB"


def _kept_file(wanted: _Wanted, to: Path) -> str | None:
    """The line of a file that is there already, with the rows that are wanted and the hash of the manifest."""
    manifest = read_manifest(to)
    for location in wanted.source.locations:
        if location.data_files is not None and wanted.split not in location.data_files:
            continue
        name = fetched_file(location, wanted.split)
        facts = manifest.get(name.as_posix(), {})
        is_same = facts.get("revision") == location.revision and _is_enough(facts, wanted.num_rows)
        if facts and is_same and (to / name).is_file() and sha256_of(to / name) == facts["sha256"]:
            return f"{name.as_posix()}: kept, {facts['num_rows']} rows"
    return None


def _is_enough(facts: Json, num_rows: int | None) -> bool:
    """Whether a file holds the wanted rows: all of the split, or a sample that is long enough."""
    return "sample" not in facts or (num_rows is not None and facts["sample"] >= num_rows)


def _facts(path: Path, num_rows: int, split: str) -> Json:
    return {"sha256": sha256_of(path), "size": path.stat().st_size, "num_rows": num_rows, "split": split}


def _write_parquet(path: Path, found: HubSplit, stop: int) -> None:
    """Write the first rows; a file without rows keeps its columns."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with pq.ParquetWriter(temporary, found.schema) as writer:
            for batch in found.batches(0, stop):
                writer.write_table(pa.Table.from_batches([batch]).cast(found.schema))
        os.replace(temporary, path)
    except OSError as error:
        raise DataError(f"{path}: {error.strerror or error}; expected a folder with room for the data") from None
    finally:
        temporary.unlink(missing_ok=True)


def _fetch_test_set(source: SacrebleuSource, to: Path, data_root: Path | None) -> list[str]:
    """Copy source and references of a test set in the layout of the organisers."""
    files = local_files(source, data_root) or downloaded_files(source, data_root)
    source_language, target_language = source.langpair.split("-")
    stem = f"{source.test_set}.{source.langpair}"
    copies = {f"{stem}.src.{source_language}": files.source}
    for label, path in files.references.items():
        copies[".".join(part for part in (stem, "ref", label, target_language) if part)] = path
    lines = []
    for name, path in copies.items():
        relative = f"{source.test_set}/{name}"
        target = to / relative
        facts = read_manifest(to).get(relative)
        if facts and target.is_file() and sha256_of(target) == facts["sha256"] == sha256_of(path):
            lines.append(f"{relative}: kept, {facts['num_rows']} lines")
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.with_name(f".{target.name}.{os.getpid()}")
        shutil.copyfile(path, temporary)
        with held(to / MANIFEST):
            os.replace(temporary, target)
            num_lines = target.read_bytes().count(b"\n")
            write_manifest(to, read_manifest(to) | {relative: _facts(target, num_lines, "test")})
        lines.append(f"{relative}: {num_lines} lines")
    return lines
