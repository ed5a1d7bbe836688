"""What a task's rows depend on besides its YAML: the content of files, or the version of a package."""

from __future__ import annotations

from pathlib import Path
from typing import assert_never

from catsweep.errors import DataError, OutOfReachError
from catsweep.spec.base import digest
from catsweep.spec.mixture import MixtureSpec, members
from catsweep.spec.source import FilesSource, HubPart, HubSource, PackageSource, SacrebleuSource, Source, SplitsSource
from catsweep.spec.task import TaskSpec
from catsweep.tasks.hub import find_split, local_files
from catsweep.tasks.hub_remote import remote_revision
from catsweep.tasks.hub_split import shown
from catsweep.tasks.manifest import sha256_of
from catsweep.tasks.package import package_versions
from catsweep.tasks.sacrebleu_sets import sacrebleu_fingerprint
from catsweep.tasks.slices import parse_slice
from catsweep.tasks.sources import data_root_of_environment, given_splits


def source_fingerprint(task: TaskSpec, data_root: Path | None = None) -> str:
    """A key of the content that a task's rows come from; where it lies does not matter.

    data_root: as in `Reading`. A dataset of the hub counts by its commit; a local copy by its files. Raises DataError
    where a file is missing, or where the hub is needed and out of reach.
    """
    try:
        return _fingerprint(task.source, data_root or data_root_of_environment())
    except DataError as error:
        raise error.worded(f"task {task.task}: {error}") from error


def _fingerprint(source: Source | HubPart | SacrebleuSource, data_root: Path | None) -> str:
    match source:
        case FilesSource():
            names = [source.train, source.validation, source.test]
            files = [sorted(name.items()) if isinstance(name, dict) else [("", name)] for name in names if name]
            return digest([[column, sha256_of(Path(file))] for columns in files for column, file in columns])
        case PackageSource(reader=reader):
            return digest(package_versions(reader))
        case HubSource():
            return digest(
                [[split, _hub_split(source, name, data_root)] for split, name in given_splits(source).items()]
            )
        case HubPart():
            return _fingerprint(source.as_source(), data_root)
        case SacrebleuSource():
            return sacrebleu_fingerprint(source, data_root)
        case SplitsSource():
            parts = [source.train, source.validation, source.test]
            return digest([part and _fingerprint(part, data_root) for part in parts])
        case _:
            assert_never(source)


def unit_fingerprint(unit: TaskSpec | MixtureSpec, data_root: Path | None = None) -> str:
    """The same of a task or of all members of a mixture."""
    if isinstance(unit, MixtureSpec):
        return digest([source_fingerprint(task, data_root) for task in members(unit)])
    return source_fingerprint(unit, data_root)


def _hub_split(source: HubSource, name: str, data_root: Path | None) -> list[str]:
    """Local files by their content; what comes from the hub by its commit, and where no revision is given by that of
    today."""
    files = local_files(source, parse_slice(name).split, data_root)
    if files is not None:
        return [sha256_of(file) for file in files]
    problems = []
    for location in source.locations:
        try:
            return [location.dataset_path, remote_revision(location)]
        except DataError as error:
            problems.append(str(error))
    find_split(source, parse_slice(name), data_root=data_root, max_rows=1)  # its error says all that was tried
    raise OutOfReachError(
        f"{'; '.join(problems)}. Whether the rows are still the same cannot be seen without the hub: pin `revision` to a "
        "commit, or run `catsweep fetch TASKS --to DIR` where there is a network, and give that DIR as `data_root`",
        short=f"{shown(source)}, split {parse_slice(name).split!r}: not on this machine, nor is the hub in reach",
    )
