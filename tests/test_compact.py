"""A packed sweep gives the results of the whole one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from synthetic import build_sweep, copy_sweep

from catsweep.cascade.order import hash_ids
from catsweep.compact import pack, stored_large_facts, unpack
from catsweep.curves import compute_task, result_names, results_on_storage, summarise
from catsweep.errors import StorageError
from catsweep.records import existing_sweep, read_json, read_record, read_records, read_rows, write_json, write_record
from catsweep.spec.base import Json

RULES = ["mean", "max"]
DIFFERENT = {"ece", "threshold", "train_flops", "pass_flops", "key"}
"""What places among uncertainties do not give, and what is computed from files that are not packed."""


def plain(value: Any) -> Any:
    """Results as nested lists of names and numbers, without what is known to differ, under the first metric."""
    if isinstance(value, dict):
        kept = {name: item for name, item in value.items() if name not in DIFFERENT}
        if "metrics" in kept:
            kept["metrics"] = dict(list(kept["metrics"].items())[:1])
        return {name: plain(item) for name, item in kept.items()}
    return [plain(item) for item in value] if isinstance(value, list) else value


def same(found: Any, expected: Any, path: str = "") -> None:
    """Raises AssertionError at the first number that differs by more than 1e-9."""
    assert type(found) is type(expected), path
    if isinstance(expected, dict):
        assert list(found) == list(expected), path
        for name in expected:
            same(found[name], expected[name], f"{path}/{name}")
    elif isinstance(expected, list):
        assert len(found) == len(expected), path
        for index, (one, other) in enumerate(zip(found, expected, strict=True)):
            same(one, other, f"{path}/{index}")
    else:
        assert found == (pytest.approx(expected, rel=1e-9, abs=1e-9) if isinstance(expected, float) else expected), path


def recomputed(root: Path, name: str) -> tuple[list[Json], Json]:
    _, units = existing_sweep(root / name)
    summarise(root, name, [compute_task(root, name, task) for task in result_names(units)])
    return results_on_storage(root, name)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished sweep of three tasks: exact match, accuracy of choices, and chrF. Many answers are equally uncertain."""
    root = tmp_path_factory.mktemp("whole")
    copy_sweep(root)
    for path in root.rglob("rows.parquet"):
        _with_ties(path)
    return root


def _with_ties(path: Path) -> None:
    rows = read_rows(path)
    coarse = [[round(value, 1) for value in values] for values in rows["token_logprobs"].to_pylist()]
    column = rows.column_names.index("token_logprobs")
    values = pa.array(coarse, rows.schema.field(column).type)
    pq.write_table(rows.set_column(column, rows.schema.field(column), values), path)
    if (record := read_record(path.parent)) is not None:
        write_record(path.parent, record)  # its seal is that of the new rows


def test_results_of_a_packed_sweep_are_those_of_the_whole_one(whole: Path, tmp_path: Path) -> None:
    results, summary = recomputed(whole, "tiny")
    pack(whole, "tiny", tmp_path / "packed", rules=lambda _: RULES)
    name = unpack(tmp_path / "packed", tmp_path / "root", rules=RULES)
    found, found_summary = recomputed(tmp_path / "root", name)
    assert [result["task"] for result in found] == [result["task"] for result in results]
    same(plain(found), plain(results))
    same(plain(found_summary), plain(summary))


def test_ties_are_among_what_was_compared(whole: Path) -> None:
    curve = pq.read_table(whole / "tiny" / "curves" / "lemma" / "cs.parquet")
    assert not all(curve["is_threshold"].to_pylist())


