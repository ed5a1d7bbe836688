"""`catsweep track NAME`: a sweep from storage to MLflow, for example after its server was down."""

from __future__ import annotations

from pathlib import Path

from catsweep import storage
from catsweep.cli.console import errors, output
from catsweep.cli.run import choose_tracking_uri
from catsweep.curves import results_up_to_date
from catsweep.records import existing_sweep, read_records, storage_root
from catsweep.redact import redact
from catsweep.sweep.cluster import only_driver
from catsweep.tracking import SweepStatus, Tracker, prepare_store


def track_command(name: str, *, out: Path | None, tracking_uri: str | None) -> int:
    """Write what MLflow does not have; runs that it has are left alone. Returns 1 where something could not be written.

    Raises StorageError where there is no sweep, or where a driver runs it, which logs it itself.
    """
    root = storage_root(out)
    folder = root / name
    storage.pull_sweep(root, name)
    existing_sweep(folder)
    uri = choose_tracking_uri(root, tracking_uri)
    with only_driver(folder):
        prepare_store(uri)
        tracker = Tracker(uri, root, name, _warn)
        tracker.complete = False  # nothing of it is known to be written
        tracker.log_sweep(_status(root, name))
    records = [*read_records(folder, "trials"), *read_records(folder, "confirm")]
    if tracker.complete:
        output.print(
            redact(f"{len(records)} runs of {name} are in {uri}"), markup=False, highlight=False, soft_wrap=True
        )
    return 0 if tracker.complete else 1


def _status(root: Path, name: str) -> SweepStatus:
    if not results_up_to_date(root, name):
        return "stopped"
    failed = any(record.status == "failed" for record in read_records(root / name, "trials"))
    return "failed" if failed else "finished"


def _warn(text: str) -> None:
    errors.print(f"warning: {text}", style="yellow", markup=False, highlight=False, soft_wrap=True)
