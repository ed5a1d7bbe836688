"""What has to be in order before a sweep starts: one line for each thing that is looked at."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from catsweep import storage
from catsweep.errors import CatsweepError
from catsweep.redact import has_credentials, redact
from catsweep.sweep.cluster import Cluster
from catsweep.sweep.submission import HEAD, JobServer
from catsweep.tracking import prepare_store, probe_store

PACKAGES = ("ray", "torch", "transformers", "datasets", "optuna", "mlflow", "numpy", "pyarrow", "pydantic")


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at. ok: None where it could not be told, or does no harm."""

    what: str
    ok: bool | None
    text: str


def look(what: str, question: Callable[[], str]) -> Finding:
    """The finding of a question that answers with a line, or raises where something is wrong."""
    try:
        return Finding(what, True, redact(question()))
    except Exception as error:
        lines = str(error).strip().splitlines()
        text = (
            "\n".join(lines) if isinstance(error, CatsweepError) else f"{type(error).__name__}: {(lines or ['?'])[0]}"
        )
        return Finding(what, False, redact(text))


def examine_server(address: str) -> Iterator[Finding]:
    """The job server of a cluster as this machine sees it: that it answers, State API, token, Ray's version."""
    yield token()
    servers: list[JobServer] = []

    def reach() -> str:
        servers.append(JobServer(address))
        theirs, ours = servers[0].version(), ray.__version__
        differs = "" if theirs == ours else f" (here {ours}: use one version where something fails)"
        return f"{address} answers, Ray {theirs}{differs}"

    yield look("job server", reach)
    if servers:
        yield look("State API", lambda: _describe(servers[0].nodes()))


def examine_run(root: Path, uri: str, cluster: Cluster) -> Iterator[Finding]:
    """What `catsweep run` needs where it runs: versions, tracking store, Ray, and storage that every node can write."""
    yield look("versions", versions)
    yield look("tracking", lambda: tracking(uri))
    yield token()
    reached = look("cluster", lambda: _describe(cluster.nodes()))
    yield reached
    if reached.ok:
        for node in [node for node in ray.nodes() if node["Alive"]]:
            what = f"storage from {node['NodeManagerAddress']} ({node['NodeID'][:8]})"
            yield look(what, partial(writable, root, node["NodeID"]))


def versions() -> str:
    """Python's and the packages' versions."""
    found = {name: importlib.metadata.version(name) for name in PACKAGES}
    return ", ".join([f"Python {platform.python_version()}", *(f"{name} {text}" for name, text in found.items())])


def token() -> Finding:
    """Whether a token is sent to clusters."""
    if os.environ.get("RAY_AUTH_MODE") == "token":
        return Finding("token", True, "sent to clusters (RAY_AUTH_MODE=token)")
    return Finding(
        "token", None, "none: whoever reaches a cluster's ports can run code there. `ray get-auth-token --generate`"
    )


def tracking(uri: str) -> str:
    """The tracking store after a look at it: it answers, and its database is migrated. Raises CatsweepError."""
    prepare_store(uri)
    probe_store(uri)
    hint = "; its password is in the URI: MLFLOW_TRACKING_PASSWORD keeps it out of process lists"
    return f"{uri} answers, its database is migrated{hint if has_credentials(uri) else ''}"


def writable(root: Path, node_id: str) -> str:
    """What a node can do with the root. Raises CatsweepError where it cannot write there, or this one does not see it."""
    name = f".doctor-{uuid.uuid4().hex}"
    task = ray.remote(_write).options(
        num_cpus=0, scheduling_strategy=NodeAffinitySchedulingStrategy(node_id, soft=False)
    )
    if reason := ray.get(task.remote(root, name), timeout=120):
        raise CatsweepError(f"{root} cannot be written ({reason}); expected a root that every node can write: --out")
    probe = root / name
    if not storage.exists(probe):
        raise CatsweepError(f"{root} is another folder there than here; expected storage that all nodes share: --out")
    storage.delete(probe)
    return f"{root} can be written"


def _write(root: Path, name: str) -> str:
    try:
        root.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("catsweep doctor\n")
        storage.put(root / name)
    except OSError as error:
        return str(error)
    return ""


def _describe(nodes: list[dict[str, Any]]) -> str:
    cpus, gpus = (sum(node.get(name, 0.0) for node in nodes) for name in ("CPU", "GPU"))
    head = "drivers are held on the head" if any(HEAD in node for node in nodes) else f"no node has {HEAD}"
    return f"{len(nodes)} nodes with {cpus:g} CPUs and {gpus:g} GPUs; {head}"
