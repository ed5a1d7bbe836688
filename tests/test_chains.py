"""Further models of a chain: their signal in filters, their rows in results."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from catsweep.cascade.chain import Chain, front
from catsweep.cascade.cost import ModelShape
from catsweep.cascade.metrics import metric_of
from catsweep.cascade.rows import row_flops, statistics
from catsweep.curves import compute_task, summarise
from catsweep.mixture import prepare_unit
from catsweep.plan import make_plan
from catsweep.prepare import load_prepared, prepare_task
from catsweep.records import read_json, read_rows, write_json, write_sweep
from catsweep.report.chain import chain_rows
from catsweep.report.page import write_report
from catsweep.space import build_confirm, build_trial, strata, training_tree
from catsweep.spec.filters import NamedQuadrants
from catsweep.spec.load import Sweep
from catsweep.spec.training import CatXentLoss
from catsweep.teacher import load_signal
from catsweep.trial import opinions, run_trial

TINY = {
    "model_type": "llama",
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
}
MEDIUM = {"name": "medium", "config": TINY, "finetune": {"steps": 20, "batch_size": 16, "learning_rate": 1e-2}}
EITHER = {"kind": "cat_xent", "filter": {"kind": "either", "models": ["medium", "large"]}}
SEARCH = {
    "num_samples": 1,
    "confirm_seeds": 1,
    "stratify": ["loss.kind", "loss.filter.kind", "loss.filter.models"],
    "space": {
        "loss": {
            "space": "choice",
            "options": [{"kind": "xent"}, {"kind": "cat_xent", "filter": {"kind": "either"}}, EITHER],
        }
    },
}
MakeSweep = Callable[..., Sweep]


def chained(make_sweep: MakeSweep, chain: list[dict[str, Any]] | None = None, **sections: Any) -> Sweep:
    data = {"max_train_rows": 150, "max_evaluation_rows": 60}
    cascade = {"num_resamples": 100}
    return make_sweep(chain=chain or [MEDIUM], search=SEARCH, data=data, cascade=cascade, **sections)


@pytest.fixture(scope="module")
def finished(make_sweep: MakeSweep, tmp_path_factory: pytest.TempPathFactory) -> tuple[Sweep, Path]:
    """A sweep with a medium model: prepared, one trial and one confirm run with a filter on both, results."""
    root = tmp_path_factory.mktemp("root")
    sweep = chained(make_sweep)
    write_sweep(root / "tiny", sweep.spec, sweep.tasks)
    prepare_task(sweep.tasks[0], sweep.spec, root=root)
    training = {**sweep.spec.training.to_json(), "loss": EITHER}
    spec = build_trial(sweep.spec, sweep.tasks[0], "cat_xent/either/medium+large", 0, training, {})
    for run in (spec, build_confirm(spec, 0)):
        folder = root / "tiny" / run.trial_id
        folder.mkdir(parents=True)
        write_json(folder / "spec.json", run.to_json())
        run_trial(run, root=root, folder=folder, report=lambda metrics: None)
    summarise(root, "tiny", [compute_task(root, "tiny", "made/reverse")])
    return sweep, root


def test_a_filter_counts_a_token_as_right_where_any_of_its_models_is(finished: tuple[Sweep, Path]) -> None:
    _, root = finished
    prepared = load_prepared(root, "tiny", "made/reverse")
    large, medium = (np.load(folder / "rank.npy") for folder in (prepared.signal, prepared.of("medium").signal))
    assert len(large) == len(medium) == len(prepared.task_data().tokens("train").targets.ids)
    assert (large == 0).sum() != (medium == 0).sum()

    def right(*models: str) -> np.ndarray:
        loss = CatXentLoss(filter=NamedQuadrants(kind="either", models=list(models)))
        return (opinions(prepared, loss, distribution=False).rank_N == 0).numpy()

    assert (right("medium", "large") == ((large == 0) | (medium == 0))).all()
    assert (right("medium") == (medium == 0)).all()
    assert (right("large") == (large == 0)).all()
    plain = load_signal(prepared.signal, distribution=False)
    assert torch.equal(opinions(prepared, CatXentLoss(), distribution=False).logprob_N, plain.logprob_N)


def test_results_hold_the_chain_beside_every_pair(finished: tuple[Sweep, Path]) -> None:
    sweep, root = finished
    result = read_json(root / "tiny" / "curves" / "made/reverse.json")
    (stratum,) = result["metrics"]["exact_match"]["strata"]
    chain = result["metrics"]["exact_match"]["strata"][stratum]["chain"]
    assert chain["models"] == ["S", "medium", "L"]
    assert {point["system"] for point in chain["points"]} == {
        "S", "medium", "L", "S -> medium", "S -> L", "medium -> L", "S -> medium -> L"
    }  # fmt: skip

    # The same by hand: the best quality of all pairs of thresholds within half of L's cost on calibration, then on test.
    prepared = load_prepared(root, "tiny", "made/reverse")
    small = read_rows(root / "tiny" / "confirm/made/reverse/cat_xent+either+medium+large/00000-seed1/rows.parquet")
    record = read_json(root / "tiny" / "confirm/made/reverse/cat_xent+either+medium+large/00000-seed1/record.json")
    shapes = [record["small_shape"], prepared.of("medium").facts["large_shape"], prepared.facts["large_shape"]]
    parts = {}
    for split in ("calibration", "test"):
        tables = [small.filter(np.array(small["split"].to_pylist()) == split)]
        tables += [prepared.of("medium").large_rows(split), prepared.large_rows(split)]
        uncertainty = [np.array([-np.mean(own) for own in table["token_logprobs"].to_pylist()]) for table in tables[:2]]
        cost = [row_flops(table, ModelShape.from_dict(shape)) for table, shape in zip(tables, shapes, strict=True)]
        values = [statistics(table, "statistics/exact_match") for table in tables]
        parts[split] = Chain(values, cost, uncertainty, metric_of(sweep.tasks[0].metric_list[0]))
    found = front(parts["calibration"])
    place = found.best_within(0.75 * parts["calibration"].cost[2].mean())
    (shown,) = [p for p in chain["points"] if p["system"] == "S -> medium -> L" and p["share"] == 0.75]
    if place is None:
        assert shown["quality"] is None
    else:
        realised = parts["test"].realised(found.thresholds[place].tolist())
        assert shown["quality"] == pytest.approx(realised.quality)
        assert shown["cost_share"] == pytest.approx(realised.cost / parts["test"].cost[2].mean())
    rows = chain_rows([result])
    assert [row.share for row in rows] == ["25%", "50%", "75%"]
    write_report(root, "tiny")
    assert "S -&gt; medium -&gt; L" in (root / "tiny" / "report.html").read_text()


def test_the_models_of_a_filter_tell_strata_apart(make_sweep: MakeSweep) -> None:
    sweep = chained(make_sweep)
    assert list(strata(training_tree(sweep.spec), sweep.spec.search.stratify)) == [
        "xent", "cat_xent/either", "cat_xent/either/medium+large"
    ]  # fmt: skip


def test_a_sweep_of_two_models_stands_on_storage_as_before(make_sweep: MakeSweep) -> None:
    assert "chain" not in make_sweep().spec.to_json()
    assert NamedQuadrants().to_json() == {"kind": "either"}


def test_a_filter_on_an_unknown_model_and_another_cut_of_the_data_are_refused(make_sweep: MakeSweep) -> None:
    with pytest.raises(Exception, match="a filter that asks medium"):
        chained(make_sweep, [{**MEDIUM, "name": "other"}])
    with pytest.raises(Exception, match="one cut of the data"):
        chained(make_sweep, [{**MEDIUM, "finetune": {**MEDIUM["finetune"], "holdout": 0.25}}])
    with pytest.raises(Exception, match="none of them small or large"):
        chained(make_sweep, [MEDIUM, {**MEDIUM, "name": "large"}])


def test_the_middle_model_is_trained_with_a_filter_on_the_models_below_and_above(
    finished: tuple[Sweep, Path], make_sweep: MakeSweep, tmp_path: Path
) -> None:
    _, root = finished
    path = root / "tiny" / "confirm/made/reverse/cat_xent+either+medium+large/00000-seed1/model"
    below = {"name": "medium", "place": "below", "pretrained": str(path)}
    sweep = chained(make_sweep, [below])
    prepare_unit(sweep.tasks[0], sweep.spec, root=tmp_path)
    prepared = load_prepared(tmp_path, "tiny", "made/reverse")
    assert prepared.of("medium").large_model is None
    num_targets = len(prepared.task_data().tokens("train").targets.ids)
    assert len(np.load(prepared.of("medium").signal / "rank.npy")) == num_targets
    assert set(prepared.of("medium").large_rows()["split"].to_pylist()) == {"validation", "calibration", "test"}


def test_a_mixture_prepares_the_further_models_of_every_member(make_sweep: MakeSweep, tmp_path: Path) -> None:
    sweep = chained(make_sweep, tasks=({"mixture": "both", "tasks": ["reverse.yaml", "parity.yaml"]},))
    prepare_unit(sweep.tasks[0], sweep.spec, root=tmp_path)
    members = [load_prepared(tmp_path, "tiny", f"both/{name}") for name in ("made/reverse", "made/parity")]
    assert members[0].of("medium").large_model == members[1].of("medium").large_model != members[0].large_model
    for member in members:
        assert member.of("medium").data == member.data
        assert len(np.load(member.of("medium").signal / "rank.npy")) == len(
            member.task_data().tokens("train").targets.ids
        )


def test_the_plan_counts_a_further_model_as_the_large_one_is_counted(make_sweep: MakeSweep, tmp_path: Path) -> None:
    large = {"config": TINY, "finetune": MEDIUM["finetune"]}
    (planned,) = make_plan(chained(make_sweep, large=large), root=tmp_path).tasks
    assert planned.flops_chain == pytest.approx(planned.flops_large_finetune + planned.flops_large_pass)
