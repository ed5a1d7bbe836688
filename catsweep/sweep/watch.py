"""A run that hangs: its process is ended, so that it starts again from its checkpoint."""

from __future__ import annotations

import faulthandler
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

STACKS = "hang.txt"
"""Where the stack of each thread of a process that hung goes."""


@contextmanager
def watched(folder: Path, limit_seconds: float | None) -> Iterator[None]:
    """End this process where no file in a run's folder changes for so long; None: never.

    Runs write steps.jsonl some hundred times, rows and checkpoints: that is their heartbeat. The clock is faulthandler's,
    in C: it also ends a process of which no Python thread can run any more.
    """
    if limit_seconds is None:
        yield
        return
    folder.mkdir(parents=True, exist_ok=True)
    done = threading.Event()
    try:
        with (folder / STACKS).open("a") as stacks:
            watcher = threading.Thread(target=_watch, args=(folder, limit_seconds, stacks, done), daemon=True)
            watcher.start()
            try:
                yield
            finally:
                done.set()
                watcher.join()
                faulthandler.cancel_dump_traceback_later()
    finally:
        forget_empty_stacks(folder)


def forget_empty_stacks(folder: Path) -> None:
    """Remove the file that a process which did not hang has left."""
    if not hung(folder):
        (folder / STACKS).unlink(missing_ok=True)


def hung(folder: Path) -> bool:
    """Whether a process of the run has hung."""
    path = folder / STACKS
    return path.exists() and path.stat().st_size > 0


def hang_text(folder: Path) -> str:
    """What a person should know of it."""
    return (
        "the run wrote nothing for resources.hang_minutes and was taken for hung; expected a line of steps.jsonl sooner. "
        f"{folder / STACKS} says where it stood; raise resources.hang_minutes if it was only slow"
    )


def _watch(folder: Path, limit_seconds: float, stacks: Any, done: threading.Event) -> None:
    seen: object = None
    while True:
        now = _state(folder)
        if now != seen:  # else the clock goes on
            faulthandler.dump_traceback_later(limit_seconds, exit=True, file=stacks)
            seen = now
        if done.wait(min(limit_seconds / 10, 30.0)):
            return


def _state(folder: Path) -> dict[str, tuple[int, int]]:
    """Time and size of every file."""
    state = {}
    for path in folder.rglob("*"):
        if path.name != STACKS:
            try:
                facts = path.stat()
            except OSError:  # it went away just now
                continue
            state[str(path)] = (facts.st_mtime_ns, facts.st_size)
    return state
