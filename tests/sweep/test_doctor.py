"""What `catsweep doctor` finds."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest
import ray

from catsweep.errors import CatsweepError
from catsweep.sweep import doctor
from catsweep.sweep.cluster import Cluster
from catsweep.sweep.doctor import examine_run, examine_server, look, tracking
from catsweep.tracking import default_tracking_uri


def test_a_wrong_thing_is_told_in_a_line_and_without_passwords() -> None:
    def fail() -> str:
        raise ConnectionError("http://me:hunter2@host refused\nmore")

    assert look("server", fail) == doctor.Finding("server", False, "ConnectionError: http://***@host refused")
    assert look("server", lambda: "fine") == doctor.Finding("server", True, "fine")


def test_versions_name_what_a_bug_report_needs() -> None:
    assert f"ray {ray.__version__}" in doctor.versions()
    assert "Python 3." in doctor.versions()


def test_a_new_database_is_made_and_a_broken_one_a_path_and_a_dead_server_are_told(tmp_path: Path) -> None:
    uri = default_tracking_uri(tmp_path)
    assert tracking(uri).endswith("answers, its database is migrated")
    with sqlite3.connect(tmp_path / "mlflow.db") as database:
        assert database.execute("select count(*) from experiments").fetchone() == (1,)
    (tmp_path / "broken.db").write_text("no database at all")
    for bad, text in (
        (f"sqlite:///{tmp_path}/broken.db", "no usable MLflow database"),
        (str(tmp_path), "found a path"),
        ("http://127.0.0.1:9", "does not answer"),
    ):
        with pytest.raises(CatsweepError, match=text):
            tracking(bad)


def test_a_server_that_is_not_there_is_told_and_nothing_more_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    found = list(examine_server("http://127.0.0.1:9"))
    assert [(finding.what, finding.ok) for finding in found] == [("token", True), ("job server", False)]
    assert "Is the cluster up" in found[1].text


def test_storage_is_written_from_every_node(tmp_path: Path, cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    found = {
        finding.what.split()[0]: finding
        for finding in examine_run(tmp_path / "root", default_tracking_uri(tmp_path), cluster)
    }
    assert set(found) == {"versions", "tracking", "token", "cluster", "storage"}
    assert all(finding.ok for finding in found.values())
    assert found["cluster"].text.startswith("1 nodes with 2 CPUs")
    assert list((tmp_path / "root").iterdir()) == []
    (tmp_path / "file").write_text("")
    *_, storage = examine_run(tmp_path / "file", default_tracking_uri(tmp_path), cluster)
    assert storage.ok is False
    assert "cannot be written" in storage.text
