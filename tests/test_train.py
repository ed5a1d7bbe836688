"""Training: the gradient does not depend on how a batch is split, and a resumed run is the same run."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor

from catsweep.data import Tokens, TokenSplit
from catsweep.errors import TrialDivergedError
from catsweep.models import TargetLogits, build_model
from catsweep.records import read_steps
from catsweep.sharding import whole
from catsweep.spec.filters import NamedQuadrants, ShuffledFilter, SoftFilter, ThresholdFilter, TopKFilter
from catsweep.spec.model import ByteTokenizer, ScratchModel
from catsweep.spec.training import (
    CatDistLoss,
    CatXentLoss,
    GatekeeperLoss,
    LabelSmoothingLoss,
    LossSpec,
    TrainingSpec,
    XentLoss,
)
from catsweep.tensors import TeacherSignal
from catsweep.tokenization import make_tokenizer
from catsweep.train import BatchLoss, MixedData, TrainingData, cut, learning_rate, train
from catsweep.workers import Workers

CONFIG = {
    "model_type": "llama",
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
}
ONE = Workers(0, 1, torch.device("cpu"))


def tokens(generator: np.random.Generator, num: int, shortest: int, longest: int) -> Tokens:
    lengths = generator.integers(shortest, longest + 1, num)
    ids = generator.integers(3, 40, lengths.sum()).astype(np.int32)
    return Tokens(ids, np.concatenate([[0], np.cumsum(lengths)]))


def some_data(seed: int = 0) -> TrainingData:
    """Targets of very different lengths, so that a wrong denominator shows."""
    generator = np.random.default_rng(seed)
    targets = tokens(generator, 64, 1, 12)
    empty = Tokens(np.empty(0, np.int32), np.zeros(1, np.int64))
    split = TokenSplit(tokens(generator, 64, 1, 6), targets, empty, np.zeros(65, np.int64))
    num = len(targets.ids)
    torch_generator = torch.Generator().manual_seed(0)
    signal = TeacherSignal(
        torch.randint(0, 2, (num,), generator=torch_generator),
        -8 * torch.rand(num, generator=torch.Generator().manual_seed(1)),
        torch.randint(3, 40, (num, 4), generator=torch_generator),
        torch.full((num, 4), 0.25),
    )
    return TrainingData(split, signal, "decoder", pad_id=0, start_id=None)


def mixed_data() -> MixedData:
    """Two members of which one has a small share."""
    return MixedData((some_data(), some_data(1)), (0.2, 0.8))


def module() -> TargetLogits:
    spec = ScratchModel(config=CONFIG, tokenizer=ByteTokenizer())
    return TargetLogits(build_model(spec, make_tokenizer(ByteTokenizer(), []), seed=0))


def spec(loss: LossSpec, **fields: object) -> TrainingSpec:
    return TrainingSpec.model_validate(
        {"steps": 4, "batch_size": 16, "learning_rate": 1e-2, **fields, "loss": loss.to_json()}
    )


def flat(trained: TargetLogits) -> Tensor:
    return torch.cat([whole(parameter).flatten() for parameter in trained.parameters()])


def run(
    training: TrainingSpec,
    *,
    workers: Workers = ONE,
    folder: Path | None = None,
    evaluate_at: tuple[int, ...] = (),
    data: TrainingData | MixedData | None = None,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    trained = module().to(dtype)
    if folder:
        folder.mkdir(exist_ok=True)
    train(
        trained, data or some_data(), training, seed=7, workers=workers, evaluate_at=list(evaluate_at), on_evaluation=lambda step: None,
        folder=folder,
    )  # fmt: skip
    return flat(trained)


@pytest.mark.parametrize("limit", [0.05, 1e6])
def test_gradients_are_clipped_as_torch_clips_them(limit: float) -> None:
    training, data, trained = spec(XentLoss(), max_grad_norm=limit), some_data(), module().double()
    optimizer = torch.optim.AdamW(trained.parameters(), weight_decay=training.weight_decay)
    order = data.order(training.batch_size, 7)
    for step in range(1, training.steps + 1):
        optimizer.param_groups[0]["lr"] = learning_rate(training, step)
        batch = data.batch(order.batch(step - 1))
        optimizer.zero_grad()
        torch.autograd.backward(torch.nn.functional.cross_entropy(trained(batch), batch.target_ids_N))
        assert 0.05 < torch.nn.utils.clip_grad_norm_(trained.parameters(), limit) < 1e6
        optimizer.step()
    assert torch.allclose(run(training, dtype=torch.float64), flat(trained), rtol=1e-5, atol=1e-6)


LOSSES = [
    XentLoss(),
    CatXentLoss(),
    CatXentLoss(normalize="kept_tokens"),
    CatXentLoss(filter=NamedQuadrants(kind="learnable"), normalize="kept_tokens"),
    CatDistLoss(weight=0.3),
]
FURTHER_LOSSES = [
    CatXentLoss(filter=TopKFilter(k=2), normalize="kept_tokens", filter_warmup_share=0.25),
    CatXentLoss(filter=ThresholdFilter(t=0.1), normalize="kept_tokens"),
    CatXentLoss(filter=SoftFilter(), normalize="kept_tokens"),
    CatXentLoss(judge="initial", normalize="kept_tokens"),
    GatekeeperLoss(alpha=0.3, pretrain_share=0.5),
    LabelSmoothingLoss(),
]


@pytest.mark.parametrize(
    "loss",
    [*LOSSES, *FURTHER_LOSSES],
    ids=lambda loss: f"{loss.kind}-{getattr(loss, 'filter', loss).kind}-{loss.normalize}",
)
def test_one_and_four_micro_batches_take_the_same_steps(loss: LossSpec) -> None:
    """In double precision: AdamW divides gradients that are zero but for rounding by their own size."""
    whole = run(spec(loss, max_grad_norm=None), dtype=torch.float64)
    split = run(spec(loss, max_grad_norm=None, micro_batch_size=4), dtype=torch.float64)
    assert not torch.equal(whole, flat(module()).double())
    assert torch.allclose(whole, split, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("make", [some_data, mixed_data])
def test_micro_batches_hold_examples_of_one_length_unless_a_filter_compares_their_tokens(
    make: Callable[[], TrainingData | MixedData],
) -> None:
    data = make()
    mine = data.order(16, 7).batch(0)
    parts = cut(mine, data, spec(CatXentLoss(), micro_batch_size=4))
    assert sorted(np.concatenate(parts)) == sorted(mine)
    lengths = [data.lengths(part).tolist() for part in parts]
    assert np.array_equal(np.concatenate(lengths), np.sort(np.concatenate(lengths)))
    for part, own in zip(parts, lengths, strict=True):
        batch = data.batch(part)
        assert batch.attention_mask_BS is not None
        assert sorted(batch.attention_mask_BS.sum(1) + 1) == own  # nothing follows the last target token
    compared = cut(mine, data, spec(CatXentLoss(filter=ShuffledFilter()), micro_batch_size=4))
    assert np.array_equal(np.concatenate(compared), mine)


def test_activation_checkpointing_takes_the_same_steps() -> None:
    switched = run(spec(CatXentLoss(), gradient_checkpointing=True, micro_batch_size=4, max_grad_norm=None))
    assert torch.allclose(run(spec(CatXentLoss(), max_grad_norm=None)), switched, rtol=1e-5, atol=1e-6)


def test_activation_checkpointing_keeps_no_activations_of_the_layers() -> None:
    saved: list[list[int]] = []
    for switch in (False, True):
        sizes: list[int] = []

        def pack(tensor: Tensor, sizes: list[int] = sizes) -> Tensor:
            sizes.append(tensor.numel())
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            run(spec(XentLoss(), steps=1, gradient_checkpointing=switch))
        saved.append(sizes)
    assert len(saved[1]) < len(saved[0]) / 1.5


def test_a_run_in_bfloat16_keeps_float32_weights_that_stay_near_those_of_float32(tmp_path: Path) -> None:
    plain, half = (
        run(spec(CatXentLoss(), bf16=switch, schedule="constant"), folder=tmp_path / f"{switch}")
        for switch in (False, True)
    )
    assert half.dtype == torch.float32
    start = flat(module())
    assert not torch.equal(plain, half)
    assert torch.nn.functional.cosine_similarity(plain - start, half - start, dim=0) > 0.9
    losses = [[step["train/loss"] for step in read_steps(tmp_path / f"{switch}")] for switch in (False, True)]
    assert losses[1] == pytest.approx(losses[0], rel=0.02)


@pytest.mark.slow  # the compiler takes a minute
def test_compiled_steps_are_the_same_steps() -> None:
    compiled = run(spec(CatXentLoss(), torch_compile=True, max_grad_norm=None))
    assert torch.allclose(run(spec(CatXentLoss(), max_grad_norm=None)), compiled, rtol=1e-4, atol=1e-5)


def fast_module(dtype: torch.dtype = torch.float32, **config: object) -> TargetLogits:
    spec = ScratchModel(config={**CONFIG, **config}, tokenizer=ByteTokenizer())
    trained = TargetLogits(build_model(spec, make_tokenizer(ByteTokenizer(), []), seed=0)).to(dtype)
    assert trained.choose_path(some_data().batch(np.arange(4)))
    return trained


def run_fast(training: TrainingSpec, workers: Workers = ONE, *, above: int, **model: object) -> Tensor:
    """A run of a model whose logits are hidden states times head, chunk by chunk where they are more than `above`."""
    trained = fast_module(**model)  # type: ignore[arg-type]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("catsweep.train.CHUNKED_ABOVE", above)
        train(
            trained, some_data(), training, seed=7, workers=workers, evaluate_at=[], on_evaluation=lambda step: None
        )  # fmt: skip
    return flat(trained)


@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
@pytest.mark.parametrize(
    "loss", [*LOSSES, *FURTHER_LOSSES], ids=lambda loss: f"{loss.kind}-{getattr(loss, 'filter', loss).kind}"
)
def test_a_micro_batch_in_chunks_has_the_loss_and_the_gradients_of_the_plain_one(
    loss: LossSpec, tied: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = []
    for above in (2**40, 0):
        monkeypatch.setattr("catsweep.train.CHUNKED_ABOVE", above)
        trained, initial = fast_module(tie_word_embeddings=tied), fast_module()
        with torch.no_grad():
            next(initial.parameters()).mul_(2)
        output = BatchLoss(spec(loss), trained, trained, initial)(
            some_data().batch(np.arange(20)), torch.Generator().manual_seed(0), 3
        )
        torch.autograd.backward(output.loss_sum)
        found.append((output, [parameter.grad for parameter in trained.parameters()]))
    (plain, expected), (chunked, gradients) = found
    torch.testing.assert_close(chunked.loss_sum, plain.loss_sum, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close({**chunked.sums, "kept": chunked.num_kept}, {**plain.sums, "kept": plain.num_kept})
    for one, other in zip(gradients, expected, strict=True):
        assert one is not None
        assert other is not None
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5 * other.abs().max().item())


def test_steps_in_chunks_in_bfloat16_stay_near_the_plain_ones() -> None:
    start = flat(fast_module())
    plain, chunked = (run_fast(spec(CatXentLoss(), bf16=True), above=above) for above in (2**40, 0))
    assert torch.nn.functional.cosine_similarity(plain - start, chunked - start, dim=0) > 0.95


def _chunked_runs(workers: Workers, micro_batch_size: int | None) -> list[Tensor]:
    return [
        run_fast(
            spec(loss, micro_batch_size=micro_batch_size),
            workers,
            above=0,
            dtype=torch.float64,
            tie_word_embeddings=tied,
        )
        for loss in LOSSES[2:4]
        for tied in (False, True)
    ]


def _chunked_rank(rank: int, store: str, result: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    for sharded in (False, True):
        torch.save(_chunked_runs(Workers(rank, 2, torch.device("cpu"), sharded), 4), f"{result}.{sharded}.{rank}")
    dist.destroy_process_group()


def test_two_ranks_with_chunks_take_the_steps_of_one(tmp_path: Path) -> None:
    """The ranks see the head's gradient, whether they hold all weights each or shards."""
    mp.spawn(_chunked_rank, args=(str(tmp_path / "store"), str(tmp_path / "weights")), nprocs=2)
    alone = _chunked_runs(ONE, None)
    for sharded in (False, True):
        for rank in (0, 1):
            for one, two in zip(alone, torch.load(f"{tmp_path / 'weights'}.{sharded}.{rank}"), strict=True):
                torch.testing.assert_close(two, one, rtol=1e-6, atol=1e-7)


