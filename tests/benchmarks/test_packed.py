"""The prototype of packed trials: a pack gives each trial what it gives itself."""

import copy
import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks" / "speed"))

import packed

from catsweep.train import BatchLoss

pytestmark = pytest.mark.filterwarnings("ignore:grad and param do not obey")


@pytest.mark.parametrize("forward", [packed.stacked_hidden, packed.mapped_hidden])
@pytest.mark.parametrize("same", [False, True])
def test_gradients_of_a_pack_are_those_of_each_trial_alone(forward: packed.Forward, same: bool) -> None:
    data, tokenizer = packed.make_data(200)
    trials = packed.make_trials(data, tokenizer, 3, steps=1, same=same)
    stack = packed.Stack(trials)
    indices = [data.order(32, trial.seed).batch(0) for trial in trials]
    batch = packed.packed_batch(data, indices[:1] if same else indices, len(trials))
    sums, names = packed.backward(stack, batch, forward, 1)
    for number, trial in enumerate(trials):
        module = copy.deepcopy(trial.model).train()
        output = BatchLoss(trial.spec, module, module, None)(data.batch(indices[number]), torch.Generator(), 1)
        output.loss_sum.backward()
        expected = {"loss": output.loss_sum, "target": output.num_target, "kept": output.num_kept, **output.sums}
        assert sorted(names) == sorted(expected)
        for name, value in expected.items():
            assert sums[names.index(name), number].item() == pytest.approx(value.item(), rel=1e-5)
        for name, parameter in module.model.named_parameters():
            assert parameter.grad is not None
            scale = parameter.grad.abs().max().item()
            torch.testing.assert_close(stack.leaves[name].grad[number], parameter.grad, rtol=1e-4, atol=1e-5 * scale)


@pytest.mark.parametrize("forward", [packed.stacked_hidden, packed.mapped_hidden])
def test_weights_of_a_pack_follow_those_of_each_trial_alone(forward: packed.Forward) -> None:
    # AdamW's first steps divide a gradient by its own size: one that is nothing but rounding moves a weight as far as any.
    assert packed.largest_difference(2, 4, forward, same=False) < 0.02
