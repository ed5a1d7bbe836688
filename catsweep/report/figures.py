"""Curves and differences as figures. What is drawn is worked out first (see report.lines); drawing computes nothing."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from catsweep.report.lines import CurveLines, Difference

INK = "#0a0b0c"
"""Stands for the text colour: black in a PNG, the page's own colour in an SVG."""
PAPER = "#fefefd"
"""Stands for the background inside hollow marks: white in a PNG, the page's own in an SVG."""
FAINT = 0.35
GREY = "#7f8790"
PALETTE = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#b3a100", "#8c6bb1")
"""Okabe and Ito's colours, told apart by most colour-blind readers; yellow is darker, so that it shows on white."""
FIXED = {
    "cat_xent/either": "#d55e00",
    "cat_dist/either": "#009e73",
    "cat_xent/shuffled": "#cc79a7",
    "cat_xent/large": "#e69f00",
    "dist": "#0072b2",
}
DASHES: tuple[Any, ...] = ("-", (0, (5, 1.5)), (0, (1, 1)), (0, (5, 1, 1, 1)))
STYLE = {
    "font.family": "sans-serif",
    "font.size": 10,
    "text.color": INK,
    "axes.edgecolor": GREY,
    "axes.labelcolor": INK,
    "axes.titlesize": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": GREY,
    "grid.alpha": 0.2,
    "xtick.color": INK,
    "ytick.color": INK,
    "legend.frameon": False,
    "svg.fonttype": "none",
    "svg.hashsalt": "catsweep",
}


