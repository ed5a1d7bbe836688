"""Records and curves -> MLflow. The only module that imports mlflow.

One experiment a sweep, `catsweep/<sweep>`. In it one parent run, the sweep, and its children: every trial, every confirm
run, and one run for the mean curve of each (task, stratum). The tag catsweep.role tells them apart:

    sweep     the parent: macro differences, report.html
    trial     a search trial
    winner    the search trial that won its stratum, and was confirmed
    confirm   the winner's settings with a new seed; the only runs with test/... metrics, besides curves
    curves    cascade/quality and others; the step is the share of deferred queries in percent

Nothing is lost when a server is down: storage holds the records, and whatever is logged again finds its run by the tag
catsweep.trial_id below the parent. A run that carries the digest of its content is not written twice.
"""

from __future__ import annotations

import contextlib
import functools
import json
import logging
import os
import shutil
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

# mlflow reads these when it is imported, or at each request: no telemetry, no lines on the terminal, and a server that is
# down is soon given up.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "5")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")  # a repeated request could make a run twice

from mlflow import MlflowClient
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, RunTag
from mlflow.exceptions import MlflowException

from catsweep import storage
from catsweep.cache import held
from catsweep.curves import result_names, results_on_storage, with_macros
from catsweep.errors import CatsweepError
from catsweep.records import TrialRecord, read_json, read_records, read_sweep, write_json
from catsweep.redact import redact
from catsweep.report.figures import curves_figure, stratum_styles, to_png
from catsweep.report.lines import all_strata, curve_lines
from catsweep.report.runs import (
    Point,
    RunContent,
    confirmed_points,
    curves_run,
    run_tags,
    sweep_note,
    sweep_params,
    sweep_points,
    trial_run,
)
from catsweep.report.tables import ResultRow, as_json, results_table
from catsweep.spec.base import Json, digest
from catsweep.spec.mixture import MixtureSpec
from catsweep.spec.search import BASELINE
from catsweep.spec.task import TaskSpec

SweepStatus = Literal["finished", "stopped", "failed"]
SWEEP_STATUSES = {"finished": "FINISHED", "stopped": "KILLED", "failed": "FAILED"}
SQLITE = "sqlite:///"
WRITTEN = "catsweep.written"
"""Tag: digest of what was written when a run ended."""
WRITTEN_TEST = "catsweep.written_test"
ERROR_TAGS = ("catsweep.error", "mlflow.note.content")
"""Tags that `trial_run` sets for runs with an error only."""
MAX_METRICS, MAX_PAIRS = 800, 100
REFUSED = ("INVALID_PARAMETER_VALUE", "BAD_REQUEST", "RESOURCE_DOES_NOT_EXIST")
"""Errors that concern one run; after any other the server counts as down."""


def default_tracking_uri(root: Path) -> str:
    """The database of a root."""
    return f"{SQLITE}{root / 'mlflow.db'}"


def prepare_store(uri: str) -> None:
    """Make or migrate a SQLite database, once and before anything else opens it; other URIs are not contacted.

    A kill leaves no half-made database. Takes some five seconds for a new one. Raises CatsweepError for a path or a
    `file:` URI, which MLflow no longer writes, and for a database that cannot be used.
    """
    logging.getLogger("mlflow").setLevel(logging.WARNING)
    logging.getLogger("alembic").setLevel(logging.WARNING)
    scheme, separator, _ = uri.partition("://")
    if uri != "databricks" and (not separator or scheme == "file"):
        raise CatsweepError(
            f"tracking URI {uri!r}: found a path; expected sqlite:///FILE or the http(s) address of a server. MLflow no "
            "longer writes to folders; an old one is taken over by `mlflow migrate-filestore --source FOLDER --target "
            "sqlite:///FILE`"
        )
    if not uri.startswith(SQLITE):
        return
    path = Path(uri.removeprefix(SQLITE))
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as folder:
            new = Path(folder) / path.name
            MlflowClient(f"{SQLITE}{new}").search_experiments(max_results=1)
            with contextlib.suppress(FileExistsError):  # another process was first
                os.link(new, path)
        return
    try:
        MlflowClient(uri).search_experiments(max_results=1)
    except Exception as error:  # sqlalchemy's own, or mlflow's
        if "out-of-date" not in str(error):
            text = f"{path} is no usable MLflow database ({_first_line(error)}); move it away and log again"
            raise CatsweepError(text) from None
        with held(path):  # a second process waits, and finds it done
            _migrate(uri, path)


def probe_store(uri: str) -> None:
    """Ask a store for its experiments, once. Raises CatsweepError where it does not answer."""
    try:
        MlflowClient(uri).search_experiments(max_results=1)
    except Exception as error:  # mlflow's own, requests' or sqlalchemy's
        raise CatsweepError(
            f"{uri} does not answer ({_first_line(error)}); expected a tracking server or database"
        ) from None


