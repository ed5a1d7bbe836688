"""The large model's signal: exact, small, and only honest on data that it has not seen."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from catsweep.batches import sequence_batch
from catsweep.cache import is_complete
from catsweep.data import Tokens, TokenSplit
from catsweep.filters.top_k import target_rank
from catsweep.models import TargetLogits, build_model
from catsweep.prepare import load_prepared, prepare_task
from catsweep.spec.load import Sweep
from catsweep.spec.model import ByteTokenizer, ScratchModel
from catsweep.spec.sweep import DistributionSpec
from catsweep.teacher import (
    SignalArrays,
    any_of,
    bytes_a_target,
    load_signal,
    near_chance,
    read_arrays,
    teacher_pass,
)
from catsweep.tensors import Batch
from catsweep.tokenization import make_tokenizer

CONFIG = {
    "model_type": "llama",
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
}
TOKENIZER = make_tokenizer(ByteTokenizer(), [])


def some_split() -> TokenSplit:
    generator = np.random.default_rng(0)

    def lists(sizes: list[int]) -> Tokens:
        return Tokens(generator.integers(3, 200, sum(sizes)).astype(np.int32), np.concatenate([[0], np.cumsum(sizes)]))

    empty = Tokens(np.empty(0, np.int32), np.zeros(1, np.int64))
    return TokenSplit(lists([3, 1, 5]), lists([4, 2, 3]), empty, np.zeros(4, np.int64))


def run(
    distribution: DistributionSpec | None,
    *,
    batch_size: int = 2,
    share: tuple[int, int] = (0, 1),
    parts: Path | None = None,
    module: TargetLogits | None = None,
) -> tuple[SignalArrays, torch.Tensor]:
    """The signal, and the log-probabilities of all target positions computed one example at a time."""
    module = module or TargetLogits(build_model(ScratchModel(config=CONFIG), TOKENIZER, seed=0))
    split = some_split()
    signal = teacher_pass(
        module, split, architecture="decoder", pad_id=0, start_id=None, distribution=distribution, vocab_size=len(TOKENIZER),
        batch_size=batch_size, seed=0, device=torch.device("cpu"), share=share, parts=parts, part_seconds=0.0,
    )  # fmt: skip
    with torch.no_grad():
        parts = [
            module(
                sequence_batch([split.prompts[i]], [split.targets[i]], architecture="decoder", pad_id=0, start_id=None)
            )
            for i in range(3)
        ]
    return signal, torch.cat(parts).log_softmax(1)


def test_rank_and_log_probability_stand_in_the_order_of_the_targets() -> None:
    signal, logprobs = run(None)
    targets = torch.from_numpy(some_split().targets.ids.astype(np.int64))
    own = logprobs.gather(1, targets[:, None]).squeeze(1)
    np.testing.assert_allclose(signal.logprob, own.numpy(), atol=5e-3)
    ranks = (logprobs.argsort(dim=1, descending=True) == targets[:, None]).int().argmax(1)
    assert signal.rank.tolist() == ranks.clamp(max=255).tolist()


def test_without_a_distribution_a_target_token_takes_three_bytes() -> None:
    signal, _ = run(None)
    assert signal.rank.itemsize + signal.logprob.itemsize == 3
    assert signal.ids is None


def test_the_first_of_equal_logits_has_rank_zero_as_for_argmax() -> None:
    logits = torch.tensor([[1.0, 3.0, 3.0], [3.0, 3.0, 3.0]])
    assert target_rank(logits, torch.tensor([1, 2])).tolist() == [0, 2]
    assert target_rank(logits, torch.tensor([2, 0])).tolist() == [1, 0]
    assert logits.argmax(1).tolist() == [1, 0]


def test_top_k_keeps_the_most_probable_tokens() -> None:
    signal, logprobs = run(DistributionSpec(kind="top_k", num_entries=5))
    top = logprobs.exp().topk(5, dim=1)
    assert signal.ids is not None
    assert signal.weights is not None
    assert signal.ids.tolist() == top.indices.tolist()
    np.testing.assert_allclose(signal.weights, top.values.numpy(), rtol=2**-10)


def test_sampled_entries_come_from_the_distribution() -> None:
    signal, logprobs = run(DistributionSpec(num_entries=4000))
    assert signal.ids is not None
    counts = np.stack([np.bincount(row, minlength=len(TOKENIZER)) for row in signal.ids.astype(np.int64)]) / 4000
    probs = logprobs.exp().numpy()
    assert np.abs(counts - probs).max() < 5 * np.sqrt(probs.max() / 4000)


@pytest.mark.parametrize("kind", ["sampled", "top_k"])
def test_the_shares_of_several_workers_add_up_to_the_whole_to_the_bit(kind: str) -> None:
    distribution = DistributionSpec(kind=kind, num_entries=3)
    whole, _ = run(distribution, batch_size=1)
    shares = [vars(run(distribution, batch_size=1, share=(index, 2))[0]) for index in range(2)]
    for name, array in vars(whole).items():
        if array is not None:
            both = [share[name].view(np.uint8) for share in shares]
            assert all(one.any() for one in both)
            assert (both[0] + both[1]).tobytes() == array.tobytes()


class Killed(Exception):
    """What ends a pass in its middle."""


class DiesInTheThirdBatch(TargetLogits):
    """A model that answers twice."""

    num_batches = 0

    def forward(self, batch: Batch, *, head: bool = True) -> torch.Tensor:
        self.num_batches += 1
        if self.num_batches > 2:
            raise Killed
        return super().forward(batch, head=head)


@pytest.mark.parametrize("kind", ["sampled", "top_k"])
def test_a_pass_that_was_killed_goes_on_where_it_was_and_gives_the_same_bits(tmp_path: Path, kind: str) -> None:
    distribution = DistributionSpec(kind=kind, num_entries=3)
    whole, _ = run(distribution, batch_size=1)
    dying = DiesInTheThirdBatch(build_model(ScratchModel(config=CONFIG), TOKENIZER, seed=0))
    with pytest.raises(Killed):
        run(distribution, batch_size=1, parts=tmp_path, module=dying)
    assert len(list(tmp_path.iterdir())) == 2
    again = DiesInTheThirdBatch(build_model(ScratchModel(config=CONFIG), TOKENIZER, seed=0))
    split = some_split()
    signal = teacher_pass(
        again, split, architecture="decoder", pad_id=0, start_id=None, distribution=distribution,
        vocab_size=len(TOKENIZER), batch_size=1, seed=0, device=torch.device("cpu"), parts=tmp_path,
    )  # fmt: skip
    assert again.num_batches == 1
    for name, array in vars(whole).items():
        if array is not None:
            assert vars(signal)[name].tobytes() == array.tobytes(), name


@pytest.mark.parametrize("damage", ["cut", "flipped"])
def test_a_kept_part_that_is_damaged_is_looked_at_again(tmp_path: Path, damage: str) -> None:
    distribution = DistributionSpec(num_entries=3)
    whole, _ = run(distribution, batch_size=1)
    dying = DiesInTheThirdBatch(build_model(ScratchModel(config=CONFIG), TOKENIZER, seed=0))
    with pytest.raises(Killed):
        run(distribution, batch_size=1, parts=tmp_path, module=dying)
    first, second = sorted(tmp_path.iterdir())
    content = bytearray(second.read_bytes())
    place = content.index(b"logprob.npy") + 150  # in the numbers of the array
    content[place] ^= 1
    second.write_bytes(content if damage == "flipped" else content[: len(content) // 2])
    again = DiesInTheThirdBatch(build_model(ScratchModel(config=CONFIG), TOKENIZER, seed=0))
    signal = teacher_pass(
        again, some_split(), architecture="decoder", pad_id=0, start_id=None, distribution=distribution,
        vocab_size=len(TOKENIZER), batch_size=1, seed=0, device=torch.device("cpu"), parts=tmp_path,
    )  # fmt: skip
    assert again.num_batches == 2
    assert first.exists()
    assert signal.logprob.tobytes() == whole.logprob.tobytes()


def test_a_stored_signal_is_read_back(tmp_path: Path) -> None:
    signal, _ = run(DistributionSpec(num_entries=3))
    signal.save(tmp_path)
    loaded = load_signal(tmp_path, distribution=True)
    assert loaded.rank_N.tolist() == signal.rank.tolist()
    assert loaded.weights_NK is not None
    assert loaded.weights_NK.sum(1).tolist() == pytest.approx([1.0] * 9)
    assert load_signal(tmp_path, distribution=False).ids_NK is None


def a_signal(vocab_size: int, kind: str) -> SignalArrays:
    generator = np.random.default_rng(0)
    ids = generator.integers(0, vocab_size, (40, 12)).astype(np.uint16 if vocab_size <= 2**16 else np.uint32)
    weights = generator.random((40, 12)).astype(np.float16) if kind == "top_k" else None
    return SignalArrays(
        generator.integers(0, 256, 40).astype(np.uint8), -generator.random(40).astype(np.float16), ids, weights
    )


@pytest.mark.parametrize("vocab_size", [32_000, 65_536, 65_537, 128_000, 262_144])
@pytest.mark.parametrize("kind", ["sampled", "top_k"])
def test_a_distribution_takes_at_most_sixty_bytes_and_is_read_back_exactly(
    tmp_path: Path, vocab_size: int, kind: str
) -> None:
    signal = a_signal(vocab_size, kind)
    signal.save(tmp_path)
    stored = sum(np.load(path).nbytes for path in tmp_path.iterdir()) / 40
    assert stored == bytes_a_target(DistributionSpec(kind=kind), vocab_size) <= 60
    loaded, places = load_signal(tmp_path, distribution=True), torch.tensor([3, 0, 39])
    batch = loaded.take(places)
    assert batch.ids_NK is not None
    assert batch.ids_NK.tolist() == signal.ids[places.numpy()].tolist()
    assert batch.ids_NK.dtype == torch.int64
    assert read_arrays(tmp_path).ids.tolist() == signal.ids.tolist()
    joined = any_of([loaded, loaded], loaded).take(places)
    assert joined.ids_NK.tolist() == batch.ids_NK.tolist()


def test_a_signal_of_an_earlier_version_with_ids_of_four_bytes_is_read(tmp_path: Path) -> None:
    signal = a_signal(128_000, "top_k")
    for name, array in vars(signal).items():
        np.save(tmp_path / f"{name}.npy", array)
    batch = load_signal(tmp_path, distribution=True).take(torch.tensor([5]))
    assert batch.ids_NK.tolist() == signal.ids[[5]].tolist()
    assert read_arrays(tmp_path).ids.tolist() == signal.ids.tolist()


@pytest.fixture(scope="module")
def prepared(make_sweep: Callable[..., Sweep], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Sweep]:
    """A prepared task whose large model has learnt its own half by heart."""
    root = tmp_path_factory.mktemp("root")
    finetune = {"steps": 250, "batch_size": 32, "learning_rate": 1e-2}
    large = {
        "model_type": "llama",
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
    }
    sweep = make_sweep(large={"config": large, "finetune": finetune}, data={"max_train_rows": 120})
    prepare_task(sweep.tasks[0], sweep.spec, root=root)
    return root, sweep


def test_the_trap_the_large_model_is_nearly_always_right_on_its_own_training_targets(
    prepared: tuple[Path, Sweep],
) -> None:
    root, sweep = prepared
    found = load_prepared(root, sweep.spec.name, "made/reverse")
    assert found.large_model is not None
    module = TargetLogits(build_model(sweep.spec.large, found.tokenizer(), seed=0, folder=found.large_model))

    def right_share(split: str) -> float:
        signal = teacher_pass(
            module, found.task_data().tokens(split), architecture="decoder", pad_id=0, start_id=None, distribution=None,
            vocab_size=1, batch_size=64, seed=0, device=torch.device("cpu"),
        )  # fmt: skip
        return float(np.mean(signal.rank == 0))

    seen, held_out = right_share("large_train"), right_share("train")
    assert seen > 0.95
    assert held_out < seen - 0.1
    assert held_out == pytest.approx(found.facts["signal"]["large_right_share"])


def test_the_large_model_and_the_small_ones_share_no_group(prepared: tuple[Path, Sweep]) -> None:
    root, sweep = prepared
    data = load_prepared(root, sweep.spec.name, "made/reverse").task_data()
    groups = {
        split: set(data.texts(split)["group"].to_pylist()) for split in ("large_train", "train", "validation", "test")
    }
    for first in groups:
        for second in groups:
            assert first == second or not groups[first] & groups[second]


@pytest.mark.parametrize("damage", ["truncate", "edit"])
def test_a_damaged_signal_is_made_again(prepared: tuple[Path, Sweep], damage: str) -> None:
    root, sweep = prepared
    folder = load_prepared(root, sweep.spec.name, "made/reverse").signal
    path = folder / "rank.npy"
    whole = path.read_bytes()
    path.write_bytes(whole[:-3] if damage == "truncate" else whole[:-1] + bytes([whole[-1] ^ 1]))
    assert not is_complete(folder)
    prepare_task(sweep.tasks[0], sweep.spec, root=root)
    assert path.read_bytes() == whole


def test_a_changed_template_model_or_cut_gives_new_keys(
    prepared: tuple[Path, Sweep], make_sweep: Callable[..., Sweep]
) -> None:
    root, sweep = prepared
    task, spec = sweep.tasks[0], sweep.spec
    from catsweep.inputs import read_inputs

    keys = read_inputs(task, spec, root=root).keys
    changed_template = task.model_copy(update={"doc_to_text": "word {{word}}"})
    changed_cut = spec.model_copy(update={"data": spec.data.model_copy(update={"max_train_rows": 110})})
    assert spec.large.finetune is not None
    finetune = spec.large.finetune.model_copy(update={"steps": 251})
    changed_model = spec.model_copy(update={"large": spec.large.model_copy(update={"finetune": finetune})})
    for changed in (read_inputs(changed_template, spec, root=root), read_inputs(task, changed_cut, root=root)):
        assert changed.keys["data"] != keys["data"]
        assert changed.keys["signal"] != keys["signal"]
    other = read_inputs(task, changed_model, root=root).keys
    assert other["data"] == keys["data"]
    assert other["signal"] != keys["signal"]


def test_a_large_model_that_is_no_better_than_the_most_frequent_token_is_warned_of() -> None:
    ids = np.array([5, 5, 5, 7, 8, 9, 10, 11, 12, 13], dtype=np.int32)
    ten = Tokens(ids, np.array([0, 10]))
    train = TokenSplit(ten, ten, ten, np.zeros(2, np.int64))
    (text,) = near_chance("made/reverse", train, {"large_right_share": 0.3})
    assert text.startswith("made/reverse: the large model gets 30.0% of the training target tokens right")
    assert "would get 30.0%" in text
    assert "large.finetune.steps" in text
    assert near_chance("made/reverse", train, {"large_right_share": 0.31}) == []
