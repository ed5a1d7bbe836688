"""Rows of the results table, against numbers worked out by hand."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console

from catsweep.comparing import excludes_zero
from catsweep.report.tables import (
    as_json,
    notes,
    render_table,
    results_table,
    saved_at_large,
    saved_vs_baseline,
    shortfalls,
    stratum_label,
)
from catsweep.spec.base import Json

SUMMARY: Json = {"macro": {}, "left_out_small": ["b/small"]}


def value(middle: float, half: float) -> Json:
    return {"value": middle, "lower": middle - half, "upper": middle + half, "num_seeds": 2}


def runs(*costs: tuple[float | None, float | None]) -> list[Json]:
    """A run a seed, with its cost shares at 80% of the gap and at L's quality; what is dearer is a little worse."""
    return [
        {
            "seed": seed,
            "operating": {
                name: None if cost is None else {"cost_share": cost, "quality": 0.9 - cost / 10}
                for name, cost in (("gap>=0.8", at_80), ("gap>=1.0", at_large))
            },
        }
        for seed, (at_80, at_large) in enumerate(costs, start=1)
    ]


def make_result(task: str = "a/big", scale: float = 1.0, **strata: Any) -> Json:
    """xent costs (0.6 + 0.4) / 2 = 0.5 of L at 80% of the gap; cat_xent/either 0.3, and 1.1 at L's quality."""
    found = {
        "cat_xent/either": {
            "quality_small": value(0.55 * scale, 0.02),
            "audc": value(0.7 * scale, 0.03),
            "difference": value(0.05 * scale, 0.02 * scale),
            "rules": {"mean": runs((0.2, 1.0), (0.4, 1.2))},
        },
        "xent": {
            "quality_small": value(0.5 * scale, 0.02),
            "audc": value(0.65 * scale, 0.03),
            "rules": {"mean": runs((0.6, 0.8), (0.4, 0.9))},
        },
        **strata,
    }
    facts = {"num_trials": 4, "seeds": [1, 2], "num_steps": 12_345, "kept_share": 0.8, "winner": {"objective": 0.7}}
    return {
        "task": task, "group": "kind", "rules": ["mean"], "baseline": "xent", "num_rows": {"test": 600},
        "strata": dict.fromkeys(found, facts),
        "wanted": {"strata": ["xent", "cat_xent/either"], "confirm_seeds": 2},
        "metrics": {"accuracy": {"scale": scale, "strata": found, "large": value(0.9 * scale, 0.01)}},
    }  # fmt: skip


def test_a_stratum_with_too_few_confirmed_runs_says_how_many() -> None:
    assert shortfalls([make_result()]) == []
    result = make_result()
    result["wanted"] = {"strata": ["xent", "cat_xent/either", "dist"], "confirm_seeds": 3}
    lines = shortfalls([result])
    assert [line.split(";")[0] for line in lines] == [
        "a/big xent: 2 of 3 confirm runs", "a/big cat_xent/either: 2 of 3 confirm runs", "a/big dist: 0 of 3 confirm runs",
    ]  # fmt: skip
    assert "no trial finished" in lines[2]
    rows = results_table([result], SUMMARY)
    assert stratum_label(rows[0]) == "xent (2 of 3 seeds)"
    console = Console(file=io.StringIO(), width=80)
    console.print(render_table(rows))
    assert "2 of 3" in console.file.getvalue()  # type: ignore[attr-defined]


def test_savings_compare_mean_costs_over_seeds() -> None:
    xent, either = results_table([make_result()], SUMMARY)
    assert (xent.stratum, either.stratum) == ("xent", "cat_xent/either")
    assert xent.flops_saved_vs_baseline is None
    assert xent.saved_at_large_quality == pytest.approx(0.15)
    assert either.flops_saved_vs_baseline == pytest.approx(1 - 0.3 / 0.5)
    assert either.saved_at_large_quality == pytest.approx(-0.1)


def test_a_saving_stands_beside_the_quality_that_came_with_it() -> None:
    xent, either = results_table([make_result()], SUMMARY)
    assert either.quality_vs_baseline == pytest.approx((0.88 + 0.86) / 2 - (0.84 + 0.86) / 2)
    assert either.quality_vs_large == pytest.approx((0.8 + 0.78) / 2 - 0.9)
    assert xent.quality_vs_baseline is None
    assert saved_vs_baseline(either, precise=True) == "+40% (+0.020)"


def with_saving(saving: Json, *, quality_small: float = 0.55, at_80: Json | None = None) -> Json:
    """A result in which cat_xent/either has this saving with its interval; it costs 1.1 of L at 80% of the gap."""
    found = make_result()["metrics"]["accuracy"]["strata"]["cat_xent/either"]
    point = {"cost_share": 1.1, "quality": 0.9, "defers_all": False} | (at_80 or {})
    own = found | {
        "quality_small": value(quality_small, 0.01),
        "rules": {"mean": [{"seed": seed, "operating": {"gap>=0.8": point, "gap>=1.0": point}} for seed in (1, 2)]},
        "savings": {"gap>=0.8": saving, "gap>=1.0": None},
    }
    return make_result(**{"cat_xent/either": own})


def test_a_saving_stands_with_its_interval_in_every_table() -> None:
    result = with_saving({"value": 0.4, "lower": 0.3, "upper": 0.5}, at_80={"cost_share": 0.3})
    row = results_table([result], SUMMARY)[1]
    assert (row.flops_saved_lower, row.flops_saved_upper) == (0.3, 0.5)
    assert saved_vs_baseline(row) == "+40% ±10%"
    assert saved_vs_baseline(row, precise=True) == "+40% [+30%,\u00a0+50%] (+0.050)"
    assert saved_at_large(row) == "+70% (+0.000)"


