"""What a task's rows depend on besides its YAML: the content of files, or the version of a package."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import assert_never

from catsweep.errors import DataError
from catsweep.spec.base import digest
from catsweep.spec.source import FilesSource, HubPart, HubSource, PackageSource, SacrebleuSource, Source, SplitsSource
from catsweep.spec.task import TaskSpec
from catsweep.tasks.hub import local_folder
from catsweep.tasks.package import package_versions
from catsweep.tasks.sacrebleu_sets import sacrebleu_fingerprint
from catsweep.tasks.sources import data_root_of_environment


def source_fingerprint(task: TaskSpec, data_root: Path | None = None) -> str:
    """A key of the content that a task's rows come from; where it lies does not matter.

    data_root: as in `Reading`. A dataset of the hub is told apart by its revision alone: give one, where it may change.
    Raises DataError where a file is missing.
    """
    return _fingerprint(task.source, data_root or data_root_of_environment())


def _fingerprint(source: Source | HubPart | SacrebleuSource, data_root: Path | None) -> str:
    match source:
        case FilesSource():
            names = [source.train, source.validation, source.test]
            files = [sorted(name.items()) if isinstance(name, dict) else [("", name)] for name in names if name]
            return digest([[column, _sha256(Path(file))] for columns in files for column, file in columns])
        case PackageSource(reader=reader):
            return digest(package_versions(reader))
        case HubSource():
            folder = local_folder(source, data_root)
            if folder is None:
                return digest(source.revision)
            below = folder / source.dataset_name if source.dataset_name and not source.data_files else folder
            return digest([[str(file.relative_to(below)), _sha256(file)] for file in sorted(below.rglob("*.parquet"))])
        case HubPart():
            return _fingerprint(source.as_source(), data_root)
        case SacrebleuSource():
            return sacrebleu_fingerprint(source, data_root)
        case SplitsSource():
            parts = [source.train, source.validation, source.test]
            return digest([part and _fingerprint(part, data_root) for part in parts])
        case _:
            assert_never(source)


def _sha256(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise DataError(
            f"{path}: {error.strerror}; expected a data file of a task. Check the path in the task's YAML"
        ) from None
