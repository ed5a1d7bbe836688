"""What `catsweep plan` says beside the plan: whether a cluster could run the sweep, and accelerator-hours."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from catsweep.spec.sweep import SweepSpec

if TYPE_CHECKING:
    from catsweep.plan import Plan


def fits(spec: SweepSpec, cluster: str | None) -> str:
    """A line that says what fits on the cluster. Raises ClusterError where something never will."""
    needs = f"a trial needs {spec.resources.describe()}, the large model's unit {spec.resources.large.describe()}"
    if cluster is None:
        return f"{needs}; no cluster was asked whether they fit: name one with --cluster"
    from catsweep.sweep.cluster import check_fits, num_slots
    from catsweep.sweep.launch import read_cluster_file
    from catsweep.sweep.submission import JobServer

    is_address = cluster.startswith(("http://", "https://"))
    nodes = JobServer(cluster.rstrip("/")).nodes() if is_address else read_cluster_file(cluster).nodes
    check_fits(nodes, spec.resources)
    return f"{needs}; {cluster} has {len(nodes)} nodes and runs {num_slots(nodes, spec.resources)} trials at once"


@dataclass(frozen=True)
class Measured:
    """How long the finished runs of a sweep took: seconds from a run's start to its end for each of its steps."""

    num_runs: int
    seconds_per_step: float


def measured(folder: Path) -> Measured | None:
    """What the finished runs of a sweep's folder say; None where there are none."""
    from catsweep.records import read_records

    records = [*read_records(folder, "trials"), *read_records(folder, "confirm")] if folder.exists() else []
    ended = [record for record in records if record.status == "finished" and record.num_steps]
    if not ended:
        return None
    seconds = sum(record.ended_at - record.started_at for record in ended)
    return Measured(len(ended), seconds / sum(record.num_steps for record in ended))


def hours(plan: Plan, spec: SweepSpec, root: Path, flops_per_second: float | None) -> list[str]:
    """Accelerator-hours: by a given speed, and what the runs that have ended took."""
    lines = []
    if flops_per_second is not None:
        lines.append(
            f"about {plan.accelerator_hours(flops_per_second):.3g} accelerator-hours at {flops_per_second:.2g} FLOP/s, if "
            "accelerators reach that all the time; small models rarely do"
        )
    else:
        lines.append("accelerator-hours: give --accelerator-flops (and --utilisation) of yours")
    if (found := measured(root / spec.name)) is not None:
        left = sum(task.num_search_trials + task.num_confirm_runs - task.num_done for task in plan.tasks)
        seconds = max(0, left) * spec.training.steps * found.seconds_per_step
        gpus = spec.resources.num_workers * spec.resources.gpus_per_worker
        cost = (
            f"{seconds * gpus / 3600:.3g} GPU-hours"
            if gpus
            else f"{seconds * spec.resources.num_workers / 3600:.3g} worker-hours"
        )
        lines.append(
            f"measured on {found.num_runs} runs: {found.seconds_per_step:.3g} s a step, start and evaluation included; the "
            f"{max(0, left)} runs that are left take at most {cost} (the large model's part is not in it)"
        )
    return lines
