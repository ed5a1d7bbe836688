"""The plain script in benchmarks/reference against catsweep, on real runs of tiny models."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM

from catsweep.curves import compute_task
from catsweep.losses import build_loss
from catsweep.models import TargetLogits
from catsweep.prepare import load_prepared, prepare_task
from catsweep.records import read_rows, write_json, write_record, write_sweep
from catsweep.space import build_confirm, build_trial
from catsweep.spec.load import Sweep
from catsweep.spec.sweep import TrialSpec
from catsweep.spec.training import CatDistLoss, CatXentLoss, DistLoss, XentLoss
from catsweep.teacher import load_signal
from catsweep.tensors import LossInputs
from catsweep.train import TrainingData
from catsweep.trial import run_trial

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "reference" / "reference.py"
T5 = {"model_type": "t5", "d_model": 32, "d_ff": 64, "num_layers": 1, "num_heads": 2, "d_kv": 16}
LLAMA = {
    "model_type": "llama", "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2,
}  # fmt: skip
LAYERS = {"llama": "num_hidden_layers", "t5": "num_layers"}
LOSSES = {"xent": XentLoss(), "cat_xent": CatXentLoss(), "dist": DistLoss(), "cat_dist": CatDistLoss()}
CASES = [("reverse", LLAMA), ("parity", LLAMA), ("reverse", T5)]


def load_script() -> ModuleType:
    module_spec = importlib.util.spec_from_file_location("reference", SCRIPT)
    assert module_spec is not None
    assert module_spec.loader is not None
    module = importlib.util.module_from_spec(module_spec)
    module_spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module", params=CASES, ids=lambda case: f"{case[0]}-{case[1]['model_type']}")
def both(
    request: pytest.FixtureRequest, make_sweep: Callable[..., Sweep], tmp_path_factory: pytest.TempPathFactory
) -> tuple[TrialSpec, Path, dict[str, Any], dict[str, Any]]:
    """A confirmed cat_dist run: its spec, the root, what the script says, and what catsweep's results say."""
    name, config = request.param
    root = tmp_path_factory.mktemp("root")
    loss = {"kind": "cat_dist", "filter": {"kind": "either"}}
    finetune = {"steps": 60, "batch_size": 16, "learning_rate": 1e-2}
    sweep = make_sweep(
        tasks=(f"{name}.yaml",),
        small={"config": config, "tokenizer": {"kind": "char"}},
        large={"config": {**config, LAYERS[config["model_type"]]: 2}, "finetune": finetune},
        search={"num_samples": 1, "confirm_seeds": 1, "space": {"loss": loss}},
        training={"steps": 25, "batch_size": 16, "learning_rate": 1e-2},
    )
    prepare_task(sweep.tasks[0], sweep.spec, root=root)
    training = {**sweep.spec.training.to_json(), "loss": loss}
    trial = build_trial(sweep.spec, sweep.tasks[0], "cat_dist/either", 0, training, {})
    confirm = build_confirm(trial, 0)
    folder = root / "tiny" / confirm.trial_id
    write_json(folder / "spec.json", confirm.to_json())
    record = run_trial(confirm, root=root, folder=folder, report=lambda metrics: None)
    searched = {**record.to_json(), "trial_id": trial.trial_id, "role": "trial", "seed": trial.seed}
    write_record(root / "tiny" / trial.trial_id, type(record)(**searched))
    write_sweep(root / "tiny", sweep.spec, sweep.tasks)
    results = compute_task(root, "tiny", sweep.tasks[0].task)
    return confirm, root, load_script().reference(root, "tiny", confirm.trial_id), results


def test_losses_and_alpha_of_the_first_batch_agree_to_a_millionth(both: Any) -> None:
    spec, root, found, _ = both
    prepared = load_prepared(root, "tiny", spec.task.task)
    pair = prepared.facts["architecture"] == "encoder_decoder"
    auto = AutoModelForSeq2SeqLM if pair else AutoModelForCausalLM
    model = auto.from_pretrained(root / "tiny" / spec.trial_id / "model").eval()
    data = TrainingData(
        prepared.task_data().tokens("train"),
        load_signal(prepared.signal, distribution=True),
        prepared.facts["architecture"],
        pad_id=prepared.tokenizer().pad_token_id,
        start_id=getattr(model.config, "decoder_start_token_id", None),
    )
    batch = data.batch(data.order(spec.training.batch_size, spec.seed).batch(0))
    with torch.no_grad():
        logits = TargetLogits(model)(batch)
    inputs = LossInputs(logits, batch.target_ids_N, batch.teacher, torch.Generator())
    for name, loss in LOSSES.items():
        output = build_loss(loss)(inputs)
        assert found["first_batch"][name] == pytest.approx(float(output.loss_sum / output.num_target), rel=1e-6)
        if name == "cat_xent":
            assert sum(found["first_batch"]["alpha"]) == int(output.num_kept)
    assert batch.teacher is not None
    right = (logits.argmax(1) == batch.target_ids_N) | (batch.teacher.rank_N == 0)
    assert found["first_batch"]["alpha"] == right.int().tolist()
    assert 0 < sum(found["first_batch"]["alpha"]) < len(right)


def test_the_whole_curve_and_its_costs_agree_at_every_point(both: Any) -> None:
    spec, root, found, results = both
    metric = next(iter(results["metrics"]))
    points = read_rows(root / "tiny" / "curves" / f"{spec.task.task}.parquet").to_pydict()
    mine = [index for index, name in enumerate(points["metric"]) if name == metric]
    for name in ("quality", "cost_flops"):
        np.testing.assert_allclose(found["curve"][name], [points[name][index] for index in mine], rtol=1e-9)
    assert found["curve"]["is_threshold"] == [points["is_threshold"][index] for index in mine]
    thresholds = [points["threshold"][index] for index in mine][1:-1]
    np.testing.assert_allclose(found["curve"]["uncertainty"][:-1], thresholds, rtol=1e-9)


def test_audc_apgr_cpt_and_operating_points_agree(both: Any) -> None:
    _, _, found, results = both
    run = next(iter(results["metrics"].values()))["strata"]["cat_dist/either"]["rules"]["mean"][0]
    assert found["audc"] == pytest.approx(run["audc"], rel=1e-9)
    assert (found["apgr"] is None) == (run["apgr"] is None)
    assert found["apgr"] is None or found["apgr"] == pytest.approx(run["apgr"], abs=1e-9)
    assert found["cpt"] == run["cpt"]
    for name, ours in found["operating"].items():
        theirs = run["operating"][name]
        assert (ours is None) == (theirs is None)
        if ours is not None:
            assert ours == pytest.approx({key: theirs[key] for key in ours}, rel=1e-9)


def test_the_script_is_short_and_imports_nothing_of_catsweep() -> None:
    lines = SCRIPT.read_text().splitlines()
    assert len(lines) < 300
    imports = [line.split()[1].split(".")[0] for line in lines if line.startswith(("import ", "from "))]
    assert "catsweep" not in imports
