"""`catsweep doctor`: what has to be in order before a sweep starts."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from pathlib import Path

from catsweep.cli.console import errors, output
from catsweep.cli.jobs import refuse_credentials
from catsweep.cli.run import choose_tracking_uri
from catsweep.records import storage_root
from catsweep.sweep.cluster import Cluster
from catsweep.sweep.doctor import Finding, examine_run, examine_server
from catsweep.sweep.launch import reached
from catsweep.sweep.submission import JobServer


def doctor_command(*, cluster: str | None, out: str | None, tracking_uri: str | None) -> int:
    """Print a line for each thing that is looked at. Returns the exit code: 1 where one of them is wrong.

    cluster: look at its job server from here, and at everything else from its head; without it at what `catsweep run`
    would use here.
    """
    if cluster is None:
        root = storage_root(out)
        with Cluster(root / "logs") as here:
            return _print(examine_run(root, choose_tracking_uri(root, tracking_uri), here))
    refuse_credentials(out=out, tracking_uri=tracking_uri)
    with reached(cluster) as address:
        code = _print(examine_server(address))
        if code:
            return code
        server = JobServer(address)
        options = [*(["--out", out] if out else []), *(["--tracking-uri", tracking_uri] if tracking_uri else [])]
        with tempfile.TemporaryDirectory(prefix="catsweep-") as folder:  # the job needs no files of this machine
            name = server.submit("catsweep-doctor", ["catsweep", "doctor", *options], Path(folder), excludes=[])
        job = server.follow(name, lambda text: output.out(text, end="", highlight=False))
    return 0 if job.status == "SUCCEEDED" else 1


def _print(findings: Iterable[Finding]) -> int:
    code = 0
    for finding in findings:
        mark = {True: "ok", None: "note", False: "WRONG"}[finding.ok]
        line = f"{mark:5} {finding.what}: {finding.text}"
        if finding.ok is False:
            code = 1
            errors.print(line, style="red", markup=False, highlight=False, soft_wrap=True)
        else:
            output.print(line, markup=False, highlight=False, soft_wrap=True)
    return code
