"""What a task's prepared folders are made from: parts that are empty, texts that splits share."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import pytest

from catsweep.errors import DataError
from catsweep.inputs import needs_distribution, read_inputs, shared_texts
from catsweep.plan import make_plan
from catsweep.prepare import prepare_task
from catsweep.spec.load import Sweep
from catsweep.spec.training import LossSpec, distils

MakeSweep = Callable[..., Sweep]

TASK = """\
task: made/asked
group: questions
source: {kind: files, format: jsonl, train: asked.jsonl}
output_type: generate_until
doc_to_text: "{{passage}} | {{question}}"
doc_to_target: "{{answer}}"
metric_list: [{metric: exact_match}]
"""


def asked(folder: Path, rows: list[dict[str, Any]], **fields: str) -> Path:
    (folder / "asked.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    path = folder / "asked.yaml"
    path.write_text(TASK + "".join(f"{name}: {value}\n" for name, value in fields.items()))
    return path


@pytest.mark.parametrize(("holdout", "model"), [(0.002, "S"), (0.998, "L")])
def test_a_model_without_any_group_to_train_on_is_refused_before_it_trains(
    make_sweep: MakeSweep, tmp_path: Path, holdout: float, model: str
) -> None:
    rows = [{"passage": f"p{n % 8}", "question": f"q{n}", "answer": "a"} for n in range(400)]
    path = asked(tmp_path, rows, doc_to_group='"{{passage}}"')
    finetune = {"steps": 1, "batch_size": 4, "learning_rate": 1e-2, "holdout": holdout}
    large = {"config": make_sweep().spec.large.to_json()["config"], "finetune": finetune}
    sweep = make_sweep(tasks=(str(path),), large=large)
    text = rf"task made/asked: found no training example for {model}; expected at least one.*doc_to_group.*finetune\.holdout"
    with pytest.raises(DataError, match=text):
        prepare_task(sweep.tasks[0], sweep.spec, root=tmp_path)
    plan = make_plan(sweep, root=tmp_path)
    assert not plan.tasks
    assert f"found no training example for {model}" in plan.problems[0]


def test_training_examples_that_show_a_text_of_an_evaluation_split_are_counted_and_kept(
    make_sweep: MakeSweep, tmp_path: Path
) -> None:
    passages = [f"Passage {number:03}, long enough to be known again anywhere." for number in range(225)]
    rows = [{"passage": passages[n % 225], "question": f"q{n}", "answer": "a"} for n in range(450)]
    sweep = make_sweep(tasks=(str(asked(tmp_path, rows)),))
    examples = read_inputs(sweep.tasks[0], sweep.spec, root=tmp_path).examples
    shown = {split: [row.prompt.split(" | ")[0] for row in part] for split, part in examples.items()}
    evaluated = {text for split in ("validation", "calibration", "test") for text in shown[split]}
    trained = shown["large_train"] + shown["train"]
    num_shared = sum(text in evaluated for text in trained)
    assert 0 < num_shared < len(trained) == 300
    (line,) = shared_texts("made/asked", examples)
    assert line.startswith(f"made/asked: {num_shared} of 300 training examples show a text that an evaluation split")
    assert "doc_to_group" in line
    assert make_plan(sweep, root=tmp_path).tasks[0].warnings == [line]
    assert line in prepare_task(sweep.tasks[0], sweep.spec, root=tmp_path)["warnings"]
    grouped = make_sweep(tasks=(str(asked(tmp_path, rows, doc_to_group='"{{passage}}"')),))
    assert shared_texts("made/asked", read_inputs(grouped.tasks[0], grouped.spec, root=tmp_path).examples) == []
    assert make_plan(grouped, root=tmp_path).tasks[0].warnings == []


def test_the_losses_that_ask_for_the_large_models_distribution_are_those_with_a_divergence() -> None:
    losses = get_args(get_args(LossSpec)[0])
    found = {loss.model_fields["kind"].default for loss in losses if "divergence" in loss.model_fields}
    assert {"dist", "cat_dist"} <= found
    assert {kind for kind in (loss.model_fields["kind"].default for loss in losses) if distils(kind)} == found


@pytest.mark.parametrize(
    ("loss", "expected"),
    [
        ({"space": "choice", "options": [{"kind": "xent"}, {"kind": "dist"}]}, True),
        ({"kind": {"space": "choice", "options": ["xent", "dist"]}}, True),
        ({"space": "choice", "options": [{"kind": "xent"}, {"kind": "cat_xent", "filter": {"kind": "either"}}]}, False),
    ],
)
def test_a_distilling_loss_anywhere_in_the_space_makes_the_pass_keep_the_distribution(
    make_sweep: MakeSweep, loss: dict[str, Any], expected: bool
) -> None:
    search = {"num_samples": 1, "confirm_seeds": 1, "space": {"loss": loss}}
    assert needs_distribution(make_sweep(search=search).spec) is expected


def test_a_loss_that_is_not_searched_counts_too(make_sweep: MakeSweep) -> None:
    training = {"steps": 12, "batch_size": 16, "learning_rate": 1e-2}
    assert needs_distribution(make_sweep(training={**training, "loss": {"kind": "cat_dist"}}).spec)
    assert not needs_distribution(make_sweep(training=training).spec)
