"""`catsweep run`, `curves NAME` and `report`. What needs Ray is in cli/execute.py, so that a finished sweep shows its
results without loading it."""

from __future__ import annotations

import json
import os
import shlex
from pathlib import Path

from catsweep import storage
from catsweep.cli.console import errors, output, print_results
from catsweep.curves import results_key, results_on_storage, results_up_to_date
from catsweep.damage import damaged_answers, set_aside_damaged
from catsweep.records import existing_sweep, read_json, storage_root, write_json
from catsweep.redact import redact
from catsweep.report.chain import CHAIN_NOTE, chain_rows, render_chains
from catsweep.report.comparison import macro_table
from catsweep.report.rules import RULE_NOTE, render_rules, rule_rows
from catsweep.report.tables import cost_unit, json_lines, notes, render_table, results_table, shortfalls
from catsweep.spec.base import Json, digest
from catsweep.spec.load import Sweep, load_sweep
from catsweep.tasks.fingerprint import unit_fingerprint


def run_command(
    file: Path, overrides: list[str], *, out: Path | None, tracking_uri: str | None, take_over: bool = False
) -> int:
    """Run a sweep to its report. Returns the exit code: 1 where a task or a trial failed."""
    sweep = load_sweep(file, overrides)
    root, name = storage_root(out), sweep.spec.name
    uri = choose_tracking_uri(root, tracking_uri)
    done = root / name / "done.json"
    failed: list[str] = []
    storage.pull_sweep(root, name)
    for folder in set_aside_damaged(root / name):
        text = f"warning: {folder}: its record or its rows were damaged on storage; it is made again"
        errors.print(text, style="yellow", markup=False, highlight=False, soft_wrap=True)
    whole = not any(damaged_answers(root, name, task) for task in sweep.tasks)
    shown = whole and results_up_to_date(root, name) and (root / name / "report.html").exists()
    if not (shown and done.exists() and read_json(done)["key"] == _done_key(root, sweep, uri)):
        from catsweep.cli.execute import execute

        execution = execute(sweep, root=root, uri=uri, command=shlex.join([str(file), *overrides]), take_over=take_over)
        failed = execution.failed
        if execution.complete:
            write_json(done, {"key": _done_key(root, sweep, uri)})
    results, summary = results_on_storage(root, name)
    show(root, name, results, summary, uri)
    for line in failed:
        errors.print(line, style="red", markup=False, highlight=False, soft_wrap=True)
    return 1 if failed else 0


def _done_key(root: Path, sweep: Sweep, uri: str) -> str:
    """A key of what was asked for, what is on storage, and where it was logged."""
    folder = sweep.spec.data_folder
    wanted = [sweep.spec.to_json(), [[task.to_json(), unit_fingerprint(task, folder)] for task in sweep.tasks]]
    return digest([wanted, results_key(root, sweep.spec.name), uri])


def curves_command(name: str, *, out: Path | None, tracking_uri: str | None, as_json: bool) -> None:
    """Compute all curves of a sweep again as Ray tasks, and log them. Loads no model."""
    from catsweep.cli.execute import recompute

    root = storage_root(out)
    uri = choose_tracking_uri(root, tracking_uri)
    storage.pull_sweep(root, name)
    existing_sweep(root / name)
    results, summary = recompute(name, root=root, uri=uri)
    if as_json:
        output.print_json(json.dumps({"tasks": results, "summary": summary}))
    else:
        show(root, name, results, summary, uri)


def report_command(name: str, *, out: Path | None, as_json: bool) -> None:
    """Print the results table and write the report, from the curves on storage."""
    from catsweep.report.page import write_report  # draws, and loads what drawing needs

    root = storage_root(out)
    storage.pull_sweep(root, name)
    results, summary = results_on_storage(root, name)
    write_report(root, name)
    if as_json:
        output.print_json(json.dumps(json_lines(results_table(results, summary), summary)))
    else:
        show(root, name, results, summary, choose_tracking_uri(root, None))


def choose_tracking_uri(root: Path, chosen: str | None) -> str:
    """The tracking URI: the option, else MLFLOW_TRACKING_URI, else the database of the root."""
    return chosen or os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{root / 'mlflow.db'}"


def show(root: Path, name: str, results: list[Json], summary: Json, uri: str) -> None:
    """The end of every run: the table, the report's path, the command that opens MLflow."""
    rows = results_table(results, summary)
    print_results(render_table(rows))
    if (over_all := macro_table(summary, cost_unit(rows))) is not None:
        output.print()
        print_results(over_all)
    chains = chain_rows(results)
    if chains:
        print_results(render_chains(chains))
    uri = redact(uri)
    opens = f"mlflow ui --backend-store-uri {uri}"
    if Path("mlflow/start.sh").exists():
        opens = "make mlflow-ui" if root == storage_root() else f"mlflow/start.sh {root}"
    lines = [
        *notes(rows),
        *([CHAIN_NOTE] if chains else []),
        *shortfalls(results),
        f"report: {root / name / 'report.html'}",
        f"mlflow: {uri if uri.startswith('http') else opens}",
    ]
    output.print("\n".join(lines), markup=False, highlight=False, soft_wrap=True)


def show_rules(results: list[Json]) -> None:
    """The table of deferral rules, where several were computed."""
    if compared := [row for result in results for row in rule_rows(result)]:
        output.print()
        print_results(render_rules(compared))
        output.print(RULE_NOTE, markup=False, highlight=False, soft_wrap=True)
