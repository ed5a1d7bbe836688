"""The results of a sweep as rows, and the rows as a table for a terminal, Markdown or JSON."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from rich.table import Table
from rich.text import Text

from catsweep.comparing import equal_quality, is_clear, realised
from catsweep.curves import first_metric, with_macros
from catsweep.deferral import EQUAL_QUALITY, LARGE_QUALITY
from catsweep.macro import METRIC
from catsweep.spec.base import Json
from catsweep.spec.search import BASELINE

NO_QUALITY = 0.02
"""A small model of which this share of the metric's range is the quality, or less, answers nothing: how much cheaper or
dearer another one is than it says nothing. [ours]"""
MISSING = "–"


@dataclass(frozen=True)
class ResultRow:
    """One stratum of one task, on test, under the task's first metric and the first deferral rule.

    Qualities, audc and difference are in the metric's unit, [0, scale], with 95% intervals. difference: audc minus the
    baseline's, paired by seed; all None for the baseline itself. differs: whether that interval excludes 0; never for one
    pair of seeds, whose interval holds for these runs only.
    flops_saved_vs_baseline: share of the baseline's cost that is saved at EQUAL_QUALITY; saved_at_large_quality: share
    of the large model's cost that is saved at its own quality. Both compare mean costs over seeds, with thresholds
    picked on calibration, and are None where any seed found no such threshold; their intervals are over test examples and
    seeds, for these thresholds. says_little_vs_baseline, says_little_at_large: whether that number, where it is negative, is
    one of a small model that answers nothing or of deferring everything, and is not printed. cost_unit: what costs are
    counted in. num_steps: optimiser steps of the whole
    search. num_seeds: finished confirm runs, of num_seeds_wanted. kept_share: mean share of the target
    tokens that the filter kept. facts: see Metric.facts. worst_task, worst_difference: of a mixture's macro row, the
    member with the largest loss against the baseline, as a share of its metric's range.
    """

    task: str
    group: str
    metric: str
    scale: float
    is_small: bool
    stratum: str
    num_seeds: int
    num_seeds_wanted: int
    quality_small: float | None
    quality_large: float | None
    audc: float
    audc_lower: float
    audc_upper: float
    difference: float | None
    difference_lower: float | None
    difference_upper: float | None
    differs: bool | None
    flops_saved_vs_baseline: float | None
    quality_vs_baseline: float | None
    saved_at_large_quality: float | None
    quality_vs_large: float | None
    num_trials: int
    num_steps: int
    kept_share: float | None
    facts: dict[str, int]
    worst_task: str | None = None
    worst_difference: float | None = None
    flops_saved_lower: float | None = None
    flops_saved_upper: float | None = None
    saved_at_large_lower: float | None = None
    saved_at_large_upper: float | None = None
    says_little_vs_baseline: bool = False
    says_little_at_large: bool = False
    cost_unit: str = "FLOPs"


def results_table(results: list[Json], summary: Json) -> list[ResultRow]:
    """A row for each stratum that has confirmed runs, task by task, the baseline first; a mixture's macro rows stand
    before those of its members.

    results, summary: what `curves.results_on_storage` returns; macro differences are no rows.
    """
    left_out = summary["left_out_small"]
    return [
        row
        for result in with_macros(results, summary)
        for row in _task_rows(
            result, is_small=all(name in left_out for name in result.get("counted", [result["task"]]))
        )
    ]


def as_json(rows: list[ResultRow]) -> list[Json]:
    """The rows as plain JSON data."""
    return [asdict(row) for row in rows]


def _task_rows(result: Json, *, is_small: bool) -> list[ResultRow]:
    name, metric = first_metric(result)
    if not metric["strata"]:
        return []
    baseline, rule = result["baseline"], result["rules"][0]
    strata = sorted(metric["strata"], key=lambda stratum: (stratum != baseline, stratum))
    large = metric["large"]["value"]
    saved = equal_quality(result)
    rows = []
    for stratum in strata:
        found, facts = metric["strata"][stratum], result["strata"][stratum]
        by_seed = realised(found["rules"][rule], LARGE_QUALITY)
        at_large = np.mean(list(by_seed.values()), axis=0).tolist() if by_seed else None
        share, quality = saved.get(stratum, (None, None))
        difference = found.get("difference") or {"value": None, "lower": None, "upper": None}
        vs_baseline, vs_large = (found.get("savings", {}).get(name) or {} for name in (EQUAL_QUALITY, LARGE_QUALITY))
        answers_nothing = (found["quality_small"]["value"] or 0.0) <= NO_QUALITY * metric["scale"]
        rows.append(
            ResultRow(
                task=result["task"],
                group=result["group"],
                metric=name,
                scale=metric["scale"],
                is_small=is_small,
                stratum=stratum,
                num_seeds=found["audc"]["num_seeds"],
                num_seeds_wanted=result["wanted"]["confirm_seeds"],
                quality_small=found["quality_small"]["value"],
                quality_large=metric["large"]["value"],
                audc=found["audc"]["value"],
                audc_lower=found["audc"]["lower"],
                audc_upper=found["audc"]["upper"],
                difference=difference["value"],
                difference_lower=difference["lower"],
                difference_upper=difference["upper"],
                differs=None if difference["lower"] is None else is_clear(difference),
                flops_saved_vs_baseline=share,
                quality_vs_baseline=quality,
                saved_at_large_quality=None if at_large is None else 1 - at_large[0],
                quality_vs_large=None if at_large is None or large is None else at_large[1] - large,
                num_trials=facts["num_trials"],
                num_steps=facts["num_steps"],
                kept_share=facts["kept_share"],
                facts=found.get("facts", {}),
                worst_task=(found.get("worst") or {}).get("task"),
                worst_difference=(found.get("worst") or {}).get("value"),
                flops_saved_lower=None if share is None else vs_baseline.get("lower"),
                flops_saved_upper=None if share is None else vs_baseline.get("upper"),
                saved_at_large_lower=None if at_large is None else vs_large.get("lower"),
                saved_at_large_upper=None if at_large is None else vs_large.get("upper"),
                says_little_vs_baseline=answers_nothing or _defers_all(found["rules"][rule], EQUAL_QUALITY),
                says_little_at_large=answers_nothing or _defers_all(found["rules"][rule], LARGE_QUALITY),
                cost_unit=first_unit(result),
            )
        )
    return rows


def _defers_all(runs: list[Json], point: str) -> bool:
    """Whether a seed reaches a point by deferring everything only."""
    return any((run["operating"].get(point) or {}).get("defers_all", False) for run in runs)


def first_unit(result: Json) -> str:
    """What costs are counted in under the first cost model."""
    costs = result.get("costs")
    return str(costs[0]["unit"]) if costs else "FLOPs"


def cost_unit(rows: list[ResultRow]) -> str:
    """What costs are counted in."""
    return rows[0].cost_unit if rows else "FLOPs"


def number(value: float | None, scale: float, *, sign: bool = False) -> str:
    """A quality in the metric's unit: three digits behind the point of 1, one of 100 (two with a sign)."""
    if value is None:
        return MISSING
    digits = 3 if scale == 1 else 2 if sign else 1
    return f"{value:{'+' if sign else ''}.{digits}f}".replace("-", "−")


