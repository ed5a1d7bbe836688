"""The list of tasks in docs/ is the one that the task files give."""

from __future__ import annotations

from pathlib import Path

from catsweep.cli.tasks_page import read_stats, tasks_page
from catsweep.spec.load import task_files

DOCS = Path(__file__).parents[2] / "docs"


def test_the_list_of_tasks_is_up_to_date() -> None:
    page = tasks_page(read_stats(DOCS / "task_stats.json"))
    assert (DOCS / "tasks.md").read_text() == page, "run `make docs`"
    assert all(f"\n| {name} | " in page for name in task_files())


def test_sizes_and_baselines_of_packages_come_from_the_statistics() -> None:
    row = {"num_rows": {"train": 1200, "test": 90}, "baseline": "copy", "baseline_quality": 0.1234}
    assert "| packages simplemma | train 1,200, test 90 | exact_match" in tasks_page({"lemma/es": row})
    assert "| copy 0.123 |" in tasks_page({"lemma/es": row})
