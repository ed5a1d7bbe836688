"""Adapters: they alone are trained, they are added to the weights in what is stored, and a run with them resumes."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from test_train import ONE, some_data, spec
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM, PreTrainedModel

from catsweep.errors import ModelError
from catsweep.lora import adapted, add_adapters, merged, num_parameters, num_trained_parameters
from catsweep.models import TargetLogits, build_model
from catsweep.prepare import load_prepared, prepare_task
from catsweep.records import read_json
from catsweep.sharding import whole_weights
from catsweep.space import build_confirm, build_trial
from catsweep.spec.load import Sweep
from catsweep.spec.model import ByteTokenizer, ScratchModel
from catsweep.spec.switches import LoraSpec
from catsweep.spec.training import CatXentLoss, TrainingSpec
from catsweep.tokenization import make_tokenizer
from catsweep.train import train
from catsweep.trial import run_trial

LLAMA = {"model_type": "llama", "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2,
         "num_attention_heads": 2, "tie_word_embeddings": True}  # fmt: skip
GPT2 = {"model_type": "gpt2", "n_embd": 16, "n_layer": 2, "n_head": 2, "resid_pdrop": 0.0, "attn_pdrop": 0.0,
        "embd_pdrop": 0.0}  # fmt: skip
T5 = {"model_type": "t5", "d_model": 16, "d_ff": 32, "num_layers": 1, "num_heads": 2, "d_kv": 8, "dropout_rate": 0.0}
ALL = LoraSpec(r=4, target_modules="all-linear")


def build(config: dict[str, Any], dtype: str = "float32") -> PreTrainedModel:
    return build_model(ScratchModel(config=config, dtype=dtype), make_tokenizer(ByteTokenizer(), []), seed=0)


def shaken(model: PreTrainedModel) -> PreTrainedModel:
    """Adapters that do something, as after training."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".lora_" in name:
                parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
    return model


@pytest.mark.parametrize("config", [LLAMA, GPT2, T5], ids=lambda config: config["model_type"])
def test_the_stored_model_answers_as_the_one_with_adapters(config: dict[str, Any], tmp_path: Path) -> None:
    model = build(config)
    plain = {name: value.clone() for name, value in model.state_dict().items()}
    ids = torch.tensor([[5, 9, 40, 7]])
    inputs = {"input_ids": ids, **({"decoder_input_ids": ids} if config is T5 else {})}
    with torch.no_grad():
        before = model(**inputs).logits
        add_adapters(model, ALL, seed=3)
        assert torch.equal(model(**inputs).logits, before)  # the second matrix starts at zero
        unmerged = shaken(model)(**inputs).logits
        model.save_pretrained(tmp_path, state_dict=merged(model, whole_weights(TargetLogits(model))))
        auto = AutoModelForSeq2SeqLM if config is T5 else AutoModelForCausalLM
        loaded = auto.from_pretrained(tmp_path)
        assert not adapted(loaded)
        assert not torch.allclose(unmerged, before, atol=1e-3)
        torch.testing.assert_close(loaded(**inputs).logits, unmerged, rtol=1e-5, atol=1e-5)
    assert set(loaded.state_dict()) == set(plain)
    assert num_parameters(model) == sum(parameter.numel() for parameter in loaded.parameters())


def test_training_changes_the_adapters_and_nothing_else() -> None:
    model = build(LLAMA)
    add_adapters(model, LoraSpec(r=2, target_modules=["q_proj", "down_proj"]), seed=3)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    train(
        TargetLogits(model), some_data(), spec(CatXentLoss(), gradient_checkpointing=True), seed=7, workers=ONE, evaluate_at=[],
        on_evaluation=lambda step: None,
    )  # fmt: skip
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {name for name in before if ".lora_" in name}
    assert len(changed) == 2 * 2 * 2  # two matrices beside two weights in two layers
    assert num_trained_parameters(model) == 2 * (2 * (16 + 16) + 2 * (32 + 16))


