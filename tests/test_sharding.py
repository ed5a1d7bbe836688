"""A model in shards on two ranks (FSDP) trains, answers, judges and is stored as a whole one on one rank does."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from pydantic import ValidationError
from test_train import LOSSES, flat, module, run, spec
from torch import Tensor
from torch.distributed.tensor import DTensor
from transformers import AutoModelForCausalLM

from catsweep.prepare import load_prepared, prepare_task
from catsweep.records import StepMetrics, read_record, read_rows, read_steps
from catsweep.sharding import whole
from catsweep.space import build_confirm, build_trial
from catsweep.spec.filters import SoftFilter
from catsweep.spec.load import Sweep
from catsweep.spec.sweep import DDP, ParallelSpec, TrialSpec, WorkerSpec
from catsweep.spec.training import CatXentLoss
from catsweep.trial import run_trial
from catsweep.workers import Workers, current_workers, share_of

FSDP = ParallelSpec(kind="fsdp")
MEMORY = {"gradient_checkpointing": True, "micro_batch_size": 4}
LOSS = LOSSES[3]
"""A filter that keeps few tokens, divided by their number: a wrong denominator shows."""


def _start(rank: int, store: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)


def _train_rank(rank: int, folder: Path) -> None:
    _start(rank, folder / "store")
    sharded = current_workers(FSDP)
    assert sharded == Workers(rank, 2, torch.device("cpu"), sharded=True)
    runs = {
        "ddp+memory": run(spec(LOSS, **MEMORY), workers=current_workers(DDP)),
        "fsdp": torch.stack([run(spec(loss), workers=sharded) for loss in LOSSES]),
        "fsdp+memory": run(spec(LOSS, **MEMORY), workers=sharded),
        "fsdp+initial": run(spec(CatXentLoss(judge="initial", filter=SoftFilter())), workers=sharded),
        "fsdp+bf16": run(spec(LOSS, bf16=True), workers=sharded),
        "whole": run(spec(LOSS, steps=6), workers=sharded, folder=folder / "run", evaluate_at=(3, 6)),
    }
    dist.barrier()
    if rank == 0:
        shutil.copytree(folder / "run", folder / "alone")
        assert [step["step"] for step in read_steps(folder / "run")] == [1, 2, 3, 4, 5, 6]
    dist.barrier()
    runs["resumed"] = run(spec(LOSS, steps=6), workers=sharded, folder=folder / "run", evaluate_at=(6,))
    torch.save(runs, folder / f"runs.{rank}")
    dist.destroy_process_group()


def test_one_rank_and_two_take_the_same_steps(tmp_path: Path) -> None:
    mp.spawn(_train_rank, args=(tmp_path,), nprocs=2)
    first, second = (torch.load(tmp_path / f"runs.{rank}") for rank in (0, 1))
    for name, weights in first.items():
        assert torch.equal(weights, second[name]), name

    def same(name: str, alone: Tensor) -> None:
        torch.testing.assert_close(first[name], alone, rtol=1e-5, atol=1e-6, msg=lambda text: f"{name}: {text}")

    alone = run(spec(LOSS))
    same("fsdp", torch.stack([run(spec(loss)) for loss in LOSSES]))
    same("ddp+memory", alone)
    same("fsdp+memory", alone)
    same("fsdp+initial", run(spec(CatXentLoss(judge="initial", filter=SoftFilter()))))
    start, half = flat(module()), run(spec(LOSS, bf16=True))  # sums in bfloat16 round as the batch is split
    assert torch.nn.functional.cosine_similarity(first["fsdp+bf16"] - start, half - start, dim=0) > 0.95
    long = run(spec(LOSS, steps=6))
    same("whole", long)
    same("resumed", long)
    # The checkpoint holds whole tensors: one rank goes on from it too.
    same("whole", run(spec(LOSS, steps=6), folder=tmp_path / "alone", evaluate_at=(6,)))


def _trial(sweep: Sweep, parallel: ParallelSpec) -> TrialSpec:
    settings = {**sweep.spec.training.to_json(), "loss": {"kind": "cat_xent"}}
    found = build_confirm(build_trial(sweep.spec, sweep.tasks[0], "any", 0, settings, {}), 0)
    return found.model_copy(update={"parallel": parallel})


def _go(sweep: Sweep, root: Path, parallel: ParallelSpec) -> None:
    workers = WorkerSpec(num_workers=2 if parallel is FSDP else 1, parallel=parallel)
    resources = sweep.spec.resources.model_copy(update={"large": workers})
    prepare_task(sweep.tasks[0], sweep.spec.model_copy(update={"resources": resources}), root=root)
    reports: list[StepMetrics] = []
    (root / "trial").mkdir(exist_ok=True)
    run_trial(_trial(sweep, parallel), root=root, folder=root / "trial", report=reports.append)
    assert [report.step for report in reports] == [12]


def _flow_rank(rank: int, folder: Path, sweeps: list[Sweep]) -> None:
    _start(rank, folder / "store")
    for number, sweep in enumerate(sweeps):
        _go(sweep, folder / f"two-{number}", FSDP)
    dist.destroy_process_group()


def _columns(rows: pa.Table) -> dict[str, Any]:
    lists = ("token_logprobs", "token_entropies", "token_margins", "choice_logprobs")
    return {name: np.concatenate([[0.0], *rows[name].to_pylist()]) for name in lists}


def test_a_pair_in_shards_goes_the_whole_way_as_on_one_rank(make_sweep: Callable[..., Sweep], tmp_path: Path) -> None:
    """Fine-tune, signal, answers of generation and of choices, training, evaluation, and the stored model."""
    tied = {"model_type": "llama", "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1,
            "num_attention_heads": 2, "tie_word_embeddings": True}  # fmt: skip
    small = {"config": tied, "tokenizer": {"kind": "char"}}
    # Of the second pair. At 1e-2 rounding alone moves its answers by 1e-4: micro-batches on one rank do too.
    adapters = {"lora": {"r": 4, "target_modules": "all-linear"}}
    finetune = {"steps": 10, "batch_size": 16, "learning_rate": 1e-2}
    few = {"max_train_rows": 101, "max_evaluation_rows": 45}  # shares of different size
    sweeps = [
        make_sweep(
            tasks=(task,), small=small, data=few, large={"config": tied, "finetune": {**finetune, **lora}},
            training={"steps": 12, "batch_size": 16, "learning_rate": rate, **lora},
        )
        for task, rate, lora in (("reverse.yaml", 1e-2, {}), ("parity.yaml", 1e-3, adapters))
    ]  # fmt: skip
    mp.spawn(_flow_rank, args=(tmp_path, sweeps), nprocs=2)
    for number, sweep in enumerate(sweeps):
        alone, two = tmp_path / f"one-{number}", tmp_path / f"two-{number}"
        _go(sweep, alone, DDP)
        name = sweep.tasks[0].task
        signals = [load_prepared(root, "tiny", name).signal for root in (alone, two)]
        assert signals[0].name == signals[1].name  # how workers hold the model changes no key
        logprobs = [np.load(signal / "logprob.npy").astype(float) for signal in signals]
        np.testing.assert_allclose(logprobs[0], logprobs[1], rtol=2e-3)
        ranks = [np.load(signal / "rank.npy").astype(int) for signal in signals]
        assert np.mean(ranks[0] == ranks[1]) > 0.99
        for rows in ([load_prepared(root, "tiny", name).large_rows() for root in (alone, two)],
                     [read_rows(root / "trial" / "rows.parquet") for root in (alone, two)]):  # fmt: skip
            assert rows[0].num_rows == rows[1].num_rows == 3 * 45
            for column in ("id", "split", "output", "num_output_tokens"):
                assert rows[0][column].to_pylist() == rows[1][column].to_pylist()
            for column, values in _columns(rows[0]).items():
                np.testing.assert_allclose(
                    values, _columns(rows[1])[column], rtol=2e-4, atol=2e-5, err_msg=f"{name} {column}"
                )
        records = [read_record(root / "trial") for root in (alone, two)]
        assert records[0] is not None
        assert records[1] is not None
        assert records[0].num_parameters == records[1].num_parameters
        models = [AutoModelForCausalLM.from_pretrained(root / "trial" / "model") for root in (alone, two)]
        for one, other in zip(models[0].parameters(), models[1].parameters(), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


def test_shares_are_equally_long_and_hold_every_example() -> None:
    for num in (0, 1, 2, 7, 9):
        shares = [share_of(num, Workers(rank, 3, torch.device("cpu"))) for rank in range(3)]
        assert len({len(share) for share in shares}) == 1
        assert sorted(set(np.concatenate(shares).tolist())) == list(range(num))


def test_shards_need_two_workers_and_the_default_is_not_stored() -> None:
    with pytest.raises(ValidationError, match=r"fsdp} with num_workers: 1; expected two or more workers"):
        WorkerSpec(parallel=FSDP)
    assert "parallel" not in WorkerSpec(num_workers=2).to_json()
    stored = WorkerSpec(num_workers=2, parallel=FSDP).to_json()
    assert WorkerSpec.model_validate(json.loads(json.dumps(stored))).parallel == FSDP


def test_a_plain_tensor_is_its_own_whole() -> None:
    tensor = torch.ones(3, requires_grad=True)
    assert not isinstance(tensor, DTensor)
    assert torch.equal(whole(tensor), torch.ones(3))
    assert not whole(tensor).requires_grad
