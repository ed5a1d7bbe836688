"""The whole flow of a trial without Ray: prepare, train, evaluate, rows, record."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from catsweep.cascade.cost import ModelShape
from catsweep.cascade.curve import audc
from catsweep.cascade.latency import Latency
from catsweep.cascade.metrics import get_metric
from catsweep.cascade.rows import make_cascade
from catsweep.errors import StorageError, SweepChangedError
from catsweep.prepare import load_prepared, prepare_task
from catsweep.records import StepMetrics, TrialRecord, read_json, read_record, read_rows, read_steps
from catsweep.space import build_confirm, build_trial
from catsweep.spec.cascade import PriceCost, TokenPrice
from catsweep.spec.load import Sweep
from catsweep.spec.search import CostAtQualityObjective
from catsweep.spec.sweep import TrialSpec
from catsweep.trial import run_trial

T5 = {"model_type": "t5", "d_model": 32, "d_ff": 64, "num_layers": 1, "num_heads": 2, "d_kv": 16}
FINETUNE = {"steps": 30, "batch_size": 16, "learning_rate": 1e-2}
LOSSES = [
    {"kind": "xent"},
    {"kind": "dist"},
    {"kind": "cat_xent", "filter": {"kind": "either"}},
    {"kind": "cat_dist", "filter": {"kind": "shuffled"}, "normalize": "kept_tokens"},
]


def trial(sweep: Sweep, loss: dict[str, Any] | None = None, number: int = 0) -> TrialSpec:
    training = {**sweep.spec.training.to_json(), "loss": loss or {"kind": "xent"}}
    return build_trial(sweep.spec, sweep.tasks[0], "any", number, training, {})


def run(spec: TrialSpec, root: Path, folder: Path) -> tuple[TrialRecord, list[StepMetrics]]:
    reports: list[StepMetrics] = []
    folder.mkdir(parents=True, exist_ok=True)
    return run_trial(spec, root=root, folder=folder, report=reports.append), reports


@pytest.fixture(scope="module")
def reverse(make_sweep: Callable[..., Sweep], tmp_path_factory: pytest.TempPathFactory) -> tuple[Sweep, Path]:
    """A prepared generation task for decoders, with the distribution for dist losses."""
    root = tmp_path_factory.mktemp("root")
    space = {"loss": {"space": "choice", "options": LOSSES}}
    sweep = make_sweep(search={"num_samples": 1, "confirm_seeds": 1, "space": space})
    prepare_task(sweep.tasks[0], sweep.spec, root=root)
    return sweep, root


@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: loss["kind"])
def test_every_loss_runs_from_spec_to_record(reverse: tuple[Sweep, Path], tmp_path: Path, loss: dict[str, Any]) -> None:
    sweep, root = reverse
    record, reports = run(trial(sweep, loss), root, tmp_path)
    assert read_record(tmp_path) == record
    assert record.status == "finished"
    assert reports == [StepMetrics(12, record.objective, record.metrics, final=True)]
    last = read_steps(tmp_path)[-1]
    quadrants = [last[f"train/quadrant/{name}"] for name in ("both", "only_small", "only_large", "neither")]
    assert sum(quadrants) == pytest.approx(1)
    if loss["kind"] == "cat_xent":
        assert last["train/kept_share"] == pytest.approx(1 - last["train/quadrant/neither"])
    assert last["validation/objective"] == record.objective


def test_the_objective_follows_from_the_rows(reverse: tuple[Sweep, Path], tmp_path: Path) -> None:
    sweep, root = reverse
    record, _ = run(trial(sweep), root, tmp_path)
    rows = read_rows(tmp_path / "rows.parquet")
    assert set(rows["split"].to_pylist()) == {"validation"}
    large = load_prepared(root, "tiny", "made/reverse").large_rows("validation")
    shapes = [ModelShape.from_dict(shape) for shape in (record.small_shape, record.large_shape)]
    metric = get_metric("exact_match")
    cascade = make_cascade(rows, large, metric, small_shape=shapes[0], large_shape=shapes[1])
    assert audc(cascade.curve("mean")) == pytest.approx(record.objective)
    right = [
        output == reference for output, reference in zip(rows["output"].to_pylist(), _references(root), strict=True)
    ]
    assert sum(right) / len(right) == pytest.approx(record.metrics["validation/exact_match"])


def test_what_batches_took_is_recorded_of_both_models_and_an_objective_may_be_one_of_dollars(
    reverse: tuple[Sweep, Path], tmp_path: Path
) -> None:
    sweep, root = reverse
    prices = [TokenPrice(input_per_million=a, output_per_million=b) for a, b in ((1, 2), (10, 30))]
    price = PriceCost(small=prices[0], large=prices[1])
    update = {"cost": price, "objective": CostAtQualityObjective(quality=1.0)}
    record, _ = run(trial(sweep).model_copy(update=update), root, tmp_path)
    answers = load_prepared(root, "tiny", "made/reverse").answers
    small, large = (
        Latency.from_dict(found)
        for found in (record.facts["latency"], read_json(answers / "manifest.json")["facts"]["latency"])
    )
    for latency in (small, large):
        assert latency.seconds([10], [10])[0] > 0
        assert latency.batch_size == sweep.spec.resources.evaluation_batch_size
        assert latency.device
    rows = read_rows(tmp_path / "rows.parquet")
    large_rows = load_prepared(root, "tiny", "made/reverse").large_rows("validation")
    dollars = [
        sum(row["num_prompt_tokens"] * a + row["num_output_tokens"] * b for row in table.to_pylist())
        for table, (a, b) in ((rows, (1, 2)), (large_rows, (10, 30)))
    ]
    assert record.objective is not None
    assert record.objective <= 1 + dollars[0] / dollars[1] + 1e-9
    if record.metrics["validation/exact_match"] < 1:  # nothing short of deferring everything reaches a quality of 1
        assert record.objective == pytest.approx(1 + dollars[0] / dollars[1])


def _references(root: Path) -> list[str]:
    texts = load_prepared(root, "tiny", "made/reverse").task_data().texts("validation")
    return [prompt[::-1] for prompt in texts["prompt"].to_pylist()]


def test_two_objectives_are_both_reported(reverse: tuple[Sweep, Path], tmp_path: Path) -> None:
    sweep, root = reverse
    cost = CostAtQualityObjective(quality=0.0)
    spec = trial(sweep).model_copy(update={"second_objective": cost})
    record, reports = run(spec, root, tmp_path)
    rows, large = (
        read_rows(tmp_path / "rows.parquet"),
        load_prepared(root, "tiny", "made/reverse").large_rows("validation"),
    )
    shapes = [ModelShape.from_dict(shape) for shape in (record.small_shape, record.large_shape)]
    cascade = make_cascade(rows, large, get_metric("exact_match"), small_shape=shapes[0], large_shape=shapes[1])
    curve = cascade.curve("mean")
    assert record.objective == pytest.approx(audc(curve))
    assert record.metrics["validation/objective_2"] == pytest.approx(
        curve.cost_small / curve.cost_large
    )  # 0 is reached alone
    assert reports[-1].metrics["validation/objective_2"] == record.metrics["validation/objective_2"]
    assert read_steps(tmp_path)[-1]["validation/objective_2"] == record.metrics["validation/objective_2"]


def test_only_confirm_runs_see_calibration_and_test(reverse: tuple[Sweep, Path], tmp_path: Path) -> None:
    sweep, root = reverse
    run(build_confirm(trial(sweep), 0), root, tmp_path)
    assert set(read_rows(tmp_path / "rows.parquet")["split"].to_pylist()) == {"validation", "calibration", "test"}
    assert (tmp_path / "model" / "model.safetensors").exists()


def test_the_same_spec_gives_the_same_rows(reverse: tuple[Sweep, Path], tmp_path: Path) -> None:
    sweep, root = reverse
    spec = trial(sweep, LOSSES[3])
    for name in ("first", "second"):
        run(spec, root, tmp_path / name)
    assert read_rows(tmp_path / "first" / "rows.parquet").equals(read_rows(tmp_path / "second" / "rows.parquet"))


def test_strata_start_from_the_same_weights_and_see_the_same_batches(
    reverse: tuple[Sweep, Path], tmp_path: Path
) -> None:
    sweep, root = reverse
    run(trial(sweep, {"kind": "xent"}), root, tmp_path / "xent")
    run(trial(sweep, {"kind": "cat_xent", "filter": {"kind": "all"}}), root, tmp_path / "all")
    assert read_rows(tmp_path / "xent" / "rows.parquet").equals(read_rows(tmp_path / "all" / "rows.parquet"))


def test_an_encoder_decoder_pair_goes_the_whole_way(make_sweep: Callable[..., Sweep], tmp_path: Path) -> None:
    sweep = make_sweep(
        small={"config": T5, "tokenizer": {"kind": "char"}},
        large={"config": {**T5, "num_layers": 2}, "finetune": FINETUNE},
    )
    facts = prepare_task(sweep.tasks[0], sweep.spec, root=tmp_path)
    assert facts["architecture"] == "encoder_decoder"
    record, _ = run(build_confirm(trial(sweep, LOSSES[2]), 0), tmp_path, tmp_path / "trial")
    assert record.small_shape["num_encoder_layers"] == 1
    assert record.facts["target_positions_only"] is True


@pytest.mark.parametrize("architecture", ["decoder", "encoder_decoder"])
def test_multiple_choice_goes_the_whole_way(
    make_sweep: Callable[..., Sweep], tmp_path: Path, architecture: str
) -> None:
    pair = {"small": {"config": T5, "tokenizer": {"kind": "char"}}, "large": {"config": T5, "finetune": FINETUNE}}
    sweep = make_sweep(tasks=("parity.yaml",), **(pair if architecture == "encoder_decoder" else {}))
    prepare_task(sweep.tasks[0], sweep.spec, root=tmp_path)
    record, _ = run(trial(sweep, LOSSES[2]), tmp_path, tmp_path / "trial")
    rows = read_rows(tmp_path / "trial" / "rows.parquet")
    assert set(rows["output"].to_pylist()) <= {"even", "uneven"}
    assert {len(scores) for scores in rows["choice_logprobs"].to_pylist()} == {2}
    assert 0 <= record.metrics["validation/accuracy"] <= 1


def test_a_pretrained_pair_goes_the_whole_way_without_a_fine_tune(
    make_sweep: Callable[..., Sweep], tmp_path: Path
) -> None:
    from catsweep.models import build_model
    from catsweep.spec.model import ByteTokenizer, ScratchModel
    from catsweep.tokenization import make_tokenizer

    tokenizer = make_tokenizer(ByteTokenizer(), [])
    config = {
        "model_type": "llama",
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
    }
    for name in ("small", "large"):
        build_model(ScratchModel(config=config), tokenizer, seed=len(name)).save_pretrained(tmp_path / name)
        tokenizer.save_pretrained(tmp_path / name)
    sweep = make_sweep(small={"pretrained": str(tmp_path / "small")}, large={"pretrained": str(tmp_path / "large")})
    facts = prepare_task(sweep.tasks[0], sweep.spec, root=tmp_path / "root")
    assert facts["keys"]["large"] is None
    assert "large_train" not in facts["num_rows"]
    record, _ = run(trial(sweep, LOSSES[2]), tmp_path / "root", tmp_path / "trial")
    assert record.status == "finished"


def test_a_trial_of_a_task_that_is_not_prepared_says_so(make_sweep: Callable[..., Sweep], tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"prepared/made/reverse\.json is missing"):
        run(trial(make_sweep()), tmp_path, tmp_path / "trial")


def test_other_data_under_a_sweep_with_results_is_refused(
    make_sweep: Callable[..., Sweep], task_folder: Path, tmp_path: Path
) -> None:
    shutil.copytree(task_folder, tmp_path / "tasks")
    sweep = make_sweep(tasks=(str(tmp_path / "tasks" / "reverse.yaml"),))
    root = tmp_path / "root"
    prepare_task(sweep.tasks[0], sweep.spec, root=root)
    (root / "tiny" / "trials" / "made/reverse").mkdir(parents=True)
    words = (tmp_path / "tasks" / "words.jsonl").read_text().splitlines()
    (tmp_path / "tasks" / "words.jsonl").write_text("\n".join(words[:-1]) + "\n")
    with pytest.raises(SweepChangedError, match="Give the sweep a new name"):
        prepare_task(sweep.tasks[0], sweep.spec, root=root)
