"""Text of the comparisons over tasks, from a summary made by hand."""

from __future__ import annotations

import io

from rich.console import Console

from catsweep.report.comparison import kind_table, macro_rows, macro_table, spent_rows
from catsweep.spec.base import Json


def macro(value: float, half: float, **fields: object) -> Json:
    kinds = {
        "a": {"value": value, "lower": value - half, "upper": value + half, "num_tasks": 5},
        "b": {"value": value, "lower": None, "upper": None, "num_tasks": 1},
    }
    return {
        "value": value, "lower": value - half, "upper": value + half, "p_value": 0.012, "num_tasks": 6, "primary": False,
        "by_kind": {"a": value, "b": value}, "kinds": kinds,
        "counts": {"won": 3, "tied": 2, "lost": 1, "won_holm": 2, "lost_holm": 0},
        "saved": {"value": 0.12, "lower": 0.03, "upper": 0.2, "quality": -0.001, "num_tasks": 5}, **fields,
    }  # fmt: skip


SUMMARY: Json = {
    "macro": {
        "cat_dist/either": macro(0.01, 0.02, p_value_holm=0.04),
        "cat_xent/either": macro(0.02, 0.01, primary=True),
    },
    "mean_rank": {"num_tasks": 6, "strata": {"cat_xent/either": 1.5, "cat_dist/either": 2.0, "xent": 2.5}},
}


def test_the_primary_endpoint_stands_first_and_is_marked() -> None:
    first, second = macro_rows(SUMMARY)
    assert first["stratum"] == "cat_xent/either (primary)"
    assert first["difference"] == "+2.00 [+1.00,\u00a0+3.00]"
    assert (first["kind"], first["p"], first["p_holm"]) == ("good", "0.012", "–")
    assert (first["counts"], first["holm"], first["rank"]) == ("3 / 2 / 1", "2 / 0", "1.50")
    assert first["saved"] == "+12% [+3%,\u00a0+20%] (−0.10)"
    assert (second["kind"], second["p_holm"]) == ("", "0.04")


def test_a_terminal_of_80_columns_shows_the_macro_rows_on_a_line_each() -> None:
    table = macro_table(SUMMARY, "FLOPs")
    assert table is not None
    console = Console(file=io.StringIO(), width=80)
    console.print(table)
    lines = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    (first,) = [line for line in lines if "cat_xent/either (primary)" in line]
    assert first.split() == [
        "cat_xent/either",
        "(primary)",
        "+2.00",
        "[+1.00,",
        "+3.00]",
        "3/2/1",
        "1.50",
        "+12%",
        "0.012",
    ]
    one = {**SUMMARY, "macro": {"dist": macro(0.1, 0.1) | {"num_tasks": 1}}}
    assert macro_table(one, "FLOPs") is None


def test_kinds_are_rows_and_a_single_task_has_no_interval() -> None:
    table = kind_table(SUMMARY)
    assert table is not None
    assert table["strata"] == ["cat_xent/either", "cat_dist/either"]
    a, b = table["rows"]
    assert a["cells"] == [("+2.00 [+1.00,\u00a0+3.00]", "good"), ("+1.00 [−1.00,\u00a0+3.00]", "")]
    assert b["cells"] == [("+2.00", ""), ("+1.00", "")]


def test_the_budget_shows_what_was_allowed_and_spent_with_the_large_models_cost_beside_it() -> None:
    spent = {"num_trials": 7, "num_stopped": 2, "num_steps": 12_000, "train_flops": 3.2e12}
    budget = {
        "num_units": 2, "num_samples": 4, "max_steps": 3_000, "rungs": [100, 3_000], "strata": {"xent": spent},
        "large": {"num_steps": 800, "train_flops": 5e12, "pass_flops": 1e12},
    }  # fmt: skip
    xent, large = spent_rows(budget)
    assert (xent["trials"], xent["steps"], xent["rungs"]) == ("7 of 8", "3,000", "100, 3000")
    assert (xent["spent"], xent["stopped"], xent["flops"]) == ("12,000", "2", "3.2 TFLOPs")
    assert (large["spent"], large["flops"]) == ("800", "6 TFLOPs")
    assert spent_rows({}) == []
