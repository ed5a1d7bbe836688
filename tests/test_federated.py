"""Federated averaging: one client is training in one place, only weights and counts leave a client, kills do no harm."""

from __future__ import annotations

import dataclasses
import itertools
import shutil
import typing
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from catsweep.federated import (
    ClientJob,
    ClientUpdate,
    Weights,
    average,
    client_seed,
    copy_weights,
    cut_clients,
    run_client,
    run_in_turn,
)
from catsweep.models import TargetLogits, build_model
from catsweep.prepare import load_prepared, prepare_task
from catsweep.records import StepMetrics, read_rows, read_steps
from catsweep.space import build_trial
from catsweep.spec.load import Sweep
from catsweep.spec.sweep import TrialSpec
from catsweep.trial import run_trial

LOSSES = [
    {"kind": "xent"},
    {"kind": "cat_xent", "filter": {"kind": "either"}},
    {"kind": "cat_xent", "filter": {"kind": "shuffled"}, "normalize": "kept_tokens"},
    {"kind": "dist"},
]
STEPS = 6


@pytest.fixture(scope="module")
def reverse(make_sweep: Callable[..., Sweep], tmp_path_factory: pytest.TempPathFactory) -> tuple[Sweep, Path]:
    """A prepared task whose sweep trains with all these losses, and its root."""
    root = tmp_path_factory.mktemp("root")
    space = {"loss": {"space": "choice", "options": LOSSES}}
    training = {"steps": STEPS, "batch_size": 16, "learning_rate": 1e-2}
    sweep = make_sweep(training=training, search={"num_samples": 1, "confirm_seeds": 1, "space": space})
    prepare_task(sweep.tasks[0], sweep.spec, root=root)
    return sweep, root


def trial(
    sweep: Sweep, loss: dict[str, Any] | None = None, evaluate_at: Sequence[int] = (STEPS,), **federated: Any
) -> TrialSpec:
    clients = {"partition": {"kind": "iid"}, **federated} if federated else None
    training = {**sweep.spec.training.to_json(), "loss": loss or LOSSES[1], "federated": clients}
    spec = build_trial(sweep.spec, sweep.tasks[0], "any", 0, training, {})
    return spec.model_copy(update={"evaluate_at": list(evaluate_at)})


def run(spec: TrialSpec, root: Path, folder: Path, **more: Any) -> list[StepMetrics]:
    reports: list[StepMetrics] = []
    folder.mkdir(parents=True, exist_ok=True)
    run_trial(spec, root=root, folder=folder, report=reports.append, **more)
    return reports


def first_weights(spec: TrialSpec, root: Path) -> tuple[TargetLogits, Weights]:
    tokenizer = load_prepared(root, spec.sweep, spec.task.task).tokenizer()
    module = TargetLogits(build_model(spec.small, tokenizer, seed=spec.seed))
    return module, copy_weights(module)


def jobs(spec: TrialSpec, root: Path) -> list[ClientJob]:
    federated = spec.training.federated
    assert federated is not None
    sites = cut_clients(spec, load_prepared(root, spec.sweep, spec.task.task), root)
    return [
        ClientJob(site, spec, client_seed(spec.seed, site.number), 1, federated.local_steps, True) for site in sites
    ]


@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: f"{loss['kind']}-{loss.get('filter', {}).get('kind')}")
def test_one_client_and_one_round_are_training_in_one_place_to_the_bit(
    reverse: tuple[Sweep, Path], tmp_path: Path, loss: dict[str, Any]
) -> None:
    sweep, root = reverse
    run(trial(sweep, loss), root, tmp_path / "one-place")
    run(trial(sweep, loss, clients=1, rounds=1, local_steps=STEPS), root, tmp_path / "client")
    assert read_rows(tmp_path / "client" / "rows.parquet").equals(read_rows(tmp_path / "one-place" / "rows.parquet"))
    whole, alone = (read_steps(tmp_path / name) for name in ("one-place", "client"))
    assert [line["step"] for line in alone] == [STEPS]
    assert alone[0]["validation/objective"] == whole[-1]["validation/objective"]
    assert alone[0]["train/client_drift"] == 0