def percent(value: float | None, *, sign: bool = False) -> str:
    """A share in percent."""
    return MISSING if value is None else f"{100 * value:{'+' if sign else ''}.0f}%".replace("-", "−")


def plus_minus(
    value: float | None, lower: float | None, upper: float | None, scale: float, *, sign: bool = False
) -> str:
    """`0.657 ±0.007`: the same interval, which is symmetric (Student's t); a narrow column breaks it before ±."""
    if value is None or lower is None or upper is None:
        return MISSING
    return f"{number(value, scale, sign=sign)} ±{number((upper - lower) / 2, scale, sign=sign).lstrip('+')}"


def saved_vs_baseline(row: ResultRow, *, precise: bool = False) -> str:
    """What is saved of the baseline's cost, with its interval; precise: with bounds, and the difference in quality that
    comes with it."""
    value, quality = row.flops_saved_vs_baseline, row.quality_vs_baseline if precise else None
    return _saving(
        value, row.flops_saved_lower, row.flops_saved_upper, quality, row, row.says_little_vs_baseline, precise
    )


def saved_at_large(row: ResultRow) -> str:
    """What is saved of the large model's cost, with its interval and the difference in quality that comes with it."""
    bounds = row.saved_at_large_lower, row.saved_at_large_upper
    return _saving(row.saved_at_large_quality, *bounds, row.quality_vs_large, row, row.says_little_at_large, True)


