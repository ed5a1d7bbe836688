"""Switches of large models: off they change nothing that is stored, and what cannot be is refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from pydantic import ValidationError

from catsweep.errors import SpecError
from catsweep.spec.load import Sweep
from catsweep.spec.model import FinetuneSpec, LargePretrained
from catsweep.spec.training import TrainingSpec

SWITCHES = ("gradient_checkpointing", "bf16", "torch_compile")
FINETUNE = {"steps": 4, "learning_rate": 1e-4}


def test_switches_that_are_off_are_not_stored() -> None:
    assert not {*SWITCHES} & {*TrainingSpec(steps=1).to_json()}
    assert set(FinetuneSpec(steps=1, learning_rate=1e-4).to_json()) == {
        *("steps", "learning_rate", "batch_size", "holdout", "seed")
    }


@pytest.mark.parametrize("name", SWITCHES)
def test_switches_that_are_on_are_stored_and_read_back(name: str) -> None:
    training = TrainingSpec.model_validate({"steps": 1, name: True})
    assert training.to_json()[name] is True
    assert TrainingSpec.model_validate(training.to_json()) == training
    finetune = FinetuneSpec.model_validate({**FINETUNE, name: True, "micro_batch_size": 2})
    assert finetune.to_json()[name] is True
    assert FinetuneSpec.model_validate(finetune.to_json()) == finetune


def test_bf16_needs_float32_weights(make_sweep: Callable[..., Sweep]) -> None:
    with pytest.raises(ValidationError, match=r"finetune\.bf16: true with dtype: bfloat16; expected dtype: float32"):
        LargePretrained.model_validate({"pretrained": "x", "dtype": "bfloat16", "finetune": {**FINETUNE, "bf16": True}})
    small: dict[str, Any] = {"config": {"model_type": "llama"}, "dtype": "bfloat16"}
    with pytest.raises(SpecError, match=r"training\.bf16: true with dtype: bfloat16"):
        make_sweep(small=small, training={"steps": 4, "bf16": True})


def test_a_micro_batch_of_a_fine_tune_is_at_most_its_batch() -> None:
    with pytest.raises(ValidationError, match="micro_batch_size 64 is larger than batch_size 32"):
        FinetuneSpec.model_validate({**FINETUNE, "micro_batch_size": 64})


def test_clients_take_no_switch_that_their_loop_does_not_know() -> None:
    federated = {"clients": 2, "rounds": 2, "local_steps": 2, "partition": {"kind": "iid"}}
    with pytest.raises(ValidationError, match="federated with torch_compile; expected clients without them"):
        TrainingSpec.model_validate({"steps": 4, "federated": federated, "torch_compile": True})
