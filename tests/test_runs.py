"""Runs that a filter left next to nothing to train on, and what the large model cost before any trial."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from synthetic import LARGE, ONE_TASK, load_synthetic

from catsweep.cascade.cost import forward_flops, train_flops_per_step
from catsweep.health import starved
from catsweep.records import TrialRecord, append_step
from catsweep.runs import large_facts
from catsweep.spec.model import ChainScratch


def record(num_steps: int = 100) -> TrialRecord:
    return TrialRecord(
        trial_id="trials/t/cat_xent+either/00003", task="t", stratum="cat_xent/either", number=3, role="trial", seed=1,
        status="finished", parameters={}, num_steps=num_steps, objective=0.5, metrics={}, started_at=0.0, ended_at=1.0,
    )  # fmt: skip


def write(folder: Path, shares: dict[int, float]) -> None:
    folder.mkdir(exist_ok=True)
    for step, share in shares.items():
        append_step(folder, step, {"train/kept_share": share})


def test_a_run_whose_filter_keeps_next_to_nothing_to_the_end_is_named_with_a_next_move(tmp_path: Path) -> None:
    write(tmp_path, {10: 0.9, 60: 0.01, 100: 0.02})
    text = starved(tmp_path, record())
    assert text is not None
    assert text.startswith(
        "t cat_xent/either, trial 3: its filter kept at most 2.0% of the target tokens from step 50 on"
    )
    assert "raise the learning rate" in text


@pytest.mark.parametrize("shares", [{60: 0.01, 100: 0.06}, {10: 0.01, 100: 0.8}, {}])
def test_a_run_that_keeps_more_at_any_time_of_its_last_half_is_not(tmp_path: Path, shares: dict[int, float]) -> None:
    write(tmp_path, shares)
    assert starved(tmp_path, record()) is None


def test_the_large_models_cost_follows_from_its_steps_and_the_lengths_of_its_tokens(tmp_path: Path) -> None:
    sweep = load_synthetic(tmp_path, ONE_TASK)
    prepared = {"keys": {"data": "key"}, "large_shape": LARGE.to_dict()}
    gone = large_facts(tmp_path, prepared, sweep.spec)
    assert gone == {"num_models": 1, "num_steps": 400, "train_flops": None, "pass_flops": None, "rate": 1.0}
    folder = tmp_path / "cache" / "data" / "key"
    folder.mkdir(parents=True)
    for split, num in (("large_train", 10), ("train", 5)):
        np.save(folder / f"{split}.prompts.offsets.npy", np.arange(num + 1) * 7)
        np.save(folder / f"{split}.targets.offsets.npy", np.arange(num + 1) * 3)
    found = large_facts(tmp_path, prepared, sweep.spec)
    step = train_flops_per_step(LARGE, batch_size=32, mean_prompt_tokens=7, mean_target_tokens=3)
    assert found["train_flops"] == pytest.approx(400 * step)
    assert found["pass_flops"] == pytest.approx(5 * forward_flops(LARGE, [7], [3])[0])
    # A further model of a chain is paid for too; here it is the same one, fine-tuned for 50 steps in each of 1 + 2 folds.
    finetune = {"steps": 50, "learning_rate": 1e-3, "batch_size": 8, "cross_fit": 2}
    config = {"model_type": "llama", "hidden_size": 256}
    middle = ChainScratch.model_validate({"name": "medium", "config": config, "finetune": finetune})
    spec = sweep.spec.model_copy(update={"chain": [middle]})
    both = large_facts(tmp_path, prepared | {"chain": {"medium": {"large_shape": LARGE.to_dict()}}}, spec)
    assert (both["num_models"], both["num_steps"]) == (2, 400 + 150)
    step = train_flops_per_step(LARGE, batch_size=8, mean_prompt_tokens=7, mean_target_tokens=3)
    assert both["train_flops"] == pytest.approx(found["train_flops"] + 150 * step)
    assert both["pass_flops"] == pytest.approx(2 * found["pass_flops"])
