"""The generated blocks of docs/results.md: tables, and sentences that say no more than their numbers allow."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from figures import in_order, kind_name, losses_in_order
from measures import (
    CAT,
    CONTROL,
    RULE_STRATA,
    Numbers,
    by_rate,
    chain_lines,
    compared,
    macro_audc,
    rule_lines,
    without,
)

from catsweep.comparing import ALPHA, excludes_zero, is_clear
from catsweep.report.comparison import macro_rows, percent_interval, points_interval, spent_rows
from catsweep.report.gain import GAIN_NOTE, gain_rows
from catsweep.report.tables import MISSING
from catsweep.report.verdicts import macro_verdict
from catsweep.spec.base import Json
from catsweep.spec.search import BASELINE

ENOUGH_TASKS = 6
DISTILLATION = "dist"
ABLATIONS = Path(__file__).parents[2] / "search_spaces" / "ablations"


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table; the first column is text, all others are numbers."""
    lines = ["| " + " | ".join(header) + " |", "|---|" + "---:|" * (len(header) - 1)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)])


def bold_if_clear(item: Json) -> str:
    """A difference in percent of the range with its interval, bold where that excludes 0."""
    text = points_interval(item).replace("\u00a0", " ")
    return f"**{text}**" if excludes_zero(item["lower"], item["upper"]) else text


def p_text(item: Json) -> str:
    """p after Holm's correction, or bare where the comparison is the primary one."""
    value = item.get("p_value_holm", item["p_value"])
    return f"{value:.2g}" + ("" if "p_value_holm" in item else " (bare)")


def listed(names: Sequence[str]) -> str:
    """`a, b and c`."""
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1] if names else ""]))


def code(names: Sequence[str]) -> list[str]:
    return [f"`{name}`" for name in names]


def primary(numbers: Numbers) -> str:
    """What was asked before the run, and its answer."""
    kinds = [kind_name(kind) for kind in sorted({result["group"] for result in numbers.tasks}, key=in_order)]
    verdicts = macro_verdict(numbers.summary)
    text = [f"**{verdicts[0].text}**"]
    item = numbers.summary["macro"].get(CAT)
    if item is not None:
        text.append(f"p = {item['p_value']:.2g}. It is a statement on {listed(kinds)}, for these two sizes of model.")
    return " ".join([*text, *(verdict.text for verdict in verdicts[1:])])


def setup(numbers: Numbers) -> str:
    """What was run, and the budget of each loss."""
    budget = numbers.summary["budget"]
    runs = [run for run in numbers.runs if run["status"] == "finished"]
    trials = sum(run["role"] == "trial" for run in runs)
    others = len(numbers.runs) - len(runs)
    kinds = {result["group"] for result in numbers.results}
    small = len(numbers.results) - len(numbers.tasks)
    left_out = f" ({small} with too few test rows for means over tasks)" if small else ""
    sentence = (
        f"{len(numbers.results)} tasks of {len(kinds)} kinds{left_out}, {len(budget['strata'])} losses: {trials:,} trials and "
        f"{len(runs) - trials:,} confirmed runs finished, {others} did not. A trial or run took "
        f"{sorted(run['seconds'] for run in runs)[len(runs) // 2]:.1f} s in the median, evaluation included."
    )
    rows = []
    for row in spent_rows(budget):
        name = row["stratum"] if row["trials"] == MISSING else f"`{row['stratum']}`"
        rows.append([name, row["trials"], row["steps"], row["spent"], row["flops"]])
    return sentence + "\n\n" + table(["", "trials", "steps of a trial", "steps spent", "training"], rows)


def losses(numbers: Numbers) -> str:
    """Every loss against xent: one line each."""
    macro, ranks = numbers.summary["macro"], numbers.summary["mean_rank"]["strata"]
    by_name = {row["stratum"].removesuffix(" (primary)"): row for row in macro_rows(numbers.summary)}
    rows = []
    for name in losses_in_order(numbers):
        area = macro_audc(numbers, name)
        rank = f"{ranks[name]:.2f}" if name in ranks else MISSING
        first = [f"`{name}`", MISSING if area is None else f"{100 * area:.2f}"]
        if name not in macro:
            rows.append([*first, MISSING, MISSING, MISSING, MISSING, rank, MISSING])
            continue
        row, item = by_name[name], macro[name]
        rows.append([*first, bold_if_clear(item), p_text(item), row["counts"], row["holm"], rank, row["saved"]])
    header = ["loss", "audc", f"− `{BASELINE}`", "p (Holm)", "won / tied / lost", "clear after Holm", "mean rank",
              "FLOPs saved (quality)"]  # fmt: skip
    return table(header, [[cell.replace("\u00a0", " ") for cell in row] for row in rows])


