"""Results of a sweep under every metric, from rows to the page, on answers that nobody had to train for."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from synthetic import ONE_TASK, copy_sweep

from catsweep.cascade.metrics import METRIC_NAMES, Metric, metric_of
from catsweep.curves import compute_task, results_on_storage, summarise
from catsweep.errors import StorageError
from catsweep.records import (
    read_record,
    read_records,
    read_rows,
    read_sweep,
    winners,
    write_record,
    write_rows,
    write_sweep,
)
from catsweep.report.lines import curve_lines
from catsweep.report.page import page_content, write_report
from catsweep.report.runs import confirmed_points, curves_run
from catsweep.report.tables import notes, render_table, results_table
from catsweep.runs import _first_filled, _last_filled
from catsweep.spec.base import Json
from catsweep.spec.task import MetricSpec

TASK = "langid/nordic"
FREE_TEXTS = ("bleu", "chrf", "rouge1", "rouge2", "rougeLsum")


def spec(name: str) -> MetricSpec:
    return MetricSpec(metric=name, positive="1.0" if name in ("f1", "multirc_f1a") else None)  # type: ignore[arg-type]


def statistics(metric: Metric, rows: pa.Table, *, constant: bool) -> list[list[float]]:
    """Every row's answer is right where the synthetic one is; the right answers are 0.0, 0.5 or 1.0. Some wrong ones are no
    number, and with `constant` all answers are the same."""
    found = []
    for index, (row_id, output) in enumerate(zip(rows["id"].to_pylist(), rows["output"].to_pylist(), strict=True)):
        number = int(row_id.rpartition("-")[2])
        wanted = f"{(number * 7 % 3) / 2}"
        answer = wanted if output == "nb" else ("none" if index % 9 == 0 else f"{(number * 5 % 4) / 2}")
        texts = ["0.5" if constant else answer, wanted]
        if metric.name in FREE_TEXTS:
            texts = [f"the answer of today is {text} and no more" for text in texts]
        found.append(metric.statistics(texts[0], texts[1:], f"q{number // 4}"))
    return found


def rewrite(path: Path, metrics: list[Metric], *, constant: bool = False) -> None:
    """Give rows on storage the statistics of these metrics, and groups of four rows."""
    rows = read_rows(path)
    kept = [name for name in rows.column_names if not name.startswith("statistics/")]
    rows = rows.select(kept)
    groups = [f"g{int(row_id.rpartition('-')[2]) // 4}" for row_id in rows["id"].to_pylist()]
    rows = rows.set_column(rows.column_names.index("group"), "group", pa.array(groups))
    for metric in metrics:
        rows = rows.append_column(f"statistics/{metric.name}", pa.array(statistics(metric, rows, constant=constant)))
    write_rows(path, rows)


def judged(root: Path, names: list[str], *, constant_baseline: bool = False) -> tuple[list[Json], Json]:
    """A finished sweep of one task under these metrics, with its results."""
    copy_sweep(root, ONE_TASK)
    folder = root / "tiny"
    found = read_sweep(folder)
    assert found is not None
    sweep, (task,) = found
    task = task.model_copy(
        update={"metric_list": [spec(name) for name in names], "output_type": "generate_until", "doc_to_choice": None}
    )
    write_sweep(folder, sweep, (task,))
    metrics = [metric_of(item) for item in task.metric_list]
    for record in read_records(folder, "confirm"):
        constant = constant_baseline and record.stratum == "xent"
        rewrite(folder / record.trial_id / "rows.parquet", metrics, constant=constant)
        write_record(folder / record.trial_id, record)
    for path in (root / "cache" / "answers").glob("*/rows.parquet"):
        rewrite(path, metrics)
    summarise(root, "tiny", [compute_task(root, "tiny", TASK)])
    return results_on_storage(root, "tiny")


@pytest.fixture(scope="module")
def every(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Json], Json, Path]:
    root = tmp_path_factory.mktemp("every")
    return *judged(root, list(METRIC_NAMES)), root


@pytest.mark.parametrize("name", METRIC_NAMES)
def test_a_sweep_has_curves_intervals_and_savings_under_every_metric(
    every: tuple[list[Json], Json, Path], name: str
) -> None:
    (result,), _, _ = every
    metric = result["metrics"][name]
    assert metric["scale"] == (100 if name in FREE_TEXTS else 1)
    assert metric["large"]["lower"] < metric["large"]["value"] < metric["large"]["upper"]
    for stratum in ("xent", "cat_xent/either"):
        entry = metric["strata"][stratum]
        assert entry["audc"]["lower"] < entry["audc"]["value"] < entry["audc"]["upper"]
        assert entry["curve"]["quality"][0] == pytest.approx(entry["quality_small"]["value"])
        assert entry["curve"]["quality"][-1] == pytest.approx(metric["large"]["value"])
        assert all(len(line) == 101 and None not in line for line in entry["curve"].values())
        run = entry["rules"]["mean"][0]
        assert 0 < run["apgr"] < 1.5
        assert run["operating"]["gap>=0.8"]["cost_share"] > 0
        assert (run["auroc"] is None) == (name in ("bleu", "chrf", "pearson", "spearman"))
        assert run["quality_oracle"] >= metric["large"]["value"]
    assert metric["strata"]["cat_xent/either"]["difference"]["value"] > 0
    lines = curve_lines(result, name)
    assert lines is not None
    ranges = {"bleu": "(0 to 100)", "rouge2": "(0 to 100)", "pearson": "(-1 to 1)", "matthews": "(-1 to 1)"}
    assert lines.quality_label.endswith(ranges.get(name, "")) or name not in ranges
    assert name not in lines.title or name == "accuracy"


def test_a_rank_correlation_says_that_it_is_computed_at_some_points_and_numbers_are_counted(
    every: tuple[list[Json], Json, Path],
) -> None:
    (result,), _, _ = every
    facts = {name: found["strata"]["xent"]["facts"] for name, found in result["metrics"].items()}
    assert facts["spearman"]["num_points"] == 101
    assert facts["pearson"]["num_unreadable_small"] > facts["pearson"]["num_unreadable_large"] > 0
    assert all(not found for name, found in facts.items() if name not in ("pearson", "spearman"))


@pytest.mark.parametrize("name", ["rouge1", "matthews", "spearman"])
def test_macro_differences_are_shares_of_the_scale(tmp_path: Path, name: str) -> None:
    (result,), summary = judged(tmp_path, [name])
    difference = result["metrics"][name]["strata"]["cat_xent/either"]["difference"]["value"]
    scale = 100 if name == "rouge1" else 1
    assert summary["macro"]["cat_xent/either"]["value"] == pytest.approx(difference / scale)


@pytest.mark.parametrize("name", ["pearson", "spearman"])
def test_a_correlation_that_is_not_defined_is_a_dash_and_never_breaks_the_results(tmp_path: Path, name: str) -> None:
    (result,), summary = judged(tmp_path, [name], constant_baseline=True)
    entry = result["metrics"][name]["strata"]["xent"]
    assert entry["quality_small"]["value"] is None
    assert entry["curve"]["quality"][0] is None
    assert entry["audc"]["value"] > 0
    rows = results_table([result], summary)
    baseline = next(row for row in rows if row.stratum == "xent")
    assert (baseline.quality_small, baseline.flops_saved_vs_baseline) == (None, None)
    table = render_table(rows)
    assert table.row_count == 3
    assert "–" in map(str, next(column for column in table.columns if column.header == "S").cells)
    assert any(f"{name}: " in line and "no numbers" in line for line in notes(rows))
    lines = curve_lines(result)
    assert lines is not None
    assert math.isnan(lines.quality["xent"][0])
    assert name in write_report(tmp_path, "tiny").read_text().lower()
    content = curves_run(result, baseline, 0.0, "#000000", lambda: b"")
    trial = next(iter(entry["rules"]["mean"]))["trial_id"]
    for point in [*content.points, *confirmed_points(result, trial, 0.0)]:
        assert math.isfinite(point.value)
    json.dumps(result, allow_nan=False)


def test_points_without_a_value_take_the_last_one_before_or_the_first_behind() -> None:
    values = np.array([np.nan, np.nan, 2.0, np.nan, 3.0, np.nan])
    np.testing.assert_array_equal(_last_filled(values)[2:], [2, 2, 3, 3])
    np.testing.assert_array_equal(_first_filled(values)[:5], [2, 2, 2, 3, 3])


def test_the_pareto_sets_of_two_objectives_stand_in_the_results_and_on_the_page(tmp_path: Path) -> None:
    metric = "search.metric=[{kind: audc}, {kind: cost_at_quality, quality: 0.8}]"
    root = copy_sweep(tmp_path, (*ONE_TASK, metric))
    folder = root / "tiny" / "trials" / "langid/nordic" / "cat_xent+either"
    for number, cost in ((0, 0.5), (1, 0.4), (2, 0.1), (3, 0.45)):  # trial 2 was stopped early; 3 is worse than 1
        record = read_record(folder / f"{number:05d}")
        assert record is not None
        write_record(folder / f"{number:05d}", replace(record, metrics={"validation/objective_2": cost}))
    result = compute_task(root, "tiny", "langid/nordic")
    summarise(root, "tiny", [result])
    found = result["strata"]["cat_xent/either"]["pareto"]
    assert [(trial["number"], trial["objectives"][1]) for trial in found] == [(0, 0.5), (1, 0.4)]
    page = write_report(root, "tiny").read_text()
    assert "Pareto set of" in page
    assert "cost_at_quality, quality 0.8" in page


def test_a_folder_without_a_sweep_is_named_with_what_lists_those_of_its_root(tmp_path: Path) -> None:
    expected = f"{tmp_path / 'other'} holds no sweep; expected sweep.json. `catsweep ls` lists the sweeps of {tmp_path}"
    for reading in (results_on_storage, page_content):
        with pytest.raises(StorageError) as caught:
            reading(tmp_path, "other")
        assert str(caught.value) == expected


def test_the_flops_of_a_search_are_those_that_were_spent(tmp_path: Path) -> None:
    """Each finished trial has its own count; of one that was stopped a step costs what the winner's does, for its own batches."""
    folder = copy_sweep(tmp_path, ONE_TASK) / "tiny"
    found = read_sweep(folder)
    assert found is not None
    records = [*read_records(folder, "trials"), *read_records(folder, "confirm")]
    winner = winners(records, found[0])[TASK, "xent"]
    trials = [record for record in records if record.role == "trial" and record.stratum == "xent"]
    stopped, other, *rest = [record for record in trials if record.number != winner.number]
    write_record(
        folder / stopped.trial_id,
        replace(
            stopped, status="stopped", num_steps=40, train_flops=0.0, parameters=stopped.parameters | {"batch_size": 64}
        ),
    )
    write_record(folder / other.trial_id, replace(other, status="finished", num_steps=120, train_flops=7e9))
    facts = compute_task(tmp_path, "tiny", TASK)["strata"]["xent"]
    a_step = winner.train_flops / winner.num_steps
    left = sum(record.train_flops or record.num_steps * a_step for record in [winner, *rest])
    assert facts["train_flops"] == pytest.approx(left + 7e9 + 40 * a_step * 64 / 16)
    assert facts["num_steps"] == 40 + 120 + sum(record.num_steps for record in [winner, *rest])
