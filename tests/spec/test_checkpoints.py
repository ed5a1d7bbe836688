"""Local checkpoints: absolute paths, and missing files found with the line that names the folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from catsweep.spec.checkpoints import resolve_checkpoints
from catsweep.spec.yaml import Document, parse_yaml


def checkpoint(folder: Path, *names: str) -> Path:
    folder.mkdir(parents=True)
    for name in names or ("config.json", "model-00001-of-00002.safetensors", "tokenizer.json"):
        (folder / name).touch()
    return folder


def document(folder: Path, small: Any) -> Document:
    return parse_yaml(f"name: x\nsmall: {{pretrained: {small}}}\nlarge: {{config: {{}}}}\n", folder / "sweep.yaml")


def test_a_folder_beside_the_sweep_file_becomes_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = checkpoint(tmp_path / "sweeps" / "models" / "s")
    monkeypatch.chdir(tmp_path)
    found = document(Path("sweeps"), "models/s")
    assert resolve_checkpoints(found) == []
    assert found.data["small"]["pretrained"] == str(folder)


def test_a_folder_below_the_current_one_is_found_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = checkpoint(tmp_path / "models" / "s")
    monkeypatch.chdir(tmp_path)
    found = document(Path("sweeps"), "models/s")
    assert resolve_checkpoints(found) == []
    assert found.data["small"]["pretrained"] == str(folder)


def test_a_name_on_the_hub_stays_as_it_is(tmp_path: Path) -> None:
    found = document(tmp_path, "google/t5-v1_1-small")
    assert resolve_checkpoints(found) == []
    assert found.data["small"]["pretrained"] == "google/t5-v1_1-small"


def test_a_path_without_a_folder_is_an_error_with_its_line(tmp_path: Path) -> None:
    (problem,) = resolve_checkpoints(document(tmp_path, "./modles/s"))
    assert str(problem) == (
        f"{tmp_path}/sweep.yaml:2: small.pretrained: found './modles/s'; expected a folder with config.json, safetensors "
        f"and the tokeniser's files, or a name on the hub. A path is relative to {tmp_path}"
    )


def test_a_folder_without_weights_or_tokeniser_is_an_error_that_names_what_is_missing(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "s", "config.json", "pytorch_model.bin")
    (problem,) = resolve_checkpoints(document(tmp_path, folder))
    assert str(problem) == (
        f"{tmp_path}/sweep.yaml:2: small.pretrained: found {folder} with config.json, pytorch_model.bin; expected a "
        "checkpoint; missing: *.safetensors, a tokeniser's files. Write it with model.save_pretrained(folder) and "
        "tokenizer.save_pretrained(folder)"
    )
