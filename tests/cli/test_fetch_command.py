"""`catsweep fetch`, then `validate` with the copy alone."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from catsweep.cli.main import app

TASK = """\
task: mine/sums
group: sums
dataset_path: a/b
output_type: generate_until
doc_to_text: "{{question}}"
doc_to_target: answer
metric_list: [{metric: exact_match}]
"""
SWEEP = """\
name: sums
tasks: [sums.yaml]
data_root: copy
small: {config: {model_type: llama}, tokenizer: {kind: char}}
large: {config: {model_type: llama}, finetune: {steps: 1, learning_rate: 1e-3}}
training: {steps: 1}
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setenv("CATSWEEP_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("CATSWEEP_DATA", raising=False)
    (tmp_path / "there" / "a" / "b").mkdir(parents=True)
    rows = [{"question": f"{n} + 1", "answer": str(n + 1)} for n in range(250)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "there" / "a" / "b" / "train.parquet")
    (tmp_path / "sums.yaml").write_text(TASK)
    (tmp_path / "sweep.yaml").write_text(SWEEP)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def invoke(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, list(arguments))
    return result.exit_code, result.output


def test_a_sweep_is_validated_with_a_fetched_copy_alone(folder: Path) -> None:
    code, output = invoke("validate", "sweep.yaml")
    assert code == 2
    assert "run `catsweep fetch TASKS --to DIR` on a machine that has one" in output.replace("\n", " ")
    code, output = invoke("fetch", "sweep.yaml", "--to", "copy", "--data-root", "there")
    assert code == 0, output
    assert "a/b/train-00000-of-00001.parquet: 250 rows" in output
    assert f"Read it with `data_root: {folder}/copy`" in output
    code, output = invoke("validate", "sweep.yaml")
    assert code == 0, output
    assert "'0 + 1 ' -> '1'" in output


def test_a_task_that_is_not_known_or_not_there_ends_with_2(folder: Path) -> None:
    code, output = invoke("fetch", "superglue/bolq", "--to", "copy")
    assert code == 2
    assert "Did you mean 'superglue/boolq'?" in output
    code, output = invoke("fetch", "sums.yaml", "--to", "copy")
    assert code == 2
    line, advice = output.splitlines()
    assert line == "task mine/sums: a/b, split 'train': not on this machine, nor is the hub in reach"
    assert advice.startswith("Run this command on a machine that reaches the hub")


def test_a_plan_without_data_is_a_line_a_task_and_one_advice_without_a_table(folder: Path) -> None:
    (folder / "other.yaml").write_text(TASK.replace("mine/sums", "mine/other").replace("a/b", "c/d"))
    (folder / "sweep.yaml").write_text(SWEEP.replace("[sums.yaml]", "[sums.yaml, other.yaml]"))
    code, output = invoke("plan", "sweep.yaml")
    assert code == 2
    first, second, advice = output.splitlines()
    assert first == "error: task mine/sums: a/b, split 'train': not on this machine, nor is the hub in reach"
    assert second == "error: task mine/other: c/d, split 'train': not on this machine, nor is the hub in reach"
    assert advice.startswith("Where there is a network run `catsweep fetch sweep.yaml --to DIR`")


def test_rows_can_be_limited(folder: Path) -> None:
    code, output = invoke("fetch", "sums.yaml", "--to", "copy", "--data-root", "there", "--max-rows", "7")
    assert (code, "7 rows" in output) == (0, True)
    assert pq.read_metadata(folder / "copy" / "a" / "b" / "train-00000-of-00001.parquet").num_rows == 7