def test_some_strata_and_rules_of_a_packed_sweep_can_be_taken_alone(whole: Path, tmp_path: Path) -> None:
    results, _ = recomputed(whole, "tiny")
    chosen = ("xent", "cat_xent/either")
    pack(whole, "tiny", tmp_path / "packed", rules=lambda name: RULES if name in chosen else RULES[:1])
    name = unpack(tmp_path / "packed", tmp_path / "two", rules=RULES, strata=lambda name: name in chosen)
    for found, expected in zip(recomputed(tmp_path / "two", name)[0], results, strict=True):
        first, own = next(iter(expected["metrics"].items()))
        assert sorted(found["metrics"][first]["strata"]) == sorted(chosen)
        for stratum in chosen:
            same(found["metrics"][first]["strata"][stratum]["deferral"], own["strata"][stratum]["deferral"])
    with pytest.raises(StorageError, match="uncertainty/max was not packed"):
        unpack(tmp_path / "packed", tmp_path / "all", rules=RULES)


def test_no_text_of_an_example_is_packed_and_hashes_of_the_ids_are(whole: Path, tmp_path: Path) -> None:
    pack(whole, "tiny", tmp_path, rules=lambda _: ["mean"])
    texts = [pq.read_table(tmp_path / f"{name}.parquet").select([0]) for name in ("examples", "answers")]
    assert [table.column_names for table in texts] == [["task"], ["trial_id"]]
    examples = pq.read_table(tmp_path / "examples.parquet")
    strings = [field.name for field in examples.schema if str(field.type) == "string"]
    assert strings == ["task", "split"]
    first = examples["id_hash"][0].as_py()
    assert first == int(hash_ids(np.array(["calibration-0"]))[0])


def test_runs_have_a_line_each_with_rate_and_objective(whole: Path, tmp_path: Path) -> None:
    pack(whole, "tiny", tmp_path, rules=lambda _: ["mean"])
    lines = pq.read_table(tmp_path / "runs.parquet").to_pylist()
    records = [*read_records(whole / "tiny", "trials"), *read_records(whole / "tiny", "confirm")]
    assert [line["objective"] for line in lines] == [record.objective for record in records]
    assert [line["learning_rate"] for line in lines] == [record.parameters["learning_rate"] for record in records]
    assert all(json.loads(line["record"])["facts"] == {} for line in lines)
    assert set(stored_large_facts(tmp_path)) == {"lemma/cs", "langid/nordic", "emoji/en-fr"}


def test_a_rate_that_is_a_text_in_the_yaml_is_packed_as_a_number(tmp_path: Path) -> None:
    copy_sweep(tmp_path / "root")
    path = next((tmp_path / "root" / "tiny" / "trials").rglob("record.json"))
    record = read_json(path)
    write_json(path, {**record, "seal": None, "parameters": {**record["parameters"], "learning_rate": "5e-3"}})
    pack(tmp_path / "root", "tiny", tmp_path / "packed", rules=lambda _: ["mean"])
    lines = pq.read_table(tmp_path / "packed" / "runs.parquet").to_pylist()
    assert sum(line["learning_rate"] == 0.005 for line in lines) == 1


def test_a_run_whose_queries_are_not_the_large_models_is_refused(tmp_path: Path) -> None:
    build_sweep(tmp_path / "root")
    path = next((tmp_path / "root" / "tiny" / "confirm").rglob("rows.parquet"))
    rows = read_rows(path)
    pq.write_table(rows.slice(0, rows.num_rows - 1), path)
    record = read_record(path.parent)
    assert record is not None
    write_record(path.parent, record)
    with pytest.raises(StorageError, match="differ"):
        pack(tmp_path / "root", "tiny", tmp_path / "packed", rules=lambda _: ["mean"])


def test_a_sweep_that_has_no_confirmed_runs_is_refused(tmp_path: Path) -> None:
    copy_sweep(tmp_path / "root")
    for path in (tmp_path / "root" / "tiny" / "confirm").rglob("record.json"):
        write_json(path, {**read_json(path), "status": "failed", "seal": None})
    with pytest.raises(StorageError, match="no confirmed runs"):
        pack(tmp_path / "root", "tiny", tmp_path / "packed", rules=lambda _: ["mean"])
