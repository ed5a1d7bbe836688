"""Jobs of sweeps against a job server that remembers what it is told; the real one is used by tests/cli/test_jobs.py."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ray.dashboard.utils import get_address_for_submission_client

from catsweep.errors import ClusterError
from catsweep.sweep import submission
from catsweep.sweep.submission import HEAD, Job, JobServer


class FakeServer:
    """What Ray's client does, without a cluster. nodes: the resources that the State API lists."""

    def __init__(self) -> None:
        self.jobs: dict[str, SimpleNamespace] = {}
        self.submitted: list[dict[str, Any]] = []
        self.nodes: list[dict[str, float]] = [{"CPU": 4.0}]
        self.error: Exception | None = None

    def __call__(self, address: str) -> FakeServer:
        if self.error:
            raise self.error
        return self

    def submit_job(self, **settings: Any) -> str:
        self.submitted.append(settings)
        name = settings["submission_id"]
        self.jobs[name] = SimpleNamespace(
            submission_id=name, status="RUNNING", message="", start_time=1_000 * len(self.jobs), end_time=None,
            metadata=settings["metadata"],
        )  # fmt: skip
        return name

    def list_jobs(self) -> list[SimpleNamespace]:
        alien = SimpleNamespace(submission_id=None, metadata=None, start_time=None)
        return [alien, *reversed(self.jobs.values())]

    def get_job_info(self, name: str) -> SimpleNamespace:
        return self.jobs[name]

    def get_job_logs(self, name: str) -> str:
        return "one line\n"

    def _do_request(self, method: str, place: str) -> SimpleNamespace:
        assert (method, place) == ("GET", "/api/version")
        return SimpleNamespace(json=lambda: {"version": "4", "ray_version": "2.60.0"})

    async def tail_job_logs(self, name: str) -> AsyncIterator[str]:
        for text in ("one ", "line\n"):
            yield text
        self.end(name, "SUCCEEDED")

    def stop_job(self, name: str) -> bool:
        self.end(name, "STOPPED")
        return True

    def end(self, name: str, status: str) -> None:
        self.jobs[name].status, self.jobs[name].end_time = status, 5_000


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> FakeServer:
    fake = FakeServer()
    monkeypatch.setattr(submission, "JobSubmissionClient", fake)
    states = lambda *_, **__: [SimpleNamespace(resources_total=node) for node in fake.nodes]  # noqa: E731
    monkeypatch.setattr(submission, "list_nodes", states)
    return fake


def submit(server: JobServer, sweep: str, folder: Path = Path("/project")) -> str:
    return server.submit(sweep, ["catsweep", "run", "a b.yaml"], folder, excludes=["results/"])


def test_a_job_has_the_sweeps_name_and_takes_a_folder_without_what_no_job_needs(server: FakeServer) -> None:
    assert submit(JobServer("http://head:8265"), "mine") == "mine-1"
    (job,) = server.submitted
    assert job["entrypoint"] == "catsweep run 'a b.yaml'"
    assert job["runtime_env"]["working_dir"] == "/project"
    assert {".git/", ".venv/", "results/"} <= set(job["runtime_env"]["excludes"])
    assert job["entrypoint_resources"] is None, "Ray itself puts a driver without demands on the head"


def test_the_driver_is_held_on_the_head_where_the_cluster_marks_it(server: FakeServer) -> None:
    server.nodes = [{"CPU": 0.0, HEAD: 1.0}, {"CPU": 8.0}]
    submit(JobServer("http://head:8265"), "mine")
    assert 0 < server.submitted[0]["entrypoint_resources"][HEAD] < 0.01


def test_a_sweep_has_one_job_at_a_time_and_the_next_one_another_id(server: FakeServer) -> None:
    jobs = JobServer("http://head:8265")
    submit(jobs, "mine")
    assert submit(jobs, "mine-1") == "mine-1-1", "another sweep whose name looks like an id"
    with pytest.raises(ClusterError, match=r"mine-1 is RUNNING .* expected one job a sweep.*catsweep stop mine"):
        submit(jobs, "mine")
    server.end("mine-1", "FAILED")
    assert submit(jobs, "mine") == "mine-2"
    assert [job.submission_id for job in jobs.jobs("mine")] == ["mine-1", "mine-2"]
    assert [job.submission_id for job in jobs.jobs("mine-1")] == ["mine-1-1"]


def test_a_job_is_followed_to_its_end_and_stopped(server: FakeServer) -> None:
    jobs = JobServer("http://head:8265")
    heard: list[str] = []
    assert jobs.follow(submit(jobs, "mine"), heard.append) == Job("mine-1", "SUCCEEDED", "", 0.0, 5.0)
    assert "".join(heard) == jobs.log("mine-1") == "one line\n"
    assert jobs.stop(submit(jobs, "other")).status == "STOPPED"


@pytest.mark.parametrize(
    ("error", "way_out"),
    [
        (ConnectionError("Failed to connect to Ray at address: http://head:8265."), "Is the cluster up"),
        (RuntimeError("Authentication required: Unauthorized"), "RAY_AUTH_TOKEN"),
        (RuntimeError("Request failed with status code 500: http://me:hunter2@head"), "me:hunter2"),
    ],
)
def test_a_server_that_refuses_is_an_error_with_the_way_out_and_without_passwords(
    server: FakeServer, error: Exception, way_out: str
) -> None:
    server.error = error
    with pytest.raises(ClusterError) as caught:
        JobServer("http://head:8265")
    assert (way_out in str(caught.value)) == (way_out != "me:hunter2")


def test_the_address_that_is_given_wins_over_rays_variables(
    server: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.9:6379")
    monkeypatch.delenv("RAY_API_SERVER_ADDRESS", raising=False)
    heard: list[str] = []
    monkeypatch.setattr(
        server, "list_jobs", lambda: heard.append(get_address_for_submission_client("http://other:1")) or []
    )
    assert JobServer("http://head:8265").jobs("mine") == []
    assert heard == ["http://head:8265"]
    assert "RAY_API_SERVER_ADDRESS" not in submission.os.environ


def test_the_version_of_a_cluster_is_that_of_its_ray(server: FakeServer) -> None:
    assert JobServer("http://head:8265").version() == "2.60.0"
