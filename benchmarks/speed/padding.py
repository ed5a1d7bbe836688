"""Padding in training batches, packed and not, and a step's time: `python benchmarks/speed/padding.py`.

Real lengths: all tasks of search_spaces/offline.yaml, whose data installed packages bring (the first time some minutes).
Lengths as those of SuperGLUE: log-normal around the medians below [ours]. Batches of 32, drawn as a run draws them.
"""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from measure import Row, paired, row, write

from catsweep.data import Tokens, TokenSplit
from catsweep.encode import Encoder
from catsweep.inputs import read_inputs
from catsweep.models import TargetLogits, build_model
from catsweep.packing import pack_rows
from catsweep.records import storage_root
from catsweep.spec.load import load_sweep
from catsweep.train import BatchOrder, TrainingData

TASKS = (
    "lemma/es",
    "dates/fr",
    "numbers/es",
    "hyphenation/de",
    "code/arguments",
    "g2p/en",
    "langid/nordic",
    "cldr/languages",
)
SUPERGLUE = {"boolq": 140, "cb": 90, "copa": 25, "multirc": 310, "record": 250, "rte": 75, "wic": 35, "wsc": 40}
NUM_BATCHES, BATCH_SIZE = 100, 32


def padding(lengths: np.ndarray) -> tuple[float, float]:
    """Shares of padding tokens over some batches: packed, and each example in a row of its own."""
    order = BatchOrder(len(lengths), BATCH_SIZE, seed=0)
    used, packed, padded = 0, 0, 0
    for step in range(NUM_BATCHES):
        own = lengths[order.batch(step)].tolist()
        rows = pack_rows(own)
        used, padded = used + sum(own), padded + max(own) * len(own)
        packed += max(own) * len(own) if rows is None else len(rows) * max(sum(own[i] for i in part) for part in rows)
    return 1 - used / packed, 1 - used / padded


def share_row(what: str, lengths: np.ndarray) -> Row:
    """A row of both shares, in percent."""
    ours, peer = padding(lengths)
    return Row(
        f"padding, {what}",
        100 * ours,
        100 * peer,
        "% of tokens",
        "the same batches, not packed",
        [peer / ours],
        "at most 5%",
    )


def main() -> None:
    """Measure and write."""
    torch.set_num_threads(1)
    sweep = load_sweep(Path(__file__).parents[2] / "search_spaces" / "offline.yaml")
    found, times = dict[str, Row](), []
    for task in sweep.tasks:
        inputs = read_inputs(task, sweep.spec, root=storage_root())
        encoder = Encoder(task, inputs.tokenizer, inputs.architecture, 512, 64)
        prompts, targets, _ = encoder.encode(inputs.examples["train"][:4000])
        lists = [
            Tokens(np.concatenate(part).astype(np.int32), np.cumsum([0, *map(len, part)]))
            for part in (prompts, targets)
        ]
        split = TokenSplit(
            *lists, Tokens(np.empty(0, np.int32), np.zeros(1, np.int64)), np.zeros(len(prompts) + 1, np.int64)
        )
        found[task.task] = share_row(task.task, lists[0].lengths + lists[1].lengths - 1)
        if task.task in ("lemma/es", "hyphenation/de", "code/arguments"):
            module = TargetLogits(build_model(sweep.spec.small, inputs.tokenizer, seed=0))
            data = TrainingData(split, None, "decoder", pad_id=0, start_id=None)
            module.choose_path(data.batch(np.arange(4)))
            packed = data.packed_for(module)
            assert packed.pack
            order = data.order(BATCH_SIZE, 0)

            def steps(data: TrainingData, module: TargetLogits = module, order: BatchOrder = order) -> None:
                for step in range(20):
                    batch = data.batch(order.batch(step))
                    torch.nn.functional.cross_entropy(module(batch), batch.target_ids_N).backward()

            seconds = paired(lambda: steps(packed), lambda: steps(data), repeats=7, clock=time.process_time)  # noqa: B023
            name = f"forward and backward, the study's small model, {task.task}"
            times.append(
                row(name, seconds, peer_name="the same batches, not packed", target="", unit="ms", scale=1e3 / 20,
                    note="CPU seconds of one thread")
            )  # fmt: skip
    by_share = sorted(found.values(), key=lambda item: item.ours)
    num_above = sum(item.ours > 5 for item in by_share)
    of_all = f"of {len(by_share)} offline tasks, {num_above} of them above 5%"
    rows = [
        replace(by_share[len(by_share) // 2], what=f"padding, median {of_all}"),
        replace(by_share[-1], what=f"padding, largest {of_all}: {by_share[-1].what.removeprefix('padding, ')}"),
        *(found[name] for name in TASKS),
    ]
    draw = np.random.default_rng(0)
    for name, median in SUPERGLUE.items():
        lengths = np.exp(draw.normal(np.log(median), 0.4, 4000)).astype(int).clip(4, 512)
        rows.append(share_row(f"lengths as {name}'s", lengths))
    write("padding", rows + times, "python benchmarks/speed/padding.py")
    for item in rows + times:
        print(item.what, round(item.ours, 2), round(item.peer, 2), [round(r, 2) for r in item.ratios])


if __name__ == "__main__":
    main()
