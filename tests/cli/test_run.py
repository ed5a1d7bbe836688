"""The command line end to end, as a user runs it: real Ray, real MLflow, real models, tiny settings."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pytest

from catsweep.records import read_records

REPOSITORY = Path(__file__).parents[2]
TINY = [
    "training.steps=20",
    "large.finetune.steps=20",
    "search.num_samples=1",
    "search.confirm_seeds=2",
    "data={max_train_rows: 300}",
]


def catsweep(*arguments: str, cwd: Path, check: bool = True, **env: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "catsweep.cli.main", *arguments]
    result = subprocess.run(
        command,
        cwd=cwd,
        env={**os.environ, "COLUMNS": "80", **env},
        capture_output=True,
        text=True,
        timeout=1800,
        check=False,
    )
    assert not check or result.returncode == 0, result.stdout + result.stderr
    return result


def mlflow_runs(root: Path) -> list[Any]:
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=f"sqlite:///{root / 'mlflow.db'}")
    experiments = [
        experiment.experiment_id for experiment in client.search_experiments() if experiment.name != "Default"
    ]
    return list(client.search_runs(experiments, max_results=1000))


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, subprocess.CompletedProcess[str]]:
    """What `catsweep init` writes, validated and run with tiny settings: folder, root, and what was printed."""
    folder = tmp_path_factory.mktemp("project")
    catsweep("init", "demo", cwd=folder)
    assert "demo.yaml: ok, 1 task" in catsweep("validate", "demo.yaml", "--out", "root", cwd=folder).stdout
    return folder, folder / "root", catsweep("run", "demo.yaml", *TINY, "--out", "root", cwd=folder)


def test_a_new_sweep_runs_to_its_table_report_and_mlflow_runs(finished: tuple[Path, Path, Any]) -> None:
    _, root, result = finished
    for stratum in ("xent", "dist", "cat_xent/either", "cat_xent/shuffled"):
        assert stratum in result.stdout
    assert "report.html" in result.stdout
    assert (root / "demo" / "report.html").stat().st_size > 10_000
    roles = sorted(run.data.tags["catsweep.role"] for run in mlflow_runs(root))
    assert roles == ["confirm"] * 8 + ["curves"] * 4 + ["sweep"] + ["winner"] * 4
    assert {run.info.status for run in mlflow_runs(root)} == {"FINISHED"}


def test_ray_and_mlflow_print_nothing(finished: tuple[Path, Path, Any]) -> None:
    _, _, result = finished
    foreign = [line for line in result.stderr.splitlines() if not line[:2].isdigit()]
    assert foreign == []


def test_a_second_run_finishes_at_once_and_logs_nothing_again(finished: tuple[Path, Path, Any]) -> None:
    folder, root, first = finished
    before = {run.info.run_id for run in mlflow_runs(root)}
    second = catsweep("run", "demo.yaml", *TINY, "--out", "root", cwd=folder)
    assert second.stdout == first.stdout
    assert second.stderr == ""
    assert {run.info.run_id for run in mlflow_runs(root)} == before


def test_a_moved_folder_changes_nothing_and_changed_data_is_refused(
    finished: tuple[Path, Path, Any], tmp_path: Path
) -> None:
    folder, root, _ = finished
    shutil.copytree(folder, tmp_path / "moved", ignore=shutil.ignore_patterns("root"))
    arguments = ["run", "demo.yaml", *TINY, "--out", str(root)]
    assert "cat_xent/either" in catsweep(*arguments, cwd=tmp_path / "moved").stdout
    catsweep("run", "demo.yaml", *TINY, "--out", "root", cwd=folder)
    data = tmp_path / "moved" / "tasks" / "demo.csv"
    data.write_text(data.read_text() + "What is 99 plus 1?,100\n")
    result = catsweep(*arguments, cwd=tmp_path / "moved", check=False)
    assert result.returncode == 2
    assert "the data of the task has changed" in result.stderr


def test_clean_lists_and_deletes_nothing_unless_it_is_told_to(finished: tuple[Path, Path, Any]) -> None:
    folder, root, _ = finished
    before = sorted(path for path in root.rglob("*") if path.is_file())
    listed = [catsweep("clean", "demo", *flag, "--out", "root", cwd=folder).stdout for flag in ([], ["--dry-run"])]
    assert listed[0] == listed[1]
    assert "nothing was deleted" in listed[0] or "nothing of demo may go" in listed[0]
    assert sorted(path for path in root.rglob("*") if path.is_file()) == before


def test_plan_knows_what_is_done_and_cached(finished: tuple[Path, Path, Any]) -> None:
    folder, _, _ = finished
    plan = json.loads(catsweep("plan", "demo.yaml", *TINY, "--out", "root", "--json", cwd=folder).stdout)
    (task,) = plan["tasks"]
    assert (task["num_search_trials"], task["num_confirm_runs"], task["num_done"]) == (4, 8, 12)
    printed = " ".join(catsweep("plan", "demo.yaml", *TINY, "--out", "root", cwd=folder).stdout.split())
    assert f"the large ones train on {task['num_rows']['large_train']} others (large.finetune.holdout)" in printed
    assert task["cached"] == {"data": True, "large": True, "signal": True, "answers": True}


def test_ls_and_report_read_what_is_there(finished: tuple[Path, Path, Any]) -> None:
    folder, _, _ = finished
    (row,) = json.loads(catsweep("ls", "--out", "root", "--json", cwd=folder).stdout)
    assert row == {"sweep": "demo", "tasks": 1, "trials": 4, "confirm": 8, "report": True}
    report = json.loads(catsweep("report", "demo", "--out", "root", "--json", cwd=folder).stdout)
    assert len(report["rows"]) == 4


def test_changed_training_is_refused_with_both_values(finished: tuple[Path, Path, Any]) -> None:
    folder, _, _ = finished
    arguments = ["demo.yaml", *TINY, "training.batch_size=8", "--out", "root"]
    assert "warning: `run` will refuse: training.batch_size is 8" in catsweep("plan", *arguments, cwd=folder).stderr
    warnings = catsweep("plan", "demo.yaml", *TINY, "--out", "root", cwd=folder).stderr.splitlines()
    assert all("THE LARGE MODEL IS NEAR CHANCE" in line for line in warnings), warnings  # of 20 steps; nothing else
    result = catsweep("run", *arguments, cwd=folder, check=False)
    assert result.returncode == 2
    assert "batch_size" in result.stderr
    assert "32" in result.stderr
    assert "8" in result.stderr


def test_invalid_input_gives_exit_code_2_and_every_problem(tmp_path: Path) -> None:
    catsweep("init", "demo", cwd=tmp_path)
    result = catsweep(
        "validate", "demo.yaml", "training.stebs=1", "small.tokenizer.kind=chr", cwd=tmp_path, check=False
    )
    assert result.returncode == 2
    assert len(result.stderr.splitlines()) == 2
    assert catsweep("run", "none.yaml", cwd=tmp_path, check=False).returncode == 2
    assert catsweep("report", "none", "--out", "root", cwd=tmp_path, check=False).returncode == 1
    assert catsweep("curves", cwd=tmp_path, check=False).returncode == 2


def test_a_file_store_of_mlflow_is_refused_with_the_way_out(finished: tuple[Path, Path, Any], tmp_path: Path) -> None:
    folder, _, _ = finished
    result = catsweep(
        "run", "demo.yaml", *TINY, "--out", "root", "--tracking-uri", f"file:{tmp_path}", cwd=folder, check=False
    )
    assert result.returncode != 0
    assert "migrate-filestore" in result.stderr


def wait_for(condition: Any, seconds: float, process: subprocess.Popen[bytes], said: Path = Path(os.devnull)) -> None:
    """Wait until something is there, as long as the process runs. said: what it printed, for the message."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, f"the driver ended too early: {said.read_text()}"
        assert time.monotonic() < deadline, f"nothing happened: {said.read_text()}"
        time.sleep(0.1)


