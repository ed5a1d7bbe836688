"""Plain files on storage: folders that exist once their manifest does, rows of answers, records of trials.

The root holds `cache/` (content-addressed, shared by all sweeps) and one folder a sweep:

    <root>/cache/<kind>/<key>/                     made once, ends with manifest.json
    <root>/<sweep>/sweep.json                      the resolved sweep
    <root>/<sweep>/trials/<task>/<stratum>/<n>/    spec.json steps.jsonl rows.parquet record.json checkpoint/
                                                   (record.failed-1.json ...: of attempts that failed;
                                                   record.damaged-1.json ...: of runs that were damaged on storage)
    <root>/<sweep>/confirm/<task>/<stratum>/<n>-seed<s>/   the same, with the rows of calibration and test too
    <root>/<sweep>/curves/ report.html
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import ValidationError

from catsweep import storage
from catsweep.errors import StorageError, is_out_of_space
from catsweep.redact import redact, redacted
from catsweep.spec.base import digest
from catsweep.spec.mixture import UNIT, MixtureEntry, MixtureSpec
from catsweep.spec.search import BASELINE, lower_is_better
from catsweep.spec.sweep import SweepSpec
from catsweep.spec.task import TaskSpec

MANIFEST = "manifest.json"
NO_SPACE = (
    "no space is left on its disk. Nothing that was finished is lost: free some (`catsweep clean NAME` lists what may go) "
    "and run the same command again"
)
Status = Literal["finished", "stopped", "diverged", "failed"]


def storage_root(out: Path | str | None = None) -> Path:
    """The absolute root of all results: the argument, else CATSWEEP_HOME, else ~/catsweep. Of a URI: its mirror.

    A relative root would be lost with the folder that Ray unpacks a job into. Raises StorageError for a URI that cannot be
    a root.
    """
    chosen = out or os.environ.get("CATSWEEP_HOME") or "~/catsweep"
    return storage.as_root(str(chosen)) or Path(chosen).expanduser().absolute()


def write_atomic(path: Path, data: bytes | str) -> None:
    """Write a file so that a reader sees all of it or nothing, also after a kill. Raises StorageError on a full disk."""
    raw = data.encode() if isinstance(data, str) else data
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as file:
            try:
                file.write(raw)
                file.flush()
                os.fsync(file.fileno())
                os.replace(file.name, path)
            except BaseException:
                os.unlink(file.name)
                raise
    except OSError as error:
        if is_out_of_space(error):
            raise StorageError(f"{path} could not be written: {NO_SPACE}") from error
        raise
    storage.put_bytes(path, raw)  # not what lies there now: another process may have brought an older one


def write_json(path: Path, value: object) -> None:
    """Write plain data as JSON without the secrets in it, atomically."""
    write_atomic(path, redact(json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False)) + "\n")


def read_json(path: Path) -> Any:
    """Read JSON. Raises StorageError where the file is missing or damaged."""
    try:
        return json.loads(path.read_bytes())
    except FileNotFoundError:
        raise StorageError(f"{path} is missing; expected a JSON file. Run the same command again to make it") from None
    except ValueError as error:
        raise StorageError(f"{path} is damaged ({error}); delete it and run the same command again") from None


def fingerprint(path: Path) -> tuple[int, str]:
    """Size and sha256 of a file."""
    with path.open("rb") as file:
        return path.stat().st_size, hashlib.file_digest(file, "sha256").hexdigest()


ROW_FIELDS: list[pa.Field] = [
    pa.field("id", pa.string()),
    pa.field("group", pa.string()),
    pa.field("split", pa.string()),
    pa.field("output", pa.string()),
    pa.field("num_prompt_tokens", pa.int32()),
    pa.field("num_output_tokens", pa.int32()),
    pa.field("token_logprobs", pa.list_(pa.float32())),  # natural log; of the generated tokens or of the picked choice
    pa.field("token_entropies", pa.list_(pa.float32())),  # nats
    pa.field("token_margins", pa.list_(pa.float32())),  # probability of the first minus of the second token
    pa.field("choice_logprobs", pa.list_(pa.float32())),  # summed over each choice's tokens; empty for generation
    pa.field("choice_num_tokens", pa.list_(pa.int32())),
]
"""Columns of rows.parquet, one row an example and split. Each metric adds a column `statistics/<metric>`, a list of
float64: what its quality is computed from, mostly as sums over rows (see cascade.metrics). Rows of a mixture also have the
column `task`, and nulls where a member lacks a metric."""


def rows_schema(metrics: list[str]) -> pa.Schema:
    """The schema of rows.parquet for a task with these metrics."""
    statistics = [pa.field(f"statistics/{metric}", pa.list_(pa.float64())) for metric in metrics]
    return pa.schema([*ROW_FIELDS, *statistics])


def write_rows(path: Path, rows: pa.Table) -> None:
    """Write rows.parquet, atomically."""
    sink = pa.BufferOutputStream()
    pq.write_table(rows, sink, compression="zstd")
    write_atomic(path, sink.getvalue().to_pybytes())


def read_rows(path: Path, split: str | None = None) -> pa.Table:
    """Read rows.parquet, all of it or one split. Raises StorageError where it is missing, or not as it was written."""
    try:
        if not rows_as_written(path):
            raise StorageError(f"{path} is damaged: it is not the file that was written; {_AGAIN}")
        filters = None if split is None else [("split", "=", split)]
        return pq.read_table(path, filters=filters)
    except FileNotFoundError:
        raise StorageError(f"{path} is missing; run the same command again to make it") from None
    except (OSError, pa.ArrowException) as error:
        raise StorageError(f"{path} is damaged ({error}); {_AGAIN}") from None


_AGAIN = "`catsweep run` of its sweep finds that out and makes it again"


def rows_as_written(rows: Path) -> bool:
    """Whether a file of rows has the hash that the record, or the manifest, beside it names; True where none does."""
    for name in ("record.json", MANIFEST):
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            beside = json.loads((rows.parent / name).read_bytes())
            known = beside["seal"]["rows"] if name == "record.json" else beside["files"][rows.name]
            return known is None or list(fingerprint(rows)) == known
    return True


@dataclass(frozen=True)
class StepMetrics:
    """What a trial reports after an evaluation on validation.

    step: optimiser steps so far. objective: the value that the search optimises. metrics: further validation values,
    named `validation/...`. final: no more steps follow, and rows and record are on storage.
    """

    step: int
    objective: float
    metrics: dict[str, float]
    final: bool


@dataclass(frozen=True)
class TrialRecord:
    """How a trial ended; record.json in its folder. Times are seconds since the epoch."""

    trial_id: str
    task: str
    stratum: str
    number: int
    role: Literal["trial", "confirm"]
    seed: int
    status: Status
    parameters: dict[str, Any]
    num_steps: int
    objective: float | None
    metrics: dict[str, float]
    started_at: float
    ended_at: float
    train_flops: float = 0.0
    num_parameters: int = 0
    small_shape: dict[str, Any] = field(default_factory=dict)
    large_shape: dict[str, Any] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)  # versions, commit, host, cache keys, fast path, kept share ...
    error: str = ""

    def to_json(self) -> dict[str, Any]:
        """The record as plain JSON data."""
        return asdict(self)


def write_record(folder: Path, record: TrialRecord) -> None:
    """Write record.json: from now on the trial has ended. It seals itself and the rows with their hashes."""
    data, rows = redacted(record.to_json()), folder / "rows.parquet"
    if (folder / "steps.jsonl").exists():
        storage.put(folder / "steps.jsonl")
    seal = {"record": digest(data), "rows": fingerprint(rows) if rows.is_file() else None}
    write_json(folder / "record.json", data | {"seal": seal})


def read_record(folder: Path) -> TrialRecord | None:
    """The record of a trial's folder, or None where the trial has not ended. Raises StorageError where it is damaged."""
    path = folder / "record.json"
    if not path.exists():
        return None
    try:
        data = json.loads(path.read_bytes())
        seal = data.pop("seal", None)
        if seal is not None and seal["record"] != digest(data):
            raise ValueError("it is not what was written")
        return TrialRecord(**data)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise StorageError(f"{path} is damaged ({error}); {_AGAIN}") from None


