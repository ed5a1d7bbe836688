"""Faults that tests cause: a disk that is full, files that were cut short or changed."""

from __future__ import annotations

import resource
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path


@contextmanager
def full_disk(num_bytes: int = 0) -> Iterator[None]:
    """No file of this process grows beyond so many bytes: the same errors as on a full disk, and no root needed."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@dataclass(frozen=True)
class SmallDisk:
    """A folder that is a disk of its own for some processes. enter: what their command begins with. seen: the folder as others
    see it."""

    enter: list[str]
    seen: Path

    def fill(self) -> None:
        """Take all that is free."""
        with suppress(OSError), (self.seen / "ballast").open("wb", buffering=0) as file:
            while file.write(bytes(4096)):
                pass

    def free(self) -> None:
        """Give back what `fill` took."""
        (self.seen / "ballast").unlink()


@contextmanager
def small_disk(folder: Path, num_mib: int) -> Iterator[SmallDisk]:
    """A disk of this size at `folder`, mounted in a namespace that needs no root."""
    mount = f"mount -t tmpfs -o size={num_mib}m none {folder} && echo mounted && exec cat"
    command = ["unshare", "--map-root-user", "--mount", "sh", "-c", mount]
    holder = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    assert holder.stdout.readline() == "mounted\n", "this test needs the right to mount a tmpfs in a user namespace"
    enter = ["nsenter", f"--target={holder.pid}", "--preserve-credentials", "--user", "--mount"]
    try:
        yield SmallDisk(enter, Path(f"/proc/{holder.pid}/root{folder}"))
    finally:
        holder.communicate()


def cut(path: Path) -> None:
    """Half of the file is gone."""
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip(path: Path, place: float = 0.5) -> None:
    """One bit of the file is another, at this share of its length."""
    data = bytearray(path.read_bytes())
    data[min(int(place * len(data)), len(data) - 1)] ^= 1
    path.write_bytes(data)


DAMAGES = [cut, flip]
