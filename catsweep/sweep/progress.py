"""What a driver tells its caller while a sweep runs."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from catsweep.health import starved
from catsweep.records import TrialRecord
from catsweep.redact import redact
from catsweep.sweep.search import Search

EventKind = Literal["start", "connected", "task_ready", "task_failed", "trial_started", "trial_ended", "warning", "end"]


@dataclass(frozen=True)
class Event:
    """One line of progress.

    text: the line. num_ended, num_total: runs of search and confirmation in the whole sweep. eta_seconds: until the
    last of them ends; None until one has ended under this driver.
    """

    kind: EventKind
    text: str
    num_ended: int
    num_total: int
    eta_seconds: float | None


class Progress:
    """Turns what happens into events, and passes records on."""

    def __init__(
        self,
        search: Search,
        on_event: Callable[[Event], None],
        on_record: Callable[[Path, TrialRecord], None],
    ) -> None:
        self.search, self.on_event, self.on_record = search, on_event, on_record
        self.started_at = time.monotonic()
        self.num_ended_here = 0

    def tell(self, kind: EventKind, text: str) -> None:
        """One event."""
        total, remaining = self.search.num_runs, self.search.num_remaining
        eta = None
        if self.num_ended_here:
            eta = remaining * (time.monotonic() - self.started_at) / self.num_ended_here
        self.on_event(Event(kind, redact(text), total - remaining, total, eta))

    def trial_started(self, trial_id: str) -> None:
        """A trial was given to the cluster."""
        if self.num_ended_here == 0 and len(self.search.running) == 1:
            self.started_at = time.monotonic()  # the start-up of the cluster says nothing about trials
        self.tell("trial_started", f"{trial_id} started")

    def trial_ended(self, record: TrialRecord) -> None:
        """A trial has its record. What the caller does with it may fail without harm to the sweep."""
        self.num_ended_here += 1
        text = f"{record.trial_id} {record.status} after {record.num_steps} steps"
        if record.objective is not None:
            text += f": {record.objective:.4f}"
        if record.error:
            text += f" ({record.error.strip().splitlines()[-1]})"
        self.tell("trial_ended", text)
        if (warning := starved(self.search.folder / record.trial_id, record)) is not None:
            self.tell("warning", warning)
        try:
            self.on_record(self.search.folder / record.trial_id, record)
        except Exception as error:
            logging.getLogger("ray.catsweep").exception("on_record failed for %s", record.trial_id)
            self.tell("warning", f"{record.trial_id}: its record is on storage, but logging it failed: {error}")