def _saving(
    share: float | None,
    lower: float | None,
    upper: float | None,
    quality: float | None,
    row: ResultRow,
    says_little: bool,
    precise: bool,
) -> str:
    if share is None or (share < 0 and says_little):
        return MISSING
    text = percent(share, sign=True)
    if lower is not None and upper is not None:
        bounds = f"[{percent(lower, sign=True)},\u00a0{percent(upper, sign=True)}]"
        text += f" {bounds}" if precise else f" ±{percent((upper - lower) / 2)}"
    return f"{text} ({number(quality, row.scale, sign=True)})" if precise else text


def interval(value: float | None, lower: float | None, upper: float | None, scale: float, *, sign: bool = False) -> str:
    """`0.657 [0.650, 0.664]`; it breaks before the bracket only."""
    if value is None:
        return MISSING
    bounds = f"[{number(lower, scale, sign=sign)},\u00a0{number(upper, scale, sign=sign)}]"
    return f"{number(value, scale, sign=sign)} {bounds}"


def stratum_label(row: ResultRow) -> str:
    """The stratum, with its number of seeds where some are missing."""
    short = row.num_seeds < row.num_seeds_wanted
    return f"{row.stratum} ({row.num_seeds} of {row.num_seeds_wanted} seeds)" if short else row.stratum


def steps(value: int) -> str:
    """A count of steps in four characters or so."""
    return str(value) if value < 10_000 else f"{value / 1_000:.0f}k" if value < 1_000_000 else f"{value / 1e6:.1f}M"


def render_table(rows: list[ResultRow]) -> Table:
    """The rows for a terminal of 80 columns or more. A task is a line of its own, above its strata."""
    table = Table(box=None, pad_edge=False, header_style="bold", collapse_padding=True)
    table.add_column("task\n stratum", min_width=12, overflow="fold")
    for name, width in (("S", 5), ("L", 5), ("audc", 6), ("audc\n− xent", 6)):
        table.add_column(name, justify="right", min_width=width)
    table.add_column(f"{cost_unit(rows)}\nsaved", justify="right", min_width=5)
    for name, width in (("at\nquality", 6), ("steps", 5)):
        table.add_column(name, justify="right", min_width=width, no_wrap=True)
    for index, row in enumerate(rows):
        if index == 0 or rows[index - 1].task != row.task:
            if index:
                table.add_row()
            table.add_row(Text(row.task + ("*" if row.is_small else ""), "bold"), "", "", Text(row.metric, "dim"))
        good = {None: "", False: "dim", True: "bold green" if (row.difference or 0) > 0 else "bold red"}[row.differs]
        difference = plus_minus(row.difference, row.difference_lower, row.difference_upper, row.scale, sign=True)
        table.add_row(
            f" {stratum_label(row)}",
            number(row.quality_small, row.scale),
            number(row.quality_large, row.scale),
            plus_minus(row.audc, row.audc_lower, row.audc_upper, row.scale),
            Text(difference, good),
            (saved := saved_vs_baseline(row)),
            MISSING if saved == MISSING else number(row.quality_vs_baseline, row.scale, sign=True),
            steps(row.num_steps),
        )
    return table


