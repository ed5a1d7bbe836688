"""A finished sweep as four small parquet files, from which its results can be computed again without it.

    facts.parquet     sweep.json and what was prepared for each task: a name and its JSON a line
    runs.parquet      one line a trial and a confirmed run: settings, validation objective, steps, FLOPs
    examples.parquet  calibration and test queries of each task: hash of the id, group, tokens; and what the large model and
                      the further models of a chain made of them
    answers.parquet   what each confirmed run made of them: tokens, statistics of the first metric, uncertainties

Texts are left out. An uncertainty is kept as its place among those of the run's calibration and test answers (equal ones
share a place): whatever depends on the order of the answers alone comes out as it was. That is all but `ece` and the
thresholds themselves. `unpack` makes a folder of which `curves.compute_task` computes the results. Not for mixtures, and
only for the cost model flops.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from catsweep.cascade.cost import ModelShape
from catsweep.cascade.metrics import metric_of
from catsweep.cascade.order import hash_ids
from catsweep.cascade.ragged import FloatArray
from catsweep.cascade.rows import UNCERTAINTY, Cascade, make_cascade, statistics
from catsweep.deferral import rules_for
from catsweep.errors import StorageError
from catsweep.health import starved
from catsweep.records import (
    TrialRecord,
    append_step,
    confirmed,
    existing_sweep,
    read_json,
    read_records,
    read_rows,
    read_steps,
    rows_schema,
    winners,
    write_json,
    write_record,
    write_rows,
)
from catsweep.runs import large_facts, read_run
from catsweep.spec.base import Json
from catsweep.spec.mixture import MixtureSpec
from catsweep.spec.sweep import SweepSpec
from catsweep.spec.task import TaskSpec

FILES = ("facts", "runs", "examples", "answers")
SPLITS = ("calibration", "test")
LARGE = "large"
STATISTIC = "statistic/"
ID_DIGITS = 6
KEPT_SHARE = "train/kept_share"

Rules = Callable[[str], Sequence[str]]
"""The deferral rules whose uncertainties are kept, by stratum."""


def pack(root: Path, sweep: str, folder: Path, *, rules: Rules) -> None:
    """Write the four files of a sweep. The first rule must be the sweep's own first one. Raises StorageError."""
    spec, units = existing_sweep(root / sweep)
    tasks = [_plain_task(unit) for unit in units if (root / sweep / "prepared" / f"{unit.task}.json").exists()]
    records = [*read_records(root / sweep, "trials"), *read_records(root / sweep, "confirm")]
    best = winners(records, spec)
    facts: list[Json] = [{"name": "sweep", "json": read_json(root / sweep / "sweep.json")}]
    examples, answers = [], []
    for task in tasks:
        prepared = read_json(root / sweep / "prepared" / f"{task.task}.json")
        facts.append({
            "name": task.task, "json": {**prepared, "large_facts": large_facts(root, prepared, spec)},
        })  # fmt: skip
        examples.append(_pack_examples(root, task, prepared, spec))
        own = [winner for (name, _), winner in best.items() if name == task.task]
        runs = [run for winner in own for run in confirmed(records, winner, spec.search.confirm_seeds)]
        large = next(_models(root, prepared, spec))[1]
        answers += [_pack_answers(root, record, task, large, spec, rules(record.stratum)) for record in runs]
    if not answers:
        raise StorageError(
            f"{root / sweep} has no confirmed runs; expected some. `catsweep run` goes on with the sweep"
        )
    lines = [_run_line(root / sweep, record) for record in records]
    facts_table = pa.table({
        "name": [fact["name"] for fact in facts], "json": [json.dumps(fact["json"]) for fact in facts],
    })  # fmt: skip
    tables = [facts_table, pa.Table.from_pylist(lines), _joined(examples), _joined(answers)]
    folder.mkdir(parents=True, exist_ok=True)
    for name, table in zip(FILES, tables, strict=True):
        pq.write_table(table, folder / f"{name}.parquet", compression="zstd", compression_level=19)


