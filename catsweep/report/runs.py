"""What a tracking server is told about each run of a sweep, as plain data; no server is known here."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple
from urllib.parse import quote

from catsweep.curves import first_metric
from catsweep.records import TrialRecord, read_json, read_steps
from catsweep.redact import redact
from catsweep.report.tables import ResultRow
from catsweep.spec.base import Json, digest
from catsweep.spec.sweep import SweepSpec

RunStatus = Literal["FINISHED", "KILLED", "FAILED"]
STATUSES: dict[str, RunStatus] = {
    "finished": "FINISHED",
    "stopped": "KILLED",  # by early stopping
    "diverged": "FAILED",
    "failed": "FAILED",
}
CURVES = ("quality", "cost_share", "small_kept_quality", "large_deferred_quality")
"""Curves that are logged as metrics; points.json has all."""
NAME_COLUMN = "tags.`mlflow.runName`"
SHORT_RUN_STEPS = 25
MAX_VALUE = 5_000
"""Longer values of parameters and tags are cut: tracking servers have limits."""


class Point(NamedTuple):
    """One value of a metric. at: seconds since the epoch."""

    name: str
    value: float
    at: float
    step: int


@dataclass(frozen=True)
class RunContent:
    """One run. key: its trial_id, or what stands for it, unique in the sweep.

    started_at, ended_at: seconds since the epoch. dataset: name, digest and profile of what it was trained on. files:
    artifacts by name, as a file on storage or as a function that makes them.
    """

    key: str
    name: str
    status: RunStatus
    started_at: float
    ended_at: float
    tags: dict[str, str]
    params: dict[str, str] = field(default_factory=dict)
    points: list[Point] = field(default_factory=list)
    dataset: tuple[str, str, Json] | None = None
    files: dict[str, Path | Callable[[], bytes]] = field(default_factory=dict)

    def digest(self) -> str:
        """A key that changes when anything but a time does: a run that carries it needs no second writing."""
        points = [[point.name, point.value, point.step] for point in self.points]
        return digest([2, self.name, self.status, self.tags, self.params, points, sorted(self.files)])


def metric_name(text: str) -> str:
    """The text as a key that every tracking server accepts: letters, digits and `/_.- `."""
    return re.sub(r"[^\w/.\- ]", "_", text.replace(":", "-").replace("<=", "_").replace(">=", "_"), flags=re.ASCII)[
        :250
    ]


def flatten(value: Any, path: str = "") -> dict[str, str]:
    """Nested settings as text by dotted path; lists are JSON."""
    if isinstance(value, dict):
        return {name: text for key, child in value.items() for name, text in flatten(child, _join(path, key)).items()}
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return {metric_name(path): redact(text)[:MAX_VALUE]}


def trial_run(folder: Path, record: TrialRecord, prepared: Path) -> RunContent:
    """A trial or a confirm run, from what lies in its folder. prepared: the file that names its task's data."""
    path = folder / "spec.json"
    spec = read_json(path) if path.exists() else {}
    models = {name: model_label(spec[name]) for name in ("small", "large") if name in spec}
    seed = f" seed {record.seed}" if record.role == "confirm" else ""
    rows = folder / "rows.parquet"
    tags = run_tags(record.role, record.task, record.stratum, record.trial_id)
    tags |= {"catsweep.seed": str(record.seed), "catsweep.status": record.status}
    if record.facts.get("commit"):
        tags |= {"catsweep.commit": record.facts["commit"], "mlflow.source.git.commit": record.facts["commit"]}
    if record.error:
        tags |= {"catsweep.error": redact(record.error)[-MAX_VALUE:]}
        tags |= {"mlflow.note.content": redact(record.error.strip().splitlines()[-1])[:MAX_VALUE]}
    return RunContent(
        key=record.trial_id,
        name=f"{record.task} {record.stratum} #{record.number}{seed}",
        status=STATUSES[record.status],
        started_at=record.started_at,
        ended_at=record.ended_at,
        tags=tags,
        params=models | flatten(spec.get("training", {})) | flatten(record.parameters),
        points=list(_trial_points(folder, record)),
        dataset=_dataset(prepared, record.task),
        files={"rows.parquet": rows} if record.role == "confirm" and rows.is_file() else {},
    )


