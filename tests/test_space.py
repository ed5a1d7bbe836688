"""Strata, drawn values, rungs and seeds, against spaces small enough to work out by hand."""

from __future__ import annotations

from typing import Any

import pytest

from catsweep.errors import SpecError
from catsweep.space import (
    Place,
    Scalar,
    build_confirm,
    build_trial,
    check_search,
    confirm_seed,
    draw,
    grid_point,
    grid_size,
    only_drawn,
    rungs,
    strata,
    training_tree,
    trial_seed,
)
from catsweep.spec.dimensions import Interval, num_structures, parse_space
from catsweep.spec.sweep import SweepSpec
from catsweep.spec.task import TaskSpec
from catsweep.spec.training import TrainingSpec

SPACE: dict[str, Any] = {
    "learning_rate": {"space": "loguniform", "lower": 1e-5, "upper": 1e-3},
    "loss": {
        "space": "choice",
        "options": [
            {"kind": "xent"},
            {"kind": "dist", "weight": {"space": "uniform", "lower": 0, "upper": 1}},
            {
                "kind": "cat_xent",
                "normalize": {"space": "choice", "options": ["target_tokens", "kept_tokens"]},
                "filter": {"space": "choice", "options": [{"kind": "either"}, {"kind": "large"}, {"kind": "shuffled"}]},
            },
        ],
    },
}
PATHS = ["loss.kind", "loss.filter.kind"]


class Last:
    """Takes the last option and the upper bound, and notes where it was asked."""

    def __init__(self) -> None:
        self.places: list[Place] = []

    def categorical(self, place: Place, shown: list[Scalar]) -> int:
        self.places.append(place)
        return len(shown) - 1

    def number(self, place: Place, interval: Interval) -> float:
        self.places.append(place)
        return interval.upper


def make_spec(space: dict[str, Any], **search: Any) -> SweepSpec:
    return SweepSpec.model_validate(
        {
            "name": "s",
            "tasks": ["t"],
            "small": {"pretrained": "small"},
            "large": {"pretrained": "large"},
            "training": {"steps": 1000},
            "search": {"space": space, **search},
        }
    )


def make_task() -> TaskSpec:
    return TaskSpec.model_validate(
        {
            "task": "g/t",
            "group": "g",
            "source": {"kind": "files", "format": "jsonl", "train": "/x.jsonl"},
            "output_type": "generate_until",
            "doc_to_text": "{{ a }}",
            "doc_to_target": "{{ b }}",
            "metric_list": [{"metric": "exact_match"}],
        }
    )


def test_strata_are_every_combination_of_the_stratified_options() -> None:
    parts = strata(parse_space(SPACE), PATHS)
    assert list(parts) == ["xent", "dist", "cat_xent/either", "cat_xent/large", "cat_xent/shuffled"]
    assert [num_structures(tree) for tree in parts.values()] == [1, 1, 2, 2, 2]  # normalize stays a choice
    assert draw(parts["cat_xent/large"], Last())[0]["loss"] == {
        "kind": "cat_xent", "normalize": "kept_tokens", "filter": {"kind": "large"},
    }  # fmt: skip


def test_training_in_one_place_and_each_partition_of_clients_are_strata() -> None:
    clients = {"clients": 2, "rounds": 1, "local_steps": 100}
    space = {
        "loss": {"space": "choice", "options": [{"kind": "xent"}, {"kind": "cat_xent", "filter": {"kind": "either"}}]},
        "federated": {"space": "choice", "options": [None, {**clients, "partition": {"kind": "iid"}}]},
    }
    tree = parse_space({**TrainingSpec(steps=100).to_json(), **space})
    parts = strata(tree, ["loss.kind", "loss.filter.kind", "federated.partition.kind"])
    assert list(parts) == ["xent", "xent/iid", "cat_xent/either", "cat_xent/either/iid"]


def test_options_with_equal_values_stay_a_choice_within_their_stratum() -> None:
    weight = {"space": "uniform", "lower": 0, "upper": 1}
    space = {
        "loss": {"space": "choice", "options": [{"kind": "dist"}, {"kind": "xent"}, {"kind": "dist", "weight": weight}]}
    }
    parts = strata(parse_space(space), PATHS)
    assert list(parts) == ["dist", "xent"]
    chooser = Last()
    value, parameters = draw(parts["dist"], chooser)
    assert value == {"loss": {"kind": "dist", "weight": 1.0}}
    assert parameters == {"loss": "dist#1", "loss.weight": 1.0}
    assert chooser.places == [Place("loss", "loss"), Place("loss.weight", "loss[2].weight")]


def test_a_space_without_a_loss_is_one_stratum_named_by_the_training_loss() -> None:
    spec = make_spec({"learning_rate": {"space": "loguniform", "lower": 1e-5, "upper": 1e-3}})
    assert list(strata(training_tree(spec), spec.search.stratify)) == ["xent"]
    assert list(strata(training_tree(spec), [])) == ["all"]
    assert list(strata(training_tree(spec), ["batch_size", "loss.kind", "micro_batch_size"])) == ["32/xent/null"]


