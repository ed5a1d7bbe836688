"""`catsweep submit`, `status` and `stop`: sweeps as jobs of a cluster."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from catsweep.cli.console import errors, output, tell
from catsweep.errors import ClusterError
from catsweep.records import storage_root
from catsweep.redact import has_credentials
from catsweep.spec.load import load_sweep, search_spaces_folder
from catsweep.sweep.launch import default_cluster, reached
from catsweep.sweep.submission import Job, JobServer


def submit_command(
    file: Path,
    overrides: list[str],
    *,
    cluster: str | None,
    working_dir: Path,
    follow: bool,
    out: str | None,
    tracking_uri: str | None,
    trusted: Sequence[str] = (),
) -> int:
    """Check a sweep here, and start it there. Returns the exit code: with `follow` 1 where the job did not succeed.

    Raises SpecError, and ClusterError: a file outside the folder that is sent, a secret in a URI, a cluster that does not
    answer or runs this sweep already.
    """
    sweep = load_sweep(file, overrides)
    name, folder = sweep.spec.name, working_dir.resolve()
    command = ["catsweep", "run", str(_inside(file, folder)), *overrides]
    _inside_all([*sweep.files.values()], folder)
    refuse_credentials(out=out, tracking_uri=tracking_uri)
    if out is not None:
        if "://" not in out and not out.startswith("/"):
            raise ClusterError(
                f"--out {out}: found a relative path; expected an absolute one: it is a path of the cluster"
            )
        command += ["--out", out]
    if tracking_uri is not None:
        command += ["--tracking-uri", tracking_uri]
    for repository in trusted:
        command += ["--trust-remote-code", repository]
    with reached(cluster or default_cluster()) as address:
        server = JobServer(address)
        submission_id = server.submit(name, command, folder, excludes=_results_inside(folder))
        tell(f"{submission_id} submitted to {cluster or address}")
        if not follow:
            shown = f" --cluster {cluster}" if cluster else ""
            tell(f"catsweep status {name}{shown}\ncatsweep stop {name}{shown}")
            return 0
        job = server.follow(submission_id, lambda text: output.out(text, end="", highlight=False))
    tell(_describe(job))
    return 0 if job.status == "SUCCEEDED" else 1


def status_command(name: str, *, cluster: str | None, follow: bool, log: bool) -> int:
    """Print the jobs of a sweep, and of the last one its log where it is asked for. Returns the exit code: 1 where there
    is none, or the last one failed."""
    with reached(cluster or default_cluster()) as address:
        server = JobServer(address)
        jobs = _jobs(server, name)
        for job in jobs:
            tell(_describe(job))
        last = jobs[-1]
        if follow and not last.has_ended:
            last = server.follow(last.submission_id, lambda text: output.out(text, end="", highlight=False))
            tell(_describe(last))
        elif log or follow:
            output.out(server.log(last.submission_id), end="", highlight=False)
    return 1 if last.status == "FAILED" else 0


def stop_command(name: str, *, cluster: str | None) -> int:
    """End the job of a sweep; the same `submit` goes on where it was. Returns the exit code: 0 also where none runs."""
    with reached(cluster or default_cluster()) as address:
        server = JobServer(address)
        running = [job for job in _jobs(server, name) if not job.has_ended]
        for job in running:
            tell(_describe(server.stop(job.submission_id)))
    if not running:
        errors.print(f"no job of {name} is running", markup=False, highlight=False, soft_wrap=True)
    return 0


def refuse_credentials(*, out: str | None, tracking_uri: str | None) -> None:
    """Raises ClusterError where an option that goes into a job's command, which the dashboard shows, holds a secret."""
    for option, uri, move in (
        ("--out", out, "Set AWS_ACCESS_KEY_ID and others, or give the nodes a role"),
        (
            "--tracking-uri", tracking_uri,
            "Set MLFLOW_TRACKING_URI, MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD on the head node",
        ),
    ):  # fmt: skip
        if uri is not None and has_credentials(uri):
            raise ClusterError(
                f"{option}: found a password, which the dashboard would show; expected a URI without. {move}"
            )


def _jobs(server: JobServer, name: str) -> list[Job]:
    if jobs := server.jobs(name):
        return jobs
    raise ClusterError(
        f"{server.address} has no job of the sweep {name!r}; expected one that `catsweep submit` has started there"
    )


def _inside(file: Path, folder: Path) -> Path:
    resolved = file.resolve()
    if not resolved.is_relative_to(folder):
        raise ClusterError(
            f"{file} lies outside {folder}, the folder that is sent to the cluster; name one that holds it: --working-dir"
        )
    return resolved.relative_to(folder)


def _inside_all(files: list[Path], folder: Path) -> None:
    """Task files are sent along or are catsweep's own."""
    shipped = search_spaces_folder().resolve()
    for file in files:
        if not file.resolve().is_relative_to(shipped):
            _inside(file, folder)


def _results_inside(folder: Path) -> list[str]:
    """Results of this machine are not sent along."""
    root = storage_root()
    if root == folder:  # its sweeps and caches, beside what is no result
        return [f"{path.parent.name}/" for path in folder.glob("*/sweep.json")] + ["cache/", "mlartifacts/"]
    return [f"{root.relative_to(folder)}/"] if root.is_relative_to(folder) else []


def _describe(job: Job) -> str:
    """quickstart-1 RUNNING since 12:30:01: a message."""
    at, word = (job.ended_at, "at") if job.has_ended else (job.started_at, "since")
    when = f" {word} {time.strftime('%Y-%m-%d %H:%M:%S', time.localtime(at))}" if at else ""
    return f"{job.submission_id} {job.status}{when}{f': {job.message}' if job.message else ''}"