def stratum_styles(strata: Sequence[str], baseline: str) -> dict[str, dict[str, Any]]:
    """Colour and dashes of each stratum: the same in every figure of a sweep, and for usual strata in every sweep."""
    free = [colour for colour in PALETTE if colour not in {FIXED[name] for name in strata if name in FIXED}] or PALETTE
    styles: dict[str, dict[str, Any]] = {}
    others = sorted(set(strata) - set(FIXED) - {baseline})
    for name in strata:
        if name == baseline:
            styles[name] = {"color": INK, "linestyle": (0, (4, 2)), "zorder": 4}
        elif name in FIXED:
            styles[name] = {"color": FIXED[name], "linestyle": "-", "zorder": 3}
        else:
            index = others.index(name)
            dashes = DASHES[index // len(free) % len(DASHES)]
            styles[name] = {"color": free[index % len(free)], "linestyle": dashes, "zorder": 3}
    return styles


def curves_figure(lines: CurveLines, styles: dict[str, dict[str, Any]]) -> Figure:
    """One task: quality against deferral rate, and beside it against cost."""
    with rc_context(STYLE):
        figure = Figure(figsize=(10.4, 4.6), layout="constrained")
        left, right = figure.subplots(1, 2, sharey=True)
        _draw_deferral(left, lines, styles)
        _draw_cost(right, lines, styles)
        right.set_ylabel("")
        figure.suptitle(lines.title, fontsize=12)
        entries = {label: handle for axes in (left, right) for handle, label in _entries(axes)}
        figure.legend(entries.values(), entries.keys(), loc="outside lower center", ncols=4, fontsize=9)
    return figure


def deferral_figure(lines: CurveLines, styles: dict[str, dict[str, Any]]) -> Figure:
    """One task: quality against deferral rate."""
    return _single(lines, styles, _draw_deferral)


def cost_figure(lines: CurveLines, styles: dict[str, dict[str, Any]]) -> Figure:
    """One task: quality against cost; the large model alone costs 1."""
    return _single(lines, styles, _draw_cost)


def forest_figure(differences: Sequence[Difference], styles: dict[str, dict[str, Any]], baseline: str) -> Figure:
    """Differences of audc to the baseline with their intervals, a block for each task, macro means last."""
    labels: list[tuple[float, str, str]] = []
    with rc_context(STYLE):
        figure = Figure(figsize=(6.4, 1.3 + 0.27 * (len(differences) + 1.3 * len({d.block for d in differences}))))
        figure.set_layout_engine("constrained")
        axes = figure.subplots()
        height, block = 0.0, ""
        for item in differences:
            if item.block != block:
                height, block = height + 1.3, item.block
                labels.append((height, item.block, "bold"))
            height += 1
            labels.append((height, item.stratum, "normal"))
            colour = styles[item.stratum]["color"]
            axes.plot([item.lower, item.upper], [height, height], color=colour, linewidth=2, solid_capstyle="butt")
            marker, size = ("D", 6) if item.is_macro else ("o", 5)
            face = colour if item.is_clear else PAPER
            axes.plot(item.value, height, marker, color=colour, markersize=size, markerfacecolor=face)
        axes.axvline(0, color=INK, linestyle=(0, (4, 2)), linewidth=1)
        axes.set_ylim(height + 0.8, 0.5)
        axes.set_yticks([place for place, _, _ in labels], [label for _, label, _ in labels])
        for tick, (_, _, weight) in zip(axes.get_yticklabels(), labels, strict=True):
            tick.set_fontweight(weight)
        axes.tick_params(axis="y", length=0)
        axes.grid(visible=False, axis="y")
        axes.set_xlabel(f"audc minus {baseline}, in % of the metric's range\n95% intervals; filled: 0 lies outside")
    return figure


def to_png(figure: Figure, dots_per_inch: int = 144) -> bytes:
    """The figure on white."""
    FigureCanvasAgg(figure)
    sink = io.BytesIO()
    figure.savefig(sink, format="png", dpi=dots_per_inch, facecolor="white")
    return sink.getvalue()


def to_svg(figure: Figure, title: str) -> str:
    """The figure as an <svg> element for a page: no background, text in the page's colour, as wide as its place.

    title: what it shows, for readers who do not see it; escaped here.
    """
    FigureCanvasSVG(figure)
    sink = io.StringIO()
    with rc_context(STYLE):
        figure.savefig(sink, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = sink.getvalue()
    text = text[text.index("<svg") :].replace(INK, "currentColor")
    text = text.replace(PAPER, "var(--paper, white)")
    text = re.sub(r' id="[A-Za-z0-9]+_\d+"', "", text)  # several figures stand on one page; nothing refers to these
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r' (?:width|height)="[\d.]+pt"| xmlns(?::\w+)?="[^"]*"| version="1.1"', "", text, count=5)
    escaped = title.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace('"', "&quot;")
    return text.replace("<svg", f'<svg role="img" aria-label="{escaped}"', 1)


def _single(lines: CurveLines, styles: dict[str, dict[str, Any]], draw: Any) -> Figure:
    with rc_context(STYLE):
        figure = Figure(figsize=(5.4, 5.2), layout="constrained")
        axes = figure.subplots()
        draw(axes, lines, styles)
        handles, labels = zip(*[(handle, label) for handle, label in _entries(axes)], strict=True)
        figure.legend(handles, labels, loc="outside lower center", ncols=2, fontsize=9)
    return figure


def _draw_deferral(axes: Axes, lines: CurveLines, styles: dict[str, dict[str, Any]]) -> None:
    _draw(axes, lines, styles, dict.fromkeys(lines.quality, lines.percents))
    axes.plot(lines.percents, lines.random_quality, color=GREY, linestyle=(0, (1, 1.5)), label=lines.random_label)
    axes.plot(lines.percents, lines.oracle_quality, color=GREY, linestyle="-", linewidth=1, label=lines.oracle_label)
    axes.plot(100, lines.quality_large, "D", color=INK, markersize=7, label="L alone", clip_on=False, zorder=5)
    axes.set_xlim(0, 100)
    axes.set_xlabel("queries deferred to the large model (%)")


def _draw_cost(axes: Axes, lines: CurveLines, styles: dict[str, dict[str, Any]]) -> None:
    _draw(axes, lines, styles, lines.cost_share)
    axes.plot(
        lines.random_cost_share, lines.random_quality, color=GREY, linestyle=(0, (1, 1.5)), label=lines.random_label
    )
    axes.plot(
        lines.oracle_cost_share, lines.oracle_quality, color=GREY, linestyle="-", linewidth=1, label=lines.oracle_label
    )
    axes.plot(
        lines.router_cost_share, lines.router_quality, color=GREY, linestyle=(0, (3, 1, 1, 1)), label=lines.router_label
    )
    axes.axvline(1, color=GREY, linewidth=1)
    axes.plot(1, lines.quality_large, "D", color=INK, markersize=7, label="L alone", zorder=5)
    axes.set_xlim(left=0)
    axes.set_xlabel(lines.cost_label)


def _draw(axes: Axes, lines: CurveLines, styles: dict[str, dict[str, Any]], across: dict[str, list[float]]) -> None:
    any_dearer = False
    for name, quality in lines.quality.items():
        within = lines.num_within_large_cost(name)
        axes.plot(across[name][:within], quality[:within], label=name, linewidth=1.8, **styles[name])
        if within < len(quality):  # fainter where the cascade costs more than the large model alone
            start, dearer = max(0, within - 1), {**styles[name], "alpha": FAINT}
            axes.plot(across[name][start:], quality[start:], linewidth=1.8, **dearer)
            any_dearer = True
        axes.plot(across[name][0], quality[0], "o", color=styles[name]["color"], markersize=6, clip_on=False, zorder=5)
    axes.plot([], [], "o", color=GREY, markersize=6, label="S alone")
    if any_dearer:
        axes.plot([], [], color=GREY, linewidth=1.8, alpha=FAINT, label="costs more than L alone")
    axes.set_ylabel(lines.quality_label)


def _entries(axes: Axes) -> list[tuple[Any, str]]:
    handles, labels = axes.get_legend_handles_labels()
    return list(zip(handles, labels, strict=True))
