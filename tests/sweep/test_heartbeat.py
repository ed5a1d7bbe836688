"""Two drivers of one sweep on two machines."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path

import pytest

from catsweep.errors import StorageError
from catsweep.sweep.heartbeat import FILE, beating

BEAT = 0.2


def fail(error: StorageError) -> None:
    raise AssertionError(error)


def on_machine(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("socket.gethostname", lambda: name)


def test_a_living_driver_on_another_machine_is_in_the_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    on_machine("first", monkeypatch)
    with beating(tmp_path, fail, beat_seconds=BEAT):
        on_machine("second", monkeypatch)
        with (
            pytest.raises(StorageError, match=r"another driver runs the sweep.* on first; .*--take-over"),
            beating(tmp_path, fail, beat_seconds=BEAT),
        ):
            fail(StorageError("two drivers"))
    assert not (tmp_path / FILE).exists()
    with beating(tmp_path, fail, beat_seconds=BEAT):
        assert json.loads((tmp_path / FILE).read_text())["host"] == "second"


def test_a_dead_driver_of_another_machine_is_not_in_the_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / FILE).write_text(json.dumps({"driver": "x", "host": "first", "pid": 1, "beat": 5}))
    on_machine("second", monkeypatch)
    began = time.monotonic()
    with beating(tmp_path, fail, beat_seconds=BEAT):
        assert time.monotonic() - began >= 3 * BEAT


@pytest.mark.parametrize("text", ['{"driver": "x", "host": "here", "pid": 1, "beat": 5}', '{"driver": "x", "ho'])
def test_one_that_was_killed_on_this_machine_or_left_half_a_file_costs_no_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    (tmp_path / FILE).write_text(text)
    on_machine("here", monkeypatch)
    began = time.monotonic()
    with beating(tmp_path, fail, beat_seconds=100.0):
        assert time.monotonic() - began < 50


def test_a_driver_that_is_taken_over_ends_and_leaves_the_file_to_the_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lost: list[StorageError] = []
    told = threading.Event()

    def on_loss(error: StorageError) -> None:
        lost.append(error)
        told.set()

    on_machine("first", monkeypatch)
    with beating(tmp_path, on_loss, beat_seconds=BEAT):
        on_machine("second", monkeypatch)
        with beating(tmp_path, fail, take_over=True, beat_seconds=BEAT):
            assert told.wait(30)
            assert "a driver on second took over" in str(lost[0])
        assert len(lost) == 1
