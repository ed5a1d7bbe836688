"""Small real tasks and models that the tests share. Everything is made here; nothing is downloaded."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from synthetic import TINY_LLAMA

from catsweep.spec.load import Sweep, load_sweep
from catsweep.spec.task import TaskSpec

MakeTask = Callable[..., TaskSpec]

TINY_T5 = {"model_type": "t5", "d_model": 32, "d_ff": 64, "num_layers": 1, "num_heads": 2, "d_kv": 16}

REVERSE_TASK = """\
task: made/reverse
group: reversal
source: {kind: files, format: jsonl, train: words.jsonl}
output_type: generate_until
doc_to_text: "{{word}}"
doc_to_target: "{{drow}}"
target_delimiter: ">"
generation_kwargs: {max_gen_toks: 6}
metric_list: [{metric: exact_match}, {metric: chrf}]
"""

PARITY_TASK = """\
task: made/parity
group: parity
source: {kind: files, format: jsonl, train: words.jsonl}
output_type: multiple_choice
doc_to_text: "{{word}}"
doc_to_target: "{{kind}}"
doc_to_choice: [even, uneven]
target_delimiter: ">"
metric_list: [{metric: accuracy}]
"""


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    """Tests run beside one another; sums in one order are the same on every machine."""
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _home_of_the_tests(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Caches of tests that name no folder go into one of this run, not into the user's own."""
    monkeypatch.setenv("CATSWEEP_HOME", str(tmp_path_factory.getbasetemp() / "home"))


@pytest.fixture(scope="session")
def task_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with 600 made-up words and two tasks on them: generation and multiple choice."""
    folder = tmp_path_factory.mktemp("tasks")
    generator = random.Random(0)
    words = sorted({"".join(generator.choices("abcdef", k=generator.randint(2, 5))) for _ in range(700)})[:600]
    generator.shuffle(words)
    kinds = {0: "even", 1: "uneven"}
    lines = [json.dumps({"word": word, "drow": word[::-1], "kind": kinds[len(word) % 2]}) for word in words]
    (folder / "words.jsonl").write_text("\n".join(lines) + "\n")
    (folder / "reverse.yaml").write_text(REVERSE_TASK)
    (folder / "parity.yaml").write_text(PARITY_TASK)
    return folder


@pytest.fixture(scope="session")
def make_sweep(task_folder: Path) -> Callable[..., Sweep]:
    """A sweep on the made tasks; keyword arguments replace whole sections of its YAML."""

    def make(*, tasks: tuple[str, ...] = ("reverse.yaml",), **sections: Any) -> Sweep:
        large = {"finetune": {"steps": 30, "batch_size": 16, "learning_rate": 1e-2}}
        document = {
            "name": "tiny",
            "tasks": list(tasks),
            "small": {"config": TINY_LLAMA, "tokenizer": {"kind": "char"}},
            "large": {"config": {**TINY_LLAMA, "num_hidden_layers": 2}, **large},
            "training": {"steps": 12, "batch_size": 16, "learning_rate": 1e-2},
            "search": {"num_samples": 1, "confirm_seeds": 1},
            **sections,
        }
        path = task_folder / "sweep.yaml"
        path.write_text(json.dumps(document))
        return load_sweep(path)

    return make


@pytest.fixture
def make_task() -> MakeTask:
    """A generation task over columns `question` and `answer`; keywords replace its fields."""

    def make(**fields: Any) -> TaskSpec:
        settings: dict[str, Any] = {
            "task": "toy",
            "group": "toys",
            "source": {"kind": "files", "format": "jsonl", "train": "train.jsonl"},
            "output_type": "generate_until",
            "doc_to_text": "{{question}}",
            "doc_to_target": "answer",
            "metric_list": [{"metric": "exact_match"}],
        }
        if "doc_to_choice" in fields:
            settings |= {"output_type": "multiple_choice", "metric_list": [{"metric": "accuracy"}]}
        return TaskSpec.model_validate(settings | fields)

    return make


@pytest.fixture(autouse=True)
def _no_token_mode_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """The command line lets Ray send the user's token; a cluster that a later test starts must not ask for one."""
    if "RAY_AUTH_MODE" in os.environ:
        monkeypatch.setenv("RAY_AUTH_MODE", os.environ["RAY_AUTH_MODE"])
    else:
        monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
        monkeypatch.delenv("RAY_AUTH_MODE")
