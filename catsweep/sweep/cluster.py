"""The Ray cluster: connect or start, what fits on it, and one driver a sweep."""

from __future__ import annotations

import contextlib
import fcntl
import io
import logging
import os
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from catsweep import storage
from catsweep.errors import ClusterError, StorageError
from catsweep.models import TRUSTED_VARIABLE
from catsweep.records import write_atomic
from catsweep.redact import redact
from catsweep.spec.sweep import ResourcesSpec, WorkerSpec

# Tune's tables, its loggers' files and its own handling of Ctrl-C are not wanted: progress goes through events, results
# through records, and an interrupt ends the driver at once.
_ENVIRONMENT = {
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_GLOBAL_CHECKPOINT_S": "3600",  # nobody restores Tune's own state
    "TUNE_WARN_INSUFFICENT_RESOURCE_THRESHOLD_S": "3600",
}


class Cluster:
    """Ray, connected when it is first needed and let go at the end of the `with` block.

    RAY_ADDRESS names a running cluster (`ray job submit` sets it); without it Ray is started on this machine, unless
    this process is connected already. logs: folder of the log file that Ray's chatter goes to.
    """

    def __init__(self, logs: Path) -> None:
        self.logs = logs
        self._stack = contextlib.ExitStack()
        self._connected = False

    def __enter__(self) -> Cluster:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()
        self._connected = False

    def connect(self) -> None:
        """Connect or start Ray; the second call does nothing. Raises ClusterError."""
        if self._connected:
            return
        for name, value in _ENVIRONMENT.items():
            os.environ.setdefault(name, value)
        if not ray.is_initialized():
            _initialise(os.environ.get("RAY_ADDRESS"))
            self._stack.callback(ray.shutdown)
        self._stack.enter_context(_logging_to(self.logs / "driver.log"))
        self._connected = True

    def nodes(self) -> list[dict[str, float]]:
        """The resources of each node that is alive."""
        self.connect()
        return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def _initialise(address: str | None, starts: int = 3) -> None:
    local: dict[str, Any] = {} if address else {"include_dashboard": True, "dashboard_host": "127.0.0.1"}
    repositories = os.environ.get(TRUSTED_VARIABLE)  # workers of a running cluster have an environment of their own
    trusted = {"runtime_env": {"env_vars": {TRUSTED_VARIABLE: repositories}}} if repositories else {}
    for start in range(1, starts + 1):
        try:
            ray.init(
                address=address or "local", namespace="catsweep", log_to_driver=False, logging_level=logging.ERROR,
                **local, **trusted,
            )  # fmt: skip
            return
        except Exception as error:  # Ray raises plain Exception where it did not start within its fixed 30 seconds
            ray.shutdown()
            if start < starts and "timed out during startup" in str(error):
                continue
            where = f"the Ray cluster at RAY_ADDRESS={address}" if address else "Ray on this machine"
            raise ClusterError(f"cannot reach {where}: {error}") from error


def num_slots(nodes: list[dict[str, float]], trial: WorkerSpec, held: list[dict[str, float]] | None = None) -> int:
    """How many trials run at once on these nodes beside what others hold; each entry of `held` lies on one node."""
    free = [dict(node) for node in nodes]
    for need in held or []:
        node = next((node for node in free if _fits(node, need)), None)
        if node is not None:  # else it waits, and takes nothing
            for name, amount in need.items():
                node[name] = node.get(name, 0.0) - amount
    worker = worker_resources(trial)
    num_workers = sum(
        min(int(node.get(name, 0.0) / amount + 1e-9) for name, amount in worker.items() if amount) for node in free
    )
    return num_workers // trial.num_workers


def worker_resources(workers: WorkerSpec) -> dict[str, float]:
    """What one worker holds, in Ray's names."""
    return {"CPU": workers.cpus_per_worker, "GPU": workers.gpus_per_worker}


