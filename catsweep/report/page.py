"""The report of a sweep: one HTML page that needs nothing else, made of the results and records on storage."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from statistics import median
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from catsweep.curves import Recomputation, results_folder, results_on_storage, with_macros
from catsweep.records import TrialRecord, existing_sweep, read_json, read_records, write_atomic
from catsweep.redact import redact
from catsweep.report.chain import CHAIN_NOTE, chain_rows
from catsweep.report.comparison import amount, kind_table, macro_rows, spent_rows
from catsweep.report.figures import cost_figure, deferral_figure, forest_figure, stratum_styles, to_svg
from catsweep.report.gain import DETECTOR_NOTE, GAIN_NOTE, detector_rows, gain_rows
from catsweep.report.lines import METRIC_LABELS, MIN_MACRO_TASKS, all_strata, cost_lines, curve_lines, forest
from catsweep.report.rules import RULE_NOTE, cost_cells, cost_rows, latency_notes, rule_cells, rule_rows
from catsweep.report.runs import model_label
from catsweep.report.tables import (
    MISSING,
    ResultRow,
    interval,
    notes,
    number,
    percent,
    results_table,
    saved_at_large,
    saved_vs_baseline,
    shortfalls,
    stratum_label,
)
from catsweep.report.verdicts import macro_verdict, quality_kind, task_verdict
from catsweep.spec.base import Json
from catsweep.spec.cascade import UNITS
from catsweep.spec.search import BASELINE, ObjectiveSpec, lower_is_better
from catsweep.spec.sweep import SweepSpec

MAX_PROBLEMS = 50
MAX_COST_LINES = 12


def write_report(root: Path, sweep: str, other: Recomputation | None = None) -> Path:
    """Write <root>/<sweep>/report.html, or that beside the results of other settings, and return its path. Raises
    StorageError where curves have not been computed."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    path = (results_folder(root, sweep, other) if other else root / sweep) / "report.html"
    write_atomic(path, environment.get_template("page.html").render(page_content(root, sweep, other)))
    return path


def page_content(root: Path, sweep: str, other: Recomputation | None = None) -> dict[str, Any]:
    """Everything that the page shows, as text; figures as SVG."""
    found = existing_sweep(root / sweep)
    spec = found[0].model_copy(update={"cascade": other.cascade}) if other else found[0]
    results, summary = results_on_storage(root, sweep, other)
    records = [*read_records(root / sweep, "trials"), *read_records(root / sweep, "confirm")]
    rows = results_table(results, summary)
    strata = all_strata(results)
    styles = stratum_styles(strata, BASELINE)
    differences = forest(rows, summary)
    figure = to_svg(forest_figure(differences, styles, BASELINE), f"differences of audc to {BASELINE}")
    return {
        "sweep": sweep,
        "strata": strata,
        "baseline": BASELINE,
        "verdicts": macro_verdict(summary),
        "cost_unit": UNITS[spec.cascade.costs[0].kind],
        "rule_note": RULE_NOTE,
        "budget": [*_budget(spec, results), *_mixtures(root / sweep, summary)],
        "num_tasks": len(results),
        "tasks": [
            _task(result, [r for r in rows if r.task == result["task"]], spec, styles)
            for result in with_macros(results, summary)
        ],
        "notes": [*notes(rows), *shortfalls(results), *_warnings(root / sweep, results)],
        "macro": macro_rows(summary),
        "kinds": kind_table(summary),
        "spent": spent_rows(summary["budget"]),
        "chain_note": CHAIN_NOTE,
        "gains": gain_rows(results, summary),
        "gain_note": GAIN_NOTE,
        "detectors": detector_rows(results),
        "detector_note": DETECTOR_NOTE,
        "few_tasks": f"With fewer than {MIN_MACRO_TASKS} tasks no claim is made: so few numbers can agree by chance.",
        "forest": Markup(figure) if differences else "",
        **_problems(root / sweep, records),
        "commands": _commands(root / sweep),
        "versions": _versions(records),
        "spec": redact(json.dumps(spec.to_json(), indent=1, ensure_ascii=False)),
    }


def _budget(spec: SweepSpec, results: list[Json]) -> list[tuple[str, str]]:
    search, data = spec.search, spec.to_json()
    scheduler = data["search"]["scheduler"]
    stopping = f"; ASHA from step {scheduler['grace_period']} on" if scheduler["type"] == "asha" else ""
    facts = [
        ("trials", f"{search.num_samples} for each task and stratum, of at most {spec.training.steps} steps{stopping}"),
        ("confirmed", f"the best trial of each stratum, with {search.confirm_seeds} new seeds"),
        ("chosen by", f"{_objectives(spec)} on validation, deferral rule {spec.cascade.deferral[0]}"),
        ("small model S", model_label(data["small"])),
        ("large model L", model_label(data["large"]) + _finetune(data["large"].get("finetune"))),
    ]
    if (noise := spec.data.label_noise) is not None:
        seen = "L trains on clean ones" if noise.clean_large else "L trains on them too"
        text = (
            f"{percent(noise.rate)} of the training labels or target tokens are wrong on purpose ({noise.kind}); {seen}"
        )
        facts.append(("label noise", text))
    return [*facts, *_costs(results)]


