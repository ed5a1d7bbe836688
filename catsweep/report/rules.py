"""Deferral rules and cost models side by side, as rows: what the report, the terminal and MLflow show beside the results
under the first rule and the first cost model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from rich.table import Table
from rich.text import Text

from catsweep.comparing import excludes_zero
from catsweep.curves import first_metric
from catsweep.deferral import EQUAL_QUALITY, LARGE_QUALITY
from catsweep.report.tables import MISSING, interval, number, percent
from catsweep.spec.base import Json

CHOSEN = "✓"


@dataclass(frozen=True)
class RuleRow:
    """One deferral rule of one stratum of a task, under the task's first metric; qualities in its unit, [0, scale].

    chosen: whether its mean audc on calibration is the highest, which is how a rule is to be picked. difference: test audc
    minus that of `reference`, paired by seed; None for the reference itself. Intervals are 95% ones.
    """

    task: str
    stratum: str
    rule: str
    scale: float
    chosen: bool
    reference: str
    audc_calibration: float
    audc: float
    audc_lower: float
    audc_upper: float
    difference: float | None
    difference_lower: float | None
    difference_upper: float | None
    num_seeds: int


def rule_rows(result: Json) -> list[RuleRow]:
    """The rules of a task, stratum by stratum, the baseline first; none where only one rule was computed."""
    _, metric = first_metric(result)
    rows = []
    for stratum in _ordered(result, metric["strata"]):
        found = metric["strata"][stratum].get("deferral")
        for rule, values in found["rules"].items() if found else ():
            difference = values["difference"] or {"value": None, "lower": None, "upper": None}
            rows.append(
                RuleRow(
                    task=result["task"],
                    stratum=stratum,
                    rule=rule,
                    scale=metric["scale"],
                    chosen=rule == found["chosen"],
                    reference=found["reference"],
                    audc_calibration=values["audc_calibration"],
                    audc=values["audc"]["value"],
                    audc_lower=values["audc"]["lower"],
                    audc_upper=values["audc"]["upper"],
                    difference=difference["value"],
                    difference_lower=difference["lower"],
                    difference_upper=difference["upper"],
                    num_seeds=values["audc"]["num_seeds"],
                )
            )
    return rows


def rule_cells(row: RuleRow) -> dict[str, str]:
    """A row as text."""
    differs = row.num_seeds > 1 and excludes_zero(row.difference_lower, row.difference_upper)
    return {
        "stratum": row.stratum,
        "rule": row.rule,
        "chosen": CHOSEN if row.chosen else "",
        "audc_calibration": number(row.audc_calibration, row.scale),
        "audc": interval(row.audc, row.audc_lower, row.audc_upper, row.scale),
        "difference": interval(row.difference, row.difference_lower, row.difference_upper, row.scale, sign=True),
        "kind": "" if not differs else "good" if (row.difference or 0) > 0 else "bad",
    }


def render_rules(rows: list[RuleRow]) -> Table:
    """The rules of some tasks for a terminal."""
    reference = rows[0].reference
    table = Table(box=None, pad_edge=False, header_style="bold", collapse_padding=True)
    table.add_column("task, stratum\n rule", min_width=14, overflow="fold")
    for name in ("audc on\ncalibration", "audc on test\n[95%]", f"audc − {reference}\n[95%]"):
        table.add_column(name, justify="right")
    before = ("", "")
    for row in rows:
        if (row.task, row.stratum) != before:
            before = (row.task, row.stratum)
            table.add_row(Text(f"{row.task} {row.stratum}", "bold"))
        cells = rule_cells(row)
        style = {"": "", "good": "bold green", "bad": "bold red"}[cells["kind"]]
        name = f" {cells['rule']} {cells['chosen']}".rstrip()
        table.add_row(name, cells["audc_calibration"], cells["audc"], Text(cells["difference"], style))
    return table


RULE_NOTE = (
    f"{CHOSEN}: the rule with the highest audc on calibration, the only split by which a rule may be chosen. The learned rule's "
    "scores there are out of fold; its interval on test takes what it learned as given."
)


@dataclass(frozen=True)
class CostRow:
    """One stratum of a task under one cost model, thresholds picked on calibration by the first deferral rule.

    small, large: mean cost of a query in `unit`. cost_share, quality: on test, at 80% of the way from the baseline's small
    model to the large one; saved, saved_quality: of the large model's cost, at its own quality; quality minus its. Means
    over seeds, None where a seed has no such threshold.
    """

    stratum: str
    kind: str
    unit: str
    small: float
    large: float
    cost_share: float | None
    quality: float | None
    saved: float | None
    saved_quality: float | None


def cost_rows(result: Json) -> list[CostRow]:
    """The cost models of a task but the first, stratum by stratum."""
    _, metric = first_metric(result)
    rows = []
    for kind in [cost["kind"] for cost in result.get("costs", [])[1:]]:
        for stratum in _ordered(result, metric["strata"]):
            found = metric["strata"][stratum].get("costs", {}).get(kind)
            if found is None:
                continue
            runs = found["rules"][result["rules"][0]]
            share, quality = _mean_point(runs, EQUAL_QUALITY)
            at_large, large_quality = _mean_point(runs, LARGE_QUALITY)
            large = metric["large"]["value"]
            rows.append(
                CostRow(
                    stratum=stratum,
                    kind=kind,
                    unit=found["unit"],
                    small=found["small"],
                    large=found["large"],
                    cost_share=share,
                    quality=quality,
                    saved=None if at_large is None else 1 - at_large,
                    saved_quality=None if large_quality is None or large is None else large_quality - large,
                )
            )
    return rows


def cost_cells(row: CostRow, scale: float) -> dict[str, str]:
    """A row as text."""
    at = MISSING if row.cost_share is None else f"{percent(row.cost_share)} ({number(row.quality, scale)})"
    saved = MISSING
    if row.saved is not None and row.saved >= 0:
        saved = f"{percent(row.saved, sign=True)} ({number(row.saved_quality, scale, sign=True)})"
    return {
        "stratum": row.stratum,
        "cost": f"{row.kind}, {row.unit}",
        "small": f"{row.small:.3g}",
        "large": f"{row.large:.3g}",
        "at": at,
        "saved": saved,
    }


def latency_notes(result: Json) -> list[str]:
    """On what seconds were measured: a sentence where latency is one of the cost models."""
    if "large_latency" not in result:
        return []
    _, metric = first_metric(result)
    entries = [found["costs"]["latency"]["measured"] for found in metric["strata"].values()]
    small = sorted({_measured_on(latency) for measured in entries for latency in measured})
    return [
        f"Seconds: S on {'; '.join(small)}; L on {_measured_on(result['large_latency'])}. Times of answering in batches, with "
        "whatever else ran on the machine, shared among queries by their tokens; other machines give others."
    ]


def _measured_on(latency: Json) -> str:
    return f"{latency['device']} in batches of {latency['batch_size']}"


def _mean_point(runs: list[Json], target: str) -> tuple[float | None, float | None]:
    """Mean over seeds of cost share and quality at a target; None where a seed has no such threshold."""
    points: list[Any] = [run["operating"].get(target) for run in runs]
    if None in points or any(point["quality"] is None for point in points):
        return None, None
    cost, quality = (float(np.mean([point[name] for point in points])) for name in ("cost_share", "quality"))
    return cost, quality


def _ordered(result: Json, strata: Json) -> list[str]:
    return sorted(strata, key=lambda stratum: (stratum != result["baseline"], stratum))
