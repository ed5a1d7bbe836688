"""A whole sweep on a disk that fills up while it runs."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
from faults import small_disk
from test_object_store import tables
from test_run import TINY, catsweep

RUNS = re.compile(r"\] (\S+) finished after ")


@pytest.mark.slow
def test_a_sweep_on_a_disk_that_filled_up_goes_on_where_it_was_once_there_is_room(tmp_path: Path) -> None:
    catsweep("init", "demo", cwd=tmp_path)
    plain = catsweep("run", "demo.yaml", *TINY, "--out", "plain", cwd=tmp_path)
    (tmp_path / "root").mkdir()
    with small_disk(tmp_path / "root", 200) as disk:
        arguments = ["-m", "catsweep.cli.main", "run", "demo.yaml", *TINY, "--out", "root"]
        command = [*disk.enter, f"--wdns={tmp_path}", sys.executable, *arguments]
        first = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        while not list(disk.seen.glob("demo/trials/**/record.json")):
            assert first.poll() is None, first.communicate()
            time.sleep(0.05)
        disk.fill()
        printed, said = first.communicate(timeout=600)
        assert first.returncode != 0
        assert printed == ""
        assert "no space is left on its disk. Nothing that was finished is lost" in " ".join(said.split())
        before = RUNS.findall(said)

        disk.free()
        second = subprocess.run(command, capture_output=True, text=True, check=True, timeout=600)
        assert tables(second.stdout) == tables(plain.stdout)
        after = RUNS.findall(second.stderr)
        assert before
        assert sorted([*before, *after]) == sorted(RUNS.findall(plain.stderr))
        assert not [path for path in disk.seen.glob("cache/*/.*") if path.is_dir()]  # no folder is left half made