def check_fits(nodes: list[dict[str, float]], resources: ResourcesSpec) -> None:
    """Raises ClusterError where a trial, or the large model's unit of a task, could never start on these nodes."""
    largest = max(nodes, key=lambda node: (node.get("GPU", 0.0), node.get("CPU", 0.0)), default={})
    for what, workers, key in (
        ("the large model's unit of a task", resources.large, "resources.large"),
        ("a trial", resources, "resources"),
    ):
        if not num_slots(nodes, workers):
            raise ClusterError(
                f"{what} needs {workers.num_workers} x {_text(worker_resources(workers))}, but the largest of {len(nodes)} "
                f"nodes has {_text(largest)}; lower {key}.num_workers, cpus_per_worker or gpus_per_worker, or use a "
                "larger cluster"
            )


def check_shared(root: Path) -> None:
    """Raises ClusterError where a node of the cluster does not see what this one writes below the root."""
    nodes = [node for node in ray.nodes() if node["Alive"]]
    if len(nodes) < 2:
        return
    token = root / f".shared-{uuid.uuid4().hex}"
    write_atomic(token, "catsweep looks whether all nodes share this folder\n")
    try:
        look = ray.remote(_exists)
        for node in nodes:
            strategy = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            if not ray.get(look.options(num_cpus=0, scheduling_strategy=strategy).remote(token)):
                raise ClusterError(
                    f"node {node['NodeManagerAddress']} does not see {root}; a cluster of several nodes needs a root "
                    "on storage that all of them share: give --out or CATSWEEP_HOME"
                )
    finally:
        storage.delete(token)


@contextlib.contextmanager
def only_driver(sweep_folder: Path) -> Iterator[None]:
    """Hold the sweep against a second driver on this machine, and release it also when killed. Raises StorageError."""
    sweep_folder.mkdir(parents=True, exist_ok=True)
    with (sweep_folder / ".driver.lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise _held(sweep_folder) from None
        yield


@contextlib.contextmanager
def only_driver_on_cluster(sweep_folder: Path, wait_seconds: float = 15.0) -> Iterator[None]:
    """Hold the sweep against a second driver on this cluster: a named actor, which dies with its driver.

    The actor of a driver that was just killed lives for a few seconds: hence the wait. Raises StorageError.
    """
    deadline = time.monotonic() + wait_seconds
    claim = None
    while claim is None:
        try:
            claim = ray.remote(_Claim).options(name=f"driver of {sweep_folder}", num_cpus=0).remote()
        except ValueError:
            if time.monotonic() > deadline:
                raise _held(sweep_folder) from None
            time.sleep(1)
    try:
        yield
    finally:
        ray.kill(claim)


class _Claim:
    """Its existence is all that counts."""


def _held(sweep_folder: Path) -> StorageError:
    return StorageError(
        f"another driver runs the sweep in {sweep_folder}; expected one driver a sweep. Wait for it, stop it, or give "
        "this sweep another name"
    )


def _exists(path: Path) -> bool:
    return storage.exists(path)


def _fits(node: dict[str, float], need: dict[str, float]) -> bool:
    return all(node.get(name, 0.0) + 1e-9 >= amount for name, amount in need.items())


def _text(resources: dict[str, float]) -> str:
    return f"{resources.get('CPU', 0.0):g} CPUs and {resources.get('GPU', 0.0):g} GPUs"


class _Redacting(logging.Formatter):
    """Lines and tracebacks without secrets."""

    def format(self, record: logging.LogRecord) -> str:
        return redact(super().format(record))


class ForeignLines(io.TextIOBase):
    """For contextlib.redirect_stdout: what other code prints becomes lines of Ray's log. Ray tells of a lost node, with the end
    of that node's log, on standard output, where results belong."""

    def write(self, text: str) -> int:
        """Log it, unless it is white space."""
        if text.strip():
            logging.getLogger("ray").info(text.rstrip())
        return len(text)


@contextlib.contextmanager
def _logging_to(path: Path) -> Iterator[None]:
    """Send what Ray logs in this process to a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handler = logging.FileHandler(path)
    handler.setFormatter(_Redacting("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logger = logging.getLogger("ray")
    before, propagate, level = list(logger.handlers), logger.propagate, logger.level
    logger.handlers, logger.propagate = [handler], False
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.handlers, logger.propagate = before, propagate
        logger.setLevel(level)
        handler.close()