def _start_and_kill(arguments: list[str], cwd: Path, condition: Any, seconds: float) -> None:
    """Start catsweep, and end it with SIGKILL once a condition holds."""
    command = [sys.executable, "-m", "catsweep.cli.main", *arguments]
    with tempfile.NamedTemporaryFile("w+") as said:
        process = subprocess.Popen(command, cwd=cwd, stderr=said)
        try:
            wait_for(condition, seconds, process, said=Path(said.name))
        finally:
            process.send_signal(signal.SIGKILL)
            process.wait()


@pytest.mark.slow
def test_a_driver_that_is_killed_twice_goes_on(tmp_path: Path) -> None:
    """SIGKILL while the large model is made, and again in the search: nothing is lost, nothing runs twice."""
    catsweep("init", "demo", cwd=tmp_path)
    arguments = ["run", "demo.yaml", *TINY, "search.num_samples=2", "--out", "root"]
    sweep = tmp_path / "root" / "demo"
    _start_and_kill(arguments, tmp_path, lambda: list((tmp_path / "root").glob("cache/data/*/manifest.json")), 200)
    assert not read_records(sweep, "trials")
    _start_and_kill(arguments, tmp_path, lambda: len(read_records(sweep, "trials")) >= 3, 200)
    kept = {record.trial_id: record.ended_at for record in read_records(sweep, "trials")}
    catsweep(*arguments, cwd=tmp_path)
    records = [*read_records(sweep, "trials"), *read_records(sweep, "confirm")]
    assert len(records) == 4 * 2 + 4 * 2
    assert {record.trial_id: record.ended_at for record in records if record.trial_id in kept} == kept
    logged = [run.data.tags for run in mlflow_runs(tmp_path / "root")]
    trial_ids = [
        tags["catsweep.trial_id"] for tags in logged if tags["catsweep.role"] in ("trial", "winner", "confirm")
    ]
    assert sorted(trial_ids) == sorted(record.trial_id for record in records)

    catsweep(*arguments, "search.num_samples=3", cwd=tmp_path)
    assert len(read_records(sweep, "trials")) == 4 * 3


