"""The comparisons over all tasks and the budget, as text for tables of a page or a terminal."""

from __future__ import annotations

from typing import Any

from rich.table import Table
from rich.text import Text

from catsweep.comparing import PRIMARY, excludes_zero
from catsweep.report.lines import MIN_MACRO_TASKS
from catsweep.report.tables import MISSING, interval, percent, percent_points
from catsweep.report.verdicts import quality_kind
from catsweep.spec.base import Json
from catsweep.spec.search import BASELINE


def macro_rows(summary: Json) -> list[dict[str, Any]]:
    """A row for each stratum but the baseline, the primary endpoint first."""
    ordered = sorted(summary["macro"].items(), key=lambda item: (item[0] != PRIMARY, item[0]))
    ranks = summary["mean_rank"]["strata"]
    return [_macro_row(stratum, macro, ranks.get(stratum)) for stratum, macro in ordered]


def _macro_row(stratum: str, macro: Json, rank: float | None) -> dict[str, Any]:
    is_enough = macro["num_tasks"] >= MIN_MACRO_TASKS
    is_clear = is_enough and excludes_zero(macro["lower"], macro["upper"])
    counts, saved = macro["counts"], macro["saved"]
    saved_text = saved and percent_interval(saved)
    return {
        "stratum": stratum + (" (primary)" if macro["primary"] else ""),
        "difference": points_interval(macro),
        "kind": quality_kind(macro["value"], is_clear),
        "num_tasks": macro["num_tasks"],
        "num_kinds": len(macro["by_kind"]),
        "counts": f"{counts['won']} / {counts['tied']} / {counts['lost']}",
        "holm": f"{counts['won_holm']} / {counts['lost_holm']}",
        "rank": MISSING if rank is None else f"{rank:.2f}",
        "saved": f"{saved_text} ({percent_points(saved['quality'])})" if saved else MISSING,
        "p": f"{macro['p_value']:.2g}" if is_enough else MISSING,
        "p_holm": f"{macro['p_value_holm']:.2g}" if is_enough and "p_value_holm" in macro else MISSING,
    }


def macro_table(summary: Json, cost_unit: str) -> Table | None:
    """The macro rows for a terminal of 80 columns; None with fewer than two tasks, of which there is nothing to say.
    cost_unit: what is saved."""
    rows = [row for row in macro_rows(summary) if row["num_tasks"] > 1]
    if not rows:
        return None
    table = Table(box=None, pad_edge=False, header_style="bold", title="over all tasks", title_justify="left")
    table.add_column("stratum", overflow="fold")
    for name in (f"audc −\n{BASELINE}, %", "won/tied\n/lost", "rank", f"{cost_unit}\nsaved", "p\n(Holm)"):
        table.add_column(name, justify="right")
    for row in rows:
        colour = {"good": "bold green", "bad": "bold red"}.get(row["kind"], "")
        p_value = row["p"] if row["p_holm"] == MISSING else row["p_holm"]
        saved, counts = row["saved"].split(" ")[0], row["counts"].replace(" ", "")
        table.add_row(row["stratum"], Text(row["difference"], colour), counts, row["rank"], saved, p_value)
    return table


def kind_table(summary: Json) -> dict[str, Any] | None:
    """Rows of kinds and columns of strata; None where there is one kind only, which the macro table shows."""
    ordered = sorted(summary["macro"], key=lambda stratum: (stratum != PRIMARY, stratum))
    kinds = sorted({kind for stratum in ordered for kind in summary["macro"][stratum]["kinds"]})
    if len(kinds) < 2:
        return None
    rows = []
    for kind in kinds:
        found = [summary["macro"][stratum]["kinds"].get(kind) for stratum in ordered]
        cells = [(points_interval(item), kind_of(item)) if item else (MISSING, "") for item in found]
        rows.append({"kind": kind, "num_tasks": max(item["num_tasks"] for item in found if item), "cells": cells})
    return {"strata": ordered, "rows": rows}


def spent_rows(budget: Json) -> list[dict[str, str]]:
    """What each stratum was allowed and spent over all tasks, and the large model's training and pass beside it."""
    if not budget:
        return []
    allowed = f"{budget['num_samples'] * budget['num_units']:,}"
    rungs = ", ".join(str(step) for step in budget["rungs"])
    rows = [
        {
            "stratum": stratum,
            "trials": f"{spent['num_trials']:,} of {allowed}",
            "steps": f"{budget['max_steps']:,}",
            "rungs": rungs,
            "spent": f"{spent['num_steps']:,}",
            "stopped": f"{spent['num_stopped']:,}",
            "flops": f"{amount(spent['train_flops'])}FLOPs",
        }
        for stratum, spent in budget["strata"].items()
    ]
    large = budget["large"]
    names = ("train_flops", "pass_flops")
    flops = None if any(large[name] is None for name in names) else sum(large[name] for name in names)
    blank = dict.fromkeys(("trials", "steps", "rungs", "stopped"), MISSING)
    text = MISSING if flops is None else f"{amount(flops)}FLOPs"
    further = large.get("num_models", 1) - 1
    name = "L" if not further else f"L and {further} more"
    return [
        *rows,
        {"stratum": f"{name}, fine-tune and pass", **blank, "spent": f"{large['num_steps']:,}", "flops": text},
    ]


def amount(value: float) -> str:
    """A large number with its SI prefix: 235 M."""
    for factor, prefix in ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= factor:
            return f"{value / factor:.3g} {prefix}"
    return f"{value:.3g} "


def points_interval(item: Json) -> str:
    """A difference in percent of the range with its interval; without one where there is none."""
    if item["lower"] is None:
        return percent_points(item["value"])
    value, lower, upper = (100 * item[name] for name in ("value", "lower", "upper"))
    return interval(value, lower, upper, 100.0, sign=True)


def percent_interval(item: Json) -> str:
    """A share with its interval: `+12% [+3%, +20%]`."""
    if item["lower"] is None:
        return percent(item["value"], sign=True)
    bounds = ",\u00a0".join(percent(item[name], sign=True) for name in ("lower", "upper"))
    return f"{percent(item['value'], sign=True)} [{bounds}]"


def kind_of(item: Json) -> str:
    """Better, worse or neither, for the colour of a value with an interval."""
    return quality_kind(item["value"], excludes_zero(item["lower"], item["upper"]))