def reference_table(numbers: Numbers, reference: str, quantities: Sequence[str] = ("audc", "A1", "A2")) -> str:
    """Every loss against a reference: macro differences of audc and of its two halves."""
    found = {quantity: compared(numbers, quantity, reference)["macro"] for quantity in quantities}
    names = [name for name in losses_in_order(numbers) if name in found[quantities[0]]]
    rows = []
    for name in names:
        cells = []
        for quantity in quantities:
            item = found[quantity].get(name)
            cells += [MISSING, MISSING] if item is None else [bold_if_clear(item), p_text(item)]
        if "audc" in quantities:
            counts = found["audc"][name]["counts"]
            cells.append(f"{counts['won']} / {counts['tied']} / {counts['lost']}")
        rows.append([f"`{name}`", *cells])
    columns = [text for quantity in quantities for text in (f"{quantity} − `{reference}`", "p (Holm)")]
    return table(["loss", *columns, *(["won / tied / lost"] if "audc" in quantities else [])], rows)


def halves(numbers: Numbers) -> str:
    """Where the gain lies: what S keeps, or what L gets."""
    macro = {quantity: compared(numbers, quantity, BASELINE)["macro"].get(CAT) for quantity in ("A1", "A2")}
    if None in macro.values():
        return ""
    num = macro["A1"]["num_tasks"]
    words = []
    for quantity, item in macro.items():
        clear = excludes_zero(item["lower"], item["upper"])
        what = "not clearly changed" if not clear else "higher" if item["value"] > 0 else "lower"
        words.append(f"{quantity} is {what} ({points_interval(item)})".replace("\u00a0", " "))
    return (
        f"Under `{CAT}`, against `{BASELINE}`, on the {num} tasks whose metric is a mean: {listed(words)}. The paper reports a "
        "higher A1 and an unchanged A2."
    )


def kinds(numbers: Numbers, reference: str) -> str:
    """Every loss against a reference, a line for each kind."""
    macro = compared(numbers, "audc", reference)["macro"]
    names = [name for name in losses_in_order(numbers) if name in macro]
    found = sorted({kind for item in macro.values() for kind in item["kinds"]}, key=in_order)
    rows = []
    for kind in found:
        items = [macro[name]["kinds"].get(kind) for name in names]
        cells = [MISSING if item is None else bold_if_clear(item) for item in items]
        rows.append([kind_name(kind), str(max(item["num_tasks"] for item in items if item)), *cells])
    return table(["kind", "tasks", *code(names)], rows)


def kind_halves(numbers: Numbers) -> str:
    """audc and its halves of cat_xent/either against xent and dist, a line for each kind."""
    references = [BASELINE, DISTILLATION]
    found = [(quantity, compared(numbers, quantity, reference)["macro"].get(CAT, {"kinds": {}})["kinds"])
             for reference in references for quantity in ("audc", "A1", "A2")]  # fmt: skip
    names = sorted({kind for _, own in found for kind in own}, key=in_order)
    rows = [
        [kind_name(kind), *(bold_if_clear(own[kind]) if kind in own else MISSING for _, own in found)] for kind in names
    ]
    header = [f"{quantity} − `{reference}`" for reference in references for quantity in ("audc", "A1", "A2")]
    return table(["kind", *header], rows)