def read_records(sweep_folder: Path, role: Literal["trials", "confirm"], unit: str = "") -> list[TrialRecord]:
    """All records of a sweep, or those below the folder of a task or mixture, in the order of their folders."""
    paths = sorted((sweep_folder / role / unit).rglob("record.json"))
    return [record for path in paths if (record := read_record(path.parent)) is not None]


def append_step(folder: Path, step: int, metrics: dict[str, float], at: float | None = None) -> None:
    """Add a line to steps.jsonl, with the time in seconds since the epoch (default: now).

    A line cut by a kill is ignored by `read_steps`.
    """
    line = json.dumps({"step": step, "at": time.time() if at is None else at, **metrics}, allow_nan=False)
    with (folder / "steps.jsonl").open("a+b") as file:
        end = file.seek(0, os.SEEK_END)
        if end and os.pread(file.fileno(), 1, end - 1) != b"\n":
            line = "\n" + line  # a kill has cut the last line
        file.write(line.encode() + b"\n")


def read_steps(folder: Path) -> list[dict[str, float]]:
    """The lines of steps.jsonl; where a resumed trial repeated a step, the last line of that step and kind counts."""
    path = folder / "steps.jsonl"
    if not path.exists():
        return []
    merged: dict[float, dict[str, float]] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            values = json.loads(line)
            merged.setdefault(values["step"], {}).update(values)
        except (ValueError, KeyError, TypeError):  # cut by a kill, or changed on storage
            continue
    return [merged[step] for step in sorted(merged)]