@pytest.mark.parametrize(
    ("change", "shown"),
    [
        ({}, "−120% ±10%"),
        ({"at_80": {"defers_all": True}}, "–"),
        ({"quality_small": 0.02}, "–"),
        ({"quality_small": 0.03}, "−120% ±10%"),
        ({"at_80": {"defers_all": True, "cost_share": 0.3}}, "+40% ±10%"),
    ],
)
def test_a_loss_that_says_nothing_is_a_dash_and_stays_in_the_json(change: Json, shown: str) -> None:
    result = with_saving({"value": -1.2, "lower": -1.3, "upper": -1.1}, **change)
    row = results_table([result], SUMMARY)[1]
    assert saved_vs_baseline(row) == shown
    assert as_json([row])[0]["flops_saved_vs_baseline"] is not None
    assert (saved_vs_baseline(row, precise=True) == "–") == (shown == "–")


def test_the_unit_of_the_first_cost_model_stands_above_what_is_saved() -> None:
    rows = results_table([make_result() | {"costs": [{"kind": "price", "unit": "dollars"}]}], SUMMARY)
    assert str(render_table(rows).columns[5].header) == "dollars\nsaved"


def test_nothing_is_saved_on_the_way_to_a_large_model_that_is_not_better_on_calibration() -> None:
    """There are no operating points then (see deferral.operating_points)."""
    strata = {
        name: entry | {"rules": {"mean": [{"seed": seed, "operating": {}} for seed in (1, 2)]}}
        for name, entry in make_result()["metrics"]["accuracy"]["strata"].items()
    }
    for row in results_table([make_result(**strata)], SUMMARY):
        assert (row.flops_saved_vs_baseline, row.saved_at_large_quality) == (None, None)


def test_a_saving_is_unknown_where_one_seed_found_no_threshold_or_the_anchor_is_missing() -> None:
    lost = make_result()["metrics"]["accuracy"]["strata"]["cat_xent/either"] | {
        "rules": {"mean": runs((0.2, None), (None, 1.0))}
    }
    row = results_table([make_result(**{"cat_xent/either": lost})], SUMMARY)[1]
    assert (row.flops_saved_vs_baseline, row.saved_at_large_quality) == (None, None)
    no_gap = lost | {"rules": {"mean": [{"seed": 1, "operating": {}}, {"seed": 2, "operating": {}}]}}
    row = results_table([make_result(**{"cat_xent/either": no_gap})], SUMMARY)[1]
    assert (row.flops_saved_vs_baseline, row.saved_at_large_quality) == (None, None)


def test_a_difference_is_marked_where_its_interval_excludes_zero() -> None:
    xent, either = results_table([make_result()], SUMMARY)
    assert (xent.difference, xent.differs) == (None, None)
    assert (either.difference, either.differs) == (0.05, True)
    assert excludes_zero(-0.1, -0.01)
    assert not excludes_zero(-0.1, 0.1)
    assert not excludes_zero(0.0, 0.1)


def test_small_tasks_are_those_that_the_summary_left_out() -> None:
    rows = results_table([make_result(), make_result("b/small", 100.0)], SUMMARY)
    assert [row.is_small for row in rows] == [False, False, True, True]


@pytest.mark.parametrize("width", [80, 120])
def test_the_table_fits_a_terminal_with_every_name_and_number_whole(width: int) -> None:
    rows = results_table([make_result(), make_result("b/small", 100.0)], SUMMARY)
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(render_table(rows))
    text = console.export_text()
    assert max(len(line) for line in text.splitlines()) <= width
    line = next(line for line in text.splitlines() if "cat_xent/either" in line).split()
    assert line == [
        "cat_xent/either",
        "0.550",
        "0.900",
        "0.700",
        "±0.030",
        "+0.050",
        "±0.020",
        "+40%",
        "+0.020",
        "12k",
    ]
    assert "b/small*" in text


def test_json_rows_are_plain_data_with_the_names_of_the_row() -> None:
    row = as_json(results_table([make_result()], SUMMARY))[1]
    assert row["stratum"] == "cat_xent/either"
    assert row["num_steps"] == 12_345
    assert row["audc_lower"] == pytest.approx(0.67)


def test_one_seed_marks_no_difference_and_the_notes_say_why() -> None:
    result = make_result()
    either = result["metrics"]["accuracy"]["strata"]["cat_xent/either"]
    either["difference"]["num_seeds"] = either["audc"]["num_seeds"] = 1
    rows = results_table([result], SUMMARY)
    assert rows[1].differs is False
    assert any(line.startswith("Of one seed an interval is over test examples alone") for line in notes(rows))
    assert not any(line.startswith("Of one seed") for line in notes(results_table([make_result()], SUMMARY)))


def test_a_large_model_that_is_no_better_is_named_with_the_next_move() -> None:
    result = make_result()
    result["metrics"]["accuracy"]["large"] = value(0.5, 0.01)  # as good as xent's small model
    (line,) = [line for line in notes(results_table([result], SUMMARY)) if "large model is no better" in line]
    assert "on a/big: deferring to it does not pay" in line
    assert "large.finetune" in line
    assert not any("is no better" in line for line in notes(results_table([make_result()], SUMMARY)))
