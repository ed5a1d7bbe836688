"""What the figures show, worked out of the results: one line a stratum, and the differences of a forest plot."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from catsweep.cascade.lines import random_line, router_cost
from catsweep.cascade.table import Summary
from catsweep.comparing import excludes_zero
from catsweep.curves import first_metric
from catsweep.report.tables import ResultRow, first_unit
from catsweep.spec.base import Json

MACRO = "all tasks (macro)"
MIN_MACRO_TASKS = 6
"""With fewer tasks a macro interval carries no claim: even if all differences had one sign, a sign test would give
p = 2^(1-5) > 0.05, while an interval resampled from so few numbers can be as narrow as chance makes it. [ours]"""
METRIC_LABELS = {
    "accuracy": "accuracy",
    "exact_match": "exact match",
    "token_f1": "token F1",
    "squad_em": "exact match (SQuAD)",
    "bleu": "BLEU",
    "chrf": "chrF",
    "rouge1": "ROUGE-1",
    "rouge2": "ROUGE-2",
    "rougeLsum": "ROUGE-Lsum",
    "macro_f1": "macro-F1",
    "f1": "F1",
    "matthews": "Matthews correlation",
    "pearson": "Pearson correlation",
    "spearman": "Spearman correlation",
    "multirc_f1a": "F1a",
    "multirc_em": "exact match of questions",
    "macro": "macro mean",
}


@dataclass(frozen=True)
class CurveLines:
    """The lines of one task, each at 0, 1, ... 100 percent of deferral, means over seeds.

    quality, cost_share: by stratum. The random, the oracle and the router's line are those of one stratum's small model,
    which their labels name.
    """

    title: str
    quality_label: str
    percents: list[float]
    quality: dict[str, list[float]]
    cost_share: dict[str, list[float]]
    quality_large: float
    random_quality: list[float]
    random_label: str
    oracle_quality: list[float]
    oracle_label: str
    router_cost_share: list[float]
    router_quality: list[float]
    router_label: str
    random_cost_share: list[float]
    oracle_cost_share: list[float]
    cost_label: str = "mean FLOPs a query (L alone = 1)"

    def num_within_large_cost(self, stratum: str) -> int:
        """How many of a stratum's points, which only get dearer, cost no more than the large model alone."""
        return sum(share <= 1.0 + 1e-9 for share in self.cost_share[stratum])


@dataclass(frozen=True)
class Difference:
    """A difference of audc to the baseline with its 95% interval, in percent of the metric's range.

    is_clear: the interval excludes 0, and a macro one stands on enough tasks.
    """

    block: str
    stratum: str
    value: float
    lower: float
    upper: float
    is_clear: bool
    is_macro: bool


def curve_lines(result: Json, metric_name: str | None = None) -> CurveLines | None:
    """The lines of a task under its first or another metric; None where no stratum has confirmed runs."""
    first, metric = first_metric(result)
    name = metric_name or first
    metric = result["metrics"][name]
    strata = metric["strata"]
    if not strata:
        return None
    baseline = result["baseline"]
    reference = baseline if baseline in strata else next(iter(strata))
    order = sorted(strata, key=lambda stratum: (stratum != baseline, stratum))
    curve = strata[reference]["curve"]
    unit = _unit(metric.get("lowest", 0.0), metric["scale"])
    return CurveLines(
        title=f"{result['task']} ({METRIC_LABELS.get(name, name)})",
        quality_label=f"{METRIC_LABELS.get(name, name)} on test{unit}",
        percents=[float(percent) for percent in range(101)],
        quality={stratum: _drawn(strata[stratum]["curve"]["quality"]) for stratum in order},
        cost_share={stratum: strata[stratum]["curve"]["cost_share"] for stratum in order},
        quality_large=_drawn([metric["large"]["value"]])[0],
        random_quality=_drawn(curve["random_quality"]),
        random_label=f"random ({reference})",
        oracle_quality=_drawn(curve["oracle_quality"]),
        oracle_label=f"oracle ({reference})",
        router_cost_share=curve["router_cost_share"],
        router_quality=_drawn(curve["quality"]),
        router_label=f"router ({reference})",
        random_cost_share=random_costs(curve["cost_share"]),
        oracle_cost_share=curve["oracle_cost_share"],
        cost_label=f"mean {first_unit(result)} a query (L alone = 1)",
    )


