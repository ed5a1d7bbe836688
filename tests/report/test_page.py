"""Figures and the page, from a whole small sweep."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
from synthetic import TASKS, copy_sweep

from catsweep.curves import results_on_storage
from catsweep.errors import StorageError
from catsweep.records import read_json, write_json
from catsweep.report.figures import cost_figure, curves_figure, forest_figure, stratum_styles, to_png, to_svg
from catsweep.report.lines import MACRO, all_strata, curve_lines, forest
from catsweep.report.page import page_content, write_report
from catsweep.report.tables import results_table


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return copy_sweep(tmp_path_factory.mktemp("sweep"))


@pytest.fixture(scope="module")
def page(root: Path) -> str:
    return write_report(root, "tiny").read_text()


def test_the_page_has_every_task_stratum_and_number(root: Path, page: str) -> None:
    for task, *_ in TASKS.values():
        assert f"<h3>{task}" in page
    for row in results_table(*results_on_storage(root, "tiny")):
        assert row.stratum in page
        assert f"{row.audc:.{3 if row.scale == 1 else 1}f}" in page
    assert "emoji/en-fr*" in page
    assert "conditional on one large model" in page
    assert "catsweep run tiny.yaml" in page
    assert "0123456789abcdef" in page


def test_a_task_without_confirmed_runs_leaves_the_others_their_page(tmp_path: Path) -> None:
    root = copy_sweep(tmp_path)
    results = results_on_storage(root, "tiny")[0]
    path = root / "tiny" / "curves" / f"{results[0]['task']}.json"
    result = read_json(path)
    result["strata"] = {}
    for metric in result["metrics"].values():
        metric["strata"] = {}
        del metric["large"]
    write_json(path, result)
    text = write_report(root, "tiny").read_text()
    assert f"<h3>{results[1]['task']}" in text
    assert all_strata([result]) == all_strata(results), "colours are those of the others"


def test_many_tasks_have_one_line_of_costs(root: Path, page: str, monkeypatch: pytest.MonkeyPatch) -> None:
    factors = [float(found) for found in re.findall(r"FLOPs: ([\d.]+) times as much", page)]
    assert len(factors) == len(TASKS)
    monkeypatch.setattr("catsweep.report.page.MAX_COST_LINES", len(TASKS) - 1)
    text = dict(page_content(root, "tiny")["budget"])["cost"]
    assert f"costs L {min(factors):.1f} to {max(factors):.1f} times as many FLOPs as S" in text


def test_the_page_needs_no_network(page: str) -> None:
    assert not re.findall(r"(?:src|href)\s*=\s*[\"'](?!#)[^\"']*", page)
    assert not re.findall(r"<script|<link|@import|xmlns|url\((?!#)", page)
    assert page.count("<svg") == 1 + 2 * len(TASKS)


def test_the_page_escapes_what_comes_from_data_and_keeps_no_password(page: str) -> None:
    assert "RuntimeError: &lt;out of luck&gt; at https://***@example.org/x" in page
    assert "<out of luck>" not in page
    assert "hunter2" not in page


def test_the_page_says_when_nothing_is_shown(page: str) -> None:
    assert "cat_xent/either is not shown to be better than xent" in page
    assert "too few" in page


def test_a_task_that_could_not_be_prepared_stands_first_among_what_went_wrong(tmp_path: Path) -> None:
    root = copy_sweep(tmp_path)
    write_json(root / "tiny" / "prepare" / "lemma" / "xx.json", {"task": "lemma/xx", "error": "DataError: no rows"})
    text = write_report(root, "tiny").read_text()
    assert text.index("DataError: no rows") < text.index("&lt;out of luck&gt;")


def test_a_stratum_without_confirmed_runs_and_a_task_without_any_leave_a_page(tmp_path: Path) -> None:
    root = copy_sweep(tmp_path)
    for task, lost in (("lemma/cs", ["xent"]), ("langid/nordic", None)):
        path = root / "tiny" / "curves" / f"{task}.json"
        result = read_json(path)
        for metric in result["metrics"].values():
            for stratum in list(metric["strata"]) if lost is None else lost:
                del metric["strata"][stratum]
            for found in metric["strata"].values():
                found.pop("difference", None)
        write_json(path, result)
    text = write_report(root, "tiny").read_text()
    assert "no confirmed run" in text
    assert "xent has no confirmed run to compare with" in text


def test_a_sweep_without_curves_is_named(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="holds no sweep"):
        write_report(tmp_path, "tiny")


def test_lines_are_the_stored_curves_with_the_baseline_first(root: Path) -> None:
    result = results_on_storage(root, "tiny")[0][0]
    lines = curve_lines(result)
    assert lines is not None
    assert next(iter(lines.quality)) == "xent"
    stored = result["metrics"]["exact_match"]["strata"]["dist"]["curve"]
    assert lines.quality["dist"] == stored["quality"]
    assert lines.cost_share["dist"] == stored["cost_share"]
    assert lines.quality_label == "exact match on test"


def test_the_forest_is_in_percent_of_each_metrics_range(root: Path) -> None:
    results, summary = results_on_storage(root, "tiny")
    found = {(item.block, item.stratum): item for item in forest(results_table(results, summary), summary)}
    chrf = results[2]["metrics"]["chrf"]["strata"]["dist"]["difference"]
    assert found["emoji/en-fr*", "dist"].value == pytest.approx(chrf["value"])
    accuracy = results[1]["metrics"]["accuracy"]["strata"]["dist"]["difference"]
    assert found["langid/nordic", "dist"].lower == pytest.approx(100 * accuracy["lower"])
    assert not found[MACRO, "dist"].is_clear


def test_a_stratum_has_one_colour_in_every_sweep() -> None:
    one = stratum_styles(["cat_xent/either", "xent"], "xent")
    other = stratum_styles(["cat_xent/either", "cat_xent/small", "dist", "xent"], "xent")
    assert one["cat_xent/either"] == other["cat_xent/either"]
    many = stratum_styles([f"cat_xent/{index}" for index in range(20)], "xent")
    assert len({(style["color"], str(style["linestyle"])) for style in many.values()}) == 20


def test_what_costs_more_than_the_large_model_alone_is_faint_and_named(root: Path) -> None:
    results, _ = results_on_storage(root, "tiny")
    lines = curve_lines(results[0])
    assert lines is not None
    styles = stratum_styles(all_strata(results), "xent")
    for name, shares in lines.cost_share.items():
        within = lines.num_within_large_cost(name)
        assert 0 < within < len(shares)  # deferring everything pays for both models
        assert shares[within - 1] <= 1 < shares[within]
    assert "costs more than L alone" in to_svg(cost_figure(lines, styles), "cost")
    free = replace(lines, cost_share={name: [percent / 100 for percent in lines.percents] for name in lines.quality})
    assert "costs more than L alone" not in to_svg(cost_figure(free, styles), "cost")


def test_figures_are_pictures_in_the_colours_of_their_place(root: Path) -> None:
    results, summary = results_on_storage(root, "tiny")
    styles = stratum_styles(all_strata(results), "xent")
    lines = curve_lines(results[2], "bleu")
    assert lines is not None
    assert to_png(curves_figure(lines, styles), 40).startswith(b"\x89PNG")
    svg = to_svg(cost_figure(lines, styles), 'a "title" & <more>')
    assert svg.startswith('<svg role="img" aria-label="a &quot;title&quot; &amp; &lt;more&gt;"')
    assert "currentColor" in svg
    assert "BLEU on test (0 to 100)" in svg
    differences = forest(results_table(results, summary), summary)
    assert "var(--paper, white)" in to_svg(forest_figure(differences, styles, "xent"), "forest")
