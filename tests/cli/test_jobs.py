"""`catsweep submit`, `status` and `stop`: what they refuse at once, and a real cluster of two nodes."""

from __future__ import annotations

import itertools
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from catsweep.cli.doctor import doctor_command
from catsweep.cli.init import init_command
from catsweep.cli.jobs import submit_command
from catsweep.cli.main import app
from catsweep.errors import CatsweepError, ClusterError
from catsweep.records import read_records

REPOSITORY = Path(__file__).parents[2]
TINY = [
    "training.steps=20", "large.finetune.steps=20", "search.num_samples=2", "search.confirm_seeds=1", "data={max_train_rows: 300}",
    "search.space.loss.options=[{kind: xent}, {kind: cat_xent}]",
]  # fmt: skip


def submit(folder: Path, file: str = "demo.yaml", *, out: str | None = None, tracking_uri: str | None = None) -> None:
    submit_command(
        folder / file,
        [],
        cluster="http://127.0.0.1:1",
        working_dir=folder,
        follow=False,
        out=out,
        tracking_uri=tracking_uri,
    )


def test_what_a_cluster_could_not_run_is_refused_before_it_is_asked(tmp_path: Path) -> None:
    init_command("demo", folder=tmp_path / "project")
    init_command("other", folder=tmp_path)
    with pytest.raises(ClusterError, match=r"other.yaml lies outside .*--working-dir"):
        submit(tmp_path / "project", "../other.yaml")
    with pytest.raises(ClusterError, match=r"--out results: found a relative path"):
        submit(tmp_path / "project", out="results")
    with pytest.raises(ClusterError, match="found a password") as caught:
        submit(tmp_path / "project", tracking_uri="http://me:hunter2@mlflow")
    assert "hunter2" not in str(caught.value)
    with pytest.raises(ClusterError, match="--out: found a password"):
        submit(tmp_path / "project", out="s3://AKIAEXAMPLE:hunter2/x@bucket/results")
    with pytest.raises(ClusterError, match="--tracking-uri: found a password"):
        doctor_command(cluster="http://127.0.0.1:1", out=None, tracking_uri="http://me:hunter2@mlflow")
    with pytest.raises(ClusterError, match=r"tasks/other.yaml lies outside"):
        submit_command(
            tmp_path / "project" / "demo.yaml", ["tasks=[../tasks/other.yaml]"], cluster="http://127.0.0.1:1",
            working_dir=tmp_path / "project", follow=False, out=None, tracking_uri=None,
        )  # fmt: skip
    (tmp_path / "project" / "demo.yaml").write_text("name: demo\n")
    with pytest.raises(CatsweepError, match="tasks: found nothing"):
        submit(tmp_path / "project")


@pytest.mark.parametrize("command", [["report"], ["curves"], ["status"], ["stop"]])
@pytest.mark.parametrize("name", ["../other", "a/b", "/etc", ".hidden", "a" * 65])
def test_a_name_that_leads_out_of_the_root_is_wrong_usage(command: list[str], name: str) -> None:
    result = CliRunner().invoke(app, [*command, name])
    assert result.exit_code == 2
    assert "expected a sweep's name" in " ".join(result.output.replace("│", " ").split())


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


class TwoNodes:
    """clusters/local.sh up 1, with one core a node, and a new sweep in a folder."""

    up = ""

    def __init__(self, folder: Path) -> None:
        self.folder, self.address = folder, f"http://127.0.0.1:{_free_port()}"
        self.env = {
            **os.environ, "RAY_PORT": str(_free_port()), "DASHBOARD_PORT": self.address.rpartition(":")[2], "NODE_CPUS": "1",
            "HOME": str(folder), "CATSWEEP_HOME": str(folder / "results"),
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        }  # fmt: skip
        for name in ("RAY_ADDRESS", "RAY_AUTH_MODE"):
            self.env.pop(name, None)
        init_command("demo", folder=folder / "project")

    def run(self, *command: str, code: int = 0) -> subprocess.CompletedProcess[str]:
        result = subprocess.run(
            command, cwd=self.folder / "project", env=self.env, capture_output=True, text=True, timeout=900, check=False
        )
        assert result.returncode == code, result.stdout + result.stderr
        return result

    def catsweep(self, verb: str, *arguments: str, code: int = 0) -> subprocess.CompletedProcess[str]:
        return self.run("catsweep", verb, *arguments, "--cluster", self.address, code=code)


@pytest.fixture(scope="module")
def two_nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TwoNodes]:
    cluster, script = TwoNodes(tmp_path_factory.mktemp("two")), str(REPOSITORY / "clusters" / "local.sh")
    try:
        cluster.up = cluster.run(script, "up", "1").stdout
        yield cluster
    finally:
        cluster.run(script, "down")


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_sweep_runs_on_two_nodes_is_stopped_and_goes_on(two_nodes: TwoNodes) -> None:
    assert f"catsweep submit search_spaces/quickstart.yaml --cluster {two_nodes.address} --follow" in two_nodes.up
    settings = [*TINY, "search.num_samples=8", "training.steps=300"]  # longer than the command that stops it
    assert "demo-1 submitted" in two_nodes.catsweep("submit", "demo.yaml", *settings).stdout
    assert "expected one job a sweep" in two_nodes.catsweep("submit", "demo.yaml", *settings, code=1).stderr
    sweep = two_nodes.folder / "results" / "demo"
    deadline = time.monotonic() + 600
    while not read_records(sweep, "trials"):
        assert time.monotonic() < deadline, two_nodes.catsweep("status", "demo", "--log").stdout
        time.sleep(0.5)
    assert "demo-1 STOPPED" in two_nodes.catsweep("stop", "demo").stdout
    kept = {record.trial_id: record.ended_at for record in read_records(sweep, "trials")}
    assert len(kept) < 2 * 8

    followed = two_nodes.catsweep("submit", "demo.yaml", *settings, "--follow").stdout
    assert "2 nodes" in followed
    assert "\n cat_xent " in followed
    assert "demo-2 SUCCEEDED" in followed
    trials, confirmed = read_records(sweep, "trials"), read_records(sweep, "confirm")
    assert [record.status for record in trials + confirmed] == ["finished"] * (2 * 8 + 2)
    assert {record.trial_id: record.ended_at for record in trials if record.trial_id in kept} == kept
    # A node has one core: two runs at once are on two nodes.
    runs = sorted([*trials, *confirmed], key=lambda record: record.started_at)
    assert any(later.started_at < earlier.ended_at for earlier, later in itertools.pairwise(runs))
    status = two_nodes.catsweep("status", "demo").stdout.splitlines()
    assert [line.split()[:2] for line in status] == [["demo-1", "STOPPED"], ["demo-2", "SUCCEEDED"]]
    assert "no job of demo is running" in two_nodes.catsweep("stop", "demo").stderr
    assert "has no job of the sweep 'none'" in two_nodes.catsweep("status", "none", code=1).stderr


@pytest.mark.slow
def test_who_has_no_token_is_refused_with_the_way_out(two_nodes: TwoNodes) -> None:
    import urllib.error
    import urllib.request

    with pytest.raises(urllib.error.HTTPError, match="401"):
        urllib.request.urlopen(f"{two_nodes.address}/api/jobs/", timeout=20)
    token = two_nodes.folder / ".ray" / "auth_token"
    hidden = token.rename(token.with_suffix(".away"))
    try:
        assert "RAY_AUTH_TOKEN" in two_nodes.catsweep("status", "demo", code=1).stderr
    finally:
        hidden.rename(token)
