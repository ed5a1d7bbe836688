"""docs/results.md from packed rows: its numbers are those of the sweep's own results."""

from __future__ import annotations

import itertools
import re
import shutil
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from synthetic import copy_sweep

from catsweep.compact import pack
from catsweep.curves import results_on_storage
from catsweep.report.comparison import points_interval
from catsweep.spec.base import Json

REPOSITORY = Path(__file__).parents[2]
CAT = "cat_xent/either"


@pytest.fixture(scope="module")
def scripts() -> Iterator[dict[str, ModuleType]]:
    """The scripts of benchmarks/study."""
    folder = str(REPOSITORY / "benchmarks" / "study")
    names = ("measures", "figures", "text", "page")
    sys.path.insert(0, folder)
    try:
        yield {name: __import__(name) for name in names}
    finally:
        sys.path.remove(folder)
        for name in names:
            sys.modules.pop(name, None)


@pytest.fixture(scope="module")
def drawn(
    scripts: dict[str, ModuleType], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Any, list[Json], Json]:
    """A redrawn page of a small finished sweep, the numbers behind it, and the sweep's own results."""
    root, docs = tmp_path_factory.mktemp("root"), tmp_path_factory.mktemp("docs")
    copy_sweep(root)
    shutil.copy(REPOSITORY / "docs" / "task_stats.json", docs / "task_stats.json")
    (docs / "results.md").write_text(empty_page(scripts["page"].BLOCKS))
    rules = scripts["measures"].RULES
    pack(root, "tiny", docs / "results" / "study", rules=lambda name: rules if name in ("xent", CAT) else ["mean"])
    scripts["page"].redraw(docs, docs)
    numbers = scripts["measures"].read_numbers(docs / "results" / "study", cache=docs, with_rules=True)
    return docs, numbers, *results_on_storage(root, "tiny")


def empty_page(blocks: Sequence[str]) -> str:
    """A page of prose with marks."""
    parts = [f"Prose of {name}, 1 < 2.\n\n<!-- begin {name} -->\n<!-- end {name} -->\n" for name in blocks]
    return "# Results\n\n" + "\n".join(parts)


def test_the_page_says_what_the_sweeps_own_results_say(drawn: tuple[Path, Any, list[Json], Json]) -> None:
    docs, _, _, summary = drawn
    page = (docs / "results.md").read_text()
    for stratum, item in summary["macro"].items():
        shown = points_interval(item).replace("\u00a0", " ")
        line = next(line for line in page.splitlines() if line.startswith(f"| `{stratum}` |"))
        assert shown in line
        counts = item["counts"]
        assert f"{counts['won']} / {counts['tied']} / {counts['lost']}" in line


def test_paired_differences_are_those_of_the_results_and_the_halves_add_up(
    drawn: tuple[Path, Any, list[Json], Json],
) -> None:
    _, numbers, results, _ = drawn
    for result in results:
        found = numbers.further[result["task"]]
        metric = next(iter(result["metrics"].values()))
        for stratum, own in found["audc"]["xent"].items():
            for name in ("value", "lower", "upper", "p_value"):
                assert own[name] == pytest.approx(metric["strata"][stratum]["difference"][name], rel=1e-9)
        is_mean = result["task"] != "emoji/en-fr"
        assert ("A1" in found) == is_mean
        if is_mean:
            for stratum, whole in found["audc"]["dist"].items():
                halves = [found[quantity]["dist"][stratum]["value"] for quantity in ("A1", "A2")]
                assert sum(halves) / 2 == pytest.approx(whole["value"], abs=1e-12)


def test_a1_is_the_weighted_mean_of_what_the_small_model_keeps(drawn: tuple[Path, Any, list[Json], Json]) -> None:
    """Against the curve at every percent, by trapezoids: as exact as 100 of 600 points allow."""
    _, numbers, results, _ = drawn
    result = next(result for result in results if result["task"] == "lemma/cs")
    strata = next(iter(result["metrics"].values()))["strata"]

    def weighted(stratum: str) -> float:
        kept = strata[stratum]["curve"]["small_kept_quality"]
        points = [(1 - index / 100) * value for index, value in enumerate(kept)]
        return 2 * sum((a + b) / 2 for a, b in itertools.pairwise(points)) / 100

    found = numbers.further["lemma/cs"]["A1"]["xent"][CAT]["value"]
    assert found == pytest.approx(weighted(CAT) - weighted("xent"), abs=2e-3)


def test_differences_to_distillation_change_sign_with_the_order(
    drawn: tuple[Path, Any, list[Json], Json], scripts: dict[str, ModuleType]
) -> None:
    _, numbers, _, _ = drawn
    compared = scripts["measures"].compared
    to_dist, to_xent = (compared(numbers, "audc", name)["macro"] for name in ("dist", "xent"))
    assert to_dist["xent"]["value"] == pytest.approx(-to_xent["dist"]["value"])
    assert to_dist[CAT]["value"] == pytest.approx(to_xent[CAT]["value"] - to_xent["dist"]["value"])
    assert all("p_value_holm" in item for item in to_dist.values())


