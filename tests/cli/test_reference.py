"""The YAML reference in docs/ is the one that the specs give."""

from __future__ import annotations

from pathlib import Path

from catsweep.cli.reference import reference


def test_the_yaml_reference_is_up_to_date() -> None:
    page = Path(__file__).parents[2] / "docs" / "yaml.md"
    assert page.read_text() == reference(), "run `make docs`"


def test_every_field_has_a_line_of_help() -> None:
    missing = [
        line for line in reference().splitlines() if line.startswith("| `") and "Tells the variants apart" in line
    ]
    assert all(line.split("|")[1].strip(" `") in ("kind", "type", "space") for line in missing)