def test_adapters_beside_bfloat16_weights_are_float32() -> None:
    model = build(LLAMA, "bfloat16")
    add_adapters(model, ALL, seed=0)
    dtypes = {name: value.dtype for name, value in model.named_parameters()}
    assert {dtype for name, dtype in dtypes.items() if ".lora_" in name} == {torch.float32}
    weights = merged(shaken(model), whole_weights(TargetLogits(model)))
    assert {value.dtype for value in weights.values()} == {torch.bfloat16}


def test_a_resumed_run_ends_with_the_same_adapters_and_its_checkpoint_holds_no_other_weights(tmp_path: Path) -> None:
    def run(folder: Path, evaluate_at: list[int]) -> dict[str, torch.Tensor]:
        model = build(LLAMA)
        add_adapters(model, LoraSpec(r=2, dropout=0.1), seed=3)
        folder.mkdir(exist_ok=True)
        training = spec(CatXentLoss(), steps=6)
        train(
            TargetLogits(model), some_data(), training, seed=7, workers=ONE, evaluate_at=evaluate_at,
            on_evaluation=lambda step: None, folder=folder,
        )  # fmt: skip
        return {name: value for name, value in model.state_dict().items() if ".lora_" in name}

    first = run(tmp_path / "whole", [3, 6])
    (checkpoint,) = (tmp_path / "whole" / "checkpoint").glob("*.safetensors")
    stored = load_file(checkpoint)
    assert {name.removeprefix("model.") for name in stored if name.startswith("model.")} == set(first)
    shutil.copytree(tmp_path / "whole", tmp_path / "part")
    for name, value in run(tmp_path / "part", [6]).items():  # from the checkpoint of step 3
        torch.testing.assert_close(value, first[name], rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("target", ["q_porj", "lm_head"])
def test_modules_that_cannot_have_adapters_are_named(target: str) -> None:
    with pytest.raises(ModelError, match=rf"lora\.target_modules: found \['{target}'\]") as caught:
        add_adapters(build(LLAMA), LoraSpec(target_modules=[target]), seed=0)
    assert ("q_proj" if target == "q_porj" else "not its embeddings or its head") in str(caught.value)


def test_a_pair_with_adapters_goes_the_whole_way(make_sweep: Callable[..., Sweep], tmp_path: Path) -> None:
    lora = {"r": 4, "alpha": 8, "target_modules": "all-linear"}
    config = {**LLAMA, "hidden_size": 32, "intermediate_size": 64}
    finetune = {"steps": 20, "batch_size": 16, "learning_rate": 1e-2, "lora": lora}
    sweep = make_sweep(
        small={"config": config, "tokenizer": {"kind": "char"}},
        large={"config": config, "finetune": finetune},
        training={"steps": 8, "batch_size": 16, "learning_rate": 1e-2, "lora": lora},
        data={"max_train_rows": 100, "max_evaluation_rows": 40},
    )
    prepare_task(sweep.tasks[0], sweep.spec, root=tmp_path)
    large = load_prepared(tmp_path, "tiny", "made/reverse").large_model
    assert large is not None
    assert not adapted(AutoModelForCausalLM.from_pretrained(large))
    settings = sweep.spec.training.to_json()
    assert TrainingSpec.model_validate(settings).lora == LoraSpec(r=4, alpha=8, target_modules="all-linear")
    trial = build_confirm(build_trial(sweep.spec, sweep.tasks[0], "any", 0, settings, {}), 0)
    folder = tmp_path / "trial"
    folder.mkdir()
    record = run_trial(trial, root=tmp_path, folder=folder, report=lambda metrics: None)
    stored = AutoModelForCausalLM.from_pretrained(folder / "model")
    assert record.num_parameters == sum(parameter.numel() for parameter in stored.parameters())
    widths = [32 + 32] * 4 + [32 + 64] * 3  # attention, and the three matrices behind it
    assert record.facts["num_trained_parameters"] == 2 * 4 * sum(widths)
    assert read_json(folder / "record.json")["facts"]["num_trained_parameters"] == 2 * 4 * sum(widths)
