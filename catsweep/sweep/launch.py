"""From a file of clusters/, or an address, to the job server of the cluster that it describes."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from catsweep.errors import ClusterError

DEFAULT_ADDRESS = "http://127.0.0.1:8265"
DASHBOARD_PORT = 8265
HEAD_SERVICE = "catsweep-head"
"""The Kubernetes service in front of the head node's dashboard."""


@dataclass(frozen=True)
class ClusterFile:
    """What a file of clusters/ says. nodes: the resources of each node when all are there. tunnel: the command that
    forwards the dashboard to a port of this machine."""

    path: Path
    nodes: list[dict[str, float]]
    tunnel: Callable[[int], list[str]]


def default_cluster() -> str:
    """The cluster that is meant where none is named: Ray's own variable, else the dashboard of this machine."""
    return os.environ.get("RAY_API_SERVER_ADDRESS") or DEFAULT_ADDRESS


def choose_authentication() -> None:
    """Send the token where there is one: clusters want it, but a client does not send it unless it is told to. To be called
    before Ray is imported, which reads the variable once."""
    home = Path.home() / ".ray" / "auth_token"
    if os.environ.get("RAY_AUTH_TOKEN") or os.environ.get("RAY_AUTH_TOKEN_PATH") or home.exists():
        os.environ.setdefault("RAY_AUTH_MODE", "token")


@contextlib.contextmanager
def reached(cluster: str, wait_seconds: float = 60.0) -> Iterator[str]:
    """The address of a cluster's job server; for a file of clusters/ through a tunnel that stands as long as the `with`.

    Raises ClusterError: no address and no such file, or the tunnel does not come up.
    """
    if cluster.startswith(("http://", "https://")):
        yield cluster.rstrip("/")
        return
    file = read_cluster_file(cluster)
    port = _free_port()
    command = file.tunnel(port)
    if shutil.which(command[0]) is None:
        raise ClusterError(f"{file.path} needs the command {command[0]!r} for its tunnel; expected it to be installed")
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
        try:
            _wait(process, port, wait_seconds, command, log)
            yield f"http://127.0.0.1:{port}"
        finally:
            for sign in (signal.SIGTERM, signal.SIGKILL):  # its own children, such as ssh, too
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, sign)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(10)


def read_cluster_file(cluster: str) -> ClusterFile:
    """What a cluster file says. Raises ClusterError."""
    path = Path(cluster)
    if path.suffix not in (".yaml", ".yml") or not path.is_file():
        raise ClusterError(
            f"cluster {cluster!r}: found no such YAML file; expected a file of clusters/, or the address of a head node's "
            f"dashboard such as {DEFAULT_ADDRESS}"
        )
    try:
        documents = [one for one in yaml.safe_load_all(path.read_text(encoding="utf-8")) if isinstance(one, dict)]
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ClusterError(f"{path} is no YAML ({error})") from None
    try:
        found = next((file for document in documents if (file := _cluster_file(path, document))), None)
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise ClusterError(
            f"{path}: found a cluster that lacks or misspells {error}; expected one as in clusters/"
        ) from None
    if found is None:
        raise ClusterError(
            f"{path} describes no cluster; expected `available_node_types` (ray up), a RayJob or a RayCluster"
        )
    return found


def _cluster_file(path: Path, document: dict[str, Any]) -> ClusterFile | None:
    if "available_node_types" in document:
        return ClusterFile(path, _node_types(document), partial(_ray_tunnel, path))
    if document.get("kind") not in ("RayJob", "RayCluster"):
        return None
    spec = document["spec"] if document["kind"] == "RayCluster" else document["spec"]["rayClusterSpec"]
    namespace = document.get("metadata", {}).get("namespace")
    return ClusterFile(path, _pods(spec), partial(_kubernetes_tunnel, namespace))


def _ray_tunnel(path: Path, port: int) -> list[str]:
    ray = Path(sys.executable).with_name("ray")
    return [str(ray) if ray.exists() else "ray", "dashboard", str(path), "--port", str(port)]


def _kubernetes_tunnel(namespace: str | None, port: int) -> list[str]:
    chosen = ["--namespace", namespace] if namespace else []  # else that of the current context
    return ["kubectl", *chosen, "port-forward", f"service/{HEAD_SERVICE}", f"{port}:{DASHBOARD_PORT}"]


def _node_types(document: dict[str, Any]) -> list[dict[str, float]]:
    head = document.get("head_node_type")
    nodes = []
    for name, kind in document["available_node_types"].items():
        resources = {key: float(amount) for key, amount in (kind.get("resources") or {}).items()}
        nodes += [resources] * (1 if name == head else int(kind.get("max_workers", document.get("max_workers", 2))))
    return nodes


def _pods(spec: dict[str, Any]) -> list[dict[str, float]]:
    nodes = _pod(spec["headGroupSpec"], 1)
    for group in spec.get("workerGroupSpecs", []):
        nodes += _pod(group, int(group.get("replicas", group.get("maxReplicas", 1))))
    return nodes


def _pod(group: dict[str, Any], number: int) -> list[dict[str, float]]:
    """What the pods of a group offer: `rayStartParams` where it says so, else the limits of their first container."""
    start = group.get("rayStartParams") or {}
    limits = group["template"]["spec"]["containers"][0].get("resources", {}).get("limits", {})
    cpus = start.get("num-cpus", str(limits.get("cpu", 0)))
    gpus = start.get("num-gpus", limits.get("nvidia.com/gpu", 0))
    milli = str(cpus).endswith("m")
    cpu = float(str(cpus).removesuffix("m")) / (1000 if milli else 1)
    return [{"CPU": cpu, "GPU": float(gpus)}] * number


def _wait(process: subprocess.Popen[bytes], port: int, seconds: float, command: list[str], log: Any) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        time.sleep(0.2)
    log.seek(0)
    lines = log.read().strip().splitlines()
    raise ClusterError(
        f"`{' '.join(command)}` did not reach the head node ({lines[-1] if lines else 'it printed nothing'}); expected a "
        "cluster that is up: `ray up FILE`, or `kubectl apply -f FILE`"
    )


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])