def _migrate(uri: str, path: Path) -> None:
    with contextlib.suppress(Exception):
        MlflowClient(uri).search_experiments(max_results=1)
        return
    # A copy that is there may be the only whole one: an upgrade that was killed has left half a database.
    copies = (path.with_name(f"{path.name}.before-upgrade{number}") for number in ("", *range(2, 1000)))
    copy = next(one for one in copies if not one.exists())
    shutil.copy2(path, copy)
    command = [sys.executable, "-m", "mlflow", "db", "upgrade", uri]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise CatsweepError(
            f"{path} could not be migrated to this MLflow ({done.stderr.strip().splitlines()[-1]}); {copy} is the "
            "database as it was. Move both away and log again"
        )


@dataclass
class _Run:
    """A run on the server, as far as this process knows it."""

    run_id: str
    status: str
    tags: dict[str, str]


class Tracker:
    """Writes one sweep to MLflow. Contacts nobody before the first record; no call raises because a server is down.

    on_problem: called with a sentence when something could not be written; `log_sweep` then tries everything again.
    """

    def __init__(self, uri: str, root: Path, sweep: str, on_problem: Callable[[str], None]) -> None:
        self.uri, self.root, self.sweep, self.on_problem = uri, root, sweep, on_problem
        self.folder = root / sweep
        self.complete = True
        """Whether everything that was asked for so far has been written."""
        self._down = self._ending = False
        self._client: Any = None
        self._experiment_id = ""
        self._parent: _Run | None = None
        self._children: dict[str, _Run] = {}

    def log_record(self, folder: Path, record: TrialRecord) -> None:
        """Write a trial or a confirm run that has ended; its folder is the sweep's folder / trial_id."""
        prepared = self.folder / "prepared" / f"{record.task}.json"
        with self._attempt(record.trial_id) as may_try:
            if may_try:
                self._write(trial_run(folder, record, prepared))

    def log_task(self, result: Json) -> None:
        """Write one task's curves and test numbers while others are still computed. The numbers of a mixture's members, and
        everything where the results lie on an object store and come here last, are left to `log_results`."""
        if storage.place_of(self.root) is None:
            rows = results_table([result], {"left_out_small": []})
            self._log_curves(result, rows, stratum_styles(all_strata([result]), BASELINE))
            if "mixture" not in result:
                self._log_test_numbers([result])

    def log_results(self, results: list[Json], summary: Json) -> None:
        """Write the curves, the test numbers of confirmed runs, and who won; then the macro differences."""
        rows = results_table(results, summary)
        styles = stratum_styles(all_strata(results), BASELINE)
        for result in with_macros(results, summary):
            self._log_curves(result, rows, styles)
        self._log_test_numbers(with_macros(results, summary))
        with self._attempt("winners") as may_try:
            if may_try:
                self._mark_winners(results)
        with self._attempt("macro differences") as may_try:
            if may_try:
                parent = self._open()
                self._add_points(parent, sweep_points(summary, self._written_at("summary")))
                table = json.dumps(as_json(rows), ensure_ascii=False, indent=1)
                self._client.log_text(parent.run_id, table, "results.json")

    def log_sweep(self, status: SweepStatus) -> None:
        """End the parent run, with the report where there is one. What could not be written before is tried again."""
        self._ending = True
        if not self.complete:
            self.complete, self._down = True, False
            self._replay()
        with self._attempt("the sweep") as may_try:
            if not may_try:
                return
            parent = self._open()
            self._describe(parent)
            report = self.folder / "report.html"
            if report.exists():
                self._client.log_artifact(parent.run_id, str(report))
            ended_at = max([self._written_at("summary", 0.0), *(record.ended_at for record in self._records())])
            self._client.set_terminated(parent.run_id, SWEEP_STATUSES[status], round(1000 * ended_at))

    def _log_curves(self, result: Json, rows: list[ResultRow], styles: dict[str, dict[str, Any]]) -> None:
        at = self._results_at(result)
        picture = functools.cache(functools.partial(_picture, result, styles))
        for row in [row for row in rows if row.task == result["task"]]:
            with self._attempt(f"curves of {row.task} {row.stratum}") as may_try:
                if may_try:
                    colour = styles[row.stratum]["color"]
                    self._write(curves_run(result, row, at, colour, picture), replace=True)

    def _log_test_numbers(self, results: list[Json]) -> None:
        confirmed: dict[str, list[Point]] = {}  # a mixture's run has points of every member
        for result in results:
            for trial_id in [name for facts in result["strata"].values() for name in facts["trial_ids"]]:
                points = confirmed_points(result, trial_id, self._results_at(result))
                confirmed.setdefault(trial_id, []).extend(points)
        for trial_id, points in confirmed.items():
            with self._attempt(trial_id) as may_try:
                if may_try and self._open() and trial_id in self._children:
                    self._add_points(self._children[trial_id], points)

    def _replay(self) -> None:
        for record in self._records():
            self.log_record(self.folder / record.trial_id, record)
        if (self.folder / "curves" / "summary.json").exists():
            self.log_results(*results_on_storage(self.root, self.sweep))

    @contextlib.contextmanager
    def _attempt(self, what: str) -> Iterator[bool]:
        """Yields whether the server may be asked; its errors end here."""
        if self._down:
            self.complete = False
        try:
            yield not self._down
        except (MlflowException, OSError) as error:
            self.complete = False
            self._down = getattr(error, "error_code", "") not in REFUSED
            self._parent = None  # what the server did is unknown: its runs are listed again before the next try
            text = redact(f"{what} could not be written to {self.uri} ({_first_line(error)})")
            later = "nothing is lost: the same command again writes what is missing"
            again = later if self._ending else "the end of the sweep tries again"
            self.on_problem(f"MLflow: {text}; {again}")

    def _open(self) -> _Run:
        """Find or make the experiment and the parent run, and list its children; once."""
        if self._parent is not None:
            return self._parent
        self._client = MlflowClient(self.uri)
        name = f"catsweep/{self.sweep}"
        experiment = self._client.get_experiment_by_name(name)
        self._experiment_id = experiment.experiment_id if experiment else self._make_experiment(name)
        key = _sweep_key(self.folder)
        found = self._find(f"tags.`catsweep.sweep_key` = '{key}' and tags.`catsweep.role` = 'sweep'")
        parent = found.get("sweep") or self._make_parent(key)
        self._children = self._find(f"tags.`mlflow.parentRunId` = '{parent.run_id}'")
        self._parent = parent
        return parent

    def _make_experiment(self, name: str) -> str:
        is_server = self.uri.startswith(("http://", "https://", "databricks"))
        place = None if is_server else str(self.root / "mlartifacts" / self.sweep)
        tags = {"mlflow.experimentKind": "custom_model_development"}
        return str(self._client.create_experiment(name, artifact_location=place, tags=tags))

    def _make_parent(self, key: str) -> _Run:
        started = [record.started_at for record in self._records()]
        start = min(started, default=(self.folder / "sweep.json").stat().st_mtime)
        tags = run_tags("sweep", "", "", "sweep") | {"catsweep.sweep_key": key}
        made = self._client.create_run(self._experiment_id, round(1000 * start), tags, f"sweep {self.sweep}")
        parent = _Run(made.info.run_id, "RUNNING", tags)
        self._describe(parent)
        return parent

    def _describe(self, parent: _Run) -> None:
        found = read_sweep(self.folder)
        assert found is not None, f"{self.folder} has records, so it has a sweep.json"
        self._batches(parent.run_id, params=sweep_params(found[0]))
        note = sweep_note(self.sweep, self._experiment_id, _linked_names(found[1]))
        self._client.set_experiment_tag(self._experiment_id, "mlflow.note.content", note)

    def _records(self) -> list[TrialRecord]:
        return [*read_records(self.folder, "trials"), *read_records(self.folder, "confirm")]

    def _find(self, query: str) -> dict[str, _Run]:
        """Runs of the experiment by their trial_id."""
        found: dict[str, _Run] = {}
        token = None
        while True:
            page = self._client.search_runs([self._experiment_id], query, max_results=1_000, page_token=token)
            for run in page:
                key = run.data.tags.get("catsweep.trial_id", "")
                found[key] = _Run(run.info.run_id, run.info.status, dict(run.data.tags))
            token = page.token
            if not token:
                return found

    def _write(self, content: RunContent, *, replace: bool = False) -> None:
        """Write a run and end it; nothing where it is there with the same content.

        replace: a run with other content is deleted first, since two curves in one run would be drawn as one.
        """
        parent = self._open()
        run, stamp = self._children.get(content.key), content.digest()
        if run is not None and run.status == content.status and run.tags.get(WRITTEN) == stamp:
            return
        if run is not None and replace:
            self._client.delete_run(run.run_id)
            run = None
        if run is None:
            tags = content.tags | {"mlflow.parentRunId": parent.run_id}
            start = round(1000 * content.started_at)
            made = self._client.create_run(self._experiment_id, start, tags, content.name)
            run = self._children[content.key] = _Run(made.info.run_id, "RUNNING", tags)
        if content.dataset is not None:
            self._client.log_inputs(run.run_id, [_dataset_input(*content.dataset)])
        for name, file in content.files.items():
            self._write_file(run.run_id, name, file)
        tags = content.tags | {WRITTEN: stamp}
        # A failed run that was tried again loses what was said of its failure.
        gone = {name: "" for name in ERROR_TAGS if run.tags.get(name) and name not in tags}
        changed = {name: text for name, text in (gone | tags).items() if run.tags.get(name) != text}
        self._batches(run.run_id, content.points, content.params, changed)
        self._client.set_terminated(run.run_id, content.status, round(1000 * content.ended_at))
        run.status = content.status
        run.tags |= gone | tags

    def _write_file(self, run_id: str, name: str, file: Path | Callable[[], bytes]) -> None:
        if isinstance(file, Path):
            self._client.log_artifact(run_id, str(file))
            return
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / name
            path.write_bytes(file())
            self._client.log_artifact(run_id, str(path))

    def _add_points(self, run: _Run, points: list[Point]) -> None:
        """Write metrics to a run that has ended; those of other results stay in its history, the newest count."""
        stamp = digest([[point.name, point.value] for point in points])
        if points and run.tags.get(WRITTEN_TEST) != stamp:
            self._batches(run.run_id, points, tags={WRITTEN_TEST: stamp})
            run.tags[WRITTEN_TEST] = stamp

    def _mark_winners(self, results: list[Json]) -> None:
        """Tags of search trials: catsweep.role `winner` for the confirmed ones, `trial` for all others; catsweep.pareto
        `true` for those of the Pareto sets of two objectives."""
        self._open()
        won: set[str] = set()
        pareto: set[str] = set()
        for result in results:
            unit = result.get("mixture", result["task"])
            for stratum, facts in result["strata"].items():
                stem = f"trials/{unit}/{stratum.replace('/', '+')}"
                won.add(f"{stem}/{facts['winner']['number']:05d}")
                pareto |= {f"{stem}/{trial['number']:05d}" for trial in facts.get("pareto", [])}
        for key, run in self._children.items():
            if not key.startswith("trials/"):
                continue
            wanted = {"catsweep.role": "winner" if key in won else "trial"}
            if key in pareto or "catsweep.pareto" in run.tags:
                wanted["catsweep.pareto"] = "true" if key in pareto else "false"
            for name, text in wanted.items():
                if run.tags.get(name) != text:
                    self._client.set_tag(run.run_id, name, text)
                    run.tags[name] = text

    def _batches(
        self,
        run_id: str,
        points: list[Point] | None = None,
        params: Mapping[str, str] | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> None:
        """Write within the limits of a request: 1,000 entries, of them 100 parameters and 100 tags. Tags come last."""
        metrics = [Metric(name, value, round(1000 * at), step) for name, value, at, step in points or []]
        pairs = list((params or {}).items())
        while len(metrics) > MAX_METRICS or len(pairs) > MAX_PAIRS:
            self._client.log_batch(run_id, metrics[:MAX_METRICS], [Param(*pair) for pair in pairs[:MAX_PAIRS]])
            metrics, pairs = metrics[MAX_METRICS:], pairs[MAX_PAIRS:]
        last_tags = [RunTag(*pair) for pair in (tags or {}).items()]
        self._client.log_batch(run_id, metrics, [Param(*pair) for pair in pairs], last_tags)

    def _results_at(self, result: Json) -> float:
        return self._written_at("summary" if "members" in result else result["task"])

    def _written_at(self, name: str, default: float | None = None) -> float:
        try:
            with (self.folder / "curves" / f"{name}.json").open() as file:  # so NFS asks for the file's present state
                return os.fstat(file.fileno()).st_mtime
        except FileNotFoundError:
            if default is None:
                raise
            return default


def _linked_names(units: tuple[TaskSpec | MixtureSpec, ...]) -> list[str]:
    """The names of all curves: tasks, mixtures, and their members."""
    mixtures = [unit.task for unit in units if isinstance(unit, MixtureSpec)]
    return [*mixtures, *result_names(units)]


def _sweep_key(folder: Path) -> str:
    """What tells this folder's sweep from another of the same name on one server; stays when the folder is moved."""
    path = folder / "tracking.json"
    if not path.exists():
        write_json(path, {"sweep_key": uuid.uuid4().hex[:16]})
    return str(read_json(path)["sweep_key"])


def _picture(result: Json, styles: dict[str, dict[str, Any]]) -> bytes:
    lines = curve_lines(result)
    assert lines is not None
    return to_png(curves_figure(lines, styles))


def _dataset_input(name: str, key: str, profile: Json) -> Any:
    dataset = Dataset(
        name=name, digest=key[:36], source_type="catsweep", source=json.dumps({"task": name}),
        profile=json.dumps(profile),
    )  # fmt: skip
    return DatasetInput(dataset, [InputTag("mlflow.data.context", "training")])


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)[:300]
