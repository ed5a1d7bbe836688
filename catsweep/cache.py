"""Content-addressed folders of the cache: each is made once, by whoever needs it first, and is there once its manifest is.

A whole folder is never removed or replaced, since somebody may be reading it; a damaged one counts as missing.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TextIO

from catsweep import storage
from catsweep.records import MANIFEST, fingerprint, write_json


@contextlib.contextmanager
def building(folder: Path, **facts: object) -> Iterator[Path]:
    """Make a content-addressed folder: fill the yielded temporary one; it is hashed and renamed into place at the end.

    facts: plain data that the manifest keeps beside sizes and hashes. If another process was first, its folder stays.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
    try:
        yield temporary
        files = sorted(path for path in temporary.rglob("*") if path.is_file())
        entries = {str(path.relative_to(temporary)): fingerprint(path) for path in files}
        write_json(temporary / MANIFEST, {"files": entries, "facts": facts})
        if not is_complete(folder):
            _move_into_place(temporary, folder)
            storage.put_folder(folder, last=MANIFEST)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _move_into_place(temporary: Path, folder: Path) -> None:
    """Rename, and replace a damaged folder; a whole one of another process stays: somebody may be reading it."""
    try:
        temporary.rename(folder)  # fails where a folder with files is
    except OSError:
        with held(folder.with_name(f"{folder.name}.damaged")):
            if not _is_whole(folder, hashes=True):
                aside = temporary.with_name(f"{temporary.name}.damaged")
                with contextlib.suppress(FileNotFoundError):
                    folder.rename(aside)
                try:
                    temporary.rename(folder)
                except OSError:
                    if not _is_whole(folder, hashes=True):  # else somebody's came between the two lines
                        raise
                shutil.rmtree(aside, ignore_errors=True)


@contextlib.contextmanager
def held(folder: Path) -> Iterator[None]:
    """Hold a content-addressed folder while it is made: who comes second waits, and then finds it there.

    The lock is the kernel's, so that it ends with the process that holds it, also when that is killed.
    """
    with _lock_file(folder) as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def try_held(folder: Path) -> Iterator[Callable[[], bool]]:
    """Yields what tries to hold the folder, without waiting, and says whether it does."""
    with _lock_file(folder) as file:

        def take() -> bool:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
            return True

        yield take


def _lock_file(folder: Path) -> TextIO:
    folder.parent.mkdir(parents=True, exist_ok=True)
    return folder.with_name(f".{folder.name}.lock").open("w")


def is_complete(folder: Path, *, hashes: bool = True) -> bool:
    """Whether a content-addressed folder is whole: the manifest is there, and every file has its size and hash.

    hashes=False compares sizes only. A damaged folder counts as missing, so that it is made again. One that another node
    has put on an object store is brought.
    """
    if _is_whole(folder, hashes=hashes):
        if not storage.exists(folder / MANIFEST):  # its process was killed before it was sent
            storage.put_folder(folder, last=MANIFEST)
        return True
    return storage.exists(folder / MANIFEST) and storage.get_folder(folder) > 0 and _is_whole(folder, hashes=True)


def _is_whole(folder: Path, *, hashes: bool) -> bool:
    try:
        entries = json.loads((folder / MANIFEST).read_bytes())["files"]
        for name, (size, sha256) in entries.items():
            path = folder / name
            if path.stat().st_size != size or (hashes and fingerprint(path)[1] != sha256):
                return False
    except (OSError, ValueError, KeyError, TypeError):
        return False
    return True
