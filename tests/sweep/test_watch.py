"""Real processes that hang: asleep, and in C with the interpreter's lock held."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from catsweep.sweep.watch import hang_text, hung

PROGRAM = """
import ctypes, sys, time
from pathlib import Path
from catsweep.sweep.watch import watched

folder = Path(sys.argv[1])
with watched(folder, 1.5):
    for step in range(4):
        with (folder / "steps.jsonl").open("a") as file:
            file.write("line\\n")
        time.sleep(0.6)
    {then}
print("end")
"""


def run(folder: Path, then: str) -> tuple[int, str, float]:
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.replace("{then}", then), str(folder)],
        capture_output=True,
        text=True,
        timeout=120,
    )
    return done.returncode, done.stdout, time.monotonic() - began


@pytest.mark.parametrize(
    "then",
    ["time.sleep(100)", "ctypes.PyDLL(None).sleep(100)"],
    ids=["asleep", "in C, with the interpreter's lock"],
)
def test_a_process_that_writes_nothing_is_ended_and_says_where_it_stood(tmp_path: Path, then: str) -> None:
    code, output, seconds = run(tmp_path, then)
    assert code == 1
    assert output == ""
    assert seconds < 60
    assert hung(tmp_path)
    assert 'File "<string>", line' in (tmp_path / "hang.txt").read_text()
    assert str(tmp_path / "hang.txt") in hang_text(tmp_path)
    assert (tmp_path / "steps.jsonl").read_text() == "line\n" * 4


def test_a_process_that_goes_on_writing_comes_to_its_end(tmp_path: Path) -> None:
    code, output, _ = run(tmp_path, "pass")
    assert (code, output) == (0, "end\n")
    assert not hung(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["steps.jsonl"]
