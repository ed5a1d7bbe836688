from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from catsweep.data import Tokens, TokenSplit
from catsweep.models import TargetLogits, build_model
from catsweep.packing import MAX_PADDING, MAX_ROW, pack_rows
from catsweep.spec.model import ByteTokenizer, ScratchModel
from catsweep.tensors import TeacherSignal
from catsweep.tokenization import make_tokenizer
from catsweep.train import MixedData, TrainingData

SMALL = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
}

LENGTHS = {
    "words": lambda draw: draw.integers(8, 40, 32),
    "short texts": lambda draw: np.exp(draw.normal(3.5, 0.6, 32)).astype(int) + 3,
    "passages": lambda draw: np.exp(draw.normal(5.3, 0.5, 16)).astype(int) + 10,
    "one long, many short": lambda draw: np.array([500, *draw.integers(15, 25, 31)]),
    "two lengths": lambda draw: np.array([400, 600] * 16),
}


@pytest.mark.parametrize("kind", LENGTHS)
def test_rows_hold_every_example_once_with_next_to_no_padding(kind: str) -> None:
    shares = []
    for seed in range(20):
        lengths = LENGTHS[kind](np.random.default_rng(seed)).tolist()
        rows = pack_rows(lengths)
        assert rows is not None
        assert sorted(index for row in rows for index in row) == list(range(len(lengths)))
        width = max(sum(lengths[index] for index in row) for row in rows)
        assert width <= MAX_ROW * max(lengths)
        shares.append(1 - sum(lengths) / (width * len(rows)))
    assert np.mean(shares) <= MAX_PADDING
    assert max(shares) <= 0.08  # lengths that leave a gap wherever they are put


@pytest.mark.parametrize("lengths", [[7], [7, 7, 7], [100, 99, 98, 97]])
def test_examples_of_nearly_one_length_are_not_packed(lengths: list[int]) -> None:
    assert pack_rows(lengths) is None


def test_the_rows_of_a_small_batch_by_hand() -> None:
    # 24 tokens, the longest 8: three rows of 8 hold all
    assert pack_rows([8, 3, 4, 5, 4]) == [[0], [3, 1], [2, 4]]


def some_data(seed: int = 0, lengths: tuple[int, int] = (2, 40)) -> TrainingData:
    """Prompts and targets of many lengths, with a signal and noise on the targets."""
    draw = np.random.default_rng(seed)

    def lists(shortest: int, longest: int) -> Tokens:
        sizes = draw.integers(shortest, longest + 1, 48)
        ids = draw.integers(3, 200, sizes.sum()).astype(np.int32)
        return Tokens(ids, np.concatenate([[0], np.cumsum(sizes)]))

    targets = lists(1, 9)
    empty = Tokens(np.empty(0, np.int32), np.zeros(1, np.int64))
    injected = draw.random(len(targets.ids)) < 0.2
    split = TokenSplit(lists(*lengths), targets, empty, np.zeros(49, np.int64), injected)
    numbers = torch.arange(len(targets.ids))
    signal = TeacherSignal(numbers % 256, -numbers.float(), numbers[:, None] % 200, numbers[:, None].float())
    return TrainingData(split, signal, "decoder", pad_id=0, start_id=None)


def make(config: dict[str, Any], data: TrainingData | MixedData) -> TargetLogits:
    model = build_model(ScratchModel(config=config), make_tokenizer(ByteTokenizer(), []), seed=0)
    for parameter in model.parameters():  # large enough weights that a wrong neighbour shows
        parameter.data.mul_(3)
    module = TargetLogits(model)
    module.choose_path(data.batch(np.arange(4)))
    return module


def gradients(module: TargetLogits, data: TrainingData | MixedData, indices: NDArray[np.int64]) -> list[torch.Tensor]:
    module.zero_grad()
    batch = data.batch(indices)
    torch.nn.functional.cross_entropy(module(batch), batch.target_ids_N, reduction="sum").backward()
    return [parameter.grad.clone() for parameter in module.parameters() if parameter.grad is not None]


