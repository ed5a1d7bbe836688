"""Deferral rules and cost models over a finished sweep: what is chosen where, and curves under other settings."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from synthetic import ONE_TASK, build_sweep, copy_sweep

from catsweep.cascade.curve import audc
from catsweep.cascade.learned import Example, learned_gains
from catsweep.cascade.metrics import get_metric
from catsweep.curves import Recomputation, compute_task, results_folder, results_up_to_date, summarise
from catsweep.deferral import bootstrap_rules, operating_points, rule_comparison, rules_for
from catsweep.errors import StorageError
from catsweep.records import read_json, read_records, read_rows, read_sweep, write_json
from catsweep.report.lines import cost_lines
from catsweep.report.page import write_report
from catsweep.report.rules import cost_rows, render_rules, rule_rows
from catsweep.runs import Run, read_run
from catsweep.spec.base import Json
from catsweep.spec.cascade import CascadeSpec
from catsweep.spec.task import TaskSpec

TASK = "langid/nordic"
PRICE = {
    "kind": "price",
    "small": {"input_per_million": 1, "output_per_million": 2},
    "large": {"input_per_million": 5, "output_per_million": 30},
}
OTHER = {"deferral": ["max", "mean", "learned"], "costs": [PRICE, "flops"], "num_resamples": 100}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return copy_sweep(tmp_path_factory.mktemp("own"), ONE_TASK)


def recompute(root: Path, **settings: Any) -> tuple[Json, Path]:
    other = Recomputation(CascadeSpec.model_validate(settings))
    result = compute_task(root, "tiny", TASK, other=other)
    summarise(root, "tiny", [result], other=other)
    return result, results_folder(root, "tiny", other)


def runs(root: Path, cascade: CascadeSpec, stratum: str = "cat_xent/either") -> list[Run]:
    large = read_rows(root / "cache" / "answers" / "answers-langid-nordic" / "rows.parquet")
    records = [record for record in read_records(root / "tiny", "confirm") if record.stratum == stratum]
    return [read_run(root / "tiny", record, large, get_metric("accuracy"), None, cascade=cascade) for record in records]


def test_curves_under_other_settings_are_those_of_a_sweep_that_had_them_from_the_start(
    root: Path, tmp_path: Path
) -> None:
    own = (root / "tiny" / "curves" / f"{TASK}.json").read_bytes()
    result, folder = recompute(root, **OTHER)
    build_sweep(tmp_path, (*ONE_TASK, f"cascade={json.dumps(OTHER)}"))
    curves = tmp_path / "tiny" / "curves"
    assert result == read_json(folder / f"{TASK}.json") == read_json(curves / f"{TASK}.json")
    assert read_rows(folder / f"{TASK}.parquet").equals(read_rows(curves / f"{TASK}.parquet"))
    keyless = [{**read_json(place / "summary.json"), "key": ""} for place in (folder, curves)]
    assert keyless[0] == keyless[1]
    assert folder.parent == root / "tiny" / "recomputed"
    assert folder.name.startswith("max+mean+learned_price-")
    assert (root / "tiny" / "curves" / f"{TASK}.json").read_bytes() == own
    assert results_up_to_date(root, "tiny")


def test_the_page_of_other_settings_has_their_rules_costs_and_router_lines(root: Path) -> None:
    result, folder = recompute(root, **OTHER)
    sweep = Recomputation(CascadeSpec.model_validate(OTHER))
    page = write_report(root, "tiny", sweep)
    assert page == folder / "report.html"
    text = page.read_text()
    for expected in ("dollars saved", "mean dollars a query", "mean FLOPs a query", "audc on calibration", "learned"):
        assert expected in text, expected
    rows = rule_rows(result)
    assert [(row.stratum, row.rule) for row in rows] == [
        (stratum, rule) for stratum in ("xent", "cat_xent/either") for rule in ("max", "mean", "learned")
    ]
    assert {row.reference for row in rows} == {"mean"}
    assert all((row.difference is None) == (row.rule == "mean") for row in rows)
    assert sum(row.chosen for row in rows) == 2
    assert render_rules(rows).row_count == 2 + 6
    flops = cost_rows(result)
    assert [row.kind for row in flops] == ["flops", "flops"]
    assert flops[0].large > flops[0].small
    lines = cost_lines(result, "flops")
    first = result["metrics"]["accuracy"]["strata"]["xent"]["curve"]
    assert lines.router_cost_share != first["router_cost_share"]
    assert lines.router_cost_share[-1] == pytest.approx(1)
    assert lines.cost_share["xent"][-1] == pytest.approx(1 + flops[0].small / flops[0].large)


def test_every_cost_model_has_columns_with_its_unit_in_the_table_of_points(root: Path) -> None:
    _, folder = recompute(root, **OTHER)
    points = read_rows(folder / f"{TASK}.parquet")
    names = set(points.column_names)
    assert {"cost_flops", "router_cost_flops", "cost_price_dollars", "router_cost_price_dollars"} <= names
    last = points.filter(pa.compute.equal(points["num_deferred"], 600)).to_pylist()[0]
    large = (5 * 12 + 30 * 4) / 1e6  # a prompt of 12 tokens, and two choices of two
    assert last["cost_price_dollars"] == pytest.approx(large + (12 + 2 * 4) / 1e6)
    assert last["router_cost_price_dollars"] == pytest.approx(large)


def test_the_first_cost_model_and_the_table_of_cost_models_agree(root: Path) -> None:
    result, _ = recompute(root, **OTHER)
    assert [cost["kind"] for cost in result["costs"]] == ["price", "flops"]
    for entry in result["metrics"]["accuracy"]["strata"].values():
        price = entry["costs"]["price"]
        assert price["unit"] == "dollars"
        assert price["cost_share"] == pytest.approx(entry["curve"]["cost_share"])
        assert price["router_cost_share"] == pytest.approx(entry["curve"]["router_cost_share"])
        assert price["oracle_cost_share"] == pytest.approx(entry["curve"]["oracle_cost_share"])
        for rule, found in entry["rules"].items():
            assert [run["operating"] for run in price["rules"][rule]] == [run["operating"] for run in found]


def test_the_rule_is_chosen_on_calibration_and_no_test_row_changes_it(root: Path) -> None:
    cascade = CascadeSpec(deferral=["random", "mean", "max"], num_resamples=100)
    found = runs(root, cascade)
    compared = rule_comparison(found, {rule: drawn["s"] for rule, drawn in _draws(found, cascade).items()})
    means = {rule: np.mean([audc(run.calibration.curve(rule)) for run in found]) for rule in cascade.deferral}
    assert compared["chosen"] == max(means, key=lambda rule: means[rule])
    assert compared["rules"]["max"]["audc_calibration"] == pytest.approx(means["max"])
    flipped = np.stack([np.arange(600) % 2.0, np.ones(600)], axis=1)
    found = [replace(run, test=replace(run.test, small_statistics=flipped)) for run in found]
    again = rule_comparison(found, {rule: drawn["s"] for rule, drawn in _draws(found, cascade).items()})
    assert again["chosen"] == compared["chosen"]
    assert again["rules"]["mean"]["audc"] != compared["rules"]["mean"]["audc"]


def _draws(found: list[Run], cascade: CascadeSpec) -> Any:
    return bootstrap_rules({"s": found}, cascade.deferral, cascade, get_metric("accuracy"))


def test_differences_between_rules_are_paired_by_seed_and_by_resample(root: Path) -> None:
    cascade = CascadeSpec(deferral=["mean", "random"], num_resamples=100)
    found = runs(root, cascade)
    draws = {rule: drawn["s"] for rule, drawn in _draws(found, cascade).items()}
    compared = rule_comparison(found, draws)["rules"]["random"]["difference"]
    by_hand = [audc(run.test.curve("random")) - audc(run.test.curve("mean")) for run in found]
    assert compared["by_seed"] == pytest.approx(by_hand)
    paired = np.mean([a.audc_draws - b.audc_draws for a, b in zip(draws["random"], draws["mean"], strict=True)], axis=0)
    assert compared["example_variance"] == pytest.approx(paired.var(ddof=1))


def test_learned_scores_are_out_of_fold_on_calibration_and_those_of_all_of_it_on_test(root: Path) -> None:
    cascade = CascadeSpec(deferral=["mean", "learned"], seed=3)
    run = runs(root, cascade)[0]
    known = run.calibration
    example = Example(known.signals, known.small_statistics, known.large_statistics, known.groups)
    wanted = learned_gains(example, run.test.signals, known.metric, seed=3)
    np.testing.assert_array_equal(run.calibration.uncertainty("learned"), wanted.out_of_fold)
    np.testing.assert_array_equal(run.test.uncertainty("learned"), wanted.applied)
    points = operating_points(run.calibration.curve("learned"), run.test.curve("learned"), (0.0, 1.0))
    threshold = points["cost<=0.5"]["threshold"]
    assert points["cost<=0.5"]["deferral_rate"] == pytest.approx(np.mean(wanted.applied >= threshold))


def test_a_saving_has_an_interval_around_the_number_that_the_operating_points_give(root: Path) -> None:
    result = read_json(root / "tiny" / "curves" / f"{TASK}.json")
    strata = result["metrics"]["accuracy"]["strata"]
    costs = {
        stratum: np.mean([run["operating"]["gap>=0.8"]["cost_share"] for run in entry["rules"]["mean"]])
        for stratum, entry in strata.items()
    }
    saving = strata["cat_xent/either"]["savings"]["gap>=0.8"]
    assert saving["value"] == pytest.approx(1 - costs["cat_xent/either"] / costs["xent"])
    assert saving["lower"] < saving["value"] < saving["upper"]
    assert strata["xent"]["savings"]["gap>=0.8"] is None
    at_large = np.mean([run["operating"]["gap>=1.0"]["cost_share"] for run in strata["xent"]["rules"]["mean"]])
    assert strata["xent"]["savings"]["gap>=1.0"]["value"] == pytest.approx(1 - at_large)


def test_latency_of_older_runs_is_refused_with_the_way_out_and_measured_seconds_give_curves(
    root: Path, tmp_path: Path
) -> None:
    shutil.copytree(root, tmp_path, dirs_exist_ok=True)
    settings: Json = {"deferral": ["mean"], "costs": ["flops", "latency"], "num_resamples": 100}
    with pytest.raises(StorageError, match=r"the large model's seconds were not measured.*Remove the folder and run"):
        recompute(tmp_path, **settings)
    latency = {
        "seconds_a_query": 0.1, "seconds_a_prompt_token": 0.0, "seconds_an_output_token": 0.05, "device": "engine",
        "batch_size": 8, "num_batches": 3,
    }  # fmt: skip
    write_json(
        tmp_path / "cache" / "answers" / "answers-langid-nordic" / "manifest.json",
        {"files": {}, "facts": {"latency": latency}},
    )
    with pytest.raises(StorageError, match=r"confirm/langid/nordic/.*this run's seconds were not measured"):
        recompute(tmp_path, **settings)
    for record in read_records(tmp_path / "tiny", "confirm"):
        facts = {**record.facts, "latency": {**latency, "seconds_an_output_token": 0.01, "device": "abacus"}}
        write_json(tmp_path / "tiny" / record.trial_id / "record.json", {**record.to_json(), "facts": facts})
    result, folder = recompute(tmp_path, **settings)
    found = result["metrics"]["accuracy"]["strata"]["xent"]["costs"]["latency"]
    assert (found["unit"], found["small"], found["large"]) == ("seconds", pytest.approx(0.14), pytest.approx(0.3))
    assert found["router_cost_share"][-1] == pytest.approx(1)
    assert found["cost_share"][0] == pytest.approx(0.14 / 0.3)
    assert "cost_latency_seconds" in read_rows(folder / f"{TASK}.parquet").column_names
    page = write_report(tmp_path, "tiny", Recomputation(CascadeSpec.model_validate(settings))).read_text()
    assert "S on abacus in batches of 8; L on engine in batches of 8" in page


def test_rules_of_choices_are_left_out_where_answers_are_free_texts(root: Path) -> None:
    found = read_sweep(root / "tiny")
    assert found is not None
    task = found[1][0]
    assert isinstance(task, TaskSpec)
    cascade = CascadeSpec(deferral=["mean", "choice_margin"])
    assert rules_for(task, cascade) == ["mean", "choice_margin"]
    free = task.model_copy(update={"output_type": "generate_until"})
    assert rules_for(free, cascade) == ["mean"]
    assert rules_for(free, CascadeSpec(deferral=["choice_margin"])) == ["choice_margin"]
