"""Cross-fitting: every training target's signal comes from a large model that has not seen its group."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from catsweep.errors import DataError
from catsweep.folds import cut_folds
from catsweep.inputs import read_inputs
from catsweep.large import LargeModel
from catsweep.mixture import prepare_unit, read_mixture
from catsweep.models import TargetLogits, build_model
from catsweep.plan import make_plan
from catsweep.prepare import Prepared, load_prepared, prepare_task
from catsweep.space import build_trial
from catsweep.spec.load import Sweep
from catsweep.spec.mixture import MixtureSpec
from catsweep.teacher import teacher_pass
from catsweep.train import MixedData, TrainingData
from catsweep.trial import run_trial

MakeSweep = Callable[..., Sweep]
DIST = {"search": {"space": {"loss": {"space": "choice", "options": [{"kind": "xent"}, {"kind": "dist"}]}}}}


def folded(make_sweep: MakeSweep, way: dict[str, Any], rows: int = 100, **sections: Any) -> Sweep:
    sweep = make_sweep(data={"max_train_rows": rows, "max_evaluation_rows": 50}, **sections)
    finetune = {"steps": 8, "batch_size": 16, "learning_rate": 1e-2, **way}
    large = type(sweep.spec.large).model_validate({**sweep.spec.large.to_json(), "finetune": finetune})
    return Sweep(sweep.spec.model_copy(update={"large": large}), sweep.tasks, sweep.document)


class Watch:
    """What each model was trained on and looked at: indices of training examples by the folder of its weights, and a copy
    of the weights."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, copies: Path) -> None:
        self.trained: dict[str, list[np.ndarray]] = {}
        self.signed: dict[str, list[np.ndarray]] = {}
        self.copies = copies
        self.num_trainings = 0
        self.fail_at: int | None = None
        finetune, sign = LargeModel._finetune, LargeModel.make_signal

        def watched_finetune(large: LargeModel, data: TrainingData | MixedData, spec: Any, folder: Path) -> None:
            self.num_trainings += 1
            if self.num_trainings == self.fail_at:
                raise KeyboardInterrupt
            parts = data.parts if isinstance(data, MixedData) else (data,)
            self.trained[folder.name] = [part.places(np.arange(len(part))) for part in parts]
            finetune(large, data, spec, folder)

        def watched_sign(large: LargeModel, tokens: Any, *rest: Any, only: Any = None, **more: Any) -> None:
            weights = rest[2]
            if only is not None:
                self.signed.setdefault(weights.name, []).append(only)
                shutil.copytree(weights, copies / weights.name, dirs_exist_ok=True)
            sign(large, tokens, *rest, only=only, **more)

        monkeypatch.setattr(LargeModel, "_finetune", watched_finetune)
        monkeypatch.setattr(LargeModel, "make_signal", watched_sign)


def ranks(prepared: Prepared, sweep: Sweep, weights: Path, split: str) -> np.ndarray:
    """The rank of every target token of a split under a model, without the machinery of folds."""
    module = TargetLogits(build_model(sweep.spec.large, prepared.tokenizer(), seed=0, folder=weights))
    return teacher_pass(
        module, prepared.task_data().tokens(split), architecture="decoder", pad_id=0, start_id=None, distribution=None,
        vocab_size=1, batch_size=64, seed=0, device=torch.device("cpu"),
    ).rank  # fmt: skip