def _rank(rank: int, store: str, result: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    workers = Workers(rank, 2, torch.device("cpu"))
    weights = [run(spec(loss), workers=workers) for loss in LOSSES]
    torch.save(torch.stack(weights), f"{result}.{rank}")
    further = [run(spec(loss), workers=workers, dtype=torch.float64) for loss in FURTHER_LOSSES]
    torch.save(torch.stack(further), f"{result}.further.{rank}")
    mixed = run(spec(LOSSES[-1]), workers=workers, data=mixed_data(), dtype=torch.float64)
    torch.save(mixed, f"{result}.mixed.{rank}")
    dist.destroy_process_group()


def test_one_and_two_ranks_take_the_same_steps(tmp_path: Path) -> None:
    mp.spawn(_rank, args=(str(tmp_path / "store"), str(tmp_path / "weights")), nprocs=2)
    first, second = (torch.load(f"{tmp_path / 'weights'}.{rank}") for rank in (0, 1))
    assert torch.equal(first, second)
    for loss, two_ranks in zip(LOSSES, first, strict=True):
        assert torch.allclose(run(spec(loss)), two_ranks, rtol=1e-5, atol=1e-6)
    for loss, two_ranks in zip(FURTHER_LOSSES, torch.load(f"{tmp_path / 'weights'}.further.0"), strict=True):
        assert torch.allclose(run(spec(loss), dtype=torch.float64), two_ranks, rtol=1e-6, atol=1e-7)
    mixed = run(spec(LOSSES[-1]), data=mixed_data(), dtype=torch.float64)
    for rank in (0, 1):
        assert torch.allclose(mixed, torch.load(f"{tmp_path / 'weights'}.mixed.{rank}"), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize(
    "loss", LOSSES, ids=lambda loss: f"{loss.kind}-{getattr(loss, 'filter', loss).kind}-{loss.normalize}"
)
def test_one_and_four_micro_batches_of_a_mixture_take_the_same_steps(loss: LossSpec) -> None:
    """In double precision: a micro-batch holds its examples in the order of members, so sums round otherwise."""
    whole = run(spec(loss, max_grad_norm=None), data=mixed_data(), dtype=torch.float64)
    split = run(spec(loss, max_grad_norm=None, micro_batch_size=4), data=mixed_data(), dtype=torch.float64)
    assert not torch.allclose(whole, run(spec(loss, max_grad_norm=None), dtype=torch.float64))
    assert torch.allclose(whole, split, rtol=1e-6, atol=1e-9)


def test_a_batch_of_a_mixture_holds_each_members_own_targets_and_signal() -> None:
    data = mixed_data()
    batch = data.batch(np.array([70, 3, 64]))  # of members 1, 0 and 1; in the order of members
    first, second = (
        part.batch(indices) for part, indices in zip(data.parts, (np.array([3]), np.array([6, 0])), strict=True)
    )
    assert batch.target_ids_N.tolist() == [*first.target_ids_N.tolist(), *second.target_ids_N.tolist()]
    signals = [found.teacher for found in (batch, first, second)]
    for name in ("rank_N", "ids_NK", "weights_NK"):
        whole, one, two = (getattr(signal, name) for signal in signals)
        assert torch.equal(whole, torch.cat([one, two]))
    assert len(data) == 128


def test_a_step_in_which_every_token_is_filtered_changes_no_weight() -> None:
    data = some_data()
    assert data.teacher is not None
    wrong = TeacherSignal(torch.full_like(data.teacher.rank_N, 9), data.teacher.logprob_N)
    trained = module()
    before = flat(trained)
    training = spec(CatXentLoss(filter=NamedQuadrants(kind="large"), normalize="kept_tokens"))
    train(
        trained, TrainingData(data.tokens, wrong, "decoder", 0, None), training, seed=0, workers=ONE, evaluate_at=[],
        on_evaluation=lambda step: None,
    )  # fmt: skip
    assert torch.equal(flat(trained), before)


def test_a_resumed_run_ends_with_the_same_weights(tmp_path: Path) -> None:
    whole = run(spec(CatXentLoss(), steps=6))

    class Killed(Exception):
        pass

    def kill(step: int) -> None:
        raise Killed

    with pytest.raises(Killed):
        train(
            module(),
            some_data(),
            spec(CatXentLoss(), steps=6),
            seed=7,
            workers=ONE,
            evaluate_at=[3],
            on_evaluation=kill,
            folder=tmp_path,
        )
    evaluated: list[int] = []
    again = module()
    train(
        again, some_data(), spec(CatXentLoss(), steps=6), seed=7, workers=ONE, evaluate_at=[3, 6], on_evaluation=evaluated.append,
        folder=tmp_path,
    )  # fmt: skip
    assert evaluated == [3, 6]  # the kill came before the evaluation of step 3 was on storage
    resumed = flat(again)
    assert torch.allclose(whole, resumed, rtol=1e-6, atol=1e-7)
    assert [step["step"] for step in read_steps(tmp_path)] == [1, 2, 3, 4, 5, 6]


def test_a_step_whose_weights_sum_to_less_than_one_token_is_divided_by_their_sum(tmp_path: Path) -> None:
    """Of a filter with weights: with `kept_tokens` only their proportions count."""
    data = some_data()
    assert data.teacher is not None
    unsure = TeacherSignal(data.teacher.rank_N, torch.full_like(data.teacher.logprob_N, -2000.0))
    loss = CatXentLoss(filter=SoftFilter(), normalize="kept_tokens")
    run(
        spec(loss, steps=1, batch_size=1), data=TrainingData(data.tokens, unsure, "decoder", 0, None), folder=tmp_path
    )  # fmt: skip
    (step,) = read_steps(tmp_path)
    assert step["train/kept_share"] < 0.02  # about one over the vocabulary of 259
    assert step["train/loss"] == pytest.approx(np.log(259), rel=0.1)  # nearly uniform


def test_the_initial_model_judges_a_resumed_run_as_it_judged_the_first_part(tmp_path: Path) -> None:
    loss = CatXentLoss(judge="initial", filter=SoftFilter())
    whole = run(spec(loss, steps=6), folder=tmp_path / "whole", evaluate_at=(3, 6))
    shutil.copytree(tmp_path / "whole", tmp_path / "part")
    first = run(spec(loss, steps=6), folder=tmp_path / "part", evaluate_at=(6,))  # from the checkpoint of step 3
    assert torch.allclose(whole, first, rtol=1e-6, atol=1e-7)
    assert not torch.allclose(whole, run(spec(loss.model_copy(update={"judge": "current"}), steps=6)))


def test_what_a_run_writes_shows_the_filter_at_work(tmp_path: Path) -> None:
    run(spec(CatXentLoss(filter_warmup_share=0.5), steps=4), folder=tmp_path / "cat")
    shares = [step["train/kept_share"] for step in read_steps(tmp_path / "cat")]
    assert shares[:2] == [1, 1]
    assert max(shares[2:]) < 1
    run(spec(GatekeeperLoss(pretrain_share=0.5), steps=4), folder=tmp_path / "gatekeeper")
    steps = read_steps(tmp_path / "gatekeeper")
    assert ["train/gatekeeper/right" in step for step in steps] == [False, False, True, True]
    for step in steps[2:]:
        right = step["train/quadrant/both"] + step["train/quadrant/only_small"]
        assert step["train/gatekeeper/right"] == pytest.approx(right)


def test_a_diverging_run_says_so() -> None:
    trained = module()
    with torch.no_grad():
        next(trained.parameters()).fill_(float("nan"))
    with pytest.raises(TrialDivergedError, match="Lower learning_rate"):
        train(
            trained, some_data(), spec(XentLoss()), seed=0, workers=ONE, evaluate_at=[], on_evaluation=lambda step: None
        )


def test_a_batch_that_cannot_be_shared_equally_is_refused() -> None:
    with pytest.raises(ValueError, match="batch_size 16 is not a multiple of the 3 workers"):
        run(spec(XentLoss()), workers=Workers(0, 3, torch.device("cpu")))


@pytest.mark.parametrize("losses", [(XentLoss(), CatXentLoss(filter=NamedQuadrants(kind="all")))])
def test_cat_with_everything_kept_is_plain_fine_tuning(losses: tuple[LossSpec, LossSpec]) -> None:
    trained: Callable[[LossSpec], Tensor] = lambda loss: run(spec(loss))  # noqa: E731
    assert torch.equal(trained(losses[0]), trained(losses[1]))
