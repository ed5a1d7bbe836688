"""`catsweep ls` and `validate`: tables, counts, configs of models."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner

from catsweep.cli import console, inspect
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


@pytest.mark.parametrize("terminal", [False, True])
def test_a_table_cuts_nothing_in_a_pipe_or_on_a_narrow_terminal(
    terminal: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = io.StringIO()
    shown = Console(file=stream, width=30, force_terminal=terminal, color_system=None)
    monkeypatch.setattr(console, "output", shown)
    rows = [["a/very-long-name-of-a-task-without-end", "123456", "7"], ["b", "8", "9"]]
    console.print_table(["task", "train", "test"], rows, numbers={"train", "test"})
    text = stream.getvalue()
    assert "…" not in text
    assert "123456" in text
    pieces = [line.split("│")[1].strip() for line in text.splitlines() if line.startswith("│")]
    assert rows[0][0] in ("".join(pieces) if terminal else text)
    if not terminal:
        assert len(text.splitlines()) == 3


def test_numbers_of_things_are_written_as_people_write_them() -> None:
    assert [console.plural(number, "task") for number in (0, 1, 2)] == ["0 tasks", "1 task", "2 tasks"]


def test_ls_says_yes_or_no_where_json_has_true_or_false(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    row = {"sweep": "demo", "tasks": 2, "report": True}
    monkeypatch.setattr(inspect, "_sweep_rows", lambda root: [row])
    assert RUNNER.invoke(app, ["ls", "--out", str(tmp_path)]).output.split()[-3:] == ["demo", "2", "yes"]
    assert json.loads(RUNNER.invoke(app, ["ls", "--out", str(tmp_path), "--json"]).output) == [row]


def test_validate_names_the_line_of_a_model_config_that_transformers_refuses(tmp_path: Path) -> None:
    assert RUNNER.invoke(app, ["init", "demo", "--folder", str(tmp_path)]).exit_code == 0
    file, out = tmp_path / "demo.yaml", str(tmp_path / "root")
    wrong = ["small.config.hidden_size=48", "small.config.num_attention_heads=5"]
    result = RUNNER.invoke(app, ["validate", str(file), *wrong, "--out", out])
    assert result.exit_code == 2
    line = next(n for n, text in enumerate(file.read_text().splitlines(), 1) if text.startswith("small:"))
    found = [text for text in result.output.splitlines() if "small.config: found" in text]
    assert len(found) == 1
    assert "demo.yaml:" in found[0]
    assert int(found[0].split("demo.yaml:")[1].split(":")[0]) in (line, line + 1)
    assert "The hidden size (48) is not a multiple of the number of attention heads (5)" in found[0]


TASK = """\
task: mine/NAME
group: arithmetic
source: {kind: files, format: csv, train: rows.csv}
output_type: generate_until
doc_to_text: "{{question}} {{other}}"
doc_to_target: "{{anser}}"
metric_list: [{metric: exact_match}]
"""


def test_validate_names_every_missing_column_also_beside_a_task_file_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("question,answer\nwhat is 1,1\nwhat is 2,2\n")
    (tmp_path / "one.yaml").write_text(TASK.replace("NAME", "one"))
    (tmp_path / "two.yaml").write_text(TASK.replace("NAME", "two").replace("doc_to_target", "doc_to_targt"))
    sweep = tmp_path / "sweep.yaml"
    sweep.write_text(
        "name: s\ntasks: [one.yaml, two.yaml]\nsmall: {pretrained: some/small}\nlarge: {pretrained: some/large}\n"
        "training: {steps: 10}\n"
    )
    result = RUNNER.invoke(app, ["validate", str(sweep), "--out", str(tmp_path)])
    assert result.exit_code == 2
    lines = result.output.splitlines()
    assert any(line.startswith(f"{tmp_path / 'two.yaml'}:6: doc_to_targt: found unknown key") for line in lines)
    one = f"{tmp_path / 'one.yaml'}"
    assert [line for line in lines if line.startswith(one)] == [
        f"{one}:5: doc_to_text: found the column 'other'; expected a column of the rows: answer, question",
        f"{one}:6: doc_to_target: found the column 'anser'; expected a column of the rows: answer, question. "
        "Did you mean 'answer'?",
    ]


@pytest.mark.parametrize("command", ["validate", "plan"])
def test_a_row_that_a_field_cannot_use_is_named_with_the_fields_line(command: str, tmp_path: Path) -> None:
    rows = [f"what is {number},{'' if number == 1 else number}" for number in range(250)]
    (tmp_path / "rows.csv").write_text("\n".join(["question,answer", *rows]) + "\n")
    (tmp_path / "_base.yaml").write_text("output_type: generate_until\ndoc_to_target: answer\n")
    task = [line for line in TASK.splitlines(keepends=True) if not line.startswith(("output_type", "doc_to_target"))]
    (tmp_path / "one.yaml").write_text("include: _base.yaml\n" + "".join(task).replace(" {{other}}", ""))
    sweep = tmp_path / "sweep.yaml"
    model = "{config: {model_type: llama, hidden_size: 8, num_attention_heads: 2}, tokenizer: {kind: char}}"
    sweep.write_text(
        f"name: s\ntasks: [one.yaml]\nsmall: {model}\nlarge: {{pretrained: a/b}}\ntraining: {{steps: 1}}\n"
    )
    result = RUNNER.invoke(app, [command, str(sweep), "--out", str(tmp_path)])
    assert result.exit_code == 2
    assert (
        f"{tmp_path / '_base.yaml'}:2: task mine/NAME, row train:1 of rows.csv: doc_to_target 'answer': found an empty text; expected "
        "some text. Drop such rows, or change the template"
    ) in result.output