def write_sweep(folder: Path, spec: SweepSpec, tasks: tuple[TaskSpec | MixtureSpec, ...]) -> None:
    """Write sweep.json: what the trials in this folder were made with."""
    write_json(folder / "sweep.json", {"spec": spec.to_json(), "tasks": [task.to_json() for task in tasks]})


def read_sweep(folder: Path) -> tuple[SweepSpec, tuple[TaskSpec | MixtureSpec, ...]] | None:
    """The sweep and its tasks as they were when it last ran, or None where it never did. Raises StorageError."""
    path = folder / "sweep.json"
    if not path.exists():
        return None
    data = read_json(path)
    try:
        return SweepSpec.model_validate(data["spec"]), tuple(UNIT.validate_python(task) for task in data["tasks"])
    except (ValidationError, KeyError, TypeError) as error:
        raise StorageError(
            f"{path} was written by another version of catsweep ({error}); give the sweep a new name"
        ) from None


def existing_sweep(folder: Path) -> tuple[SweepSpec, tuple[TaskSpec | MixtureSpec, ...]]:
    """The same of a sweep that has run. Raises StorageError where none has."""
    found = read_sweep(folder)
    if found is None:
        raise StorageError(
            f"{folder} holds no sweep; expected sweep.json. `catsweep ls` lists the sweeps of {folder.parent}"
        )
    return found


SECOND_OBJECTIVE = "validation/objective_2"
"""The metric that holds the second of two objectives."""


def member_objective(task: str) -> str:
    """The metric that holds the objective of a mixture's member, in units of its metric's range."""
    return f"validation/{task}/objective"


def winners(records: list[TrialRecord], spec: SweepSpec) -> dict[tuple[str, str], TrialRecord]:
    """The best search trial of each (task, stratum).

    Only trials that reached their full steps can win, with the objective of their last evaluation. Of equal ones the
    one with the lowest number wins. A stratum in which no trial finished is left out. Of a mixture with min_task_delta
    no trial wins whose worst member lies further than that behind the baseline's winner.
    """
    best = _best(records, spec)
    guarded = {}
    for task, delta in guards(spec).items():
        if (reference := best.get((task, BASELINE))) is not None:
            guarded[task] = (reference, delta)
    if not guarded:
        return best
    kept = [record for record in records if record.task not in guarded or _keeps(record, *guarded[record.task], spec)]
    return _best(kept, spec)