def notes(rows: list[ResultRow]) -> list[str]:
    """What a reader of the table has to know."""
    unit = cost_unit(rows)
    lines = [
        "S, L: quality of the small and of the large model alone, on test, mean over seeds. audc: quality of the cascade "
        "averaged over all deferral rates.",
    ]
    if any(saved_vs_baseline(row) != MISSING for row in rows):
        lines.append(
            f"{unit} saved: against xent, each at its cheapest threshold that on calibration reaches 80% of the way from xent's "
            "small model to the large one. at quality: the quality that this threshold then has on test, minus xent's: a saving "
            "at a lower quality is none. Its interval is for these thresholds. Negative: it costs more; "
            f"{MISSING}: no threshold, L is not better on calibration, or it costs more because everything is deferred or S "
            "answers nothing."
        )
    lines.append("Intervals are 95% ones over test examples and seeds; they are conditional on one large model.")
    if any(row.num_seeds == 1 for row in rows):
        lines.append(
            "Of one seed an interval is over test examples alone and holds for that run: it tells no loss from another."
        )
    lines += large_not_better(rows)
    for metric in dict.fromkeys(row.metric for row in rows):
        found = [row.facts for row in rows if row.metric == metric]
        facts = {name: max(item.get(name, 0) for item in found) for name in {name for item in found for name in item}}
        lines += fact_notes(facts, f"{metric}: ")
    lines += [
        f"{row.task} {row.stratum}: the worst member is {row.worst_task}, audc − {BASELINE} "
        f"{percent_points(row.worst_difference)} percent of the metric's range."
        for row in rows
        if row.worst_task is not None and row.worst_difference is not None
    ]
    if any(row.metric == METRIC for row in rows):
        lines.append(f"{METRIC}: of a mixture, the mean over its members of quality as a share of each metric's range.")
    return lines + (["* fewer than 500 test rows: left out of macro claims."] if any(r.is_small for r in rows) else [])


def large_not_better(rows: list[ResultRow]) -> list[str]:
    """A line where the large model alone is no better than the baseline's small one: there deferring cannot pay."""
    names = [
        row.task
        for row in rows
        if row.stratum == BASELINE
        and row.quality_large is not None
        and row.quality_small is not None
        and row.quality_large <= row.quality_small
    ]
    if not names:
        return []
    return [
        f"On test the large model is no better than {BASELINE}'s small one on {', '.join(names)}: deferring to it does not pay "
        "there. "
        "Train it longer (large.finetune) or take a larger one."
    ]


def percent_points(value: float) -> str:
    """A difference of shares in percent, with its sign."""
    return f"{100 * value:+.2f}".replace("-", "−")


def shortfalls(results: list[Json]) -> list[str]:
    """A line for each stratum of a task with fewer confirmed runs than the sweep asks for, or with none."""
    lines = []
    for name, result in {result.get("mixture", result["task"]): result for result in results}.items():
        wanted = result["wanted"]["confirm_seeds"]
        for stratum in result["wanted"]["strata"]:
            facts = result["strata"].get(stratum)
            num_seeds = len(facts["seeds"]) if facts else 0
            if num_seeds < wanted:
                none = "no trial finished" + (
                    ", or none kept every member within min_task_delta" if "mixture" in result else ""
                )
                reason = none if facts is None else "the others failed or have not ended"
                lines.append(
                    f"{name} {stratum}: {num_seeds} of {wanted} confirm runs; {reason}. The same `catsweep run` tries "
                    "failed runs again."
                )
    return lines


def fact_notes(facts: dict[str, int], where: str = "") -> list[str]:
    """What to know about how a curve was computed, a sentence each."""
    lines = []
    if "num_points" in facts:
        lines.append(f"{where}quality at {facts['num_points']} points of the curve, straight lines between them.")
    unreadable = [facts.get("num_unreadable_small", 0), facts.get("num_unreadable_large", 0)]
    if any(unreadable):
        lines.append(
            f"{where}{unreadable[0]} answers of S and {unreadable[1]} of L are no numbers; they count as the mean of the "
            "references."
        )
    return lines


def json_lines(rows: list[ResultRow], summary: Json) -> dict[str, Any]:
    """What `--json` prints: the rows, and the comparisons and the budget over all tasks."""
    names = ("macro", "p_value_holm", "mean_rank", "budget", "left_out_small")
    return {"rows": as_json(rows), **{name: summary[name] for name in names}}