def limits(numbers: Numbers) -> str:
    """Where cascade-aware training does not help, and where distillation does better."""
    lines = []
    to_xent, to_dist = (compared(numbers, "audc", name)["macro"].get(CAT) for name in (BASELINE, DISTILLATION))
    if to_xent is not None:
        own = sorted(to_xent["kinds"].items(), key=lambda item: in_order(item[0]))
        groups: dict[str, list[str]] = {"clearly better": [], "not clearly different": [], "clearly worse": []}
        for kind, item in own:
            clear = excludes_zero(item["lower"], item["upper"])
            word = "not clearly different" if not clear else "clearly better" if item["value"] > 0 else "clearly worse"
            groups[word].append(f"{kind_name(kind)} ({100 * item['value']:+.2f})".replace("-", "−"))
        parts = [f"{word} on {listed(names)}" for word, names in groups.items() if names]
        lines.append(
            f"- By kind, `{CAT}` against `{BASELINE}`: {'; '.join(parts)}. A kind of one task has no interval."
        )
        counts = to_xent["counts"]
        lines.append(
            f"- Of {to_xent['num_tasks']} tasks it wins {counts['won']} and loses {counts['lost']}; after Holm's correction over "
            f"the tasks {counts['won_holm']} wins and {counts['lost_holm']} losses are left."
        )
        lines += lost(numbers, BASELINE)
    if to_dist is not None:
        clear = excludes_zero(to_dist["lower"], to_dist["upper"])
        word = "no clear difference" if not clear else "better" if to_dist["value"] > 0 else "worse"
        behind = [kind_name(kind) for kind, item in to_dist["kinds"].items() if item["value"] < 0]
        counts = to_dist["counts"]
        lines.append(
            f"- Against plain distillation (`{DISTILLATION}`): {word}, {points_interval(to_dist)} percent of the range over all "
            f"tasks; of {to_dist['num_tasks']} tasks {counts['won']} are won and {counts['lost']} lost. "
            + (f"Distillation is ahead on {listed(behind)}." if behind else "It is ahead on no kind.")
        )
        lines += lost(numbers, DISTILLATION)
    gains = {name: item["value"] for name, item in numbers.summary["macro"].items()}
    if gains:
        best = max(gains, key=lambda name: gains[name])
        if best != CAT:
            lines.append(f"- The highest macro audc is that of `{best}`, not of `{CAT}`.")
    return "\n".join(lines).replace("\u00a0", " ")


def lost(numbers: Numbers, reference: str) -> list[str]:
    """A line with the tasks on which cascade-aware training loses, by bare 95% intervals; none where there are none."""
    found = {
        result["task"]: numbers.further[result["task"]].get("audc", {}).get(reference, {}).get(CAT)
        for result in numbers.tasks
    }
    names = [
        name
        for name, item in found.items()
        if item is not None and item["upper"] is not None and item["upper"] < 0 and is_clear(item)
    ]
    return [f"- Tasks that it loses to `{reference}`: {listed(code(names))}."] if names else []


def control(numbers: Numbers) -> str:
    """Whether the filter's choice of tokens matters, or its kept share alone."""
    macro = numbers.summary["macro"]
    if CONTROL not in macro or CAT not in macro:
        return ""
    item = compared(numbers, "audc", CONTROL)["macro"][CAT]
    word = "0 lies outside" if excludes_zero(item["lower"], item["upper"]) else "the interval holds 0"
    return (
        f"`{CONTROL}` drops as many target tokens as `{CAT}`, but at random places: {points_interval(macro[CONTROL])} against "
        f"`{BASELINE}`. `{CAT}` minus `{CONTROL}` is {points_interval(item)} percent of the range ({word}; "
        f"p = {p_text(item)} after Holm's correction over the losses that are compared with `{CONTROL}`)."
    ).replace("\u00a0", " ")


def sensitivity(numbers: Numbers, flagged: dict[str, list[str]]) -> str:
    """The tasks that say little, and the primary difference without them."""
    if not flagged:
        return "No task is flagged."
    reasons: dict[str, list[str]] = {}
    for name, found in flagged.items():
        for reason in found:
            reasons.setdefault(reason, []).append(name)
    lines = [f"- {reason}: {listed(code(names))}." for reason, names in sorted(reasons.items())]
    left = without(numbers, list(flagged))
    item = left.summary["macro"].get(CAT)
    if item is not None:
        kinds_left = len({result["group"] for result in left.tasks})
        lines.append(
            f"- Without these {len(flagged)} tasks the primary difference is {points_interval(item)} percent of the range, over "
            f"{item['num_tasks']} tasks of {kinds_left} kinds (with all: {points_interval(numbers.summary['macro'][CAT])})."
        )
    return "\n".join(lines).replace("\u00a0", " ")