def _costs(results: list[Json]) -> list[tuple[str, str]]:
    """What L costs beside S: a line a task, or one for many."""
    costs = {}
    for result in results:
        metric = next(iter(result["metrics"].values()))
        if metric["strata"]:
            small = next(iter(metric["strata"].values()))["cost_small_flops"]
            costs[result["task"]] = (small, metric["large"]["cost_flops"])
    if len(costs) > MAX_COST_LINES:
        factors = sorted(large / small for small, large in costs.values())
        text = f"a query costs L {factors[0]:.1f} to {factors[-1]:.1f} times as many FLOPs as S, by task"
        return [("cost", f"{text}; {median(factors):.1f} in the median")]
    return [
        (f"cost, {task}", f"L {amount(large)}FLOPs a query, S {amount(small)}FLOPs: {large / small:.1f} times as much")
        for task, (small, large) in costs.items()
    ]


def _warnings(folder: Path, results: list[Json]) -> list[str]:
    """What was warned of while the sweep ran: by its tasks' data and signals, and by runs that a filter left nothing."""
    prepared = [read_json(path) for path in sorted((folder / "prepared").rglob("*.json"))]
    texts = [text for facts in prepared for text in facts.get("warnings", [])]
    starved = [text for result in results for facts in result["strata"].values() for text in facts.get("warnings", [])]
    lines = list(dict.fromkeys([*texts, *starved]))
    more = [f"... and {len(lines) - MAX_PROBLEMS} warnings more."] if len(lines) > MAX_PROBLEMS else []
    return [f"Warning: {redact(text)}" for text in lines[:MAX_PROBLEMS]] + more


def _mixtures(folder: Path, summary: Json) -> list[tuple[str, str]]:
    """Each mixture's members with their shares, and what was dropped of them."""
    facts = []
    for macro in summary.get("mixtures", []):
        prepared = read_json(folder / "prepared" / f"{macro['task']}.json")
        shares = ", ".join(f"{task} {percent(rate)}" for task, rate in prepared["rates"].items())
        dropped = sum(sum(found.values()) for found in prepared["num_dropped"].values())
        text = f"one S, and one L, trained on {shares}; {dropped:,} training examples dropped that another member shows"
        facts.append((f"mixture {macro['task']}", text))
    return facts


def _finetune(finetune: Json | None) -> str:
    if finetune is None:
        return ", used as it is"
    text = f", fine-tuned for {finetune['steps']} steps on each task; "
    if "holdout" in finetune:
        return f"{text}{percent(finetune['holdout'])} of the training groups are kept from it for S"
    if "cross_fit" in finetune:
        return (
            f"{text}its signal is cross-fitted with {finetune['cross_fit']} fold models; it and S train on all groups"
        )
    return f"{text}its signal is that on targets which it was trained on, better than it is in use"


def _task(result: Json, rows: list[ResultRow], spec: SweepSpec, styles: dict[str, dict[str, Any]]) -> dict[str, Any]:
    lines = curve_lines(result)
    figures = []
    if lines is not None:
        figures = [
            to_svg(deferral_figure(lines, styles), f"{result['task']}: quality against deferral rate"),
            to_svg(cost_figure(lines, styles), f"{result['task']}: quality against cost"),
        ]
        for cost in result.get("costs", [])[1:]:
            own = cost_lines(result, cost["kind"])
            figures.append(to_svg(cost_figure(own, styles), f"{result['task']}: quality against {cost['kind']}"))
    rules = rule_rows(result)
    scale = next(iter(result["metrics"].values()))["scale"]
    metric = next(iter(result["metrics"]))
    return {
        "name": result["task"],
        "group": result["group"],
        "metric": METRIC_LABELS.get(metric, metric),
        "is_small": any(row.is_small for row in rows),
        "num_rows": ", ".join(f"{count} {split}" for split, count in result["num_rows"].items()),
        "rows": [_row(row) for row in rows],
        "verdict": task_verdict(result, rows, lower_is_better=lower_is_better(spec.search.objectives[0])),
        "figures": [Markup(figure) for figure in figures],
        "rules": [rule_cells(row) for row in rules],
        "rule_reference": rules[0].reference if rules else "",
        "costs": [cost_cells(row, scale) for row in cost_rows(result)],
        "cost_notes": latency_notes(result),
        "chain": chain_rows([result]),
        "metrics": [METRIC_LABELS.get(name, name) for name in result["metrics"]],
        "pareto": _pareto(result, spec),
        "winners": [_winner(result, stratum) for stratum in sorted(result["strata"], key=lambda s: (s != BASELINE, s))],
    }