def _plain_task(unit: TaskSpec | MixtureSpec) -> TaskSpec:
    if isinstance(unit, MixtureSpec):
        raise StorageError(f"{unit.task} is a mixture; only sweeps of plain tasks can be packed")
    return unit


def _joined(tables: Sequence[pa.Table]) -> pa.Table:
    return pa.concat_tables(tables, promote_options="default")


def _column(task: TaskSpec) -> str:
    return f"statistics/{task.metric_list[0].metric}"


def _split(rows: pa.Table, split: str) -> pa.Table:
    return rows.filter(pa.compute.equal(rows["split"], split))


def _models(root: Path, prepared: Json, spec: SweepSpec) -> Iterator[tuple[str, pa.Table, ModelShape]]:
    """The large model and the further ones of a chain: name, rows and shape."""
    found = {LARGE: prepared} | {model.name: prepared["chain"][model.name] for model in spec.chain}
    for name, own in found.items():
        path = root / "cache" / "answers" / own["keys"]["answers"] / "rows.parquet"
        yield name, read_rows(path), ModelShape.from_dict(own["large_shape"])


def _statistics(rows: pa.Table, task: TaskSpec, prefix: str = "") -> dict[str, FloatArray]:
    values = statistics(rows, _column(task))
    return {f"{prefix}{STATISTIC}{index}": column for index, column in enumerate(values.T)}


def _places(calibration: FloatArray, test: FloatArray) -> NDArray[np.uint32]:
    """The place of each uncertainty among the distinct ones of both splits."""
    _, places = np.unique(np.concatenate([calibration, test]), return_inverse=True)
    return places.astype(np.uint32)


def _pack_examples(root: Path, task: TaskSpec, prepared: Json, spec: SweepSpec) -> pa.Table:
    """The queries of both splits, in the order of the rows, with the answers of all models but the trained ones."""
    models = list(_models(root, prepared, spec))
    large, shape = models[0][1], models[0][2]
    parts = [_split(large, split) for split in SPLITS]
    rows = pa.concat_tables(parts)
    columns: dict[str, Any] = {
        "task": [task.task] * len(rows),
        "split": rows["split"],
        "id_hash": hash_ids(rows["id"].to_pylist()),
        # The order of the keys is kept, since resamples draw groups by their places.
        "group": np.concatenate(
            [np.unique(part["group"].to_pylist(), return_inverse=True)[1] for part in parts]
        ).astype(np.uint32),
        "num_prompt_tokens": rows["num_prompt_tokens"],
        "choice_num_tokens": rows["choice_num_tokens"],
    }
    for name, table, own_shape in models:
        own = [_split(table, split) for split in SPLITS]
        both = pa.concat_tables(own)
        _check_alike(both, rows, f"the rows of {name} for {task.task}")
        columns[f"{name}/num_output_tokens"] = both["num_output_tokens"]
        columns |= _statistics(both, task, f"{name}/")
        if name != LARGE:
            metric = metric_of(task.metric_list[0])
            pairs = [
                make_cascade(a, b, metric, small_shape=own_shape, large_shape=shape)
                for a, b in zip(own, parts, strict=True)
            ]
            rule = spec.cascade.deferral[0]
            columns[f"{name}/{UNCERTAINTY}{rule}"] = _places(*(pair.uncertainty(rule) for pair in pairs))
    return pa.table(columns)


def _check_alike(rows: pa.Table, others: pa.Table, what: str) -> None:
    for name in ("id", "num_prompt_tokens", "choice_num_tokens"):
        if not rows[name].combine_chunks().equals(others[name].combine_chunks()):
            raise StorageError(
                f"{what} differ from the large model's in {name}; expected the same queries and tokenizer"
            )