PACKS = [
    {"model_type": "llama", **SMALL},
    {"model_type": "gpt2", "n_embd": 32, "n_layer": 2, "n_head": 2},  # learned positions
    {"model_type": "qwen2", **SMALL, "use_sliding_window": True, "sliding_window": 8, "max_window_layers": 1},
    {"model_type": "gemma3_text", **SMALL, "head_dim": 16, "sliding_window": 8},
]


@pytest.mark.parametrize("config", PACKS, ids=lambda config: config["model_type"])
def test_a_packed_batch_gives_the_logits_and_gradients_of_the_padded_one(config: dict[str, Any]) -> None:
    data = some_data()
    module = make(config, data)
    packed = data.packed_for(module)
    assert packed.pack
    indices = np.random.default_rng(1).permutation(48)[:24]
    padded_batch, packed_batch = data.batch(indices), packed.batch(indices)
    assert packed_batch.attention_mask_BS is None
    assert packed_batch.input_ids_BS.numel() < 0.9 * padded_batch.input_ids_BS.numel()
    with torch.no_grad():
        assert torch.allclose(module(packed_batch), module(padded_batch), rtol=1e-5, atol=1e-5)
    for ours, theirs in zip(gradients(module, packed, indices), gradients(module, data, indices), strict=True):
        assert torch.allclose(ours, theirs, rtol=1e-5, atol=1e-5 * float(theirs.abs().max()))


def test_target_tokens_keep_their_order_their_signal_and_their_noise() -> None:
    data = some_data()
    indices = np.random.default_rng(2).permutation(48)[:16]
    padded, packed = data.batch(indices), replace(data, pack=True).batch(indices)
    assert packed.position_ids_BS is not None
    assert torch.equal(packed.target_ids_N, padded.target_ids_N)
    assert torch.equal(packed.injected_N, padded.injected_N)  # type: ignore[arg-type]
    for part in fields(TeacherSignal):
        found, expected = getattr(packed.teacher, part.name), getattr(padded.teacher, part.name)
        assert (found is None) is (expected is None) is (part.name == "high_NHJ")  # on storage alone
        assert found is None or torch.equal(found, expected)
    # what a target is predicted from: the token at its place, and how many stand before it in its example
    tokens = [batch.input_ids_BS.flatten()[batch.target_places_N] for batch in (padded, packed)]
    assert torch.equal(*tokens)
    column = padded.target_places_N % padded.input_ids_BS.shape[1]
    assert torch.equal(packed.position_ids_BS.flatten()[packed.target_places_N], column)


def test_a_mixture_packs_its_members_together() -> None:
    data = MixedData((some_data(0), some_data(1, (20, 60))), (0.5, 0.5))
    module = make(PACKS[0], data)
    packed = data.packed_for(module)
    assert all(part.pack for part in packed.parts)
    indices = np.array([3, 50, 7, 90, 60, 1, 2, 77])
    with torch.no_grad():
        assert torch.allclose(module(packed.batch(indices)), module(data.batch(indices)), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "config",
    [
        {"model_type": "mamba", "hidden_size": 32, "num_hidden_layers": 2, "state_size": 4},  # a recurrent state
        {"model_type": "bloom", "hidden_size": 32, "n_layer": 2, "n_head": 2},  # distances, no positions
        {"model_type": "gemma2", **SMALL, "head_dim": 16, "final_logit_softcapping": 30.0},  # its own logits
    ],
    ids=lambda config: config["model_type"],
)
@pytest.mark.parametrize("lengths", [(2, 40), (9, 9)], ids=["any length", "one length"])
def test_a_model_that_would_mix_the_examples_of_a_row_gets_padded_batches(
    config: dict[str, Any], lengths: tuple[int, int]
) -> None:
    data = some_data(0, lengths)
    assert not data.packed_for(make(config, data)).pack