def run_tags(role: str, task: str, stratum: str, key: str) -> dict[str, str]:
    """The tags by which runs are found and compared."""
    return {
        "catsweep.role": role,
        "catsweep.task": task,
        "catsweep.stratum": stratum,
        "catsweep.trial_id": key,
        "mlflow.source.name": "catsweep",
    }


def model_label(spec: Json) -> str:
    """A model in a word: its checkpoint, or the type that its config names."""
    return str(spec.get("pretrained") or f"{spec['config'].get('model_type')} from scratch")


def _trial_points(folder: Path, record: TrialRecord) -> Iterator[Point]:
    seen = set()
    for line in logged_lines(read_steps(folder), record.ended_at - record.started_at):
        step, at = int(line["step"]), line.get("at", record.ended_at)
        for name, value in line.items():
            if name.startswith(("train/", "validation/")):
                seen.add(name)
                yield Point(metric_name(name), value, at, step)
    for name, value in record.metrics.items():
        if name not in seen:
            yield Point(metric_name(name), value, record.ended_at, record.num_steps)
    if record.objective is not None and "validation/objective" not in seen:
        yield Point("validation/objective", record.objective, record.ended_at, record.num_steps)
    yield Point("run/wall_seconds", record.ended_at - record.started_at, record.ended_at, record.num_steps)
    yield Point("run/train_flops", record.train_flops, record.ended_at, record.num_steps)