def _pack_answers(
    root: Path, record: TrialRecord, task: TaskSpec, large: pa.Table, spec: SweepSpec, rules: Sequence[str]
) -> pa.Table:
    cascade = spec.cascade.model_copy(update={"deferral": list(rules)})
    cascade = cascade.model_copy(update={"deferral": rules_for(task, cascade)})
    run = read_run(root / spec.name, record, large, metric_of(task.metric_list[0]), None, cascade=cascade)
    whole = read_rows(root / spec.name / record.trial_id / "rows.parquet")
    rows, others = (pa.concat_tables([_split(table, split) for split in SPLITS]) for table in (whole, large))
    _check_alike(rows, others, f"the rows of {record.trial_id}")
    columns: dict[str, Any] = {
        "trial_id": [record.trial_id] * len(rows),
        "num_output_tokens": rows["num_output_tokens"],
        **_statistics(rows, task),
    }
    for rule in cascade.deferral:
        pair: tuple[Cascade, Cascade] = run.calibration, run.test
        columns[UNCERTAINTY + rule] = _places(*(part.uncertainty(rule) for part in pair))
    return pa.table(columns)


def _run_line(folder: Path, record: TrialRecord) -> Json:
    """A record without what describes the machine, and the kept shares where results need them. Of its facts those stay that
    results are made of: what the filter did with injected tokens."""
    kept = [step for step in read_steps(folder / record.trial_id) if KEPT_SHARE in step]
    rate = record.parameters.get("learning_rate")  # a text where YAML has it as one: 5e-3
    needed = record.role == "confirm" or starved(folder / record.trial_id, record) is not None
    facts = {"noise": record.facts["noise"]} if "noise" in record.facts else {}
    return {
        "task": record.task,
        "stratum": record.stratum,
        "number": record.number,
        "role": record.role,
        "seed": record.seed,
        "status": record.status,
        "learning_rate": None if rate is None else float(rate),
        "objective": record.objective,
        "num_steps": record.num_steps,
        "train_flops": record.train_flops,
        "seconds": record.ended_at - record.started_at,
        "record": json.dumps({**record.to_json(), "facts": facts, "error": ""}),
        "kept_steps": [int(step["step"]) for step in kept] if needed else [],
        "kept_shares": [step[KEPT_SHARE] for step in kept] if needed else [],
    }


def read_packed(folder: Path, name: str) -> pa.Table:
    """One of the four files. Raises StorageError where it is missing or damaged."""
    return read_rows(folder / f"{name}.parquet")


def unpack(folder: Path, root: Path, *, rules: Sequence[str], strata: Callable[[str], bool] = lambda _: True) -> str:
    """Write below root what `curves.compute_task` reads, of some strata, for some deferral rules and the first metric of each
    task; return the sweep's name. Raises StorageError where uncertainties of a rule were not packed.

    The prepared data are not among it: `large` of the results says nothing (see `stored_large_facts`).
    """
    facts = {line["name"]: json.loads(line["json"]) for line in read_packed(folder, "facts").to_pylist()}
    stored = facts.pop("sweep")
    name = str(stored["spec"]["name"])
    tasks = [task for task in stored["tasks"] if task["task"] in facts]
    for task in tasks:
        task["metric_list"] = task["metric_list"][:1]
    stored["spec"]["cascade"]["deferral"] = list(rules)
    write_json(root / name / "sweep.json", {**stored, "tasks": tasks})
    spec, units = existing_sweep(root / name)
    by_task = {unit.task: _plain_task(unit) for unit in units}
    examples = read_packed(folder, "examples")
    parts = {}
    for task_name, prepared in facts.items():
        own = examples.filter(pa.compute.equal(examples["task"], task_name))
        parts[task_name] = (by_task[task_name], own)
        write_json(root / name / "prepared" / f"{task_name}.json", prepared)
        for model in [LARGE, *(model.name for model in spec.chain)]:
            keys = (prepared if model == LARGE else prepared["chain"][model])["keys"]
            path = root / "cache" / "answers" / keys["answers"] / "rows.parquet"
            write_rows(path, _unpacked(*parts[task_name], own, f"{model}/"))
    answers = read_packed(folder, "answers")
    starts = _starts(answers["trial_id"])
    for line in read_packed(folder, "runs").to_pylist():
        record = TrialRecord(**json.loads(line["record"]))
        if record.task not in parts or not strata(record.stratum):
            continue
        place = root / name / record.trial_id
        if record.trial_id in starts:
            task, own = parts[record.task]
            mine = answers.slice(starts[record.trial_id], own.num_rows)
            write_rows(place / "rows.parquet", _unpacked(task, own, mine, "", rules_for(task, spec.cascade)))
        place.mkdir(parents=True, exist_ok=True)
        for step, share in zip(line["kept_steps"], line["kept_shares"], strict=True):
            append_step(place, step, {KEPT_SHARE: share}, at=record.ended_at)
        write_record(place, record)
    return name


