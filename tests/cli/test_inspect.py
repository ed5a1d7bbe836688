"""`catsweep ls --stats`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from catsweep.cli.main import app

RUNNER = CliRunner()


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("root")


def test_stats_show_rows_and_baseline_of_the_named_tasks(root: Path) -> None:
    result = RUNNER.invoke(
        app, ["ls", "--stats", "emoji/en-fr", "codes/language*", "--out", str(root)], env={"COLUMNS": "140"}
    )
    assert result.exit_code == 0
    lines = [line.split() for line in result.output.splitlines()]
    emoji = next(line for line in lines if "emoji/en-fr" in line)
    assert {"translation", "chrf", "copy", "small"} <= set(emoji)
    kinds = next(line for line in lines if "codes/language-type" in line)
    assert {"codes", "accuracy", "majority"} <= set(kinds)
    assert "3 tasks of 2 kinds, 1 small" in result.output


def test_stats_as_json_hold_all_baselines(root: Path) -> None:
    result = RUNNER.invoke(app, ["ls", "--stats", "codes/language", "--out", str(root), "--json"])
    (stats,) = json.loads(result.output)
    assert stats["task"] == "codes/language"
    assert set(stats["baselines"]) == {"copy", "frequent"}
    assert stats["num_rows"]["test"] > 500
    assert stats["small"] is False


def test_names_belong_to_stats_and_unknown_ones_are_refused(root: Path) -> None:
    result = RUNNER.invoke(app, ["ls", "codes/language", "--out", str(root)])
    assert result.exit_code == 2
    assert "names of tasks belong to --stats" in result.output
    result = RUNNER.invoke(app, ["ls", "--stats", "codes/langage", "--out", str(root)])
    assert result.exit_code != 0
    assert "command line: tasks.0: found 'codes/langage'" in str(result.exception)
    assert "Did you mean 'codes/language'?" in str(result.exception)
