"""A whole sweep whose root is an object store behind a bad network."""

from __future__ import annotations

from pathlib import Path

import pytest
from object_store import Proxy, s3_server, uri
from test_run import TINY, catsweep


def tables(output: str) -> list[str]:
    """What was printed, without the places of report and MLflow."""
    return [line for line in output.splitlines() if not line.startswith(("report:", "mlflow:"))]


@pytest.mark.slow
def test_a_slow_store_whose_connections_are_cut_gives_the_table_of_a_folder(tmp_path: Path) -> None:
    catsweep("init", "demo", cwd=tmp_path)
    plain = catsweep("run", "demo.yaml", *TINY, "--out", "root", cwd=tmp_path)
    with s3_server() as port:
        proxy = Proxy(port, num_cuts=1_000_000, cut_after=2_000, every=7, delay_seconds=0.02)
        there = ["--out", uri(proxy.port)]
        far = catsweep("run", "demo.yaml", *TINY, *there, cwd=tmp_path, CATSWEEP_MIRROR=str(tmp_path / "first"))
        assert tables(far.stdout) == tables(plain.stdout)
        assert proxy.num_cut > 10
        assert proxy.num_seen > 7 * 10

        # Another machine, whose mirror is empty, finds all of it there and runs nothing again.
        again = catsweep("run", "demo.yaml", *TINY, *there, cwd=tmp_path, CATSWEEP_MIRROR=str(tmp_path / "second"))
        assert tables(again.stdout) == tables(plain.stdout)
        assert " finished after " not in again.stderr
        proxy.close()