def test_the_signal_of_each_example_is_that_of_a_model_that_has_not_seen_its_group(
    make_sweep: MakeSweep, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    watch = Watch(monkeypatch, tmp_path / "copies")
    sweep = folded(make_sweep, {"cross_fit": 3}, **DIST)
    facts = prepare_task(sweep.tasks[0], sweep.spec, root=tmp_path)
    prepared = load_prepared(tmp_path, "tiny", "made/reverse")
    groups = np.array(prepared.task_data().texts("train")["group"].to_pylist())
    assert len(watch.signed) == 3
    for name, (signed,) in watch.signed.items():
        assert not set(groups[signed]) & set(groups[watch.trained[name][0]])
        assert len(signed) + len(watch.trained[name][0]) == len(groups)
    assert sorted(np.concatenate([signed for (signed,) in watch.signed.values()])) == list(range(len(groups)))

    stored = np.load(prepared.signal / "rank.npy")
    offsets = prepared.task_data().tokens("train").targets.offsets
    for name, (signed,) in watch.signed.items():
        alone = ranks(prepared, sweep, tmp_path / "copies" / name, "train")
        for example in signed:
            where = slice(offsets[example], offsets[example + 1])
            assert stored[where].tolist() == alone[where].tolist()
    assert np.load(prepared.signal / "ids.npy").shape == (len(stored), 12)

    # The large model that answers is one more, trained on all of train; every small model trains on all of train.
    assert prepared.large_model is not None
    assert len(watch.trained[prepared.large_model.name][0]) == len(groups) == facts["num_rows"]["train"] == 100
    assert "large_train" not in facts["num_rows"]
    assert not [path for path in (tmp_path / "cache" / "folds").iterdir() if path.is_dir()]  # all has been used up
    spec = build_trial(
        sweep.spec, sweep.tasks[0], "dist", 0, {**sweep.spec.training.to_json(), "loss": {"kind": "dist"}}, {}
    )
    (tmp_path / "run").mkdir()
    assert run_trial(spec, root=tmp_path, folder=tmp_path / "run", report=lambda metrics: None).status == "finished"


def test_a_fold_whose_part_stands_is_not_trained_again(
    make_sweep: MakeSweep, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    watch = Watch(monkeypatch, tmp_path / "copies")
    sweep = folded(make_sweep, {"cross_fit": 3})
    task = sweep.tasks[0]
    prepare_task(task, sweep.spec, root=tmp_path / "whole")
    assert watch.num_trainings == 4  # the large model and three folds

    watch.num_trainings, watch.fail_at = 0, 3  # killed in the second fold
    with pytest.raises(KeyboardInterrupt):
        prepare_task(task, sweep.spec, root=tmp_path / "cut")
    watch.num_trainings, watch.fail_at = 0, None
    prepare_task(task, sweep.spec, root=tmp_path / "cut")
    assert watch.num_trainings == 2
    signals = [load_prepared(tmp_path / root, "tiny", "made/reverse").signal for root in ("whole", "cut")]
    assert (signals[0] / "rank.npy").read_bytes() == (signals[1] / "rank.npy").read_bytes()
    watch.num_trainings = 0
    prepare_task(task, sweep.spec, root=tmp_path / "cut")
    assert watch.num_trainings == 0


def test_the_number_of_folds_changes_the_signal_and_nothing_else(make_sweep: MakeSweep, tmp_path: Path) -> None:
    def keys(way: dict[str, Any]) -> dict[str, str | None]:
        sweep = folded(make_sweep, way)
        return read_inputs(sweep.tasks[0], sweep.spec, root=tmp_path).keys

    two, three, seen, held, default = (
        keys(way) for way in ({"cross_fit": 2}, {"cross_fit": 3}, {"unseen_signal": False}, {"holdout": 0.5}, {})
    )
    assert len({two["signal"], three["signal"], seen["signal"]}) == 3
    for name in ("data", "large", "answers"):
        assert two[name] == three[name] == seen[name] != held[name]
    assert held == default
    sweep = folded(make_sweep, {})
    assert sweep.spec.large.finetune is not None
    assert sweep.spec.large.finetune.to_json() == {
        "steps": 8, "batch_size": 16, "learning_rate": 1e-2, "holdout": 0.5, "seed": 0
    }  # fmt: skip


def test_two_ways_to_a_signal_are_refused(make_sweep: MakeSweep) -> None:
    for way in ({"holdout": 0.5, "cross_fit": 2}, {"unseen_signal": False, "cross_fit": 2}):
        with pytest.raises(ValueError, match=r"cross_fit: 2.*; expected one way"):
            folded(make_sweep, way)


def test_more_folds_than_groups_are_refused() -> None:
    with pytest.raises(DataError, match=r"cross_fit: 5 leaves fold \d without any of the 2 training groups"):
        cut_folds(["a", "b", "a"], 5, "toy")


def test_the_optimism_of_a_signal_on_seen_data_is_measured(make_sweep: MakeSweep, tmp_path: Path) -> None:
    sweep = folded(make_sweep, {"unseen_signal": False, "steps": 40})
    facts = prepare_task(sweep.tasks[0], sweep.spec, root=tmp_path)
    prepared = load_prepared(tmp_path, "tiny", "made/reverse")
    assert prepared.large_model is not None
    train, validation = (ranks(prepared, sweep, prepared.large_model, split) for split in ("train", "validation"))
    warning, near_chance = facts["warnings"]  # this large model is not trained to get whole answers right
    assert "NEAR CHANCE" in near_chance
    assert (
        f"{np.mean(train == 0):.1%} of the target tokens right, on validation {np.mean(validation == 0):.1%}" in warning
    )


def test_no_member_of_a_mixture_shows_a_fold_model_what_it_signs(
    make_sweep: MakeSweep, task_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spell = (
        (task_folder / "reverse.yaml")
        .read_text()
        .replace("made/reverse", "made/spell")
        .replace('"{{drow}}"', '"{{word}}"')
    )
    (task_folder / "spell2.yaml").write_text(f'{spell}doc_to_group: "{{{{drow}}}}{{{{word}}}}"\n')
    watch = Watch(monkeypatch, tmp_path / "copies")
    sweep = folded(
        make_sweep, {"cross_fit": 2}, rows=300, tasks=({"mixture": "both", "tasks": ["reverse.yaml", "spell2.yaml"]},)
    )
    mixture = sweep.tasks[0]
    assert isinstance(mixture, MixtureSpec)
    prepare_unit(mixture, sweep.spec, root=tmp_path)
    members = [load_prepared(tmp_path, "tiny", f"both/{name}") for name in ("made/reverse", "made/spell")]
    words = [np.array(member.task_data().texts("train")["prompt"].to_pylist()) for member in members]
    assert set(words[0]) & set(words[1])
    assert len(watch.signed) == 2
    for name, signed in watch.signed.items():
        shown = set().union(*(set(own[places]) for own, places in zip(words, watch.trained[name], strict=True)))
        asked = set().union(*(set(own[places]) for own, places in zip(words, signed, strict=True)))
        assert not shown & asked
    hidden = read_mixture(mixture, sweep.spec, root=tmp_path).num_hidden
    assert [member.facts["num_hidden"] for member in members] == list(hidden.values())
    assert sum(map(sum, hidden.values())) > 0


def test_the_plan_counts_the_fold_models(make_sweep: MakeSweep, tmp_path: Path) -> None:
    (crossed,) = make_plan(folded(make_sweep, {"cross_fit": 3}), root=tmp_path).tasks
    (held,) = make_plan(folded(make_sweep, {}), root=tmp_path).tasks
    assert crossed.flops_folds == 3 * crossed.flops_large_finetune
    assert held.flops_folds == 0.0
    assert crossed.flops > held.flops + crossed.flops_folds
