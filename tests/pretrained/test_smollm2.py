"""A sweep of two real checkpoints on real rows, by the command line: SmolLM2-135M as L, its first ten layers as S.

The rows lie beside the repository, in ../shared/data; where they do not, these tests are skipped. The first run
downloads 93 MB and converts them in a minute or two (make_smollm2.py), into the user's cache folder. Twenty steps show
that real checkpoints go all the way, not which loss is better.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from make_smollm2 import default_folder, make

from catsweep.prepare import Prepared, load_prepared
from catsweep.records import TrialRecord, read_json, read_records, read_rows, read_steps

DATA = Path(__file__).parents[3] / "shared" / "data" / "hub"
NUM_ROWS = 10
"""Of each of validation, calibration and test."""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(not DATA.is_dir(), reason="needs the real rows of ../shared/data"),
]

RTE = """\
task: real/rte
group: entailment
dataset_path: nyu-mll/glue
dataset_name: rte
test_split: validation
output_type: multiple_choice
doc_to_text: "{{sentence1}}\\nQuestion: does this mean that \\"{{sentence2}}\\"?\\nAnswer:"
doc_to_target: label
doc_to_choice: ["yes", "no"]
doc_to_group: ["{{sentence1}}", "{{sentence2}}"]
metric_list: [{metric: accuracy}]
"""

# The copy holds rows of the public test split alone: all four splits are cut from them.
XSUM = """\
task: real/xsum
group: summarization
dataset_path: EdinburghNLP/xsum
training_split: test
output_type: generate_until
doc_to_text: "{{document}}\\nThe article above in one sentence:"
doc_to_target: summary
generation_kwargs: {max_gen_toks: 24}
metric_list: [{metric: rougeLsum}, {metric: chrf}]
"""

SWEEP: dict[str, Any] = {
    "search": {
        "num_samples": 1,
        "confirm_seeds": 1,
        "space": {
            "loss": {
                "space": "choice",
                "options": [{"kind": "xent"}, {"kind": "cat_xent", "filter": {"kind": "either"}}],
            }
        },
    },
    "data": {"max_train_rows": 40, "max_evaluation_rows": NUM_ROWS},
    "resources": {"evaluation_batch_size": 10},
}


@pytest.fixture(scope="module")
def pair() -> tuple[Path, Path]:
    """The folders of S and L."""
    return make(default_folder())


@dataclass(frozen=True)
class Finished:
    """A sweep that went from `validate` to `curves`. large_rows, confirmed: rows of L and of each confirmed run."""

    printed: str
    records: list[TrialRecord]
    prepared: Prepared
    large_rows: pa.Table
    confirmed: list[pa.Table]
    metrics: dict[str, Any]


def sweep_on(name: str, task: str, pair: tuple[Path, Path], folder: Path, **training: float) -> Finished:
    """validate, plan, run and curves of a sweep on one task, as a person types them, and what must hold for each."""
    (folder / "task.yaml").write_text(task)
    models = {"small": {"pretrained": str(pair[0])}, "large": {"pretrained": str(pair[1])}}
    document = {"name": name, "tasks": ["task.yaml"], **models, "training": {"steps": 20, **training}, **SWEEP}
    (folder / "sweep.yaml").write_text(json.dumps(document))

    def catsweep(*arguments: str) -> str:
        command = [sys.executable, "-m", "catsweep.cli.main", *arguments, "--out", "root"]
        env = {**os.environ, "COLUMNS": "120", "CATSWEEP_DATA": str(DATA), "HF_HUB_OFFLINE": "1"}
        result = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=False)
        assert result.returncode == 0, result.stdout + result.stderr
        return result.stdout + result.stderr

    assert f"real/{name}" in catsweep("validate", "sweep.yaml")
    plan = catsweep("plan", "sweep.yaml")
    assert "S 63,713,088 and L 134,515,008 parameters" in plan
    assert "still to make: data, signal, answers" in plan
    printed = catsweep("run", "sweep.yaml")
    assert "cat_xent/either" in catsweep("curves", name)

    root = folder / "root"
    prepared = load_prepared(root, name, f"real/{name}")
    records = [*read_records(root / name, "trials"), *read_records(root / name, "confirm")]
    confirmed = [
        read_rows(root / name / record.trial_id / "rows.parquet") for record in records if record.role == "confirm"
    ]
    curves = read_json(root / name / "curves" / f"real/{name}.json")
    finished = Finished(printed, records, prepared, prepared.large_rows(), confirmed, curves["metrics"])
    check_runs(finished, root / name)
    check_tokens(prepared, delimiter=" ")
    return finished


def check_runs(finished: Finished, folder: Path) -> None:
    """Every run trained to its end, and every example has a row of S and of L."""
    assert [record.status for record in finished.records] == ["finished"] * 4
    for record in finished.records:
        steps = [step for step in read_steps(folder / record.trial_id) if "train/loss" in step]
        assert len(steps) == 20
        losses = [step["train/loss"] / step["train/kept_share"] for step in steps if step["train/kept_share"]]
        assert np.mean(losses[-5:]) < 0.8 * losses[0]
        assert record.facts["target_positions_only"] is True
        assert 2**29 < record.facts["peak_memory_bytes"] < 2**32
    splits = [split for split in ("validation", "calibration", "test") for _ in range(NUM_ROWS)]
    assert finished.large_rows["split"].to_pylist() == splits
    assert len(finished.confirmed) == 2
    for rows in finished.confirmed:
        for column in ("id", "split", "num_prompt_tokens"):
            assert rows[column].to_pylist() == finished.large_rows[column].to_pylist()
    for metric in finished.metrics.values():
        assert set(metric["strata"]) == {"xent", "cat_xent/either"}
        for found in metric["strata"].values():
            assert found["audc"]["num_seeds"] == 1
            assert 0 <= found["quality_small"]["value"] <= metric["scale"]


def check_tokens(prepared: Prepared, *, delimiter: str) -> None:
    """Three bytes a target token; and the tokens of prompt and answer are those of the whole text."""
    tokenizer, data = prepared.tokenizer(), prepared.task_data()
    assert len(tokenizer) == 49_152
    tokens, texts = data.tokens("train"), data.texts("train").to_pylist()
    signal = prepared.facts["signal"]
    assert signal["bytes_a_token"] == 3  # a rank and a log-probability, whatever the vocabulary
    assert signal["num_target_tokens"] == len(tokens.targets.ids)
    for index, row in enumerate(texts):
        end = [] if row["choices"] else [tokenizer.eos_token_id]
        whole = tokenizer(f"{row['prompt']}{delimiter}{row['references'][0]}")["input_ids"] + end
        ours = [*tokens.prompts[index].tolist(), *tokens.targets[index].tolist()]
        if len(tokens.targets[index]) < 32:  # longer ones are cut
            assert ours == whole[-len(ours) :]


def test_smollm2_on_rte(pair: tuple[Path, Path], tmp_path: Path) -> None:
    """Choices of one token each."""
    training = {"batch_size": 2, "learning_rate": 3e-4, "max_prompt_tokens": 96, "max_target_tokens": 32}
    finished = sweep_on("rte", RTE, pair, tmp_path, **training)
    for rows in (finished.large_rows, *finished.confirmed):
        assert set(rows["output"].to_pylist()) <= {"yes", "no"}
        assert {tuple(counts) for counts in rows["choice_num_tokens"].to_pylist()} == {(1, 1)}
    test_rows = finished.prepared.large_rows("test")
    assert finished.metrics["accuracy"]["large"]["value"] == pytest.approx(
        np.mean([statistics[0] for statistics in test_rows["statistics/accuracy"].to_pylist()])
    )


def test_smollm2_on_xsum(pair: tuple[Path, Path], tmp_path: Path) -> None:
    """Generation behind prompts that are cut from the left, with a warning that counts them."""
    training = {"batch_size": 2, "learning_rate": 3e-4, "max_prompt_tokens": 64, "max_target_tokens": 32}
    finished = sweep_on("xsum", XSUM, pair, tmp_path, **training)
    assert "prompts that are longer than the limit lost their beginning" in finished.printed
    for rows in (finished.large_rows, *finished.confirmed):
        assert max(rows["num_output_tokens"].to_pylist()) <= 24
        assert max(rows["num_prompt_tokens"].to_pylist()) == 64
    answers = finished.large_rows["output"].to_pylist()
    assert sum(map(bool, answers)) > 0.8 * len(answers)  # it may end a text at once
    for record in finished.records:  # before it has learnt, ten layers of thirty tell far fewer tokens than the whole
        first = read_steps(tmp_path / "root" / "xsum" / record.trial_id)[0]
        assert first["train/quadrant/only_large"] > first["train/quadrant/only_small"] + 0.1
