"""Checkpoints that were cut short or changed are never loaded, and a full disk costs the newest one only."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from faults import DAMAGES, full_disk
from synthetic import TINY_LLAMA
from transformers import AutoConfig, AutoModelForCausalLM

from catsweep.checkpoint import load_checkpoint, newest_checkpoint, save_checkpoint
from catsweep.errors import is_out_of_space
from catsweep.models import TargetLogits


def model(seed: int = 0) -> tuple[TargetLogits, torch.optim.Optimizer]:
    """A model and its optimiser after one step."""
    torch.manual_seed(seed)
    config = AutoConfig.for_model(**TINY_LLAMA, vocab_size=16, max_position_embeddings=32)
    module = TargetLogits(AutoModelForCausalLM.from_config(config))
    optimizer = torch.optim.AdamW(module.parameters(), lr=0.1)
    sum((parameter**2).sum() for parameter in module.parameters()).backward()  # type: ignore[union-attr]
    optimizer.step()
    return module, optimizer


def weights(module: TargetLogits) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in module.parameters()])


def test_weights_optimiser_and_step_come_back(tmp_path: Path) -> None:
    first, optimizer = model()
    save_checkpoint(tmp_path, first, optimizer, 3)
    save_checkpoint(tmp_path, first, optimizer, 6)
    second, other = model(seed=1)
    assert load_checkpoint(tmp_path, second, other) == 6
    assert torch.equal(weights(first), weights(second))
    states = optimizer.state_dict()["state"], other.state_dict()["state"]
    assert states[0].keys() == states[1].keys()
    for index, mine in states[0].items():
        assert all(torch.equal(mine[name], states[1][index][name]) for name in ("exp_avg", "exp_avg_sq", "step"))
    assert len(list((tmp_path / "checkpoint").iterdir())) == 1


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_is_not_loaded(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    module, optimizer = model()
    save_checkpoint(tmp_path, module, optimizer, 3)
    path = newest_checkpoint(tmp_path)
    assert path is not None
    damage(path)
    other, state = model(seed=1)
    before = weights(other).clone()
    assert load_checkpoint(tmp_path, other, state) == 0
    assert torch.equal(weights(other), before)
    save_checkpoint(tmp_path, other, state, 2)  # its next one takes the damaged one's place
    assert load_checkpoint(tmp_path, module, optimizer) == 2


def test_a_full_disk_leaves_the_older_checkpoint_as_it_was(tmp_path: Path) -> None:
    module, optimizer = model()
    save_checkpoint(tmp_path, module, optimizer, 3)
    before = {path.name: path.read_bytes() for path in (tmp_path / "checkpoint").iterdir()}
    with full_disk(1000), pytest.raises(Exception, match="os error") as caught:
        save_checkpoint(tmp_path, module, optimizer, 6)
    assert is_out_of_space(caught.value)
    assert {path.name: path.read_bytes() for path in (tmp_path / "checkpoint").iterdir()} == before
    assert load_checkpoint(tmp_path, module, optimizer) == 3


def test_what_a_killed_process_left_goes_with_the_next_checkpoint(tmp_path: Path) -> None:
    module, optimizer = model()
    (tmp_path / "checkpoint").mkdir()
    old, young = (tmp_path / "checkpoint" / f".00000002.{name}.safetensors" for name in ("old", "young"))
    for half in (old, young):  # the young one may be that of a process which has not ended yet
        half.write_bytes(b"half")
    os.utime(old, (0, 0))
    assert load_checkpoint(tmp_path, module, optimizer) == 0
    save_checkpoint(tmp_path, module, optimizer, 3)
    assert [path.name[:9] for path in (tmp_path / "checkpoint").iterdir() if path != young] == ["00000003-"]
    assert young.exists()
