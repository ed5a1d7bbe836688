"""The pictures of docs/results.md. What they show is worked out in measures.py; drawing computes nothing but means of lines."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator
from measures import CAT, Numbers, by_rate

from catsweep.comparing import excludes_zero
from catsweep.report.figures import FAINT, GREY, INK, PALETTE, PAPER, STYLE, forest_figure, stratum_styles
from catsweep.report.lines import Difference, all_strata, macro_differences, random_costs
from catsweep.spec.base import Json
from catsweep.spec.search import BASELINE

KIND_NAMES = {
    "lemmatisation": "lemmatisation",
    "dates": "dates",
    "number_words": "number words",
    "cldr_names": "CLDR names",
    "language_identification": "languages of words",
    "hyphenation": "hyphenation",
    "grapheme_to_phoneme": "pronunciations",
    "code": "code",
    "codes": "codes",
    "places": "places",
    "unicode": "Unicode",
    "translation": "translation",
}


def kind_name(kind: str) -> str:
    """A kind of task in words."""
    return KIND_NAMES.get(kind, kind.replace("_", " "))


def in_order(kind: str) -> str:
    """The key by which kinds are sorted."""
    return kind_name(kind).lower()


def styles_of(numbers: Numbers) -> dict[str, dict[str, Any]]:
    """Colour and dashes of each loss, the same in every picture."""
    return stratum_styles(all_strata(numbers.results), BASELINE)


def kinds_forest(numbers: Numbers, macro: Json, reference: str) -> Figure:
    """Differences of audc of every loss, a block for each kind, all tasks last. macro: by stratum, as compare gives it."""
    kinds = sorted({kind for item in macro.values() for kind in item["kinds"]}, key=in_order)
    found = []
    for kind in kinds:
        for stratum, item in macro.items():
            own = item["kinds"].get(kind)
            if own is None:
                continue
            value, lower, upper = (
                100 * (own["value"] if own[x] is None else own[x]) for x in ("value", "lower", "upper")
            )
            is_clear = bool(excludes_zero(own["lower"], own["upper"]))
            block = f"{kind_name(kind)} ({own['num_tasks']})"
            found.append(Difference(block, stratum, value, lower, upper, is_clear, False))
    return forest_figure([*found, *macro_differences({"macro": macro})], styles_of(numbers), reference)


def kind_curves(numbers: Numbers, strata: Sequence[str]) -> Figure:
    """Quality against cost, a panel for each kind: means over its tasks and seeds of the curves at each share of deferral.
    Random deferral, the oracle and the router are those of the first stratum; fainter where a cascade costs more than L."""
    kinds = sorted({result["group"] for result in numbers.tasks}, key=in_order)
    styles = styles_of(numbers)
    columns = 4
    rows = -(-(len(kinds) + 1) // columns)
    with rc_context({**STYLE, "font.size": 8, "axes.titlesize": 9}):
        figure = Figure(figsize=(10.4, 2.25 * rows), layout="constrained")
        panels = figure.subplots(rows, columns, squeeze=False).ravel()
        for axes, kind in zip(panels, kinds, strict=False):
            own = [result for result in numbers.tasks if result["group"] == kind]
            for stratum in strata:
                cost, quality = mean_lines(own, stratum)
                within = int((cost <= 1 + 1e-9).sum())
                axes.plot(cost[:within], quality[:within], linewidth=1.4, label=stratum, **styles[stratum])
                dearer = {**styles[stratum], "alpha": FAINT}
                axes.plot(cost[max(0, within - 1) :], quality[max(0, within - 1) :], linewidth=1.4, **dearer)
                axes.plot(cost[0], quality[0], "o", color=styles[stratum]["color"], markersize=3.5)
            for name, line, style in side_lines(own, strata[0]):
                axes.plot(*line, color=GREY, linewidth=0.9, linestyle=style, label=f"{name} ({strata[0]})")
            axes.axvline(1, color=GREY, linewidth=0.6)
            axes.plot(1, quality[-1], "D", color=INK, markersize=4, label="L alone")
            axes.set_title(f"{kind_name(kind)} ({len(own)})")
            axes.set_xlim(left=0)
        for axes in panels[len(kinds) :]:
            axes.set_axis_off()
        handles, labels = panels[0].get_legend_handles_labels()
        panels[len(kinds)].legend(handles, labels, loc="center left", title="S alone: the dot where a line starts")
        figure.supxlabel("mean FLOPs a query (L alone = 1)", fontsize=9)
        figure.supylabel("quality on test, share of the metric's range", fontsize=9)
    return figure


def mean_lines(
    results: Sequence[Json], stratum: str, cost: str = "cost_share", quality: str = "quality"
) -> tuple[Any, Any]:
    """Mean cost and quality at each percent of deferral over some tasks, of the lines of these names."""
    costs, qualities = [], []
    for result in results:
        metric = next(iter(result["metrics"].values()))
        if stratum in metric["strata"]:
            curve = metric["strata"][stratum]["curve"]
            costs.append(curve[cost])
            qualities.append(np.array(curve[quality]) / metric["scale"])
    return np.mean(costs, axis=0), np.mean(qualities, axis=0)


def side_lines(results: Sequence[Json], stratum: str) -> list[tuple[str, tuple[Any, Any], Any]]:
    """Name, line and dashes of what stands beside a cascade."""
    cost, random = mean_lines(results, stratum, quality="random_quality")
    return [
        ("random", (random_costs(cost.tolist()), random), (0, (1, 1.5))),
        ("oracle", mean_lines(results, stratum, "oracle_cost_share", "oracle_quality"), "-"),
        ("router", mean_lines(results, stratum, "router_cost_share"), (0, (3, 1, 1, 1))),
    ]


def rate_figure(numbers: Numbers) -> Figure:
    """Left: macro audc on validation at each learning rate. Right: on how many tasks each rate won."""
    found, styles = by_rate(numbers), styles_of(numbers)
    rates = sorted({rate for own in found.values() for rate in own})
    with rc_context(STYLE):
        figure = Figure(figsize=(9.6, 3.6), layout="constrained")
        left, right = figure.subplots(1, 2)
        width = 0.8 / len(found)
        for index, (stratum, own) in enumerate(found.items()):
            left.plot(
                list(own),
                [value for value, _ in own.values()],
                marker="o",
                markersize=4,
                label=stratum,
                **styles[stratum],
            )
            places = np.arange(len(rates)) + (index - (len(found) - 1) / 2) * width
            right.bar(places, [own.get(rate, (0, 0))[1] for rate in rates], width, color=styles[stratum]["color"])
        left.set_xscale("log")
        left.xaxis.set_major_locator(FixedLocator(rates))
        left.xaxis.set_minor_locator(NullLocator())
        left.set_xticklabels([f"{rate:g}" for rate in rates])
        left.set_xlabel("learning rate")
        left.set_ylabel("audc on validation, macro mean")
        right.set_xticks(range(len(rates)), [f"{rate:g}" for rate in rates])
        right.grid(visible=False, axis="x")
        right.set_xlabel("learning rate")
        right.set_ylabel("tasks on which it won")
        figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=len(found), fontsize=9)
    return figure


def gap_figure(numbers: Numbers, stratum: str = CAT) -> Figure:
    """One point a task: a loss's difference of audc against how much better L is than xent's S alone."""
    kinds = sorted({result["group"] for result in numbers.tasks}, key=in_order)
    markers = ("o", "s", "^")
    with rc_context(STYLE):
        figure = Figure(figsize=(7.6, 4.4), layout="constrained")
        axes = figure.subplots()
        for index, kind in enumerate(kinds):
            colour, marker = PALETTE[index % len(PALETTE)], markers[index // len(PALETTE)]
            label = kind_name(kind)
            for result in (result for result in numbers.tasks if result["group"] == kind):
                metric = next(iter(result["metrics"].values()))
                difference = metric["strata"].get(stratum, {}).get("difference")
                if difference is None or difference["value"] is None:
                    continue
                factor = 100 / metric["scale"]
                gap = factor * (metric["large"]["value"] - metric["strata"][BASELINE]["quality_small"]["value"])
                bounds = [factor * difference["lower"], factor * difference["upper"]]
                is_clear = bool(excludes_zero(*bounds))
                axes.plot([gap, gap], bounds, color=colour, linewidth=0.8, alpha=0.45)
                axes.plot(gap, factor * difference["value"], marker, color=colour, markersize=5, label=label,
                          markerfacecolor=colour if is_clear else PAPER)  # fmt: skip
                label = "_nolegend_"
        axes.axhline(0, color=GREY, linewidth=1)
        axes.set_xlabel(f"quality of L − quality of S trained with {BASELINE}, in % of the metric's range")
        axes.set_ylabel(f"audc of {stratum} minus {BASELINE}, %")
        figure.legend(loc="outside right center", fontsize=9, title="filled: interval\nwithout 0")
    return figure


def losses_in_order(numbers: Numbers) -> list[str]:
    """All strata, xent first, then in the order of the sweep's space: no test number sorts them."""
    wanted: list[str] = numbers.results[0]["wanted"]["strata"]
    return sorted(wanted, key=lambda name: (name != BASELINE, wanted.index(name)))