def rates(numbers: Numbers) -> str:
    """audc on validation by learning rate, and whether the best one lies at the grid's edge."""
    found = by_rate(numbers)
    grid = sorted({rate for own in found.values() for rate in own})
    rows, edges = [], []
    for name in losses_in_order(numbers):
        own = found.get(name, {})
        cells = [f"{100 * own[rate][0]:.2f} ({own[rate][1]})" if rate in own else MISSING for rate in grid]
        rows.append([f"`{name}`", *cells])
        if own and (best := max(own, key=lambda rate: own[rate][0])) in (grid[0], grid[-1]):
            edges.append(f"`{name}` ({best:g})")
    won = [sum(own.get(rate, (0.0, 0))[1] for own in found.values()) for rate in (grid[0], grid[-1])]
    total = sum(count for own in found.values() for _, count in own.values())
    edge = f"On average the best rate lies at the edge of the grid for {listed(edges)}." if edges else (
        "On average the best rate lies inside the grid for every loss."
    )  # fmt: skip
    edge += f" Of all winners {won[0] / total:.0%} have the lowest rate and {won[1] / total:.0%} the highest."
    return table(["loss", *(f"{rate:g}" for rate in grid)], rows) + "\n\n" + edge


def rules(numbers: Numbers) -> str:
    """The deferral rules, training held constant."""
    rows, better = [], []
    for line in rule_lines(numbers):
        own = line.to_mean[CAT]
        if excludes_zero(own["lower"], own["upper"]) and own["value"] > 0:
            better.append(f"`{line.rule}` (under which `{CAT}` minus `{BASELINE}` is {points_interval(line.gain)})")
        against = [MISSING if line.rule == "mean" else bold_if_clear(line.to_mean[name]) for name in RULE_STRATA]
        chosen = " / ".join(str(line.chosen[name]) for name in RULE_STRATA)
        rows.append([f"`{line.rule}`", str(line.num_tasks), *against, bold_if_clear(line.gain), chosen])
    first, second = RULE_STRATA
    header = ["rule", "tasks", f"− mean, `{first}`", f"− mean, `{second}`", f"`{second}` − `{first}` under it",
              "best on calibration (tasks)"]  # fmt: skip
    sentence = f"With `{CAT}`, clearly better than `mean`: {listed(better) if better else 'no rule'}."
    return table(header, rows) + "\n\n" + sentence.replace("\u00a0", " ")


def tasks(numbers: Numbers, flagged: dict[str, list[str]]) -> str:
    """One line a task: qualities alone, audc, and each loss's difference to xent."""
    names = [name for name in losses_in_order(numbers) if name != BASELINE]
    adjusted = numbers.summary["p_value_holm"]
    rows = []
    for result in numbers.results:
        metric_name, metric = next(iter(result["metrics"].items()))
        if BASELINE not in metric["strata"]:
            continue
        factor = 100 / metric["scale"]
        base = metric["strata"][BASELINE]
        cells = []
        for name in names:
            item = metric["strata"].get(name, {}).get("difference")
            p_value = adjusted.get(name, {}).get(result["task"], 1.0)
            cells.append(
                MISSING if item is None else difference_text(item, metric["scale"]) + ("*" if p_value < ALPHA else "")
            )
        mark = " †" if result["task"] in flagged else ""
        rows.append([
            f"{result['task']}{mark}", metric_name, f"{factor * base['quality_small']['value']:.1f}",
            f"{factor * metric['large']['value']:.1f}", f"{factor * base['audc']['value']:.1f}", *cells,
        ])  # fmt: skip
    return table(["task", "metric", "S", "L", f"audc `{BASELINE}`", *code(names)], rows)


def difference_text(item: Json, scale: float) -> str:
    """A task's difference with its half width, bold where its interval excludes 0."""
    if item["value"] is None:
        return MISSING
    value, half = 100 / scale * item["value"], 100 / scale * (item["upper"] - item["lower"]) / 2
    text = f"{value:+.1f} ±{half:.1f}".replace("-", "−")
    return f"**{text}**" if is_clear(item) else text