def test_a_stratified_path_must_lead_to_values() -> None:
    with pytest.raises(SpecError, match=r"learning_rate: found an interval"):
        strata(parse_space(SPACE), ["learning_rate"])
    with pytest.raises(SpecError, match=r"loss: found a map or a list"):
        strata(parse_space(SPACE), ["loss"])


def test_drawn_parameters_are_flat_and_readable_and_values_among_options_have_paths_of_their_own() -> None:
    space = {
        **SPACE,
        "max_grad_norm": {"space": "choice", "options": [None, {"space": "uniform", "lower": 0.5, "upper": 2}]},
    }
    value, parameters = draw(parse_space(space), Last())
    assert value["max_grad_norm"] == 2
    assert parameters == {
        "learning_rate": 1e-3,
        "loss": "cat_xent",
        "loss.normalize": "kept_tokens",
        "loss.filter": "shuffled",
        "max_grad_norm": "uniform",
        "max_grad_norm.uniform": 2,
    }


def test_without_what_is_fixed_a_space_draws_the_same() -> None:
    tree = training_tree(make_spec(SPACE))
    short = only_drawn(tree)
    value, parameters = draw(tree, Last())
    searched, same = draw(short, Last())
    assert same == parameters
    assert set(searched) < set(value)
    assert searched == {name: value[name] for name in searched}


def test_a_drawn_loss_replaces_the_whole_training_loss() -> None:
    spec = make_spec(SPACE).model_copy()
    spec = SweepSpec.model_validate(
        {**spec.to_json(), "training": {"steps": 10, "loss": {"kind": "dist", "weight": 0.25}}}
    )
    tree = strata(training_tree(spec), PATHS)["cat_xent/either"]
    value, parameters = draw(tree, Last())
    trial = build_trial(spec, make_task(), "cat_xent/either", 7, value, parameters)
    assert trial.training.loss.to_json() == {
        "kind": "cat_xent", "normalize": "kept_tokens", "filter": {"kind": "either"},
    }  # fmt: skip
    assert trial.training.learning_rate == 1e-3
    assert trial.trial_id == "trials/g/t/cat_xent+either/00007"
    confirm = build_confirm(trial, 2)
    assert (confirm.trial_id, confirm.seed) == ("confirm/g/t/cat_xent+either/00007-seed3", 3)
    assert confirm.training == trial.training


GRID = {
    "learning_rate": {"space": "choice", "options": [1e-3, 1e-2]},
    "loss": {
        "space": "choice",
        "options": [
            {"kind": "xent"},
            {"kind": "cat_xent", "filter": {"space": "choice", "options": [{"kind": "either"}, {"kind": "large"}]}},
        ],
    },
}


def test_a_grid_has_every_combination_once_and_a_choice_counts_only_where_it_is_reached() -> None:
    tree = parse_space(GRID)
    assert grid_size(tree) == 2 * (1 + 2)
    seen = [tuple(grid_point(tree, number)[1].values()) for number in range(6)]
    assert seen == [
        (0.001, "xent"), (0.001, "cat_xent", "either"), (0.001, "cat_xent", "large"),
        (0.01, "xent"), (0.01, "cat_xent", "either"), (0.01, "cat_xent", "large"),
    ]  # fmt: skip


def test_a_grid_takes_no_interval_and_no_more_trials_than_it_has_points() -> None:
    sampler = {"type": "grid"}
    check_search(make_spec({"learning_rate": GRID["learning_rate"]}, sampler=sampler, num_samples=2))
    with pytest.raises(
        SpecError, match=r"num_samples 3, but the grid of stratum xent has 2 points; expected at most 2"
    ):
        check_search(make_spec({"learning_rate": GRID["learning_rate"]}, sampler=sampler, num_samples=3))
    with pytest.raises(SpecError, match=r"found an interval from 0.001 to 0.1; expected choices only"):
        check_search(
            make_spec({"learning_rate": {"space": "loguniform", "lower": 1e-3, "upper": 0.1}}, sampler=sampler)
        )


def test_rungs_are_powers_below_the_steps_and_the_steps() -> None:
    assert rungs(make_spec({}, scheduler={"type": "asha", "grace_period": 100})) == [100, 300, 900, 1000]
    assert rungs(make_spec({}, scheduler={"type": "asha", "grace_period": 250, "reduction_factor": 2})) == [
        250,
        500,
        1000,
    ]
    assert rungs(make_spec({}, scheduler={"type": "asha", "grace_period": 2000})) == [1000]
    assert rungs(make_spec({})) == [1000]


def test_seeds_are_paired_over_strata_and_confirm_seeds_are_disjoint() -> None:
    seeds = {trial_seed(0, task, number) for task in ("a", "b") for number in range(500)}
    assert len(seeds) == 1000
    assert not seeds & {confirm_seed(index) for index in range(64)}
    assert trial_seed(0, "a", 1) != trial_seed(1, "a", 1)
