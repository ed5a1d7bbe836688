"""What is lost when a small model is distilled from a few entries of the large model's distribution instead of all.

    python benchmarks/distributions.py --home /tmp/distributions --write benchmarks/distributions.md

The study's models and settings on three of its tasks (search_spaces/study.yaml), distillation alone (`dist` with weight 0, so no
target token is seen), the same seeds, batches and first weights for every form of the distribution. "All" is top_k with as many
entries as the vocabulary has. Measured on the test split, teacher-forced, a target token: the cross-entropy, KL(large || small)
over the whole vocabulary, and calibration of the most probable token. A folder with a study's cache saves its large models.
"""

from __future__ import annotations

import argparse
import math
import statistics
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from catsweep.data import TokenSplit
from catsweep.large import LargeModel
from catsweep.models import TargetLogits, build_model
from catsweep.prepare import load_prepared, prepare_task
from catsweep.space import build_trial
from catsweep.spec.load import Sweep, load_sweep
from catsweep.teacher import bytes_a_target, load_signal
from catsweep.train import TrainingData, train
from catsweep.workers import current_workers

STUDY = Path(__file__).parents[1] / "search_spaces" / "study.yaml"
TASKS = ("lemma/de", "g2p/en", "code/name")
ALL = "all"
FORMS = {
    ALL: "{kind: top_k, num_entries: 4096}",
    "12 drawn": "{kind: sampled, num_entries: 12}",
    "12 most probable": "{kind: top_k, num_entries: 12}",
    "4 drawn": "{kind: sampled, num_entries: 4}",
    "4 most probable": "{kind: top_k, num_entries: 4}",
    "1 drawn": "{kind: sampled, num_entries: 1}",
    "1 most probable": "{kind: top_k, num_entries: 1}",
}
MEASURES = ("cross-entropy", "KL", "confidence - accuracy", "ECE")
NUM_BINS, BATCH = 15, 128


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--home", type=Path, required=True, help="Folder of caches and prepared tasks")
    parser.add_argument("--tasks", nargs="+", default=list(TASKS))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--learning-rate", type=float, default=1e-2)
    parser.add_argument("--write", type=Path, help="Write the table as Markdown")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    found: dict[str, list[NDArray[np.float64]]] = {form: [] for form in FORMS}
    sizes: dict[str, list[int]] = {form: [] for form in FORMS}
    for task in arguments.tasks:
        for form, distribution in FORMS.items():
            settings = [f"tasks=[{task}]", "name=distributions", f"distribution={distribution}"]
            measured, size = measure(load_sweep(STUDY, settings), arguments)
            found[form] += measured
            sizes[form].append(size)
            print(task, form, np.mean(measured, axis=0).round(4), flush=True)
    text = page(found, sizes, arguments)
    print(text)
    if arguments.write:
        arguments.write.write_text(text)


def measure(sweep: Sweep, arguments: argparse.Namespace) -> tuple[list[NDArray[np.float64]], int]:
    """MEASURES of each seed's model, and the bytes that the form takes a target token."""
    spec, (task,) = sweep.spec, sweep.tasks
    prepare_task(task, spec, root=arguments.home)
    prepared = load_prepared(arguments.home, spec.name, task.task)
    data, tokenizer, workers = prepared.task_data(), prepared.tokenizer(), current_workers()
    settings = {"architecture": "decoder", "pad_id": int(tokenizer.pad_token_id), "start_id": None}
    seen = TrainingData(data.tokens("train"), load_signal(prepared.signal, distribution=True), **settings)
    large = LargeModel(spec.large, tokenizer, "decoder", workers).ready(prepared.large_model, seen)
    loss = {"loss": {"kind": "dist", "weight": 0.0}, "learning_rate": arguments.learning_rate}
    training = build_trial(spec, task, "any", 0, {**spec.training.to_json(), **loss}, {}).training
    found = []
    for seed in range(arguments.seeds):
        small = TargetLogits(build_model(spec.small, tokenizer, seed=seed).to(workers.build_device))
        small.choose_path(seen.batch(np.arange(4)))
        train(
            small, seen.packed_for(small), training, seed=seed, workers=workers, evaluate_at=[],
            on_evaluation=lambda step: None,
        )  # fmt: skip
        found.append(judge(small, large, data.tokens("test"), settings))
    return found, bytes_a_target(spec.distribution, len(tokenizer))


@torch.no_grad()
def judge(small: TargetLogits, large: TargetLogits, split: TokenSplit, settings: dict[str, Any]) -> NDArray[np.float64]:
    """MEASURES over all target tokens of a split."""
    data = TrainingData(split, None, **settings)
    losses, divergences, confidences, rights = [], [], [], []
    small.eval()
    large.eval()
    for start in range(0, len(split), BATCH):
        batch = data.batch(np.arange(start, min(start + BATCH, len(split))))
        ours, theirs = (model(batch).float().log_softmax(1) for model in (small, large))
        losses.append(-ours.gather(1, batch.target_ids_N[:, None]).squeeze(1))
        divergences.append((theirs.exp() * (theirs - ours)).sum(1))
        confidence, first = ours.max(1)
        confidences.append(confidence.exp())
        rights.append(first == batch.target_ids_N)
    confidence, right = torch.cat(confidences), torch.cat(rights).float()
    over = (confidence.mean() - right.mean()).item()
    return np.array(
        [
            torch.cat(losses).mean().item(),
            torch.cat(divergences).mean().item(),
            over,
            calibration_error(confidence, right),
        ]
    )


def calibration_error(confidence: Tensor, right: Tensor) -> float:
    """ECE (arXiv 1706.04599): the mean gap of confidence and accuracy over bins of equal width, by their tokens."""
    bins = (confidence * NUM_BINS).long().clamp(max=NUM_BINS - 1)
    gaps = torch.zeros(NUM_BINS).index_add_(0, bins, confidence - right)
    return float(gaps.abs().sum() / len(confidence))


def page(
    found: dict[str, list[NDArray[np.float64]]], sizes: dict[str, list[int]], arguments: argparse.Namespace
) -> str:
    """The table: means over tasks and seeds, and what differs from all entries with its standard error over pairs."""
    tasks = ", ".join(arguments.tasks)
    lines = [
        "# Distillation from a few entries of the distribution",
        "",
        "`python benchmarks/distributions.py --home FOLDER --write benchmarks/distributions.md`: distillation alone on",
        f"{tasks}; {arguments.seeds} seeds each, learning rate {arguments.learning_rate:g}. Nats and shares a target token of",
        f"the test split, ECE over {NUM_BINS} bins; behind each figure its difference to all entries, mean and standard"
        " error of the pairs of one task and seed.",
        "",
        "| entries | bytes a token | " + " | ".join(MEASURES) + " |",
        "|---|--:|" + "--:|" * len(MEASURES),
    ]
    for form, rows in found.items():
        cells = [form, spread(sizes[form])]
        for number in range(len(MEASURES)):
            mine = [float(row[number]) for row in rows]
            cell = f"{statistics.mean(mine):.4f}"
            if form != ALL:
                gaps = [value - float(row[number]) for value, row in zip(mine, found[ALL], strict=True)]
                error = f" ± {statistics.stdev(gaps) / math.sqrt(len(gaps)):.4f}" if len(gaps) > 1 else ""
                cell += f" ({statistics.mean(gaps):+.4f}{error})"
            cells.append(cell)
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def spread(values: list[int]) -> str:
    """One number where all are the same."""
    return str(min(values)) if min(values) == max(values) else f"{min(values)}-{max(values)}"


if __name__ == "__main__":
    main()