@pytest.mark.slow
def test_runs_that_failed_are_tried_again_by_the_next_command(tmp_path: Path) -> None:
    """Folders stand where rows belong, so that a trial and a confirm run cannot write theirs; then they go away."""
    catsweep("init", "demo", cwd=tmp_path)
    arguments = [
        "run",
        "demo.yaml",
        *TINY,
        "search.space.loss.options=[{kind: xent}, {kind: cat_xent}]",
        "--out",
        "root",
    ]
    sweep = tmp_path / "root" / "demo"
    blocked = [
        sweep / name / "rows.parquet" for name in ("trials/demo/cat_xent/00000", "confirm/demo/xent/00000-seed2")
    ]
    for folder in blocked:
        folder.mkdir(parents=True)
    first = catsweep(*arguments, cwd=tmp_path, check=False)
    assert first.returncode == 1
    assert first.stderr.count("IsADirectoryError") >= 2
    assert "xent (1 of 2 seeds)" in " ".join(first.stdout.split())
    assert "demo cat_xent: 0 of 2 confirm runs; no trial finished" in first.stdout
    failed = {
        run.data.tags["catsweep.trial_id"] for run in mlflow_runs(tmp_path / "root") if run.info.status == "FAILED"
    }
    names = {str(folder.parent.relative_to(sweep)) for folder in blocked}
    assert names <= failed

    for folder in blocked:
        folder.rmdir()
    second = catsweep(*arguments, cwd=tmp_path)
    assert "2 runs that failed are tried again" in second.stderr
    assert "confirm runs" not in second.stdout
    records = [*read_records(sweep, "trials"), *read_records(sweep, "confirm")]
    assert [record.status for record in records] == ["finished"] * (2 + 2 * 2)
    assert all((folder.parent / "record.failed-1.json").exists() for folder in blocked)
    runs = mlflow_runs(tmp_path / "root")
    assert {run.info.status for run in runs} == {"FINISHED"}
    assert not any(run.data.tags.get("catsweep.error") for run in runs)
    assert catsweep(*arguments, cwd=tmp_path).stderr == ""


