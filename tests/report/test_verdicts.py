"""Sentences that claim no more than the intervals allow."""

from __future__ import annotations

from catsweep.report.tables import results_table
from catsweep.report.verdicts import macro_verdict, task_verdict
from catsweep.spec.base import Json
from report.test_tables import SUMMARY, make_result, value


def macro(middle: float, half: float, num_tasks: int, *, primary: bool = False, **fields: float) -> Json:
    counts = {"num_tasks": num_tasks, "by_kind": {"a": 0, "b": 0}}
    return {**value(middle, half), **counts, "p_value": 0.01, "primary": primary, **fields}


def primary(found: Json) -> tuple[str, str]:
    verdict = macro_verdict({"macro": {"cat_xent/either": {**found, "primary": True}}})[0]
    return verdict.kind, verdict.text


def test_a_clear_macro_difference_over_enough_tasks_is_claimed_either_way() -> None:
    kind, text = primary(macro(0.02, 0.01, 6))
    assert kind == "good"
    assert "cat_xent/either is better than xent; macro audc minus xent is +2.00 [+1.00,\u00a0+3.00] percent" in text
    kind, text = primary(macro(-0.02, 0.01, 6))
    assert kind == "bad"
    assert "is worse than xent" in text


def test_an_interval_around_zero_is_not_shown_to_be_better() -> None:
    kind, text = primary(macro(0.02, 0.03, 20))
    assert kind == ""
    assert "is not shown to be better than xent" in text
    assert "the interval holds 0" in text


def test_few_tasks_are_no_claim_however_narrow_the_interval() -> None:
    kind, text = primary(macro(0.02, 0.001, 5))
    assert kind == ""
    assert "over 5 tasks of 2 kinds, too few for a claim" in text


def test_secondary_losses_are_named_only_after_holms_correction() -> None:
    found = {"dist": macro(0.02, 0.01, 9, p_value_holm=0.04), "cat_xent/large": macro(0.02, 0.01, 9, p_value_holm=0.06)}
    first, second = macro_verdict({"macro": found})
    assert "No primary endpoint" in first.text
    assert second.text == "Secondary, after Holm's correction better than xent: dist."


def test_under_another_rule_than_the_mean_there_is_no_primary_endpoint() -> None:
    (first, second) = macro_verdict({"macro": {"cat_xent/either": macro(0.02, 0.01, 9, p_value_holm=0.02)}})
    assert "No primary endpoint" in first.text
    assert "under the deferral rule mean" in first.text
    assert second.text == "Secondary, after Holm's correction better than xent: cat_xent/either."


def test_a_task_is_judged_by_the_stratum_that_is_best_on_validation() -> None:
    result = make_result()
    result["strata"] = {
        "xent": {**result["strata"]["xent"], "winner": {"objective": 0.70}},
        "cat_xent/either": {**result["strata"]["xent"], "winner": {"objective": 0.71}},
    }
    rows = results_table([result], SUMMARY)
    better = task_verdict(result, rows, lower_is_better=False)
    assert better is not None
    assert (better.kind, better.text.endswith(": better.")) == ("good", True)
    cheapest = task_verdict(result, rows, lower_is_better=True)
    assert cheapest is not None
    assert cheapest.text == "Best on validation: xent itself. No other loss is better there."
    assert task_verdict(result, [], lower_is_better=False) is None
