"""A mixture on the command line, as a user runs it: real Ray, real MLflow, real models, killed in the middle."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from synthetic import TINY_LLAMA
from test_run import catsweep, mlflow_runs, wait_for

from catsweep.records import read_json, read_records, read_rows

SWEEP = {
    "name": "mixed",
    "tasks": [{"mixture": "both", "tasks": ["reverse.yaml", "parity.yaml"], "min_task_delta": 1.0}],
    "small": {"config": TINY_LLAMA, "tokenizer": {"kind": "char"}},
    "large": {
        "config": {**TINY_LLAMA, "num_hidden_layers": 2},
        "finetune": {"steps": 30, "batch_size": 16, "learning_rate": 1e-2},
    },
    "training": {"steps": 12, "batch_size": 16},
    "search": {
        "num_samples": 2,
        "confirm_seeds": 2,
        "space": {
            "learning_rate": {"space": "loguniform", "lower": 1e-3, "upper": 1e-2},
            "loss": {
                "space": "choice",
                "options": [{"kind": "xent"}, {"kind": "cat_xent", "filter": {"kind": "either"}}],
            },
        },
    },
}


@pytest.mark.slow
def test_a_mixture_that_is_killed_goes_on_to_its_table_report_and_mlflow_runs(
    task_folder: Path, tmp_path: Path
) -> None:
    for file in task_folder.glob("*.*"):
        shutil.copy(file, tmp_path)
    (tmp_path / "mixed.yaml").write_text(json.dumps(SWEEP))
    checked = catsweep("validate", "mixed.yaml", cwd=tmp_path).stdout
    assert "mixture both of made/reverse, made/parity" in checked
    assert "mixed.yaml: ok, 1 mixture of " in checked
    planned = catsweep("plan", "mixed.yaml", "--out", "root", cwd=tmp_path).stdout
    text = (
        "both: 50.0% of the training examples are of made/reverse; dropped since an evaluation split of a member shows their "
        "source text: S 0 of 178, 178 left; L 0 of "
    )
    assert text in " ".join(planned.split())

    arguments = ["run", "mixed.yaml", "--out", "root"]
    folder = tmp_path / "root" / "mixed"
    process = subprocess.Popen(
        [sys.executable, "-m", "catsweep.cli.main", *arguments], cwd=tmp_path, stderr=subprocess.DEVNULL, env=os.environ
    )
    wait_for(lambda: len(read_records(folder, "trials")) >= 2, 300, process)
    process.send_signal(signal.SIGKILL)
    process.wait()
    kept = {record.trial_id: record.ended_at for record in read_records(folder, "trials")}
    result = catsweep(*arguments, cwd=tmp_path)
    records = [*read_records(folder, "trials"), *read_records(folder, "confirm")]
    assert len(records) == 2 * 2 + 2 * 2
    assert {record.trial_id: record.ended_at for record in records if record.trial_id in kept} == kept

    for name in ("both*", "both/made/reverse*", "both/made/parity*"):  # in a pipe no name is folded
        assert f"{name} " in result.stdout
    assert "both cat_xent/either: the worst member is both/made/" in result.stdout
    page = (folder / "report.html").read_text()
    assert "both/made/parity" in page
    confirmed = read_records(folder, "confirm")[0]
    rows = read_rows(folder / confirmed.trial_id / "rows.parquet", "test")
    assert set(rows["task"].to_pylist()) == {"made/reverse", "made/parity"}
    assert read_json(folder / "prepared" / "both" / "made" / "parity.json")["rate"] == 0.5

    runs = mlflow_runs(tmp_path / "root")
    roles = sorted(run.data.tags["catsweep.role"] for run in runs)
    assert roles == ["confirm"] * 4 + ["curves"] * 6 + ["sweep"] + ["trial"] * 2 + ["winner"] * 2
    for run in [run for run in runs if run.data.tags["catsweep.role"] == "confirm"]:
        names = {"test/macro", "test/made/reverse/exact_match", "test/made/parity/accuracy_audc"}
        assert names <= set(run.data.metrics)
    assert catsweep(*arguments, cwd=tmp_path).stdout == result.stdout
