"""Comparisons over tasks, against numbers worked out by hand."""

from __future__ import annotations

import json
from typing import Any

import pytest

from catsweep.comparing import budget, compare, equal_quality
from catsweep.spec.base import Json


def task(name: str, kind: str, differences: dict[str, tuple[float, float, float]], scale: float = 1.0) -> Json:
    """A result in which xent has an audc of 0.5; differences: value, half width and p of the others, as shares."""

    def entry(audc: float, **more: Any) -> Json:
        point = {"cost_share": 0.5 - (audc - 0.5), "quality": audc * scale}
        runs = [{"seed": seed, "operating": {"gap>=0.8": dict(point)}} for seed in (1, 2)]
        return {
            "audc": {"value": audc * scale},
            "quality_small": {"value": 0.4 * scale},
            "rules": {"mean": runs},
            **more,
        }

    strata = {"xent": entry(0.5)}
    for stratum, (value, half, p_value) in differences.items():
        bounds = {"value": value * scale, "lower": (value - half) * scale, "upper": (value + half) * scale}
        strata[stratum] = entry(0.5 + value, difference={**bounds, "p_value": p_value, "num_seeds": 2})
    facts = {"num_trials": 4, "num_steps": 100, "train_flops": 5.0, "statuses": {"finished": 3, "stopped": 1}}
    return {
        "task": name, "group": kind, "rules": ["mean"], "strata": dict.fromkeys(strata, facts),
        "metrics": {"m": {"scale": scale, "large": {"value": 0.9 * scale}, "strata": strata}},
        "wanted": {"strata": list(strata), "num_samples": 4, "max_steps": 50, "rungs": [10, 50]},
        "large": {"num_steps": 30, "train_flops": 7.0, "pass_flops": 2.0},
    }  # fmt: skip


TASKS = [
    task("a1", "a", {"cat_xent/either": (0.10, 0.02, 0.001), "dist": (0.02, 0.04, 0.4)}),
    task("a2", "a", {"cat_xent/either": (0.02, 0.01, 0.030), "dist": (-0.02, 0.01, 0.01)}, scale=100),
    task("b1", "b", {"cat_xent/either": (-0.01, 0.04, 0.600), "dist": (0.04, 0.01, 0.001)}),
]


def under_the_rule_max(result: Json) -> Json:
    """The same numbers, as if their rule were another one."""
    changed: Json = json.loads(json.dumps(result))
    for metric in changed["metrics"].values():
        for entry in metric["strata"].values():
            entry["rules"] = {"max": entry["rules"]["mean"]}
    return {**changed, "rules": ["max"]}


def test_the_macro_difference_is_in_units_of_the_range_and_weighs_kinds_equally() -> None:
    found = compare(TASKS)["macro"]["cat_xent/either"]
    assert found["value"] == pytest.approx((0.06 - 0.01) / 2)
    assert found["by_kind"] == pytest.approx({"a": 0.06, "b": -0.01})
    assert found["primary"]
    assert not compare(TASKS)["macro"]["dist"]["primary"]
    under_max = compare([under_the_rule_max(result) for result in TASKS])["macro"]
    assert not under_max["cat_xent/either"]["primary"]
    assert "p_value_holm" in under_max["cat_xent/either"]


def test_holm_runs_over_the_tasks_of_a_loss_and_over_the_losses_but_the_primary() -> None:
    found = compare(TASKS)
    assert found["p_value_holm"]["cat_xent/either"] == pytest.approx({"a1": 0.003, "a2": 0.06, "b1": 0.6})
    assert found["p_value_holm"]["dist"] == pytest.approx({"a1": 0.4, "a2": 0.02, "b1": 0.003})
    assert "p_value_holm" not in found["macro"]["cat_xent/either"]
    assert found["macro"]["dist"]["p_value_holm"] == found["macro"]["dist"]["p_value"]  # one secondary loss alone


def test_a_task_is_tied_where_its_interval_holds_zero() -> None:
    macro = compare(TASKS)["macro"]
    assert macro["cat_xent/either"]["counts"] == {"won": 2, "tied": 1, "lost": 0, "won_holm": 1, "lost_holm": 0}
    assert macro["dist"]["counts"] == {"won": 1, "tied": 1, "lost": 1, "won_holm": 1, "lost_holm": 1}


def test_one_pair_of_seeds_tells_no_loss_from_another() -> None:
    single = json.loads(json.dumps(TASKS))
    for result in single:
        result["metrics"]["m"]["strata"]["dist"]["difference"]["num_seeds"] = 1
    found = compare(single)
    assert found["macro"]["dist"]["counts"] == {"won": 0, "tied": 3, "lost": 0, "won_holm": 0, "lost_holm": 0}
    assert set(found["p_value_holm"]["dist"].values()) == {1.0}
    assert found["macro"]["cat_xent/either"] == compare(TASKS)["macro"]["cat_xent/either"]