def guards(spec: SweepSpec) -> dict[str, float]:
    """min_task_delta of each mixture that has one."""
    mixtures = [entry for entry in spec.tasks if isinstance(entry, MixtureEntry)]
    return {entry.mixture: entry.min_task_delta for entry in mixtures if entry.min_task_delta is not None}


def largest_loss(record: TrialRecord, reference: TrialRecord, spec: SweepSpec) -> float:
    """How far the worst member of a mixture's trial lies behind that of another, on validation; negative where every
    member is better. In units of the metrics' range, or of the large model's cost."""
    sign = -1.0 if lower_is_better(spec.search.objectives[0]) else 1.0
    names = [name for name in reference.metrics if name.endswith("/objective") and name in record.metrics]
    return max((sign * (reference.metrics[name] - record.metrics[name]) for name in names), default=0.0)


def _keeps(record: TrialRecord, reference: TrialRecord, delta: float, spec: SweepSpec) -> bool:
    return record.stratum == BASELINE or largest_loss(record, reference, spec) <= delta + 1e-12


def _best(records: list[TrialRecord], spec: SweepSpec) -> dict[tuple[str, str], TrialRecord]:
    sign = -1.0 if lower_is_better(spec.search.objectives[0]) else 1.0
    best: dict[tuple[str, str], TrialRecord] = {}
    for record in sorted(records, key=lambda record: record.number):
        if not _may_win(record, spec) or record.objective is None:
            continue
        held = best.get((record.task, record.stratum))
        if held is None or held.objective is None or sign * record.objective > sign * held.objective:
            best[record.task, record.stratum] = record
    return best


def _may_win(record: TrialRecord, spec: SweepSpec) -> bool:
    """Whether a search trial reached its full steps, within the budget: one of an earlier run with a larger budget would
    give its stratum more."""
    is_search = record.role == "trial" and record.number < spec.search.num_samples
    return is_search and record.status == "finished" and record.objective is not None


def pareto_sets(records: list[TrialRecord], spec: SweepSpec) -> dict[tuple[str, str], list[TrialRecord]]:
    """Of each (task, stratum) the search trials that no other one beats in one of two objectives without losing in the
    other, in the order of their numbers; empty with one objective. Trials that were stopped early take no part: what they
    would have reached is unknown. Of trials with equal values all are in."""
    if len(spec.search.objectives) < 2:
        return {}
    signs = [-1.0 if lower_is_better(objective) else 1.0 for objective in spec.search.objectives]
    found: dict[tuple[str, str], list[tuple[TrialRecord, tuple[float, ...]]]] = {}
    for record in sorted(records, key=lambda record: record.number):
        if _may_win(record, spec) and (values := objective_values(record)) is not None:
            gains = tuple(sign * value for sign, value in zip(signs, values, strict=True))
            found.setdefault((record.task, record.stratum), []).append((record, gains))
    return {
        key: [record for record, gains in trials if not any(_dominates(other, gains) for _, other in trials)]
        for key, trials in found.items()
    }


def objective_values(record: TrialRecord) -> tuple[float, float] | None:
    """Both objectives of a trial of a search with two; None where it has not got as far."""
    second = record.metrics.get(SECOND_OBJECTIVE)
    return None if record.objective is None or second is None else (record.objective, second)


def _dominates(first: tuple[float, ...], second: tuple[float, ...]) -> bool:
    return first != second and all(a >= b for a, b in zip(first, second, strict=True))


def confirmed(records: list[TrialRecord], winner: TrialRecord, num_seeds: int) -> list[TrialRecord]:
    """The finished confirm runs of a winner, in the order of their seeds, at most num_seeds of them."""
    runs = [
        record
        for record in records
        if record.role == "confirm"
        and record.status == "finished"
        and (record.task, record.stratum, record.number) == (winner.task, winner.stratum, winner.number)
    ]
    return sorted(runs, key=lambda record: record.seed)[:num_seeds]
