"""`catsweep curves --table` as a user calls it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import get_args

import pytest
from typer.testing import CliRunner

from catsweep.cli.main import METRICS, app
from catsweep.errors import TableError
from catsweep.spec.task import MetricName


def test_the_help_names_every_metric() -> None:
    assert METRICS.split(", ") == list(get_args(MetricName))
    shown = CliRunner().invoke(app, ["curves", "--help"], terminal_width=200).output
    assert "multirc_em" in shown


def test_what_was_written_is_said_and_json_stays_alone_on_the_output(tmp_path: Path) -> None:
    table = tmp_path / "results.csv"
    table.write_text("id,score,small_correct,large_correct\na,0.9,1,1\nb,0.1,0,1\n")
    result = CliRunner().invoke(app, ["curves", "--table", str(table), "--json", "--out", str(tmp_path / "out")])
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["num_rows"] == 2
    for ending in ("json", "png"):
        path = tmp_path / "out" / f"results.{ending}"
        assert path.stat().st_size > 0
        assert str(path) in result.stderr


@pytest.mark.parametrize(("separator", "what"), [(";", "semicolons"), ("\t", "tabs")])
def test_another_separator_gets_a_hint(tmp_path: Path, separator: str, what: str) -> None:
    table = tmp_path / "results.csv"
    table.write_text(separator.join(["id", "score", "small_correct", "large_correct"]) + "\n")
    with pytest.raises(TableError, match=f"with {what} in it; expected columns separated by commas"):
        CliRunner().invoke(app, ["curves", "--table", str(table)], catch_exceptions=False)
