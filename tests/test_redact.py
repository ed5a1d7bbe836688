"""Secrets reach no file, page, database or message."""

from __future__ import annotations

import logging
import time
from dataclasses import replace
from pathlib import Path

import pytest
from synthetic import ONE_TASK, copy_sweep

from catsweep.errors import ClusterError
from catsweep.records import append_step, read_records, write_json, write_record
from catsweep.redact import has_credentials, redact
from catsweep.report.page import write_report
from catsweep.sweep.cluster import _logging_to
from catsweep.tracking import Tracker, default_tracking_uri, prepare_store

PASSWORD, TOKEN = "Correct-Horse-7", "hf_abcDEF0123456789"
URI = f"postgresql://me:{PASSWORD}@database:5432/mlflow"


@pytest.fixture
def _planted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", PASSWORD)
    monkeypatch.setenv("HF_TOKEN", TOKEN)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (f"cannot reach {URI}!", "cannot reach postgresql://***@database:5432/mlflow!"),
        ("http://me:pw@a and ftp://x:y@b", "http://***@a and ftp://***@b"),
        ("mail me@host, https://host/@x?q=a:b", "mail me@host, https://host/@x?q=a:b"),
        (f"header: Bearer {TOKEN}", "header: Bearer ***"),
        ("s3://AKIA12:ab/c+D@bucket/x and http://me:p/w@host", "s3://***@bucket/x and http://***@host"),
        ("https://me:hunter2#x@host/, http://me:pa@ss/x@host", "https://***@host/, http://***@host"),
        ("http://127.0.0.1:5000/#/experiments/@x", "http://127.0.0.1:5000/#/experiments/@x"),
    ],
)
@pytest.mark.usefixtures("_planted")
def test_passwords_of_uris_and_values_of_secret_variables_are_hidden(text: str, expected: str) -> None:
    assert redact(text) == expected
    assert redact(expected) == expected


def test_passphrases_keys_and_connection_strings_are_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    planted = {
        "MLFLOW_TRACKING_PASSWORD": "correct-horse-battery",
        "AZURE_STORAGE_ACCESS_KEY": "Ab12345678==",
        "AZURE_STORAGE_CONNECTION_STRING": "AccountName=me;AccountKey=Zz987654",
    }
    for name, value in planted.items():
        monkeypatch.setenv(name, value)
    assert redact(" ".join(planted.values())) == "*** *** ***"


def test_words_that_settings_could_hold_are_no_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_TOKEN", "learning_rate")
    monkeypatch.setenv("OTHER_TOKEN", "Ab1")
    monkeypatch.setenv("THIRD_TOKEN", "12345678")
    monkeypatch.setenv("HOME_FOLDER", "/home/Somebody1")
    text = "learning_rate Ab1 /home/Somebody1 0.12345678"
    assert redact(text) == text


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("https://a:b@c/d", True),
        ("https://ghp_longtoken123@c", True),
        ("ssh://git@c/d", False),
        ("a@b", False),
        ("s3://bucket/k", False),
        ("s3://AKIA12:ab/c+D@bucket", True),
        ("s3://bucket/k?secret_key=abc", True),
        ("http://host:5000/models/x@main?page=2", False),
    ],
)
def test_uris_with_passwords_are_told_from_others(text: str, found: bool) -> None:
    assert has_credentials(text) is found


def test_long_texts_of_many_uris_are_looked_at_in_time() -> None:
    for part in ("://a:b", "://?", "://a", "x?key", "://@"):
        text = part * 100_000
        started = time.process_time()
        assert redact(text) == text
        has_credentials(text)
        assert time.process_time() - started < 10


@pytest.mark.usefixtures("_planted")
def test_no_file_of_a_finished_run_holds_a_planted_secret(tmp_path: Path) -> None:
    """A whole sweep with its curves, MLflow runs and report, in which everything that fails says the secrets."""
    root = copy_sweep(tmp_path, ONE_TASK)
    folder = root / "tiny"
    broken = next(record for record in read_records(folder, "trials") if record.status == "failed")
    error = f"Traceback ...\nConnectionError: {URI} refused {TOKEN}"
    write_record(folder / broken.trial_id, replace(broken, error=error, facts={"host": URI}))
    append_step(folder / broken.trial_id, 1, {"loss": 1.0})
    write_json(folder / "command.json", {"run": f"sweep.yaml data_root={URI}"})
    write_json(folder / "prepare" / "other.json", {"task": "other", "facts": {}, "seconds": 1.0, "error": error})
    with _logging_to(folder / "logs" / "driver.log"):
        try:
            raise ClusterError(error)
        except ClusterError:
            logging.getLogger("ray.catsweep").exception("it said %s", error)
    heard: list[str] = []
    for uri in (
        URI.replace("postgresql://", "http://").replace("database:5432", "127.0.0.1:9"),
        default_tracking_uri(root),
    ):
        prepare_store(uri)
        tracker = Tracker(uri, root, "tiny", heard.append)
        tracker.complete = False
        tracker.log_sweep("failed")
    write_report(root, "tiny")
    files = [path for path in root.rglob("*") if path.is_file()]
    assert {"record.json", "command.json", "driver.log", "mlflow.db", "report.html", "spec.json", "steps.jsonl"} <= {
        path.name for path in files
    }
    for path in files:
        data = path.read_bytes()
        assert PASSWORD.encode() not in data, path
        assert TOKEN.encode() not in data, path
    assert "***" in (folder / broken.trial_id / "record.json").read_text()
    assert "***" in (folder / "logs" / "driver.log").read_text()
    assert len(heard) == 1
    assert PASSWORD not in heard[0]
    assert PASSWORD not in str(ClusterError(error))