def test_deferral_rules_are_compared_on_the_same_runs(
    drawn: tuple[Path, Any, list[Json], Json], scripts: dict[str, ModuleType]
) -> None:
    _, numbers, _, summary = drawn
    lines = {line.rule: line for line in scripts["measures"].rule_lines(numbers)}
    assert {"mean", "max", "learned"} <= set(lines)
    assert lines["mean"].to_mean["xent"]["value"] == 0
    assert lines["mean"].gain["value"] == pytest.approx(summary["macro"][CAT]["value"])
    assert lines["choice_margin"].num_tasks == 1


def test_prose_outside_the_marks_is_kept_and_drawing_again_changes_nothing(
    drawn: tuple[Path, Any, list[Json], Json], scripts: dict[str, ModuleType]
) -> None:
    docs = drawn[0]
    strip = re.compile(r"(<!-- begin ([\w-]+) -->\n).*?(<!-- end \2 -->)", flags=re.DOTALL)
    page = (docs / "results.md").read_text()
    assert strip.sub(r"\1\3", page) == empty_page(scripts["page"].BLOCKS)
    scripts["page"].redraw(docs, docs)
    assert (docs / "results.md").read_text() == page
    assert not re.search(r"\bnan\b|None|inf\b", page)
    for name in ("forest", "curves", "rates", "gap"):
        assert (docs / "results" / "study" / f"{name}.png").read_bytes()[:4] == b"\x89PNG"


def test_a_page_whose_marks_are_not_the_blocks_is_refused(scripts: dict[str, ModuleType]) -> None:
    with pytest.raises(SystemExit, match="marks"):
        scripts["page"].filled("<!-- begin one -->\n<!-- end one -->", {"other": ""})


def test_an_ablation_has_a_section_where_its_rows_exist_and_none_elsewhere(
    drawn: tuple[Path, Any, list[Json], Json], scripts: dict[str, ModuleType], tmp_path: Path
) -> None:
    docs = drawn[0]
    assert "### " not in (docs / "results.md").read_text()
    shutil.copytree(docs, tmp_path / "docs")
    shutil.copytree(docs / "results" / "study", tmp_path / "docs" / "results" / "filters")
    scripts["page"].redraw(tmp_path / "docs", docs)
    page = (tmp_path / "docs" / "results.md").read_text()
    assert page.count("## Ablations") == 1
    assert "### Filters" in page


def test_a_sweep_with_label_noise_shows_what_the_gain_is_made_of(
    drawn: tuple[Path, Any, list[Json], Json], scripts: dict[str, ModuleType]
) -> None:
    numbers = drawn[1]
    assert "Noise removed" not in scripts["text"].ablation("noise", numbers)
    part = {"value": 0.02, "lower": 0.01, "upper": 0.03}
    split = {"num_tasks": 8, **dict.fromkeys(("gain", "noise", "easier", "rest"), part)}
    summary = {**numbers.summary, "gain_splits": {CAT: {"audc": split, "quality_small": split}}}
    section = scripts["text"].ablation("noise", replace(numbers, summary=summary))
    assert f"| `{CAT}` | audc | **+2.00 [+1.00, +3.00]** | **+2.00 [+1.00, +3.00]** |" in section


def test_tasks_that_say_little_are_flagged(
    drawn: tuple[Path, Any, list[Json], Json], scripts: dict[str, ModuleType]
) -> None:
    _, numbers, results, _ = drawn
    flags = scripts["measures"].flags
    assert flags(numbers, []) == {}
    stats = [{"task": "lemma/cs", "baseline_quality": 0.99, "scale": 1.0}]
    assert flags(numbers, stats) == {"lemma/cs": ["L near chance"]}
    left = scripts["measures"].without(numbers, ["lemma/cs"])
    difference = next(iter(results[1]["metrics"].values()))["strata"][CAT]["difference"]["value"]
    assert left.summary["macro"][CAT]["value"] == pytest.approx(difference)


def test_the_page_of_the_documentation_has_every_mark_and_a_block_in_each(scripts: dict[str, ModuleType]) -> None:
    page = (REPOSITORY / "docs" / "results.md").read_text()
    blocks = dict(re.findall(r"<!-- begin ([\w-]+) -->\n(.*?)<!-- end \1 -->", page, flags=re.DOTALL))
    assert sorted(blocks) == sorted(scripts["page"].BLOCKS)
    assert all(block.strip() for name, block in blocks.items() if name != "ablations")
