"""What a gain is made of: from the strata's numbers to the report, against differences worked out by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import synthetic

from catsweep.cascade.compare import macro_difference
from catsweep.gain_split import GainSplit, detector, gain_splits, macro_splits, parts
from catsweep.records import read_json
from catsweep.report.gain import detector_rows, gain_rows
from catsweep.report.page import write_report
from catsweep.space import strata, training_tree
from catsweep.spec.dimensions import parse_space

OPTIONS = (
    "[{kind: xent}, {kind: cat_xent, filter: {kind: either}}, {kind: cat_xent, filter: {kind: drop_injected}}, "
    "{kind: cat_xent, filter: {kind: clean_only}}]"
)
OVERRIDES = (
    "tasks=[nordic.yaml]",
    "search.confirm_seeds=2",
    f"search.space.loss={{space: choice, options: {OPTIONS}}}",
    "data.label_noise={rate: 0.2}",
    "cascade.deferral=[mean]",
)
SKILL = {"cat_xent/drop_injected": 0.2, "cat_xent/clean_only": 0.1}


def options(*losses: Any) -> dict[str, Any]:
    tree = parse_space({"loss": {"space": "choice", "options": list(losses)}})
    return strata(tree, ["loss.kind", "loss.filter.kind", "loss.filter.filter.kind", "loss.filter_warmup_share"])


def cat(kind: str, loss: str = "cat_xent", **more: Any) -> dict[str, Any]:
    return {"kind": loss, "filter": {"kind": kind, **more}}


def test_a_gain_is_the_sum_of_its_parts() -> None:
    found = parts(baseline=0.5, filtered=0.6, dropped=0.56, clean=0.52)
    assert found == pytest.approx({"gain": 0.1, "noise": 0.06, "easier": 0.02, "rest": 0.02})


def test_the_strata_of_a_split_are_found_by_what_they_train_with() -> None:
    inner = {"filter": {"kind": "either"}}
    found = gain_splits(options({"kind": "xent"}, cat("either"), cat("drop_injected"), cat("clean_only", **inner)))
    assert found == [GainSplit("cat_xent/either", "cat_xent/drop_injected", "cat_xent/clean_only/either")]
    # Defaults, as a person may leave them out, and several filters; the one without a warm-up comes first.
    large = cat("clean_only", filter={"kind": "large"})
    warm = {**cat("either"), "filter_warmup_share": 0.5}
    losses = [
        {"kind": "xent"},
        {"kind": "cat_xent"},
        warm,
        cat("drop_injected"),
        cat("clean_only"),
        cat("large"),
        large,
    ]
    assert gain_splits(options(*losses)) == [
        GainSplit("cat_xent", "cat_xent/drop_injected", "cat_xent/clean_only"),
        GainSplit("cat_xent/large", "cat_xent/drop_injected", "cat_xent/clean_only/large"),
    ]


def test_without_all_four_strata_nothing_is_split() -> None:
    whole = [{"kind": "xent"}, cat("either"), cat("drop_injected"), cat("clean_only")]
    for index in range(4):
        assert gain_splits(options(*whole[:index], *whole[index + 1 :])) == []
    # Of another loss, or of another filter.
    assert gain_splits(options(*whole[:2], cat("drop_injected", "cat_dist"), whole[3])) == []
    assert gain_splits(options(*whole[:3], cat("clean_only", filter={"kind": "large"}))) == []
    mixed = cat("drop_injected") | {"filter": {"space": "choice", "options": [{"kind": "large"}, {"kind": "either"}]}}
    tree = {"xent": options({"kind": "xent"})["xent"], "any": parse_space({"loss": mixed})}
    assert gain_splits(tree) == []


@pytest.fixture(scope="module")
def noisy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished sweep on one task, with the four strata."""
    root = tmp_path_factory.mktemp("root")
    with pytest.MonkeyPatch.context() as patch:
        for name, ability in SKILL.items():
            patch.setitem(synthetic.SKILL, name, ability)
        synthetic.build_sweep(root, OVERRIDES)
    return root


def test_results_split_the_gain_of_each_seed(noisy: Path) -> None:
    metric = read_json(noisy / "tiny" / "curves" / "langid/nordic.json")["metrics"]["accuracy"]
    split = metric["gain_splits"]["cat_xent/either"]
    for measure in ("audc", "quality_small"):
        xent, either, dropped, clean = (
            np.array(metric["strata"][name][measure]["by_seed"])
            for name in ("xent", "cat_xent/either", "cat_xent/drop_injected", "cat_xent/clean_only")
        )
        found = split[measure]
        assert found["noise"]["by_seed"] == pytest.approx(list(dropped - xent))
        assert found["easier"]["by_seed"] == pytest.approx(list(clean - xent))
        assert found["rest"]["by_seed"] == pytest.approx(list(either - dropped - clean + xent))
        assert found["gain"]["value"] == pytest.approx(
            sum(found[part]["value"] for part in ("noise", "easier", "rest"))
        )
        assert found["rest"]["lower"] < found["rest"]["value"] < found["rest"]["upper"]
    assert split["audc"]["gain"] == metric["strata"]["cat_xent/either"]["difference"]


