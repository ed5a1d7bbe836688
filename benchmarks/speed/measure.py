"""Our figure beside a peer's, in pairs within one process, so that what slows the machine slows both.

Each script of this folder measures one part and writes benchmarks/results/PART.json; `page.py` makes benchmarks/results.md of
them. `make bench` runs all.
"""

from __future__ import annotations

import gc
import importlib.metadata
import json
import platform
import statistics
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

RESULTS = Path(__file__).parents[1] / "results"
PACKAGES = ("torch", "transformers", "ray", "optuna", "mlflow", "sacrebleu", "accelerate", "lm-eval", "liger-kernel",
            "numpy", "scipy", "scikit-learn")  # fmt: skip


@dataclass(frozen=True)
class Row:
    """One measurement. ours, peer: medians, in `unit`, of which less is better. ratios: peer / ours of each pair (of a
    share or a size that has no pairs: one number). target: what was demanded beforehand, as a text."""

    what: str
    ours: float
    peer: float
    unit: str
    peer_name: str
    ratios: list[float]
    target: str
    note: str = ""


def paired(
    ours: Callable[[], object],
    peer: Callable[[], object],
    *,
    repeats: int = 5,
    clock: Callable[[], float] = time.perf_counter,
) -> tuple[list[float], list[float]]:
    """Seconds of each call, taken in turn (ours first in every other pair), after one call of each that does not count."""
    ours(), peer()
    seconds: tuple[list[float], list[float]] = ([], [])
    for number in range(repeats):
        pair = [(ours, seconds[0]), (peer, seconds[1])]
        for call, taken in pair if number % 2 else reversed(pair):
            gc.collect()
            start = clock()
            call()
            taken.append(clock() - start)
    return seconds


def row(
    what: str, seconds: tuple[Sequence[float], Sequence[float]], *, peer_name: str, target: str, note: str = "",
    unit: str = "s", scale: float = 1.0,
) -> Row:  # fmt: skip
    """A row from the pairs of `paired`. scale: what a second is multiplied with, such as 1e3 for ms."""
    ours, peer = seconds
    ratios = [theirs / mine for mine, theirs in zip(ours, peer, strict=True)]
    return Row(
        what, statistics.median(ours) * scale, statistics.median(peer) * scale, unit, peer_name, ratios, target, note
    )


def commit() -> str:
    """What is measured, with a plus where catsweep has changes that no commit holds."""
    git = ["git", "-C", str(RESULTS.parent)]
    head = subprocess.run([*git, "rev-parse", "--short=10", "HEAD"], capture_output=True, text=True, check=False)
    changes = subprocess.run(
        [*git, "status", "--porcelain", "--", "../catsweep"], capture_output=True, text=True, check=False
    )
    return head.stdout.strip() + ("+" if changes.stdout.strip() else "")


COMMIT = commit()
"""When the process started: commits may be made while it measures."""


def write(part: str, rows: Sequence[Row], command: str) -> None:
    """Write the rows of a part, with the versions and the machine of this run. command: what makes them again."""
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    RESULTS.mkdir(exist_ok=True)
    result = {"command": command, "machine": machine(), "date": time.strftime("%Y-%m-%d"), "commit": COMMIT,
              "versions": versions, "rows": [asdict(item) for item in rows]}  # fmt: skip
    (RESULTS / f"{part}.json").write_text(json.dumps(result, indent=1) + "\n")


def machine() -> str:
    """The processor and the number of cores, or the GPU."""
    try:
        import torch

        if torch.cuda.is_available():
            return str(torch.cuda.get_device_name())
    except ModuleNotFoundError:
        pass
    import os

    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.processor()}, {os.cpu_count()} cores"
