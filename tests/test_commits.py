"""A small model from the hub: every trial of a task takes the commit that its preparation saw, and none asks the hub."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hub_server import Hub, hub
from synthetic import TINY_LLAMA

from catsweep.models import build_model, load_tokenizer
from catsweep.spec.load import Sweep
from catsweep.spec.model import BpeTokenizer, ByteTokenizer, ScratchModel

PREPARE = (
    "from catsweep.mixture import prepare_unit; print(prepare_unit(sweep.tasks[0], sweep.spec, root=root)['commit'])"
)
TRIAL = """
from catsweep.space import build_trial
from catsweep.trial import run_trial
spec = build_trial(sweep.spec, sweep.tasks[0], "any", 0, sweep.spec.training.to_json(), {})
folder = root / sys.argv[3]
folder.mkdir()
record = run_trial(spec, root=root, folder=folder, report=lambda metrics: None)
print(record.facts["small_commit"], record.objective)
"""
OLD, NEW = "a" * 40, "b" * 40


@pytest.fixture
def server(tmp_path: Path) -> Hub:
    """A checkpoint with two commits, of other weights and another tokeniser; `main` is the first."""
    with hub() as server:
        for commit, made in ((OLD, ByteTokenizer()), (NEW, BpeTokenizer(vocab_size=300))):
            server.commits[commit] = folder = tmp_path / commit
            spec = ScratchModel(config=TINY_LLAMA, tokenizer=made)
            tokenizer = load_tokenizer(spec, ["ab" * 50, "cd" * 50])
            build_model(spec, tokenizer, seed=0).save_pretrained(folder)
            tokenizer.save_pretrained(folder)
        server.main = OLD
        yield server


def python(code: str, server: Hub, sweep: Path, root: Path, *arguments: str) -> str:
    """Run a process of its own, as a node of a cluster does: the library reads the hub's address when it is imported."""
    read = "import sys; from pathlib import Path; from catsweep.spec.load import load_sweep\n"
    read += "sweep, root = load_sweep(Path(sys.argv[1])), Path(sys.argv[2])\n"
    environment = {**os.environ, "HF_ENDPOINT": server.url, "HF_HOME": str(root / "hf"), "HF_HUB_OFFLINE": "0"}
    environment["NO_PROXY"] = "127.0.0.1"
    command = [sys.executable, "-c", read + code, str(sweep), str(root), *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout.strip()


MIXTURE = {"mixture": "both", "tasks": ["reverse.yaml", "parity.yaml"]}


@pytest.mark.parametrize("task", ["reverse.yaml", MIXTURE], ids=["task", "mixture"])
def test_trials_take_one_commit_and_do_not_ask_the_hub(
    make_sweep: Callable[..., Sweep], task_folder: Path, tmp_path: Path, server: Hub, task: str | dict[str, object]
) -> None:
    make_sweep(tasks=(task,), small={"pretrained": "some/model"})
    sweep = shutil.copytree(task_folder, tmp_path / "tasks") / "sweep.yaml"
    assert python(PREPARE, server, sweep, tmp_path) == OLD
    first = python(TRIAL, server, sweep, tmp_path, "first")
    assert first.split()[0] == OLD
    server.main = NEW
    server.asked.clear()
    assert python(TRIAL, server, sweep, tmp_path, "second") == first
    assert server.asked == []
    assert python(PREPARE, server, sweep, tmp_path) == OLD  # a sweep that goes on stays with its commit
    assert python(PREPARE.replace("root=root", "root=root / 'new'"), server, sweep, tmp_path) == NEW


def test_a_commit_without_safetensors_is_refused_before_anything_is_made(
    make_sweep: Callable[..., Sweep], task_folder: Path, tmp_path: Path, server: Hub
) -> None:
    make_sweep(small={"pretrained": "some/model"})
    sweep = shutil.copytree(task_folder, tmp_path / "tasks") / "sweep.yaml"
    (server.commits[OLD] / "model.safetensors").rename(server.commits[OLD] / "pytorch_model.bin")
    with pytest.raises(subprocess.CalledProcessError) as caught:
        python(PREPARE, server, sweep, tmp_path)
    told = caught.value.stderr.splitlines()[-1]
    assert "ModelError: pretrained: 'some/model' has no model.safetensors at commit aaaa" in told
    assert not (tmp_path / "cache").exists()