def logged_lines(lines: list[dict[str, float]], wall_seconds: float) -> list[dict[str, float]]:
    """The lines of steps.jsonl that become points: all, but of a run of less than a minute some `SHORT_RUN_STEPS`, evenly, and
    those with an evaluation. MLflow writes a thousand points in a quarter of a second of the driver's time, and steps.jsonl
    keeps all of them."""
    every = max(1, len(lines) // SHORT_RUN_STEPS) if wall_seconds < 60 else 1
    return [
        line
        for number, line in enumerate(lines, 1)
        if number % every == 0 or any(name.startswith("validation/") for name in line)
    ]


def _dataset(path: Path, task: str) -> tuple[str, str, Json] | None:
    if not path.exists():
        return None
    facts = read_json(path)
    return task, facts["keys"]["data"], {"num_rows": facts["num_rows"], "keys": facts["keys"]}


def confirmed_points(result: Json, trial_id: str, at: float) -> list[Point]:
    """Test numbers of one confirm run: all of the first deferral rule, and audc of the others, which stand in the name;
    of a mixture's member as `test/<task>/...`."""
    points = []
    member = f"{result['member']}/" if "member" in result else ""
    for index, (metric, found) in enumerate(result["metrics"].items()):
        runs = [
            (rule, run)
            for stratum in found["strata"].values()
            for rule, runs in stratum["rules"].items()
            for run in runs
            if run["trial_id"] == trial_id
        ]
        for rule, run in runs:
            values = {f"{metric}_audc_{rule}": run["audc"]}
            if rule == result["rules"][0]:
                values = {metric: run["quality_small"], f"{metric}_audc": run["audc"]}
                values |= _run_values(run) if index == 0 else {}
            points += [Point(metric_name(f"test/{member}{k}"), v, at, 0) for k, v in values.items() if v is not None]
    return points


def _run_values(run: Json) -> dict[str, float | None]:
    names = ("audc", "apgr", "quality_oracle", "aurc", "auroc", "ece", "aiq")
    values = {name: run.get(name) for name in names}  # a mixture's macro result has audc alone
    values |= {f"cpt{percent}": found for percent, found in run.get("cpt", {}).items()}
    for point, found in run["operating"].items():
        if found is not None:
            values |= {f"{point}_{name}": found[name] for name in ("quality", "cost_share", "deferral_rate")}
    return values


def curves_run(result: Json, row: ResultRow, at: float, colour: str, picture: Callable[[], bytes]) -> RunContent:
    """The mean curve of a (task, stratum): the step of its metrics is the share of deferred queries in percent.

    colour: of the run in MLflow's charts. picture: makes the task's figure as PNG. The costs are those of the first cost
    model; where there are others, costs.json has all of them, and deferral_rules.json the other rules.
    """
    key = f"curves/{row.task}/{row.stratum.replace('/', '+')}"
    curve = first_metric(result)[1]["strata"][row.stratum]["curve"]
    winner = result["strata"][row.stratum]["winner"]
    points = [
        Point(f"cascade/{name}", value, at, percent)
        for name in CURVES
        for percent, value in enumerate(curve[name])
        if value is not None
    ]
    numbers = {name: value for name, value in vars(row).items() if isinstance(value, float) and name != "scale"}
    points += [Point(f"test/{name}", value, at, 0) for name, value in numbers.items()]
    dearer = [share > 1.0 + 1e-9 for share in curve["cost_share"]]
    columns = ["deferral_percent", *curve, "exceeds_large_cost"]
    table = {"columns": columns, "data": [list(line) for line in zip(range(101), *curve.values(), dearer, strict=True)]}
    entry = first_metric(result)[1]["strata"][row.stratum]
    costs = [cost["kind"] for cost in result.get("costs", [])]
    more = {"deferral_rules.json": entry.get("deferral"), "costs.json": entry.get("costs") if len(costs) > 1 else None}
    tags = run_tags("curves", row.task, row.stratum, key) | {
        "catsweep.rules": ",".join(result["rules"]),
        "catsweep.costs": ",".join(costs),
        "catsweep.metric": row.metric,
        "mlflow.runColor": colour,
        "mlflow.loggedArtifacts": json.dumps([{"path": "points.json", "type": "table"}]),
    }
    return RunContent(
        key=key,
        name=f"{row.task} {row.stratum}",
        status="FINISHED",
        started_at=at,
        ended_at=at,
        tags=tags,
        params=flatten(winner["parameters"]) | {"winner": str(winner["number"]), "num_seeds": str(row.num_seeds)},
        points=points,
        files={
            "points.json": lambda: json.dumps(table).encode(),
            "curve.png": picture,
            **{name: partial(_as_bytes, content) for name, content in more.items() if content is not None},
        },
    )


def _as_bytes(content: Json) -> bytes:
    return json.dumps(content, indent=1, ensure_ascii=False).encode()


def sweep_params(spec: SweepSpec) -> dict[str, str]:
    """What stays the same however often a sweep is extended."""
    data = spec.to_json()
    models = {"small": model_label(data["small"]), "large": model_label(data["large"])}
    fixed = {"training": data["training"], "objective": data["search"]["metric"], "sampler": data["search"]["sampler"]}
    return models | flatten(fixed) | {"deferral": spec.cascade.deferral[0]}


def sweep_points(summary: Json, at: float) -> list[Point]:
    """Macro differences of audc to the baseline with their intervals, in units of the metrics' range."""
    names = {"value": "", "lower": "_lower", "upper": "_upper"}
    return [
        Point(metric_name(f"macro/{stratum.replace('/', '-')}{suffix}"), macro[name], at, 0)
        for stratum, macro in summary["macro"].items()
        for name, suffix in names.items()
        if macro[name] is not None
    ]


def sweep_note(sweep: str, experiment_id: str, tasks: list[str]) -> str:
    """What an experiment's page says about it, in Markdown, with links to its views.

    Runs are sorted by something else than their time: only then MLflow shows children without their parent. Results and
    confirmed runs by name: nothing sorts by a test number.
    """

    def link(text: str, role: str, task: str = "", *, key: str = NAME_COLUMN, charts: bool = False) -> str:
        query = f"tags.`catsweep.role` = '{role}'" + (f" and tags.`catsweep.task` = '{task}'" if task else "")
        mode = "&compareRunsMode=CHART" if charts else ""
        order = f"orderByKey={quote(key, safe='')}&orderByAsc={'true' if key == NAME_COLUMN else 'false'}"
        place = f"{order}&searchFilter={quote(query, safe='')}{mode}"
        return f"[{text}](#/experiments/{experiment_id}/runs?workflowType=machine_learning&{place})"

    objective = "metrics.`validation/objective`"
    lines = [
        f"Sweep **{sweep}** of catsweep: {link('results', 'curves')}, {link('confirmed runs', 'confirm')}, "
        f"{link('winners', 'winner', key=objective)}, {link('search trials', 'trial', key=objective)}; curves of "
        + ", ".join(link(task, "curves", task, charts=True) for task in tasks),
        "The step of curves is the share of deferred queries in percent. To filter by hand, sort by another column than "
        "Created: else MLflow hides runs below their parent.",
    ]
    return "\n\n".join(lines)


def _join(path: str, key: str) -> str:
    return f"{path}.{key}" if path else key
