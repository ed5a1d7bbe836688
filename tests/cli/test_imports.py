"""What a command loads before it does anything: nobody waits for torch to read a help text."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

HEAVY = {"torch", "transformers", "datasets", "ray", "mlflow", "optuna", "matplotlib"}


def loaded(code: str) -> set[str]:
    """The heavy packages that a fresh Python has loaded after some code."""
    command = [sys.executable, "-c", f"{code}\nimport sys\nprint(*sys.modules)"]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    return HEAVY & set(result.stdout.split())


@pytest.mark.parametrize("module", ["main", "inspect", "init", "run"])
def test_no_command_loads_a_heavy_package_before_it_needs_one(module: str) -> None:
    assert loaded(f"import catsweep.cli.{module}") == set()


def run(*arguments: str) -> str:
    return f"from catsweep.cli.main import app\ntry: app({list(arguments)!r})\nexcept SystemExit as end: assert not end.code"


@pytest.mark.parametrize("command", [["--help"], ["ls", "--tasks"], ["ls", "--out", "nowhere"]])
def test_help_and_lists_load_no_heavy_package(command: list[str]) -> None:
    assert loaded(run(*command)) == set()


def test_init_loads_no_heavy_package_and_validate_only_what_checks_model_configs(tmp_path: Path) -> None:
    assert loaded(run("init", "demo", "--folder", str(tmp_path))) == set()
    validate = run("validate", str(tmp_path / "demo.yaml"), "--out", str(tmp_path))
    assert loaded(validate) <= {"torch", "transformers"}