def _row(row: ResultRow) -> dict[str, str]:
    return {
        "stratum": stratum_label(row),
        "small": number(row.quality_small, row.scale),
        "large": number(row.quality_large, row.scale),
        "audc": interval(row.audc, row.audc_lower, row.audc_upper, row.scale),
        "difference": interval(row.difference, row.difference_lower, row.difference_upper, row.scale, sign=True),
        "kind": quality_kind(row.difference, row.differs),
        "saved": saved_vs_baseline(row, precise=True),
        "saved_at_large": saved_at_large(row),
        "steps": f"{row.num_steps:,}",
        "kept": percent(row.kept_share),
    }


def _winner(result: Json, stratum: str) -> dict[str, Any]:
    facts = result["strata"][stratum]
    audcs = []
    for metric in result["metrics"].values():
        found = metric["strata"].get(stratum)
        audcs.append(number(found["audc"]["value"], metric["scale"]) if found else MISSING)
    parameters = facts["winner"]["parameters"].items()
    return {
        "stratum": stratum,
        "number": facts["winner"]["number"],
        "objective": f"{facts['winner']['objective']:.4g}",
        "parameters": ", ".join(f"{name} {_short(value)}" for name, value in parameters),
        "trials": ", ".join(f"{count} {status}" for status, count in sorted(facts["statuses"].items())),
        "audcs": audcs,
    }


def _pareto(result: Json, spec: SweepSpec) -> dict[str, Any] | None:
    """Of two objectives: the search trials of each stratum that no other one beats in one without losing in the other."""
    if len(spec.search.objectives) < 2:
        return None
    rows = [
        {
            "stratum": stratum,
            "number": trial["number"],
            "values": [f"{value:.4g}" for value in trial["objectives"]],
            "parameters": ", ".join(f"{name} {_short(value)}" for name, value in trial["parameters"].items()),
        }
        for stratum in sorted(result["strata"], key=lambda name: (name != BASELINE, name))
        for trial in result["strata"][stratum].get("pareto", [])
    ]
    return {"names": [objective_label(objective) for objective in spec.search.objectives], "rows": rows}


def _objectives(spec: SweepSpec) -> str:
    first, *second = [objective_label(objective) for objective in spec.search.objectives]
    return first if not second else f"{first} (its best trial is confirmed) and {second[0]}"


def objective_label(objective: ObjectiveSpec) -> str:
    """An objective with its number: `cost_at_quality, gap 0.8`."""
    fields = objective.model_dump(exclude={"kind"}, exclude_none=True)
    return ", ".join([objective.kind, *(f"{name} {value:g}" for name, value in fields.items())])


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _problems(folder: Path, records: list[TrialRecord]) -> dict[str, Any]:
    counts = Counter(record.status for record in records)
    bad = [record for record in records if record.status in ("failed", "diverged")]
    problems = [_problem(record.trial_id, record.status, record.error) for record in bad]
    for path in sorted((folder / "prepare").rglob("*.json")):
        unit = read_json(path)
        if unit["error"]:
            problems.insert(0, _problem(unit["task"], "not prepared", unit["error"]))
    return {
        "problems": problems[:MAX_PROBLEMS],
        "num_diverged": counts["diverged"],
        "num_failed": counts["failed"],
        "num_stopped": counts["stopped"],
        "num_records": len(records),
    }


def _problem(name: str, status: str, error: str) -> dict[str, str]:
    return {"name": name, "status": status, "error": redact((error.strip().splitlines() or [""])[-1])[:500]}


def _commands(folder: Path) -> str:
    """How to go on with a sweep. Its file and overrides are those of the last run that a person started."""
    path = folder / "command.json"
    run = read_json(path)["run"] if path.exists() else f"{folder.name}.yaml"
    return "\n".join([
        f"catsweep run {run}        # goes on where it stopped; a finished sweep is only read",
        f"catsweep curves {folder.name}          # all numbers again, from the rows on storage",
        f"catsweep report {folder.name}          # this page",
    ])  # fmt: skip


def _versions(records: list[TrialRecord]) -> list[tuple[str, str]]:
    """Versions, commit and device of the runs; several where runs differ."""
    found: dict[str, dict[str, None]] = {}
    for record in records:
        facts = {name: record.facts.get(name) for name in ("commit", "python", "device")}
        for name, value in {**facts, **record.facts.get("versions", {})}.items():
            if value:
                found.setdefault(name, {})[str(value)] = None
    return [(name, ", ".join(values)) for name, values in found.items()]