def _starts(trial_ids: pa.ChunkedArray) -> dict[str, int]:
    """The first row of each run; its rows stand together."""
    names = np.asarray(trial_ids.to_pylist(), dtype=np.str_)
    firsts = np.unique(names, return_index=True)
    return dict(zip(firsts[0].tolist(), firsts[1].tolist(), strict=True))


def _unpacked(
    task: TaskSpec, examples: pa.Table, answers: pa.Table, prefix: str, rules: Sequence[str] | None = None
) -> pa.Table:
    """Rows as a run leaves them, without texts and signals but with uncertainties. rules: which; None for all there are."""
    count = metric_of(task.metric_list[0]).num_statistics
    values = np.stack([answers[f"{prefix}{STATISTIC}{index}"].to_numpy() for index in range(count)], axis=1)
    empty = pa.array([[]] * examples.num_rows, pa.list_(pa.float32()))
    columns: dict[str, Any] = {
        "id": _ids(examples),
        "group": [f"{group:0{ID_DIGITS}d}" for group in examples["group"].to_pylist()],
        "split": examples["split"],
        "output": [""] * examples.num_rows,
        "num_prompt_tokens": examples["num_prompt_tokens"],
        "num_output_tokens": answers[f"{prefix}num_output_tokens"],
        **dict.fromkeys(("token_logprobs", "token_entropies", "token_margins", "choice_logprobs"), empty),
        "choice_num_tokens": examples["choice_num_tokens"],
        _column(task): list(values),
    }
    schema = rows_schema([task.metric_list[0].metric])
    known = [name for name in answers.column_names if name.startswith(prefix + UNCERTAINTY)]
    for name in known if rules is None else [UNCERTAINTY + rule for rule in rules]:
        if name not in known or answers[name].null_count:
            if rules is None:
                continue
            raise StorageError(
                f"{name} was not packed for {answers['trial_id'][0]}; pack the sweep again with this rule"
            )
        schema = schema.append(pa.field(name.removeprefix(prefix), pa.float64()))
        columns[name.removeprefix(prefix)] = answers[name].to_numpy().astype(np.float64)
    return pa.table(columns, schema=schema)


def _ids(examples: pa.Table) -> list[str]:
    """New ids whose hashes stand in the order of the old ones', which decides between equal uncertainties."""
    pool = np.array([f"{number:0{ID_DIGITS}d}" for number in range(examples.num_rows)])
    names = np.empty(examples.num_rows, dtype=pool.dtype)
    names[np.argsort(examples["id_hash"].to_numpy(), kind="stable")] = pool[np.argsort(hash_ids(pool), kind="stable")]
    return [str(name) for name in names]


def stored_large_facts(folder: Path) -> dict[str, Json]:
    """By task what the large model's fine-tune and pass cost: `large` of the task's results."""
    lines = read_packed(folder, "facts").to_pylist()
    return {line["name"]: json.loads(line["json"])["large_facts"] for line in lines if line["name"] != "sweep"}