def cost_lines(result: Json, kind: str) -> CurveLines:
    """The lines of a task with confirmed runs under its first metric, at the costs of another cost model."""
    lines = curve_lines(result)
    assert lines is not None
    strata = first_metric(result)[1]["strata"]
    costs = {stratum: strata[stratum]["costs"][kind] for stratum in lines.quality}
    reference = result["baseline"] if result["baseline"] in strata else next(iter(strata))
    return replace(
        lines,
        cost_share={stratum: cost["cost_share"] for stratum, cost in costs.items()},
        router_cost_share=costs[reference]["router_cost_share"],
        random_cost_share=random_costs(costs[reference]["cost_share"]),
        oracle_cost_share=costs[reference]["oracle_cost_share"],
        cost_label=f"mean {costs[reference]['unit']} a query (L alone = 1)",
    )


def table_lines(summary: Summary, *, title: str) -> CurveLines:
    """The lines of a table of foreign results: one cascade, at every number of deferred queries."""
    curve = summary.curve
    unit = curve.cost_large or 1.0
    label = METRIC_LABELS.get(summary.metric.name, summary.metric.name)
    return CurveLines(
        title=title,
        quality_label=label + _unit(curve.lowest, curve.scale),
        percents=(100 * curve.deferral_rate).tolist(),
        quality={"cascade": curve.quality.tolist()},
        cost_share={"cascade": (curve.cost / unit).tolist()},
        quality_large=curve.quality_large,
        random_quality=random_line(curve, summary.metric).tolist(),
        random_label="random",
        oracle_quality=summary.oracle.quality.tolist(),
        oracle_label="oracle",
        router_cost_share=(router_cost(curve) / unit).tolist(),
        router_quality=curve.quality.tolist(),
        router_label="router",
        random_cost_share=random_costs((curve.cost / unit).tolist()),
        oracle_cost_share=(summary.oracle.cost / unit).tolist(),
        cost_label="mean cost a query (L alone = 1)",
    )


def _unit(lowest: float, scale: float) -> str:
    """The range of a quality, unless it is that of a share."""
    return "" if (lowest, scale) == (0, 1) else f" ({lowest:.0f} to {scale:.0f})"


def random_costs(costs: list[float]) -> list[float]:
    """Mean costs where the deferred queries are drawn at random: between the ends each query more costs the same."""
    return [float(cost) for cost in np.linspace(costs[0], costs[-1], len(costs))]


def _drawn(values: list[float | None]) -> list[float]:
    """NaN, which leaves a gap in a line, for points that are not defined."""
    return [math.nan if value is None else value for value in values]


def forest(rows: Sequence[ResultRow], summary: Json) -> list[Difference]:
    """The differences of all tasks and their macro means, block by block; small tasks have an asterisk."""
    found = []
    for row in rows:
        if row.difference is not None and row.difference_lower is not None and row.difference_upper is not None:
            block, factor = row.task + ("*" if row.is_small else ""), 100 / row.scale
            value, lower, upper = (factor * x for x in (row.difference, row.difference_lower, row.difference_upper))
            found.append(Difference(block, row.stratum, value, lower, upper, bool(row.differs), False))
    return found + macro_differences(summary)


def macro_differences(summary: Json) -> list[Difference]:
    """The macro differences of a summary that have an interval."""
    found = []
    for stratum, macro in summary["macro"].items():
        if macro["lower"] is None:  # of one task there is no interval
            continue
        value, lower, upper = (100 * macro[name] for name in ("value", "lower", "upper"))
        is_clear = macro["num_tasks"] >= MIN_MACRO_TASKS and bool(excludes_zero(macro["lower"], macro["upper"]))
        found.append(Difference(MACRO, stratum, value, lower, upper, is_clear, True))
    return found


def all_strata(results: Sequence[Json]) -> list[str]:
    """Every stratum that the sweep of these results has, each once, sorted: the same from one task's results and from all."""
    return sorted({stratum for result in results for stratum in (*result["wanted"]["strata"], *result["strata"])})
