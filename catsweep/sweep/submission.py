"""Sweeps as jobs of a Ray cluster: submitted, followed and stopped over its job server, from any machine."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import re
import shlex
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ray.job_submission import JobDetails, JobSubmissionClient
from ray.util.state import list_nodes

from catsweep.errors import ClusterError
from catsweep.redact import redact

EXCLUDES = [
    ".git/", ".venv/", "**/__pycache__/", ".mypy_cache/", ".ruff_cache/", ".pytest_cache/", ".hypothesis/", "node_modules/",
    "*.db", "*.log", "mlartifacts/", "mlruns/",
]  # fmt: skip
"""What a job never needs, in the syntax of .gitignore; Ray also leaves out what .gitignore and .rayignore name."""
HEAD = "catsweep_head"
"""The custom resource of a head node, which holds a driver there: workers may be taken away at any time."""
HEAD_SHARE = 0.001
"""So little of it that any number of drivers fit."""
SWEEP = "catsweep_sweep"
"""Key of a job's metadata: the sweep's name."""
ENDED = ("SUCCEEDED", "FAILED", "STOPPED")
ADDRESS_VARIABLE = "RAY_API_SERVER_ADDRESS"


@dataclass(frozen=True)
class Job:
    """A job of a sweep. Times are seconds since the epoch, None where it has not come so far."""

    submission_id: str
    status: str
    message: str
    started_at: float | None
    ended_at: float | None

    @property
    def has_ended(self) -> bool:
        """Whether nothing more will come of it."""
        return self.status in ENDED


class JobServer:
    """The job server of one cluster. Every method raises ClusterError with the way out where it does not answer."""

    def __init__(self, address: str) -> None:
        self.address = address
        logging.getLogger("ray.dashboard.modules.dashboard_sdk").setLevel(logging.WARNING)
        self.client = self._ask(lambda: JobSubmissionClient(address))

    def submit(self, sweep: str, command: list[str], folder: Path, *, excludes: list[str]) -> str:
        """Start a command for a sweep from a copy of a folder, on the head where the cluster says which node that is.

        Raises ClusterError where a job of the sweep has not ended: a sweep has one driver. Returns the submission's id,
        the sweep's name with a number.
        """
        jobs = self.jobs(sweep)
        if running := [job for job in jobs if not job.has_ended]:
            raise ClusterError(
                f"{running[0].submission_id} is {running[0].status} on {self.address}; expected one job a sweep. Wait for "
                f"it (`catsweep status {sweep}`), end it (`catsweep stop {sweep}`), or give this sweep another name"
            )
        numbers = [re.fullmatch(rf"{re.escape(sweep)}-(\d+)", job.submission_id) for job in jobs]
        taken = [int(found[1]) for found in numbers if found]
        has_head = any(node.get(HEAD, 0) > 0 for node in self.nodes())
        return str(
            self._ask(
                lambda: self.client.submit_job(
                    entrypoint=shlex.join(command),
                    submission_id=f"{sweep}-{max(taken, default=0) + 1}",
                    runtime_env={"working_dir": str(folder), "excludes": [*EXCLUDES, *excludes]},
                    metadata={SWEEP: sweep},
                    entrypoint_resources={HEAD: HEAD_SHARE} if has_head else None,
                )
            )
        )

    def jobs(self, sweep: str) -> list[Job]:
        """The jobs of a sweep, the oldest first."""
        details: list[JobDetails] = self._ask(self.client.list_jobs)
        own = [one for one in details if (one.metadata or {}).get(SWEEP) == sweep and one.submission_id]
        return [_job(one) for one in sorted(own, key=lambda one: one.start_time or 0)]

    def job(self, submission_id: str) -> Job:
        """One job as it is now."""
        return _job(self._ask(lambda: self.client.get_job_info(submission_id)))

    def log(self, submission_id: str) -> str:
        """What a job has printed so far."""
        return str(self._ask(lambda: self.client.get_job_logs(submission_id)))

    def follow(self, submission_id: str, write: Callable[[str], None]) -> Job:
        """Write what a job prints until it has ended. Returns it as it ended."""

        async def tail() -> None:
            async for text in self.client.tail_job_logs(submission_id):
                write(text)

        self._ask(lambda: asyncio.run(tail()))
        while not (job := self.job(submission_id)).has_ended:  # its last lines come a moment before its end
            time.sleep(0.5)
        return job

    def stop(self, submission_id: str, wait_seconds: float = 60.0) -> Job:
        """Ask a job to end, and wait for it. Raises ClusterError where it does not."""
        self._ask(lambda: self.client.stop_job(submission_id))
        deadline = time.monotonic() + wait_seconds
        while not (job := self.job(submission_id)).has_ended:
            if time.monotonic() > deadline:
                raise ClusterError(
                    f"{submission_id} is still {job.status} {wait_seconds:.0f} s after it was asked to stop; try again"
                )
            time.sleep(0.5)
        return job

    def nodes(self) -> list[dict[str, float]]:
        """The resources of each node that is alive, by Ray's State API."""
        states = self._ask(lambda: list_nodes(self.address, filters=[("state", "=", "ALIVE")], detail=True))
        return [dict(state.resources_total or {}) for state in states]

    def version(self) -> str:
        """The cluster's Ray version."""
        return str(self._ask(lambda: self.client._do_request("GET", "/api/version").json()["ray_version"]))

    def _ask(self, question: Callable[[], Any]) -> Any:
        try:
            with _only(self.address):
                return question()
        except ClusterError:
            raise
        except Exception as error:  # Ray raises RuntimeError, ConnectionError, its AuthenticationError and others
            raise ClusterError(_refusal(self.address, error)) from None


@contextlib.contextmanager
def _only(address: str) -> Iterator[None]:
    """Ask this cluster within: Ray lets RAY_API_SERVER_ADDRESS and RAY_ADDRESS win over the address that it is given."""
    before = os.environ.get(ADDRESS_VARIABLE)
    os.environ[ADDRESS_VARIABLE] = address
    try:
        yield
    finally:
        if before is None:
            del os.environ[ADDRESS_VARIABLE]
        else:
            os.environ[ADDRESS_VARIABLE] = before


def _refusal(address: str, error: Exception) -> str:
    reason = redact(str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__)
    text = f"the job server at {address} did not do what was asked ({reason})"
    if "authentication" in f"{type(error).__name__} {error}".lower():
        return (
            f"{text}; expected the cluster's token in RAY_AUTH_TOKEN, in the file RAY_AUTH_TOKEN_PATH, or in "
            "~/.ray/auth_token. Copy it from the head node: `ray get-auth-token`"
        )
    if isinstance(error, ConnectionError):
        return (
            f"{text}; expected the address of a head node's dashboard, such as http://127.0.0.1:8265, or a file of "
            "clusters/. Is the cluster up, and does the tunnel stand?"
        )
    return text


def _job(details: JobDetails) -> Job:
    times = [None if at is None else at / 1000 for at in (details.start_time, details.end_time)]
    status = getattr(details.status, "value", str(details.status))
    return Job(str(details.submission_id), status, redact(details.message or ""), *times)
