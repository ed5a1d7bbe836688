"""What the searcher answers Tune, with a cluster and a preparation that the test makes up."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ray.tune.search import Searcher
from sweep_fakes import finish, make_sweep

from catsweep.sweep.prepare import UnitResult
from catsweep.sweep.progress import Event, Progress
from catsweep.sweep.search import Search
from catsweep.sweep.tuning import SweepSearcher


class TwoSlots:
    def nodes(self) -> list[dict[str, float]]:
        return [{"CPU": 2.0}]


class Units:
    """Units that end when the test says so."""

    def __init__(self, tasks: list[str]) -> None:
        self.waiting, self.ended = set(tasks), list[UnitResult]()

    @property
    def num_unfinished(self) -> int:
        return len(self.waiting)

    def end(self, task: str, error: str = "") -> None:
        self.waiting.remove(task)
        self.ended.append(UnitResult(task, {}, 1.0, error))

    def poll(self, seconds: float = 0.0) -> list[UnitResult]:
        ended, self.ended = self.ended, []
        return ended


def make_searcher(folder: Path, tasks: list[str]) -> tuple[SweepSearcher, Any, list[Event]]:
    search = Search(make_sweep(tasks, space={}), folder)
    events: list[Event] = []
    units: Any = Units(tasks)
    cluster: Any = TwoSlots()
    return SweepSearcher(search, units, cluster, Progress(search, events.append, lambda *_: None)), units, events


def test_trials_leave_room_for_every_unit_that_could_run(tmp_path: Path) -> None:
    searcher, units, _ = make_searcher(tmp_path, ["a", "b", "c"])
    assert not searcher.may_start(0.0)
    units.end("a")  # two units are left for two slots
    assert not searcher.may_start(0.0)
    assert searcher.suggest("1") is None
    units.end("b")
    assert searcher.may_start(0.0)
    assert isinstance(searcher.suggest("1"), dict)
    assert searcher.suggest("2") is None  # the other slot is for `c`
    units.end("c")
    assert isinstance(searcher.suggest("2"), dict)
    assert searcher.suggest("3") is None


def test_failed_tasks_are_told_and_the_search_ends_without_them(tmp_path: Path) -> None:
    searcher, units, events = make_searcher(tmp_path, ["a", "b"])
    units.end("a", "Traceback\nDataError: no rows")
    units.end("b")
    while searcher.suggest("1") not in (None, Searcher.FINISHED):
        finish(searcher.search, next(iter(searcher.search.running.values())).spec)
    assert searcher.suggest("2") == Searcher.FINISHED
    assert events[0].text == "a failed: DataError: no rows"
    assert {record.task for record in searcher.search.records} == {"b"}


def test_an_error_of_our_own_ends_the_search(tmp_path: Path) -> None:
    searcher, units, _ = make_searcher(tmp_path, ["a"])
    units.end("a")
    assert isinstance(searcher.suggest("1"), dict)
    searcher.progress.trial_ended = lambda record: (_ for _ in ()).throw(OSError("disk full"))  # type: ignore[method-assign]
    searcher.on_trial_complete("1")
    assert str(searcher.search.error) == "disk full"
    assert searcher.suggest("2") == Searcher.FINISHED
