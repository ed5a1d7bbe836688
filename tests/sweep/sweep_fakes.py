"""Trials and tasks that do nothing but leave the right files, so that a sweep takes seconds.

What a task does follows from its name; what a trial scores follows from its learning rate and loss. Every call is
noted in <root>/calls.txt.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from catsweep.cache import building
from catsweep.errors import DataError, TrialDivergedError
from catsweep.records import StepMetrics, TrialRecord, append_step, write_record
from catsweep.spec.load import Sweep
from catsweep.spec.sweep import SweepSpec, TrialSpec
from catsweep.spec.task import TaskSpec
from catsweep.spec.yaml import Document
from catsweep.sweep.search import Search

SPACE = {
    "learning_rate": {"space": "loguniform", "lower": 1e-5, "upper": 1e-3},
    "loss": {
        "space": "choice",
        "options": [{"kind": "xent"}, {"kind": "dist", "weight": {"space": "uniform", "lower": 0, "upper": 1}}],
    },
}


def make_task(name: str) -> TaskSpec:
    return TaskSpec.model_validate(
        {
            "task": name,
            "group": "fake",
            "source": {"kind": "files", "format": "jsonl", "train": "/nowhere/train.jsonl"},
            "output_type": "generate_until",
            "doc_to_text": "{{ text }}",
            "doc_to_target": "{{ target }}",
            "metric_list": [{"metric": "exact_match"}],
        }
    )


def make_sweep(tasks: list[str], *, space: dict[str, Any] | None = None, steps: int = 9, **fields: Any) -> Sweep:
    """A sweep over fake tasks; dotted names such as search__num_samples set fields."""
    data: dict[str, Any] = {
        "name": "fake",
        "tasks": tasks,
        "small": {"pretrained": "small"},
        "large": {"pretrained": "large"},
        "training": {"steps": steps},
        "search": {"num_samples": 4, "confirm_seeds": 2, "space": SPACE if space is None else space},
    }
    for name, value in fields.items():
        *parents, last = name.split("__")
        here = data
        for parent in parents:
            here = here.setdefault(parent, {})
        here[last] = value
    spec = SweepSpec.model_validate(data)
    return Sweep(spec, tuple(make_task(name) for name in tasks), Document(Path("fake.yaml"), data))


def note(root: Path, *words: object) -> None:
    with (root / "calls.txt").open("a") as file:
        file.write(" ".join(map(str, words)) + "\n")


def calls(root: Path, verb: str) -> list[list[str]]:
    path = root / "calls.txt"
    lines = [line.split() for line in path.read_text().splitlines()] if path.exists() else []
    return [line[1:] for line in lines if line[0] == verb]


def score(spec: TrialSpec, step: int) -> float:
    """Best at a learning rate of 1e-4; every trial improves with its steps; seeds differ a little."""
    rate = spec.training.learning_rate
    distance = abs(rate / 1e-4 if rate >= 1e-4 else 1e-4 / rate)
    return step / spec.training.steps - 0.01 * distance + spec.seed % 7 * 1e-6


def finished_record(spec: TrialSpec, objective: float) -> TrialRecord:
    return TrialRecord(
        trial_id=spec.trial_id, task=spec.task.task, stratum=spec.stratum, number=spec.number, role=spec.role,
        seed=spec.seed, status="finished", parameters=dict(spec.parameters), num_steps=spec.training.steps,
        objective=objective, metrics={"validation/quality": objective}, started_at=1.0, ended_at=2.0,
    )  # fmt: skip


def run_trial(spec: TrialSpec, *, root: Path, folder: Path, report: Callable[[StepMetrics], None]) -> TrialRecord:
    task = spec.task.task
    distributed = sys.modules.get("torch.distributed")
    first = distributed is None or not distributed.is_initialized() or distributed.get_rank() == 0
    if first:
        note(root, "start", spec.trial_id, os.getpid())
    if "slow" in task:
        time.sleep(0.5)
    if "diverging" in task and spec.number == 1:
        raise TrialDivergedError("the training loss is nan at step 3")
    if "nan" in task and spec.number == 1:
        report(StepMetrics(1, float("nan"), {}, False))
    if "raising" in task and spec.number == 1 and not (root / "mended").exists():
        raise RuntimeError("out of luck")
    if "dying" in task and spec.number == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    if "forgetful" in task and spec.number == 1:
        return finished_record(spec, 0.0)
    if "unlucky" in task and spec.number == 1 and not (root / "unlucky").exists():
        (root / "unlucky").touch()  # its process dies between its record and its last report
        write_record(folder, finished_record(spec, score(spec, spec.training.steps)))
        note(root, "end", spec.trial_id, os.getpid())
        os.kill(os.getpid(), signal.SIGKILL)
    for step in spec.evaluate_at:
        value = score(spec, step)
        final = step == spec.evaluate_at[-1]
        if first:
            append_step(folder, step, {"validation/objective": value}, time.time())
        if first and final:
            write_record(folder, finished_record(spec, value))
            note(root, "end", spec.trial_id, os.getpid())
        report(StepMetrics(step, value, {"validation/quality": value}, final))
    return finished_record(spec, value)


def prepare_task(task: TaskSpec, spec: SweepSpec, *, root: Path) -> dict[str, Any]:
    note(root, "prepare", task.task, time.time())
    if "late" in task.task:
        time.sleep(2.0)
    if "patient" in task.task:  # is ready only after all runs of task `a` have ended
        deadline = time.time() + 60
        while sum("/a/" in trial_id for trial_id, _ in calls(root, "end")) < 6:
            if time.time() > deadline:
                raise DataError("the trials of `a` do not come")
            time.sleep(0.1)
    if "broken" in task.task:
        raise DataError(f"{task.task}: train.jsonl has no column `text`")
    if "halfway" in task.task:
        with building(root / "cache" / "signal" / "key") as temporary:
            (temporary / "rank.npy").write_bytes(bytes(100))
            if not (root / "killed").exists():
                (root / "killed").touch()
                os.kill(os.getpid(), signal.SIGKILL)
            (temporary / "logprob.npy").write_bytes(bytes(200))
    note(root, "prepared", task.task, time.time())
    return {"num_rows": 10}


def finish(search: Search, trial: TrialSpec, value: float | None = None) -> None:
    """The trial trains to its end."""
    value = score(trial, trial.training.steps) if value is None else value
    search.heard(trial.trial_id, {"step": trial.training.steps, "objective": value, "final": True})
    write_record(search.folder / trial.trial_id, finished_record(trial, value))
    search.end(trial.trial_id)


def check_counts(search: Search) -> None:
    """What the search remembers of the runs that are left is what a count of all of them gives."""
    assert search.num_remaining == sum(study._count_remaining() for study in search.studies.values())


def play(search: Search, *, slots: int = 2, limit: int = 10_000, seed: int = 0) -> list[TrialSpec]:
    """Run up to `limit` trials on a few slots; they end in a random order."""
    chance = random.Random(seed)
    running: list[TrialSpec] = []
    ended: list[TrialSpec] = []
    while len(ended) < limit:
        while len(running) < slots and (trial := search.next()) is not None:
            running.append(trial)
        if not running:
            break
        trial = running.pop(chance.randrange(len(running)))
        finish(search, trial)
        ended.append(trial)
    return ended
