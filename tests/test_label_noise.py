"""Label noise from the sweep to the record: only in training targets, in both models' parts, with a mask that fits the tokens."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from catsweep.data import TaskData, TokenSplit
from catsweep.errors import DataError
from catsweep.inputs import read_inputs
from catsweep.large import LargeModel
from catsweep.mixture import prepare_unit
from catsweep.prepare import Prepared, load_prepared, prepare_task
from catsweep.records import TrialRecord, read_json, read_steps
from catsweep.space import build_trial
from catsweep.spec.load import Sweep
from catsweep.spec.mixture import MixtureSpec
from catsweep.spec.noise import LabelNoise
from catsweep.spec.sweep import CLEAN_TRAIN, DataSpec
from catsweep.train import MixedData, TrainingData
from catsweep.trial import Member, make_training_data, run_trial

MakeSweep = Callable[..., Sweep]
NOISE = {"rate": 0.3}
SIZES = {"max_train_rows": 120, "max_evaluation_rows": 50}
DROP = {"kind": "cat_xent", "filter": {"kind": "drop_injected"}}
CLEAN_ONLY = {"kind": "cat_xent", "filter": {"kind": "clean_only", "filter": {"kind": "either"}}}


def noisy(
    make_sweep: MakeSweep, noise: dict[str, Any] | None = NOISE, way: dict[str, Any] | None = None, **sections: Any
) -> Sweep:
    data = SIZES if noise is None else {**SIZES, "label_noise": noise}
    sweep = make_sweep(data=data, **sections)
    finetune = {"steps": 4, "batch_size": 16, "learning_rate": 1e-2, **(way or {})}
    large = type(sweep.spec.large).model_validate({**sweep.spec.large.to_json(), "finetune": finetune})
    return Sweep(sweep.spec.model_copy(update={"large": large}), sweep.tasks, sweep.document)


def prepared(sweep: Sweep, root: Path) -> Prepared:
    prepare_task(sweep.tasks[0], sweep.spec, root=root)
    return load_prepared(root, "tiny", sweep.tasks[0].task)


def run(sweep: Sweep, loss: dict[str, Any], root: Path, folder: Path) -> TrialRecord:
    training = {**sweep.spec.training.to_json(), "loss": loss}
    folder.mkdir(parents=True)
    spec = build_trial(sweep.spec, sweep.tasks[0], "any", 0, training, {})
    return run_trial(spec, root=root, folder=folder, report=lambda metrics: None)


def replaced(noisy_split: TokenSplit, clean_split: TokenSplit) -> np.ndarray:
    """Which target tokens differ, where noise has not changed their number."""
    return np.asarray(noisy_split.targets.ids) != np.asarray(clean_split.targets.ids)


@pytest.fixture(scope="module")
def reverse(make_sweep: MakeSweep, tmp_path_factory: pytest.TempPathFactory) -> tuple[Sweep, Path, Prepared, Prepared]:
    """A generation task with noise, and without it: sweep and root of the noisy one, and what was prepared of both."""
    root = tmp_path_factory.mktemp("root")
    clean = prepared(noisy(make_sweep, None), tmp_path_factory.mktemp("clean"))
    sweep = noisy(make_sweep)
    return sweep, root, prepared(sweep, root), clean


def test_noise_is_in_the_training_targets_of_both_models_and_nowhere_else(
    reverse: tuple[Sweep, Path, Prepared, Prepared],
) -> None:
    _, _, found, clean = reverse
    for split in ("train", "large_train"):
        ours, theirs = found.task_data().tokens(split), clean.task_data().tokens(split)
        assert ours.injected is not None
        assert (replaced(ours, theirs) == ours.injected).all()
        assert 0.15 < ours.injected.mean() < 0.35  # .3 of all tokens but the ends, one of about 4.5
        assert ours.prompts.ids.tolist() == theirs.prompts.ids.tolist()
        assert found.task_data().texts(split).equals(clean.task_data().texts(split))
    for split in ("validation", "calibration", "test"):
        ours, theirs = found.task_data().tokens(split), clean.task_data().tokens(split)
        assert ours.injected is None
        assert ours.targets.ids.tolist() == theirs.targets.ids.tolist()
        assert found.task_data().texts(split).equals(clean.task_data().texts(split))
    facts = read_json(found.data / "manifest.json")["facts"]
    assert facts["num_injected"] == {
        split: int(found.task_data().tokens(split).injected.sum())  # type: ignore[union-attr]
        for split in ("train", "large_train")
    }


def test_the_large_model_is_asked_about_the_noisy_targets(reverse: tuple[Sweep, Path, Prepared, Prepared]) -> None:
    _, _, found, _ = reverse
    injected = np.asarray(found.task_data().tokens("train").injected)
    rank = np.load(found.signal / "rank.npy")
    assert len(rank) == len(injected)
    assert found.facts["label_noise"] == pytest.approx({
        "injected_share": injected.mean(),
        "large_right_share_injected": (rank[injected] == 0).mean(),
        "large_right_share_clean": (rank[~injected] == 0).mean(),
    })  # fmt: skip


def test_the_mask_of_a_batch_is_that_of_its_tokens(
    reverse: tuple[Sweep, Path, Prepared, Prepared], tmp_path: Path
) -> None:
    sweep, _, found, clean = reverse
    spec = build_trial(sweep.spec, sweep.tasks[0], "any", 0, {**sweep.spec.training.to_json(), "loss": DROP}, {})
    data = make_training_data(spec, [Member(sweep.tasks[0], found)], pad_id=0, start_id=None)  # type: ignore[arg-type]
    places = np.array([5, 0, 17])
    batch = data.batch(places)
    theirs = clean.task_data().tokens("train").targets
    right = np.concatenate([theirs[int(place)] for place in places])
    assert batch.injected_N is not None
    assert batch.injected_N.tolist() == (batch.target_ids_N.numpy() != right).tolist()
    both = MixedData((data, data), (0.5, 0.5)).batch(np.array([5, len(data) + 5]))  # type: ignore[arg-type]
    assert both.injected_N is not None
    half = len(both.injected_N) // 2
    assert both.injected_N[:half].tolist() == both.injected_N[half:].tolist()
    found.task_data().tokens("train").select(places).save(tmp_path, "train")  # as a client's part is laid down
    selected = TaskData(tmp_path).tokens("train")
    assert selected.injected is not None
    assert selected.injected.tolist() == batch.injected_N.tolist()


@pytest.mark.parametrize(
    ("loss", "kept_injected"), [({"kind": "xent"}, 1.0), (DROP, 0.0), (CLEAN_ONLY, 1.0)], ids=["xent", "drop", "clean"]
)
def test_steps_and_record_say_what_was_kept_of_the_injected_tokens(
    reverse: tuple[Sweep, Path, Prepared, Prepared], tmp_path: Path, loss: dict[str, Any], kept_injected: float
) -> None:
    sweep, root, _, _ = reverse
    record = run(sweep, loss, root, tmp_path / "run")
    steps = [step for step in read_steps(tmp_path / "run") if "train/loss" in step]
    assert [step["train/kept_share_injected"] for step in steps] == [kept_injected] * len(steps)
    noise = record.facts["noise"]
    assert noise["kept_share_injected"] == kept_injected
    assert noise["injected_share"] == pytest.approx(np.mean([step["train/injected_share"] for step in steps]))
    for step in steps:
        share, clean = step["train/injected_share"], step["train/kept_share_clean"]
        assert step["train/kept_share"] == pytest.approx(share * kept_injected + (1 - share) * clean)
    if loss == DROP:
        assert noise["kept_share_clean"] == noise["noise_precision"] == 1
    if loss["kind"] == "xent":
        assert "noise_precision" not in noise


def test_a_noisy_choice_is_another_choice_and_its_tokens_are_known(make_sweep: MakeSweep, tmp_path: Path) -> None:
    sweep = noisy(make_sweep, tasks=("parity.yaml",))
    found = prepared(sweep, tmp_path)
    texts, tokens = found.task_data().texts("train"), found.task_data().tokens("train")
    assert tokens.injected is not None
    wrong = 0
    for index, (choices, references) in enumerate(zip(texts["choices"], texts["references"], strict=True)):
        label = choices.as_py().index(references.as_py()[0])
        both = [tokens.choices[2 * index + number].tolist() for number in range(2)]
        target = tokens.targets[index].tolist()
        assert target in both
        is_wrong = target != both[label]
        mask = tokens.injected[tokens.target_places(np.array([index]))]
        assert mask.tolist() == [is_wrong] * len(target)  # `even` and `uneven` differ from the first token on
        wrong += is_wrong
    assert 0.1 < wrong / len(tokens) < 0.5


def test_a_clean_large_model_trains_on_clean_targets_and_judges_the_noisy_ones(
    make_sweep: MakeSweep, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained: list[np.ndarray] = []

    def watched(self: LargeModel, data: TrainingData, finetune: Any, folder: Path) -> None:
        tokens = data.tokens.targets
        places = data.places(np.arange(len(data)))
        trained.append(np.concatenate([tokens[int(place)] for place in places]))
        original(self, data, finetune, folder)

    original = LargeModel.finetune_once
    monkeypatch.setattr(LargeModel, "finetune_once", watched)
    clean = TaskData(prepared(noisy(make_sweep, None, {"cross_fit": 2}), tmp_path / "clean").data).tokens("train")
    in_all: dict[bool, list[np.ndarray]] = {}
    for clean_large in (False, True):
        trained.clear()
        sweep = noisy(make_sweep, {**NOISE, "clean_large": clean_large}, {"cross_fit": 2})
        found = prepared(sweep, tmp_path / str(clean_large))
        in_all[clean_large] = list(trained)
        tokens = found.task_data().tokens("train")
        assert (replaced(tokens, clean) == tokens.injected).all()
        assert len(np.load(found.signal / "rank.npy")) == len(tokens.targets.ids)
    # The large model, and the model of each fold.
    assert len(in_all[True]) == len(in_all[False]) == 3
    assert in_all[True][0].tolist() == clean.targets.ids.tolist()
    assert in_all[False][0].tolist() == tokens.targets.ids.tolist()
    for dirty, pure in zip(in_all[False][1:], in_all[True][1:], strict=True):
        assert len(dirty) == len(pure)
        assert 0.1 < (dirty != pure).mean() < 0.4
    held = noisy(make_sweep, {**NOISE, "clean_large": True})
    assert (sweep.spec.large_split, held.spec.large_split) == (CLEAN_TRAIN, "large_train")
    data = prepared(held, tmp_path / "held").task_data()
    assert data.tokens("large_train").injected is None
    assert data.tokens("train").injected is not None
    assert not (data.folder / f"{CLEAN_TRAIN}.targets.ids.npy").exists()


def test_every_member_of_a_mixture_is_noisy(make_sweep: MakeSweep, tmp_path: Path) -> None:
    sweep = noisy(make_sweep, tasks=({"mixture": "both", "tasks": ["reverse.yaml", "parity.yaml"]},))
    mixture = sweep.tasks[0]
    assert isinstance(mixture, MixtureSpec)
    prepare_unit(mixture, sweep.spec, root=tmp_path)
    for name in ("made/reverse", "made/parity"):
        member = load_prepared(tmp_path, "tiny", f"both/{name}")
        for split in ("train", "large_train"):
            injected = member.task_data().tokens(split).injected
            assert injected is not None
            assert injected.any()
        assert member.facts["label_noise"]["injected_share"] > 0.1
    record = run(sweep, DROP, tmp_path, tmp_path / "run")
    assert record.facts["noise"]["kept_share_injected"] == 0
    assert record.facts["noise"]["kept_share_clean"] == 1


def test_noise_changes_the_keys_and_its_absence_none(make_sweep: MakeSweep, tmp_path: Path) -> None:
    assert DataSpec().to_json() == {"max_train_rows": None, "max_evaluation_rows": None, "verify": "all"}
    assert DataSpec().data_key() == {"max_train_rows": None, "max_evaluation_rows": None}
    assert DataSpec(label_noise=LabelNoise(rate=0.1)).data_key()["label_noise"]["rate"] == 0.1
    assert "label_noise" not in make_sweep().spec.to_json()["data"]
    found = []
    for noise in (None, NOISE, {"rate": 0.2}, {**NOISE, "kind": "confusable"}, {**NOISE, "seed": 1}):
        sweep = noisy(make_sweep, noise)
        found.append(read_inputs(sweep.tasks[0], sweep.spec, root=tmp_path).keys)
    for name in ("data", "large", "signal", "answers"):
        assert len({keys[name] for keys in found}) == 5


def test_noise_that_replaces_nothing_is_refused(make_sweep: MakeSweep, tmp_path: Path) -> None:
    sweep = noisy(make_sweep, {"rate": 1e-7})
    with pytest.raises(DataError, match=r"label_noise with rate 1e-07 replaced none of the \d+ training targets"):
        prepared(sweep, tmp_path)
