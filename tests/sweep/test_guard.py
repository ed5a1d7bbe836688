"""min_task_delta: a trial that loses too much on one member of a mixture never wins."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sweep_fakes import SPACE, check_counts, finished_record, make_sweep, make_task

from catsweep.errors import SpecError
from catsweep.records import TrialRecord, largest_loss, winners, write_record
from catsweep.space import strata
from catsweep.spec.dimensions import parse_space
from catsweep.spec.load import Sweep
from catsweep.spec.mixture import ExamplesProportional, MixtureSpec
from catsweep.spec.search import AudcObjective, TpeSampler
from catsweep.spec.sweep import TrialSpec
from catsweep.sweep.search import Search
from catsweep.sweep.studies import Observation, suggest


def make_mixture(delta: float | None = 0.1, **fields: Any) -> Sweep:
    """A sweep of one mixture of two tasks with the strata xent and dist."""
    sweep = make_sweep(["a", "b"], **fields)
    data = sweep.spec.to_json() | {"tasks": [{"mixture": "mix", "tasks": ["a", "b"], "min_task_delta": delta}]}
    members = (make_task("a"), make_task("b"))
    mixture = MixtureSpec(task="mix", members=members, sampling=ExamplesProportional(), min_task_delta=delta)
    return Sweep(type(sweep.spec).model_validate(data), (mixture,), sweep.document)


def record_of(trial: TrialSpec, a: float, b: float) -> TrialRecord:
    metrics = {"validation/a/objective": a, "validation/b/objective": b}
    return replace(finished_record(trial, (a + b) / 2), metrics=metrics)


def open_search(sweep: Sweep, folder: Path) -> Search:
    search = Search(sweep, folder)
    search.ready = {"mix"}
    return search


def play(search: Search, values: dict[tuple[str, int], tuple[float, float]]) -> list[TrialSpec]:
    """Run everything, one after another; search trials end with these values of the members."""
    order = []
    while (trial := search.next()) is not None:
        a, b = values[trial.stratum, trial.number]
        search.heard(trial.trial_id, {"step": trial.training.steps, "objective": (a + b) / 2, "final": True})
        write_record(search.folder / trial.trial_id, record_of(trial, a, b))
        search.end(trial.trial_id)
        check_counts(search)
        order.append(trial)
    return order


VALUES = {
    ("xent", 0): (0.5, 0.5),
    ("xent", 1): (0.6, 0.6),  # the best xent: others may lie 0.1 behind 0.6 on either task
    ("dist", 0): (0.95, 0.45),  # the best mean, but 0.15 behind on b
    ("dist", 1): (0.7, 0.52),
}


def test_a_trial_that_loses_too_much_on_one_member_never_wins(tmp_path: Path) -> None:
    search = open_search(make_mixture(search__num_samples=2), tmp_path)
    order = play(search, VALUES)
    confirmed = {(trial.stratum, trial.number) for trial in order if trial.role == "confirm"}
    assert confirmed == {("xent", 1), ("dist", 1)}
    assert search.finished
    assert winners(search.records, search.spec)["mix", "dist"].number == 1


def test_without_a_guard_the_best_mean_wins(tmp_path: Path) -> None:
    search = open_search(make_mixture(None, search__num_samples=2), tmp_path)
    confirmed = {(trial.stratum, trial.number) for trial in play(search, VALUES) if trial.role == "confirm"}
    assert confirmed == {("xent", 1), ("dist", 0)}


def test_a_stratum_in_which_no_trial_keeps_it_has_no_winner_and_the_search_ends(tmp_path: Path) -> None:
    search = open_search(make_mixture(0.05, search__num_samples=2), tmp_path)
    order = play(search, VALUES)
    assert {trial.stratum for trial in order if trial.role == "confirm"} == {"xent"}
    assert search.finished
    assert ("mix", "dist") not in winners(search.records, search.spec)


def test_the_others_wait_with_their_confirm_runs_until_the_baseline_has_been_searched(tmp_path: Path) -> None:
    search = open_search(make_mixture(search__num_samples=2), tmp_path)
    dist, xent = search.studies["mix", "dist"], search.studies["mix", "xent"]
    for _ in range(2):
        trial = dist.next()
        assert trial is not None
        dist.end(record_of(trial, *VALUES[trial.stratum, trial.number]))
    assert dist.searched
    assert dist.next() is None
    assert dist.remaining == 2
    for _ in range(2):
        trial = xent.next()
        assert trial is not None
        xent.end(record_of(trial, *VALUES[trial.stratum, trial.number]))
    confirm = dist.next()
    assert confirm is not None
    assert (confirm.role, confirm.number) == ("confirm", 1)


def test_a_search_that_goes_on_knows_the_guard_from_the_records(tmp_path: Path) -> None:
    sweep = make_mixture(search__num_samples=2)
    play(open_search(sweep, tmp_path), VALUES)
    again = open_search(sweep, tmp_path)
    assert again.finished
    winner = again.studies["mix", "dist"].winner
    assert winner is not None
    assert winner.number == 1


def test_where_no_baseline_trial_finished_nothing_is_guarded() -> None:
    sweep = make_mixture(search__num_samples=2)
    trial = _trial(sweep, "dist", 0)
    assert winners([record_of(trial, 0.1, 0.9)], sweep.spec)["mix", "dist"].number == 0


def test_for_a_cost_a_loss_is_a_higher_value() -> None:
    costs = make_mixture(search__metric={"kind": "cost_at_quality", "quality": 0.5})
    first, second = (
        record_of(_trial(costs, "dist", number), *pair) for number, pair in enumerate([(0.2, 0.9), (0.4, 0.5)])
    )
    assert largest_loss(first, second, costs.spec) == pytest.approx(0.4)
    assert largest_loss(first, second, make_mixture().spec) == pytest.approx(0.2)


def _trial(sweep: Sweep, stratum: str, number: int) -> TrialSpec:
    from catsweep.space import build_trial

    loss = {"kind": "xent"} if stratum == "xent" else {"kind": "dist"}
    return build_trial(sweep.spec, sweep.tasks[0], stratum, number, sweep.spec.training.to_json() | {"loss": loss}, {})


def test_a_guard_without_a_baseline_is_refused(tmp_path: Path) -> None:
    space = {**SPACE, "loss": {"space": "choice", "options": [{"kind": "dist"}]}}
    with pytest.raises(SpecError, match=r"min_task_delta 0\.1 with the strata dist; expected a stratum named xent"):
        Search(make_mixture(search__space=space), tmp_path)


def test_the_sampler_learns_where_trials_break_the_guard() -> None:
    tree = strata(parse_space(SPACE), ["loss.kind"])["xent"]
    sampler = TpeSampler(seed=1, num_startup_trials=1)
    rates = [1e-5 * 10 ** (2 * index / 23) for index in range(24)]  # the higher the rate, the better and the worse kept

    def suggested(*, guarded: bool) -> list[float]:
        history = [
            Observation(number, {"learning_rate": rate, "loss": "xent"}, rate, (rate - 1e-4) if guarded else None)
            for number, rate in enumerate(rates)
        ]
        found = [suggest(tree, sampler, [AudcObjective()], "mix", number, history)[1] for number in range(24, 44)]
        return [float(str(parameters["learning_rate"])) for parameters in found]

    assert sum(rate <= 1e-4 for rate in suggested(guarded=True)) >= 15
    assert sum(rate <= 1e-4 for rate in suggested(guarded=False)) <= 5