def test_the_report_shows_what_the_gain_is_made_of(noisy: Path) -> None:
    page = write_report(noisy, "tiny").read_text()
    assert "What the gain is made of" in page
    assert "20% of the training labels or target tokens are wrong on purpose (uniform); L trains on them too" in page
    result = read_json(noisy / "tiny" / "curves" / "langid/nordic.json")
    rows = gain_rows([result], read_json(noisy / "tiny" / "curves" / "summary.json"))
    assert [(row.task, row.stratum, row.measure) for row in rows] == [
        ("langid/nordic", "cat_xent/either", "audc"), ("langid/nordic", "cat_xent/either", "S alone")
    ]  # fmt: skip
    gain = result["metrics"]["accuracy"]["gain_splits"]["cat_xent/either"]["audc"]["gain"]
    assert rows[0].cells[0][0].startswith(f"{gain['value']:+.3f} [")


def task(name: str, group: str, noise: float, scale: float) -> dict[str, Any]:
    values = {"gain": 0.05, "noise": noise, "easier": 0.01, "rest": 0.04 - noise}
    entry = {part: {"value": scale * value, "lower": 0.0, "upper": 0.1} for part, value in values.items()}
    split = {"cat_xent/either": {"audc": entry, "quality_small": entry}}
    return {"task": name, "group": group, "metrics": {"m": {"scale": scale, "gain_splits": split, "strata": {}}}}


def test_over_all_tasks_kinds_weigh_equally_in_units_of_the_range() -> None:
    tasks = [task("a", "x", 0.01, 1), task("b", "x", 0.03, 1), task("c", "y", 0.04, 100)]
    found = macro_splits(tasks)["cat_xent/either"]["audc"]
    assert found["num_tasks"] == 3
    assert found["noise"]["value"] == pytest.approx((0.02 + 0.04) / 2)
    assert found["noise"]["upper"] == macro_difference(["x", "x", "y"], [0.01, 0.03, 0.04]).upper
    assert macro_splits([]) == {}
    (row, *_) = gain_rows([], {"gain_splits": {"cat_xent/either": {"audc": found, "quality_small": found}}})
    assert (row.task, row.unit) == ("all (3 tasks)", "% of the range")
    assert row.cells[1][0].startswith("+3.00 [")
    assert {kind for _, kind in row.cells} == {""}  # too few tasks for a claim


def test_a_filter_is_shown_as_a_detector(noisy: Path) -> None:
    records = [
        synthetic.make_record(trial, "finished", 0.5, 0)
        for trial in [_trial(noisy)] * 2
    ]  # fmt: skip
    for record, kept in zip(records, (0.2, 0.4), strict=True):
        record.facts["noise"] = {"injected_share": 0.2, "kept_share_injected": kept, "kept_share_clean": 0.9}
    records[0].facts["noise"]["noise_precision"] = 0.6
    found = detector(records)
    assert found == pytest.approx(
        {"injected_share": 0.2, "kept_share_injected": 0.3, "kept_share_clean": 0.9, "noise_precision": 0.6}
    )
    assert detector([synthetic.make_record(_trial(noisy), "finished", 0.5, 0)]) is None
    result = {
        "task": "langid/nordic",
        "strata": {"xent": {"noise": found}, "cat_xent/either": {"noise": found}, "cat_xent/large": {}},
        "label_noise": {"injected_share": 0.2, "large_right_share_injected": 0.25, "large_right_share_clean": 0.75},
    }
    (row,) = detector_rows([result])
    assert row == {
        "task": "langid/nordic", "stratum": "cat_xent/either", "injected": "20%", "dropped_clean": "10%", "found": "70%",
        "precision": "60%", "large": "25% / 75%",
    }  # fmt: skip
    assert detector_rows([{"task": "t", "strata": {"cat_xent/either": {}}}]) == []


def _trial(root: Path) -> Any:
    sweep = synthetic.load_synthetic(root, OVERRIDES)
    tree = strata(training_tree(sweep.spec), sweep.spec.search.stratify)["xent"]
    value, parameters = synthetic.draw(tree, synthetic.RandomChooser(0))
    return synthetic.build_trial(sweep.spec, sweep.tasks[0], "xent", 0, value, parameters)