def test_two_clients_with_the_same_data_and_seed_are_one(reverse: tuple[Sweep, Path], tmp_path: Path) -> None:
    sweep, root = reverse
    spec = trial(sweep, clients=1, rounds=1, local_steps=STEPS)

    def twice(jobs: Sequence[ClientJob], weights: Weights) -> list[ClientUpdate]:
        return run_in_turn([*jobs, *jobs], weights)

    run(spec, root, tmp_path / "one")
    run(spec, root, tmp_path / "two", run_clients=twice)
    assert read_rows(tmp_path / "one" / "rows.parquet").equals(read_rows(tmp_path / "two" / "rows.parquet"))


def test_weights_are_averaged_by_target_tokens() -> None:
    first = ClientUpdate({"a": torch.tensor([1.0, 2.0]), "n": torch.tensor(3)}, 10, {})
    second = ClientUpdate({"a": torch.tensor([4.0, -1.0]), "n": torch.tensor(3)}, 30, {})
    mean = average([first, second])
    assert mean["a"].tolist() == [3.25, -0.25]  # (10 * 1 + 30 * 4) / 40 and (10 * 2 - 30 * 1) / 40
    assert mean["n"].item() == 3


def test_a_round_starts_from_the_mean_with_a_fresh_optimiser_at_the_steps_of_the_whole_run(
    reverse: tuple[Sweep, Path], tmp_path: Path
) -> None:
    """Two rounds of three clients, done by hand with the clients alone."""
    sweep, root = reverse
    spec = trial(sweep, clients=3, rounds=2, local_steps=3)
    seen: list[Weights] = []

    def note(jobs: Sequence[ClientJob], weights: Weights) -> list[ClientUpdate]:
        seen.append(weights)
        return run_in_turn(jobs, weights)

    run(spec, root, tmp_path / "trial", run_clients=note)
    weights = first_weights(spec, root)[1]
    assert all(torch.equal(weights[name], value) for name, value in seen[0].items())
    updates = [run_client(job, weights) for job in jobs(spec, root)]
    total = sum(update.num_target_tokens for update in updates)
    for name, value in seen[1].items():
        by_hand = sum(np.float64(update.num_target_tokens / total) * update.weights[name].numpy() for update in updates)
        assert np.allclose(value.numpy(), by_hand, rtol=1e-6, atol=1e-7)
    lines = read_steps(tmp_path / "trial")
    assert [(line["step"], line["train/round"]) for line in lines] == [(3, 1), (6, 2)]
    assert lines[0]["train/learning_rate"] > lines[1]["train/learning_rate"] > 0
    drift = np.sqrt(sum(update.num_target_tokens / total * sum(((value - seen[1][name]) ** 2).sum().item() for name, value in update.weights.items()) for update in updates))  # fmt: skip
    assert lines[0]["train/client_drift"] == pytest.approx(drift, rel=1e-5)


def test_only_weights_counts_and_sums_leave_a_client(reverse: tuple[Sweep, Path]) -> None:
    sweep, root = reverse
    spec = trial(sweep, clients=3, rounds=2, local_steps=3)
    assert typing.get_type_hints(run_client)["return"] is ClientUpdate
    assert [item.name for item in dataclasses.fields(ClientUpdate)] == ["weights", "num_target_tokens", "sums"]
    assert ClientUpdate.__dataclass_params__.frozen  # type: ignore[attr-defined]
    weights = first_weights(spec, root)[1]
    job = jobs(spec, root)[1]
    update = run_client(job, weights)
    assert vars(update).keys() == {"weights", "num_target_tokens", "sums"}
    assert {name: value.shape for name, value in update.weights.items()} == {
        name: value.shape for name, value in weights.items()
    }
    assert update.num_target_tokens == int(np.load(job.site.data / "train.targets.offsets.npy")[-1])
    assert all(type(value) is float for value in update.sums.values())
    quadrants = {f"quadrant/{name}" for name in ("both", "only_small", "only_large", "neither")}
    assert update.sums.keys() == {"loss", "target", "kept", "denominator", "grad_norm", *quadrants}


