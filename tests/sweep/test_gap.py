"""cost_at_quality with a gap: xent goes first, its best small model fixes the quality, and all are judged by it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from sweep_fakes import SPACE, check_counts
from sweep_fakes import make_sweep as fake_sweep
from synthetic import LARGE, ONE_TASK, SMALL, _write_prepared, load_synthetic, make_record, make_rows

from catsweep.cascade.metrics import get_metric
from catsweep.cascade.rows import make_cascade
from catsweep.errors import SpecError
from catsweep.records import (
    TrialRecord,
    append_step,
    read_json,
    read_record,
    read_rows,
    winners,
    write_record,
    write_rows,
)
from catsweep.space import check_search
from catsweep.spec.search import AudcObjective, CostAtQualityObjective
from catsweep.spec.sweep import TrialSpec
from catsweep.sweep.anchor import guides
from catsweep.sweep.search import Search

TASK = "langid/nordic"
GAP = ("search.metric={kind: cost_at_quality, gap: 0.8}", "search.num_samples=3", "search.confirm_seeds=1")
ABILITY = {("xent", 0): 0.1, ("xent", 1): 0.6, ("xent", 2): 0.3}


def open_search(root: Path, *overrides: str) -> Search:
    root.mkdir(exist_ok=True)
    sweep = load_synthetic(root, (*ONE_TASK, *GAP, *overrides))
    _write_prepared(root, sweep, sweep.tasks[0])  # type: ignore[arg-type]
    search = Search(sweep, root / "tiny")
    search.ready = {TASK}
    return search


def finish(search: Search, trial: TrialSpec, objective: float = 0.5) -> TrialRecord:
    """The trial ends with rows on validation of a model whose ability follows from its number."""
    ability = ABILITY.get((trial.stratum, trial.number), 0.5)
    assert not hasattr(trial.task, "members")
    rows = make_rows(trial.task, ability, seed=trial.number)  # type: ignore[arg-type]
    folder = search.folder / trial.trial_id
    append_step(folder, trial.training.steps, {"validation/objective": objective})
    write_rows(folder / "rows.parquet", rows)
    write_record(folder, make_record(trial, "finished", objective, trial.number))
    search.heard(trial.trial_id, {"step": trial.training.steps, "objective": objective, "final": True})
    return search.end(trial.trial_id)


def play(search: Search) -> list[TrialSpec]:
    order = []
    while (trial := search.next()) is not None:
        order.append(trial)
        finish(search, trial)
        check_counts(search)
    return order


def test_the_others_wait_until_the_baseline_has_fixed_the_quality(tmp_path: Path) -> None:
    search = open_search(tmp_path)
    order = play(search)
    first = [trial.stratum for trial in order[:3]]
    assert first == ["xent"] * 3
    assert {trial.objective for trial in order[:3]} == {AudcObjective()}
    anchor = read_json(tmp_path / "tiny" / "anchors" / f"{TASK}.json")
    wanted = CostAtQualityObjective(
        quality=anchor["quality_small"] + 0.8 * (anchor["quality_large"] - anchor["quality_small"])
    )
    assert {trial.objective for trial in order[3:]} == {wanted}
    assert {(trial.stratum, trial.role) for trial in order[3:]} == {
        ("xent", "confirm"), ("cat_xent/either", "trial"), ("cat_xent/either", "confirm"),
    }  # fmt: skip
    assert search.finished


def test_the_anchor_is_the_best_small_model_of_the_baseline_and_its_trials_are_judged_by_their_rows(
    tmp_path: Path,
) -> None:
    search = open_search(tmp_path)
    play(search)
    anchor = read_json(tmp_path / "tiny" / "anchors" / f"{TASK}.json")
    large = read_rows(tmp_path / "cache" / "answers" / "answers-langid-nordic" / "rows.parquet", "validation")
    qualities, costs = {}, {}
    for number in range(3):
        folder = tmp_path / "tiny" / "trials" / TASK / "xent" / f"{number:05d}"
        rows = read_rows(folder / "rows.parquet", "validation")
        right = np.array([output == "nb" for output in rows["output"].to_pylist()])
        qualities[number] = right.mean()
        metric = get_metric("accuracy")
        cascade = make_cascade(rows, large, metric, small_shape=SMALL, large_shape=LARGE)
        curve = cascade.curve("mean")
        target = anchor["quality_small"] + 0.8 * (anchor["quality_large"] - anchor["quality_small"])
        points = [cost for cost, quality in zip(curve.cost, curve.quality, strict=True) if quality >= target - 1e-9]
        costs[number] = points[0] / curve.cost_large
        record = read_record(folder)
        assert record is not None
        assert record.objective == pytest.approx(costs[number])
    assert anchor["quality_small"] == pytest.approx(max(qualities.values()))
    assert anchor["trial_id"] == f"trials/{TASK}/xent/{max(qualities, key=lambda n: qualities[n]):05d}"
    assert winners(search.records, search.spec)[TASK, "xent"].number == min(costs, key=lambda n: costs[n])


def test_the_baseline_is_judged_by_the_cost_model_that_judges_the_others(tmp_path: Path) -> None:
    """Dollars in which an answer of S costs nearly as much as one of L, and a prompt nothing: not in proportion to FLOPs."""
    small, large = ({"input_per_million": 0, "output_per_million": price} for price in (9, 10))
    prices = f"cascade.costs=[{{kind: price, small: {json.dumps(small)}, large: {json.dumps(large)}}}]"
    play(search := open_search(tmp_path, prices))
    answers = read_rows(tmp_path / "cache" / "answers" / "answers-langid-nordic" / "rows.parquet", "validation")
    target = read_json(tmp_path / "tiny" / "anchors" / f"{TASK}.json")
    quality = target["quality_small"] + 0.8 * (target["quality_large"] - target["quality_small"])
    for number in range(3):
        folder = tmp_path / "tiny" / "trials" / TASK / "xent" / f"{number:05d}"
        cascade = make_cascade(
            read_rows(folder / "rows.parquet", "validation"), answers, get_metric("accuracy"), small_shape=SMALL,
            large_shape=LARGE, costs=search.spec.cascade.costs,
        )  # fmt: skip
        curve = cascade.curve("mean")
        reached = [cost for cost, value in zip(curve.cost, curve.quality, strict=True) if value >= quality - 1e-9]
        record = read_record(folder)
        assert record is not None
        assert record.objective == pytest.approx(reached[0] / curve.cost_large)
        assert reached[0] / curve.cost_large > 0.9


def test_a_search_that_goes_on_keeps_the_anchor_also_with_a_larger_budget(tmp_path: Path) -> None:
    play(open_search(tmp_path))
    path = tmp_path / "tiny" / "anchors" / f"{TASK}.json"
    before = path.read_text()
    ABILITY["xent", 3] = 3.0  # better than the anchor
    more = open_search(tmp_path, "search.num_samples=4")
    order = play(more)
    assert {(trial.stratum, trial.number) for trial in order if trial.role == "trial"} == {
        ("xent", 3), ("cat_xent/either", 3),
    }  # fmt: skip
    assert all(isinstance(trial.objective, CostAtQualityObjective) for trial in order)
    assert path.read_text() == before


def test_a_kill_between_the_last_trial_and_the_anchor_is_mended(tmp_path: Path) -> None:
    search = open_search(tmp_path)
    for _ in range(3):
        trial = search.next()
        assert trial is not None
        finish(search, trial)
    path = tmp_path / "tiny" / "anchors" / f"{TASK}.json"
    before = path.read_text()
    path.unlink()
    again = open_search(tmp_path)
    assert path.read_text() == before
    trial = again.next()
    assert trial is not None
    assert isinstance(trial.objective, CostAtQualityObjective)


def test_a_baseline_trial_that_was_stopped_early_has_no_value_any_more(tmp_path: Path) -> None:
    search = open_search(tmp_path)
    for number in range(3):
        trial = search.next()
        assert trial is not None
        if number == 2:
            search.running[trial.trial_id].stopped = True
            search.heard(trial.trial_id, {"step": 40, "objective": 0.9, "final": False})
            search.end(trial.trial_id)
        else:
            finish(search, trial)
    study = search.studies[TASK, "xent"]
    assert study.records[study.budgeted[2].trial_id].objective is None
    assert study.winner is not None


def test_without_a_finished_baseline_the_task_fails_and_the_sweep_ends(tmp_path: Path) -> None:
    search = open_search(tmp_path)
    while (trial := search.next()) is not None:
        search.heard(trial.trial_id, {"failure": "diverged", "error": "the loss is nan"})
        search.end(trial.trial_id)
    assert "no xent trial finished" in search.failed_tasks[TASK]
    assert search.finished


def test_two_objectives_of_which_one_has_a_gap_are_both_judged(tmp_path: Path) -> None:
    search = open_search(tmp_path, "search.metric=[{kind: audc}, {kind: cost_at_quality, gap: 0.5}]")
    trial = search.next()
    assert trial is not None
    assert (trial.objective, trial.second_objective) == (AudcObjective(), None)
    finish(search, trial)
    for _ in range(2):
        trial = search.next()
        assert trial is not None
        finish(search, trial)
    records = search.studies[TASK, "xent"].records.values()
    assert all(0 < record.metrics["validation/objective_2"] < 1.2 for record in records)
    other = search.next()
    assert other is not None
    assert isinstance(other.second_objective, CostAtQualityObjective)


def test_the_guide_of_a_gap_is_audc() -> None:
    gap = CostAtQualityObjective(gap=0.8)
    fixed = CostAtQualityObjective(quality=0.5)
    assert guides([gap]) == [AudcObjective()]
    assert guides([AudcObjective(), gap]) == [AudcObjective()]
    assert guides([fixed, gap]) == [fixed, AudcObjective()]


def test_a_gap_needs_a_baseline() -> None:
    space = {**SPACE, "loss": {"space": "choice", "options": [{"kind": "dist"}]}}
    sweep = fake_sweep(["a"], space=space, search__metric={"kind": "cost_at_quality", "gap": 0.8})
    with pytest.raises(SpecError, match=r"gap with the strata dist; expected a stratum named xent"):
        check_search(sweep.spec)