QUICKSTART = [
    "run", "search_spaces/quickstart.yaml", "tasks=[lemma/es, langid/nordic]", "training.steps=30", "large.finetune.steps=20",
    "search.num_samples=1", "search.confirm_seeds=1", "data={max_train_rows: 400, max_evaluation_rows: 60}",
]  # fmt: skip
"""The quickstart's sweep, xent and cat_xent of a task of each output type, with tiny steps and few rows."""


@pytest.mark.slow
@pytest.mark.timeout(3600)  # a start of Ray Train takes 15 s on two free cores, and there are nine
def test_two_workers_give_the_metrics_of_one(tmp_path: Path) -> None:
    """The quickstart with DDP (gloo) under Ray Train, killed in the middle of its search and started again."""
    catsweep(*QUICKSTART, "name=one", "--out", str(tmp_path), cwd=REPOSITORY)
    arguments = [*QUICKSTART, "name=two", "resources.num_workers=2", "--out", str(tmp_path)]
    _start_and_kill(arguments, REPOSITORY, lambda: read_records(tmp_path / "two", "trials"), 900)
    kept = {record.trial_id: record.ended_at for record in read_records(tmp_path / "two", "trials")}
    assert len(kept) < 4, "the kill came too late: nothing was left to search"
    catsweep(*arguments, cwd=REPOSITORY)
    for role in ("trials", "confirm"):
        one, two = (read_records(tmp_path / sweep, role) for sweep in ("one", "two"))  # type: ignore[arg-type]
        assert len(one) == len(two) == 2 * 2
        for first, second in zip(one, two, strict=True):
            assert first.trial_id == second.trial_id
            assert second.metrics == pytest.approx(first.metrics, abs=1e-3)
            assert second.ended_at == kept.get(second.trial_id, second.ended_at)


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@pytest.mark.slow
def test_the_readmes_lines_submit_a_sweep_to_a_cluster(tmp_path: Path) -> None:
    """clusters/local.sh up, `ray job submit` of a sweep and of its curves, down."""
    port = _free_port()
    env = {
        **os.environ, "RAY_AUTH_MODE": "token", "RAY_PORT": str(_free_port()), "DASHBOARD_PORT": str(port), "HOME": str(tmp_path),
        "CATSWEEP_HOME": str(tmp_path / "results"), "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }  # fmt: skip
    env.pop("RAY_ADDRESS", None)
    catsweep("init", "demo", "--folder", str(tmp_path / "project"), cwd=tmp_path)
    script = REPOSITORY / "clusters" / "local.sh"

    def run(*command: str) -> str:
        result = subprocess.run(
            command, cwd=tmp_path / "project", env=env, capture_output=True, text=True, timeout=400, check=False
        )
        assert result.returncode == 0, result.stdout + result.stderr
        return result.stdout

    submit = ["ray", "job", "submit", "--address", f"http://127.0.0.1:{port}", "--working-dir", ".", "--", "catsweep"]
    up = run(str(script), "up")
    try:
        assert f"ray job submit --address http://127.0.0.1:{port} --working-dir . -- catsweep run" in up
        assert "cat_xent/either" in run(*submit, "run", "demo.yaml", *TINY)
        summary = tmp_path / "results" / "demo" / "curves" / "summary.json"
        before = summary.stat().st_mtime
        assert "cat_xent/either" in run(*submit, "curves", "demo")
        assert summary.stat().st_mtime > before
    finally:
        run(str(script), "down")
