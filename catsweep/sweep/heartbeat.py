"""One driver a sweep, whatever cluster it runs on: a file that the driver writes again and again."""

from __future__ import annotations

import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from catsweep import storage
from catsweep.errors import StorageError
from catsweep.records import write_json

BEAT_SECONDS = 10.0
"""Between two beats. Who finds another driver's file waits three of them for the next: no clocks are compared."""
FILE = "driver.json"


@contextmanager
def beating(
    sweep_folder: Path,
    on_loss: Callable[[StorageError], None],
    *,
    take_over: bool = False,
    beat_seconds: float = BEAT_SECONDS,
) -> Iterator[None]:
    """Hold a sweep against drivers of other machines. The caller holds it against those of this one, by a lock.

    take_over: go on also where another driver beats; that one ends at its next beat. on_loss: called from another thread,
    once, where this happened to us. Raises StorageError where another driver is alive.
    """
    path = sweep_folder / FILE
    mine = {"driver": uuid.uuid4().hex, "host": socket.gethostname(), "pid": os.getpid(), "lock": str(sweep_folder)}
    if not take_over:
        refuse_a_living_one(sweep_folder, beat_seconds)
    write_json(path, mine | {"beat": 0})
    done = threading.Event()
    thread = threading.Thread(target=_beat, args=(path, mine, on_loss, beat_seconds, done), daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
        with suppress(StorageError, OSError):  # the store does not answer: the next driver waits three beats
            if (_read(path) or {}).get("driver") == mine["driver"]:
                storage.delete(path)


def refuse_a_living_one(sweep_folder: Path, beat_seconds: float = BEAT_SECONDS) -> None:
    """Raises StorageError where a driver of another machine beats, or where storage does not say; waits three beats for it
    where one has been there."""
    path = sweep_folder / FILE
    first = _read(path)
    if first is None:
        return
    if (first.get("host"), first.get("lock", str(sweep_folder))) == (socket.gethostname(), str(sweep_folder)):
        return  # ours is the lock of this machine, in this folder or mirror: that one is dead
    deadline = time.monotonic() + 3 * beat_seconds
    while time.monotonic() < deadline:
        time.sleep(beat_seconds / 4)
        now = _read(path)
        if now is None:
            return
        if now != first:
            raise StorageError(
                f"another driver runs the sweep in {path.parent}: process {now.get('pid')} on {now.get('host')}; expected one "
                "driver a sweep. Wait for it, stop it, or give --take-over, at which it ends"
            )


def _beat(
    path: Path,
    mine: dict[str, Any],
    on_loss: Callable[[StorageError], None],
    beat_seconds: float,
    done: threading.Event,
) -> None:
    number = 0
    while not done.wait(beat_seconds):
        number += 1
        try:
            now = _read(path)
            if now is not None and now.get("driver") != mine["driver"]:
                on_loss(
                    StorageError(
                        f"a driver on {now.get('host')} took over the sweep in {path.parent}; this one ends, and its unfinished "
                        "runs are that one's"
                    )
                )
                return
            write_json(path, mine | {"beat": number})
        except (StorageError, OSError):  # the store does not answer: the next beat tries again
            continue


def _read(path: Path) -> dict[str, Any] | None:
    raw = storage.read(path)
    try:
        return None if raw is None else dict(json.loads(raw))
    except (ValueError, TypeError):  # half of it, on a disk that was full
        return None