def every_task(numbers: Numbers) -> str:
    """Page of all paired differences: by reference and quantity a table of tasks and losses."""
    parts = [
        "# The study, task by task",
        "",
        "Written by `make results` from docs/results/study/*.parquet. Differences in percent of each metric's range, ± half of "
        "the 95% interval; bold: it excludes 0; *: p < 0.05 after Holm's correction over the tasks of a loss. A1, A2: see "
        "docs/results.md; of metrics that are no means there are none.",
    ]
    for reference in (BASELINE, DISTILLATION):
        for quantity in ("audc", "A1", "A2"):
            found = compared(numbers, quantity, reference)
            names = [name for name in losses_in_order(numbers) if name in found["macro"]]
            if not names:
                continue
            rows = []
            for result in numbers.results:
                own = numbers.further[result["task"]].get(quantity, {}).get(reference)
                if own is None:
                    continue
                scale = next(iter(result["metrics"].values()))["scale"]
                cells = []
                for name in names:
                    clear = found["p_value_holm"].get(name, {}).get(result["task"], 1.0) < ALPHA
                    cells.append(difference_text(own[name], scale) + "*" * clear if own.get(name) else MISSING)
                rows.append([result["task"], *cells])
            parts += ["", f"## {quantity} minus that of `{reference}`", "", table(["task", *code(names)], rows)]
    return "\n".join(parts) + "\n"


TITLES = {
    "filters": "Filters",
    "losses": "Losses",
    "noise": "Label noise",
    "crossfit": "Cross-fitting",
    "crossfit-holdout": "Holding data out, beside cross-fitting",
    "crossfit-seen": "A signal on data that L has seen",
    "encoder-decoder": "A pair of encoder-decoders",
    "chain": "A chain of three models",
    "federated": "Federated averaging",
}


def ablations(found: dict[str, Numbers]) -> str:
    """The sections of the ablations that have been run, and the names of the others."""
    if not found:
        return ""
    left = sorted({path.stem for path in ABLATIONS.glob("*.yaml")} - set(found))
    intro = (
        "Each is a sweep of its own (`make study-all`), on 12 tasks of nine kinds, with the study's models and 120 steps, "
        "unless its file says otherwise. With so few tasks only large differences show."
        + (f" Not run yet: {', '.join(code(left))}." if left else "")
    )
    return "\n\n".join(["## Ablations", intro, *(ablation(name, numbers) for name, numbers in found.items())])


def ablation(name: str, numbers: Numbers) -> str:
    """The section of one ablation."""
    counted = numbers.tasks
    kinds_counted = {result["group"] for result in counted}
    finished = sum(run["status"] == "finished" for run in numbers.runs)
    parts = [
        f"### {TITLES.get(name, name)}", "",
        f"`search_spaces/ablations/{name}.yaml`: {len(counted)} tasks of {len(kinds_counted)} kinds, {finished:,} runs.",
        "", losses(numbers),
    ]  # fmt: skip
    references = [
        stratum for stratum in losses_in_order(numbers) if stratum.split("/")[0] == BASELINE and stratum != BASELINE
    ]
    for reference in references:
        parts += ["", f"Against `{reference}`:", "", reference_table(numbers, reference, ("audc",))]
    lines: list[Any] = chain_lines(numbers)
    if lines:
        rows = [
            [f"`{line['stratum']}`", f"{line['share']:.0%}", str(line["num_tasks"]), bold_if_clear(line)]
            for line in lines
        ]
        parts += ["", "The chain of three minus the pair of models that is best on calibration, at a share of L's cost:", "",
                  table(["loss", "cost", "tasks", "quality, % of the range"], rows)]  # fmt: skip
    gains = gain_rows([], numbers.summary)
    if gains:
        rows = [
            [f"`{row.stratum}`", row.measure, *(f"**{cell}**" if kind else cell for cell, kind in row.cells)]
            for row in gains
        ]
        header = ["filter", "of", "gain", "noise removed", "easier tokens", "rest"]
        parts += ["", GAIN_NOTE, "", table(header, rows).replace("\u00a0", " ")]
    return "\n".join(parts)


def saved(numbers: Numbers) -> str:
    """FLOPs saved at equal quality, as sentences."""
    lines = []
    for name in losses_in_order(numbers):
        item = numbers.summary["macro"].get(name, {}).get("saved")
        if item is not None:
            quality = f"{100 * item['quality']:+.2f}".replace("-", "−")
            lines.append(
                f"- `{name}`: {percent_interval(item)} of `{BASELINE}`'s cost, at {quality} percent of the range in realised "
                f"quality, over {item['num_tasks']} tasks that have both thresholds."
            )
    return "\n".join(lines).replace("\u00a0", " ")