def test_mean_ranks_weigh_kinds_equally_and_need_all_strata() -> None:
    ranks = compare(TASKS)["mean_rank"]
    # a1: cat 1, dist 2, xent 3; a2: cat 1, xent 2, dist 3; b1: dist 1, xent 2, cat 3
    expected = {"cat_xent/either": (1 + 3) / 2, "dist": (2.5 + 1) / 2, "xent": (2.5 + 2) / 2}
    assert ranks == {"num_tasks": 3, "strata": pytest.approx(expected)}
    short = task("c", "c", {"dist": (0.1, 0.1, 0.5)})
    short["wanted"] = TASKS[0]["wanted"]
    assert compare([*TASKS, short])["mean_rank"]["num_tasks"] == 3


def test_the_mean_of_a_kind_has_students_interval_over_its_tasks() -> None:
    kinds = compare(TASKS)["macro"]["cat_xent/either"]["kinds"]
    assert kinds["a"]["value"] == pytest.approx(0.06)
    assert kinds["a"]["upper"] == pytest.approx(0.06 + 12.7062 * 0.04, rel=1e-4)  # t with 1 degree; error 0.08/2
    assert (kinds["b"]["value"], kinds["b"]["num_tasks"]) == (pytest.approx(-0.01), 1)


def test_flops_saved_at_equal_quality_are_averaged_over_kinds_and_tasks() -> None:
    saved = compare(TASKS)["macro"]["cat_xent/either"]["saved"]
    assert saved["value"] == pytest.approx(((0.10 + 0.02) / 0.5 / 2 - 0.01 / 0.5) / 2)
    assert saved["quality"] == pytest.approx((0.06 - 0.01) / 2)
    assert saved["num_tasks"] == 3


def test_what_is_saved_is_of_the_seeds_that_both_have() -> None:
    result = task("a", "a", {"dist": (0.0, 0.1, 0.5)})
    runs = {name: entry["rules"]["mean"] for name, entry in result["metrics"]["m"]["strata"].items()}
    for seed, share in ((1, 0.6), (2, 0.7)):
        runs["xent"][seed - 1]["operating"]["gap>=0.8"]["cost_share"] = share
    runs["xent"].append({"seed": 3, "operating": {"gap>=0.8": {"cost_share": 0.2, "quality": 0.1}}})
    for run, (share, quality) in zip(runs["dist"], ((0.45, 0.5), (0.55, 0.6)), strict=True):
        run["operating"]["gap>=0.8"] = {"cost_share": share, "quality": quality}
    assert equal_quality(result)["dist"] == pytest.approx((1 - 0.5 / 0.65, 0.55 - 0.5))
    runs["xent"][2]["operating"] = {}  # a seed without a threshold: nothing is said
    assert equal_quality(result) == {}


def test_a_test_number_of_the_large_model_takes_no_task_out_of_the_savings() -> None:
    worse = json.loads(json.dumps(TASKS))
    for result in worse:
        result["metrics"]["m"]["large"]["value"] = 0.0  # on calibration, where the thresholds are from, it was better
    assert compare(worse) == compare(TASKS)


def test_a_difference_that_is_not_defined_is_left_out() -> None:
    undefined = task("c", "c", {"dist": (0.1, 0.1, 0.5)})
    undefined["metrics"]["m"]["strata"]["dist"]["difference"] = {"value": None, "lower": None, "upper": None}
    assert compare([*TASKS, undefined])["macro"]["dist"]["num_tasks"] == 3


def test_the_budget_is_counted_once_a_unit_with_the_large_models_cost_beside_it() -> None:
    lengths = {"x": (0.25, 20.0), "y": (0.75, 4.0)}  # of members of a mixture: rate, and FLOPs at its own lengths
    members = [
        {
            **TASKS[0], "task": f"mix/{name}", "mixture": "mix",
            "large": {**TASKS[0]["large"], "rate": rate, "train_flops": flops},
        }
        for name, (rate, flops) in lengths.items()
    ]  # fmt: skip
    found = budget([*TASKS, *members])
    assert (found["num_units"], found["num_samples"], found["max_steps"], found["rungs"]) == (4, 4, 50, [10, 50])
    assert found["strata"]["dist"] == {"num_trials": 16, "num_stopped": 4, "num_steps": 400, "train_flops": 20.0}
    large = {"num_models": 1, "num_steps": 120, "train_flops": 3 * 7.0 + 0.25 * 20 + 0.75 * 4, "pass_flops": 10.0}
    assert found["large"] == large
