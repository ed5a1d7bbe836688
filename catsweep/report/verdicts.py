"""What the results say about losses against the baseline, in plain sentences that claim no more than they may."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from catsweep.comparing import PRIMARY, PRIMARY_RULE
from catsweep.report.lines import MIN_MACRO_TASKS, macro_differences
from catsweep.report.tables import ResultRow, interval
from catsweep.spec.base import Json
from catsweep.spec.search import BASELINE


@dataclass(frozen=True)
class Verdict:
    """A sentence. kind: `good` and `bad` for a clear difference, empty for none."""

    kind: str
    text: str


def quality_kind(difference: float | None, is_clear: bool | None) -> str:
    """`good` or `bad` for a clear difference, else empty."""
    return "" if not is_clear or difference is None else "good" if difference > 0 else "bad"


def macro_verdict(summary: Json) -> list[Verdict]:
    """A sentence on the primary endpoint, and one on the others where there are any."""
    verdicts = []
    found = {item.stratum: item for item in macro_differences(summary)}
    if PRIMARY in found and summary["macro"][PRIMARY]["primary"]:
        item, macro = found[PRIMARY], summary["macro"][PRIMARY]
        shown = interval(item.value, item.lower, item.upper, 100, sign=True)
        basis = f"macro audc minus {BASELINE} is {shown} percent of the range, over {_tasks(macro)}"
        if item.is_clear:
            word = "better" if item.value > 0 else "worse"
            text = f"Primary endpoint: {PRIMARY} is {word} than {BASELINE}; {basis}."
        elif macro["num_tasks"] < MIN_MACRO_TASKS:
            text = (
                f"Primary endpoint: {PRIMARY} is not shown to be better than {BASELINE}: {basis}, too few for a claim."
            )
        else:
            text = (
                f"Primary endpoint: {PRIMARY} is not shown to be better than {BASELINE}: {basis}; the interval holds 0."
            )
        verdicts.append(Verdict(quality_kind(item.value, item.is_clear), text))
    else:
        text = (
            f"No primary endpoint: it needs {PRIMARY} beside {BASELINE} under the deferral rule {PRIMARY_RULE}, on two or more "
            "tasks with enough test rows."
        )
        verdicts.append(Verdict("", text))
    better = [
        stratum
        for stratum, item in found.items()
        if not summary["macro"][stratum]["primary"]
        and item.value > 0
        and item.is_clear
        and summary["macro"][stratum]["p_value_holm"] < 0.05
    ]
    if better:
        verdicts.append(
            Verdict("good", f"Secondary, after Holm's correction better than {BASELINE}: {', '.join(better)}.")
        )
    return verdicts


def task_verdict(result: Json, rows: Sequence[ResultRow], *, lower_is_better: bool) -> Verdict | None:
    """A sentence on the stratum that is best on validation, judged on test; None where nothing was confirmed.

    The choice never looks at test, so that its difference there is not the largest of several.
    """
    by_stratum = {row.stratum: row for row in rows}
    sign = 1 if lower_is_better else -1
    order = sorted(by_stratum, key=lambda stratum: sign * result["strata"][stratum]["winner"]["objective"])
    if not order:
        return None
    best = by_stratum[order[0]]
    if best.stratum == BASELINE:
        return Verdict("", f"Best on validation: {BASELINE} itself. No other loss is better there.")
    if best.difference is None:
        return Verdict("", f"Best on validation: {best.stratum}. {BASELINE} has no confirmed run to compare with.")
    shown = interval(best.difference, best.difference_lower, best.difference_upper, best.scale, sign=True)
    start = f"Best on validation: {best.stratum}. On test its audc minus {BASELINE} is {shown}:"
    if not best.differs:
        return Verdict("", f"{start} not shown to be better than {BASELINE}.")
    return Verdict(quality_kind(best.difference, True), f"{start} {'better' if best.difference > 0 else 'worse'}.")


def _tasks(macro: Json) -> str:
    tasks, kinds = macro["num_tasks"], len(macro["by_kind"])
    return f"{tasks} task{'s' if tasks > 1 else ''} of {kinds} kind{'s' if kinds > 1 else ''}"
