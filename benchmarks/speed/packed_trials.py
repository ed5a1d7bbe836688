"""Whole trials in packs beside the same trials one after another: `python benchmarks/speed/packed_trials.py`.

What packed.py says of a step, for trials an hour: K trials of search_spaces/study.yaml on one of its tasks (cat_xent/either, the
study's learning rates, 80 steps, an evaluation at the end, rows and record), each with the seed that the search gives it. Solo:
`run_trial` K times. Packed: the prototype of packed.py trains all of them at once, then each is answered, judged and written by
the same `run_trial`, whose training only takes the weights over; so it makes each model twice, and writes a trial's steps not at
all. One thread's CPU seconds; the large model is a short fine-tune, since trials read its signal only. Memory: what a process
grows by while it trains, each in a process of its own.
"""

from __future__ import annotations

import argparse
import multiprocessing
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from unittest.mock import patch

import packed
import torch
from measure import Row, paired, row, write
from memory import resident

from catsweep import trial as trials_file
from catsweep.models import TargetLogits, build_model
from catsweep.prepare import load_prepared, prepare_task
from catsweep.space import build_trial, draw, strata, training_tree
from catsweep.spec.load import Sweep, load_sweep
from catsweep.spec.sweep import TrialSpec
from catsweep.sweep.studies import _Independent
from catsweep.trial import Member, make_training_data, run_trial

STRATUM = "cat_xent/either"


def trial_specs(sweep: Sweep, num: int) -> list[TrialSpec]:
    """The first trials of a stratum, with learning rates of its space and seeds of the search."""
    tree = strata(training_tree(sweep.spec), sweep.spec.search.stratify)[STRATUM]
    task, found = sweep.tasks[0], []
    for number in range(num):
        value, parameters = draw(tree, _Independent((0, task.task, number)))
        found.append(build_trial(sweep.spec, task, STRATUM, number, value, parameters))
    return found


def in_pack(specs: Sequence[TrialSpec], root: Path) -> packed.Stack:
    """Train the trials at once; returns their weights."""
    prepared = load_prepared(root, specs[0].sweep, specs[0].task.task)
    tokenizer = prepared.tokenizer()
    unit = [Member(specs[0].task, prepared)]
    data = make_training_data(specs[0], unit, pad_id=int(tokenizer.pad_token_id), start_id=None)
    made = []
    for spec in specs:
        module = TargetLogits(build_model(spec.small, tokenizer, seed=spec.seed))
        assert module.choose_path(data.batch(torch.arange(4).numpy()))
        made.append(packed.Trial(spec.seed, spec.training, module))
    stack = packed.Stack(made)
    packed.train_packed(stack, data, packed.stacked_hidden)
    return stack


def answer(spec: TrialSpec, weights: dict[str, torch.Tensor], root: Path, folder: Path) -> float:
    """Rows and record of a trial that was trained in a pack; returns its objective."""

    def take_over(
        module: Any, data: Any, spec: TrialSpec, unit: Any, workers: Any, on_evaluation: Any, **_: Any
    ) -> None:
        module.model.load_state_dict(weights)
        module.eval()
        on_evaluation(spec.training.steps)

    with patch.object(trials_file, "fit", take_over):
        return run_trial(spec, root=root, folder=folder, report=lambda metrics: None).objective or 0.0


def measure(sweep: Sweep, root: Path, num: int, repeats: int) -> list[Row]:
    """Seconds and megabytes of a trial, in a pack of `num` and alone."""
    specs, objectives = trial_specs(sweep, num), dict[str, list[float]]()

    def folder(spec: TrialSpec) -> Path:
        made = Path(tempfile.mkdtemp(dir=root)) / str(spec.number)
        made.mkdir()
        return made

    def pack() -> None:
        stack = in_pack(specs, root)
        for number, spec in enumerate(specs):
            found = answer(spec, stack.weights(number), root, folder(spec))
            objectives.setdefault(spec.trial_id, [0.0, 0.0])[0] = found

    def solo() -> None:
        for spec in specs:
            record = run_trial(spec, root=root, folder=folder(spec), report=lambda metrics: None)
            objectives.setdefault(spec.trial_id, [0.0, 0.0])[1] = record.objective or 0.0

    ours, peer = paired(pack, solo, repeats=repeats, clock=time.process_time)
    seconds = [value / num for value in ours], [value / num for value in peer]
    hourly = 3600 / sorted(seconds[0])[repeats // 2], 3600 / sorted(seconds[1])[repeats // 2]
    apart = max(abs(one - other) for one, other in objectives.values())
    assert apart < 0.02, f"objectives of a pack and of trials alone differ by {apart}"
    note = f"CPU seconds of one thread; audc differs by at most {apart:.2g}; "
    note += f"{hourly[0]:,.0f} trials an hour and core, alone {hourly[1]:,.0f}"
    found = row(
        f"a whole trial, {num} at once", seconds, peer_name="run_trial, one after another",
        target="1.5 to pay on CPU", note=note,
    )  # fmt: skip
    grown = _in_process(_grown, root, sweep, num) / num
    memory = Row(
        f"memory of a trial that trains, {num} at once", grown, 0, "MiB", "none", [], "stated",
        "what the process grows by from a pack of one to this one's peak, divided by the trials",
    )  # fmt: skip
    return [found, memory]


def _grown(root: Path, sweep: Sweep, num: int, answer: Any) -> None:
    torch.set_num_threads(1)
    in_pack([spec.model_copy(update={"training": _short(spec)}) for spec in trial_specs(sweep, 1)], root)
    Path("/proc/self/clear_refs").write_text("5")  # the peak from here on
    before = resident("VmRSS")
    in_pack([spec.model_copy(update={"training": _short(spec)}) for spec in trial_specs(sweep, num)], root)
    answer.put((resident("VmHWM") - before) / 2**20)


def _short(spec: TrialSpec) -> Any:
    return spec.training.model_copy(update={"steps": 10})


def _in_process(work: Callable[..., None], *arguments: Any) -> float:
    context = multiprocessing.get_context("spawn")
    answer = context.Queue()
    process = context.Process(target=work, args=(*arguments, answer))
    process.start()
    value = float(answer.get(timeout=600))
    process.join()
    return value


def main() -> None:
    """Prepare a task, measure and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--task", default="lemma/es")
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", message="grad and param do not obey")
    sweep = load_sweep(packed.STUDY, [f"tasks=[{arguments.task}]", "large.finetune.steps=100"])
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        prepare_task(sweep.tasks[0], sweep.spec, root=root)
        for num in (4, 16):
            rows += measure(sweep, root, num, arguments.repeats)
            for item in rows[-2:]:
                print(item.what, item.ours, item.peer, item.ratios, item.note, flush=True)
    write("packed_trials", rows, "python benchmarks/speed/packed_trials.py")


if __name__ == "__main__":
    main()