def test_a_client_reads_its_own_folder_and_the_large_model_alone(reverse: tuple[Sweep, Path], tmp_path: Path) -> None:
    """Everything else of the task is gone from the storage, the shared signal included: the update is the same."""
    sweep, root = reverse
    spec = trial(sweep, LOSSES[3], clients=3, rounds=2, local_steps=3)
    weights = first_weights(spec, root)[1]
    whole = run_client(jobs(spec, root)[1], weights)
    shutil.copytree(root, tmp_path / "root")
    job = jobs(spec, tmp_path / "root")[1]
    cache = tmp_path / "root" / "cache"
    assert job.site.large_model is not None
    kept = {"data": job.site.data, "large": job.site.large_model}
    for name, path in kept.items():
        path.rename(tmp_path / name)
    shutil.rmtree(tmp_path / "root")
    for name, path in kept.items():
        path.parent.mkdir(parents=True)
        (tmp_path / name).rename(path)
    alone = run_client(job, weights)
    assert all(torch.equal(alone.weights[name], value) for name, value in whole.weights.items())
    assert (alone.num_target_tokens, alone.sums) == (whole.num_target_tokens, whole.sums)
    assert [path.name for path in (cache / "signal").iterdir() if not path.name.startswith(".")] == [
        job.site.signal.name
    ]


def test_clients_share_no_example_and_together_hold_all(reverse: tuple[Sweep, Path]) -> None:
    sweep, root = reverse
    spec = trial(sweep, clients=3, rounds=2, local_steps=3, partition={"kind": "by_group"})
    prepared = load_prepared(root, spec.sweep, spec.task.task)
    whole = prepared.task_data().tokens("train")
    found: list[tuple[int, ...]] = []
    for site in cut_clients(spec, prepared, root):
        ids = np.load(site.data / "train.prompts.ids.npy")
        offsets = np.load(site.data / "train.prompts.offsets.npy")
        found += [tuple(ids[start:end].tolist()) for start, end in itertools.pairwise(offsets)]
    assert sorted(found) == sorted(tuple(whole.prompts[index].tolist()) for index in range(len(whole)))


def test_a_trial_that_was_killed_goes_on_behind_its_last_round(reverse: tuple[Sweep, Path], tmp_path: Path) -> None:
    sweep, root = reverse
    spec = trial(sweep, evaluate_at=(2, STEPS), clients=2, rounds=3, local_steps=2)
    whole = run(spec, root, tmp_path / "whole")
    ran: list[int] = []

    class Killed(Exception):
        pass

    def kill_in_the_third_round(jobs: Sequence[ClientJob], weights: Weights) -> list[ClientUpdate]:
        ran.append(jobs[0].first_step)
        if len(ran) == 3:
            raise Killed
        return run_in_turn(jobs, weights)

    with pytest.raises(Killed):
        run(spec, root, tmp_path / "killed", run_clients=kill_in_the_third_round)
    again = run(spec, root, tmp_path / "killed", run_clients=kill_in_the_third_round)
    assert ran == [1, 3, 5, 5]
    assert [report.step for report in whole] == [2, STEPS]
    assert again == whole[1:]
    assert read_rows(tmp_path / "killed" / "rows.parquet").equals(read_rows(tmp_path / "whole" / "rows.parquet"))


def test_the_record_counts_the_floating_point_operations_of_all_clients(
    reverse: tuple[Sweep, Path], tmp_path: Path
) -> None:
    sweep, root = reverse
    records = [
        run_trial(spec, root=root, folder=tmp_path, report=lambda metrics: None)
        for spec in (trial(sweep), trial(sweep, clients=3, rounds=2, local_steps=3))
        if not shutil.rmtree(tmp_path / "checkpoint", ignore_errors=True)
    ]
    assert records[1].train_flops == 3 * records[0].train_flops
    assert records[1].num_steps == records[0].num_steps == STEPS
