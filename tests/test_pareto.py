"""The Pareto set of two objectives, against its definition."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from synthetic import ONE_TASK, load_synthetic

from catsweep.records import TrialRecord, pareto_sets
from catsweep.spec.sweep import SweepSpec

TWO = "search.metric=[{kind: audc}, {kind: cost_at_quality, quality: 0.8}]"


def spec_of(folder: Path, *overrides: str) -> SweepSpec:
    return load_synthetic(folder, (*ONE_TASK, *overrides)).spec


def record(number: int, audc: float | None, cost: float | None, status: str = "finished") -> TrialRecord:
    return TrialRecord(
        trial_id=f"trials/t/xent/{number:05d}", task="t", stratum="xent", number=number, role="trial", seed=1,
        status=status, parameters={}, num_steps=9, objective=audc,
        metrics={} if cost is None else {"validation/objective_2": cost}, started_at=0.0, ended_at=1.0,
    )  # type: ignore[arg-type]  # fmt: skip


def test_it_holds_what_nothing_beats_in_one_objective_without_losing_in_the_other(tmp_path: Path) -> None:
    spec = spec_of(tmp_path, TWO, "search.num_samples=40")
    chance = random.Random(0)
    records = [record(number, chance.randrange(8) / 8, chance.randrange(8) / 8) for number in range(40)]

    def beaten(one: TrialRecord) -> bool:
        cost = one.metrics["validation/objective_2"]
        return any(
            (other.objective >= one.objective and other.metrics["validation/objective_2"] < cost)  # type: ignore[operator]
            or (other.objective > one.objective and other.metrics["validation/objective_2"] <= cost)  # type: ignore[operator]
            for other in records
        )

    expected = [one.number for one in records if not beaten(one)]
    found = pareto_sets(records, spec)["t", "xent"]
    assert [one.number for one in found] == expected
    assert 1 < len(expected) < 40


def test_trials_that_were_stopped_early_or_lie_beyond_the_budget_take_no_part(tmp_path: Path) -> None:
    spec = spec_of(tmp_path, TWO, "search.num_samples=4")
    records = [
        record(0, 0.5, 0.5),
        record(1, 0.9, 0.1, "stopped"),
        record(2, None, None, "failed"),
        record(7, 0.9, 0.1),
    ]
    assert [one.number for one in pareto_sets(records, spec)["t", "xent"]] == [0]


def test_one_objective_has_none(tmp_path: Path) -> None:
    assert pareto_sets([record(0, 0.5, 0.5)], spec_of(tmp_path)) == {}


@pytest.mark.parametrize(
    ("metric", "message"),
    [
        ("[{kind: audc}]", "search.metric"),
        ("[{kind: audc}, {kind: auc}]", "Did you mean"),
        ("{kind: cost_at_quality}", "one of quality and gap"),
        ("{kind: cost_at_quality, quality: 0.8, gap: 0.5}", "one of quality and gap"),
        ("{kind: cost_at_quality, gap: 1.5}", "search.metric.gap"),
    ],
)
def test_objectives_that_cannot_be_are_named_with_their_place(tmp_path: Path, metric: str, message: str) -> None:
    from catsweep.errors import SpecError

    with pytest.raises(SpecError) as caught:
        spec_of(tmp_path, f"search.metric={metric}")
    assert message in str(caught.value)
