"""The loss of many target tokens over a large vocabulary: in chunks beside from all logits at once, in time and in memory.

    python benchmarks/speed/memory.py          V = 128,000, width 256, 4,096 target tokens; some five minutes

Each path runs in a process of its own, hidden states and weights first; its peak is how far the resident memory rises above
that (VmHWM, reset by writing 5 to /proc/self/clear_refs, minus VmRSS), so it counts what the loss allocates: logits, their
gradient, and the gradients of hidden states and weights. The peer is torch's own path, from catsweep.losses.build (and for
xent as torch.nn.functional.cross_entropy). Liger's fused linear cross-entropy runs on GPUs only: see benchmarks/gpu.py.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from pathlib import Path

import torch
from measure import Row, row, write
from torch.nn import functional

from catsweep.losses import build_chunked_loss, build_loss
from catsweep.spec.filters import ShuffledFilter
from catsweep.spec.training import CatDistLoss, CatXentLoss, XentLoss
from catsweep.tensors import Head, HeadInputs, LossInputs, TeacherSignal

NUM_TOKENS, WIDTH, VOCABULARY = 4096, 256, 128_000
LOSSES = {
    "cat_xent": CatXentLoss(),
    "cat_dist": CatDistLoss(),
    "cat_xent shuffled": CatXentLoss(filter=ShuffledFilter()),
    "xent": XentLoss(),
}
REPEATS = {"cat_xent": 5, "cat_dist": 3, "cat_xent shuffled": 3, "xent": 3}


def resident(field: str) -> int:
    """VmRSS or VmHWM of this process, in bytes."""
    match = re.search(rf"{field}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert match is not None
    return int(match.group(1)) * 1024


def one_run(path: str, name: str) -> dict[str, float]:
    """CPU seconds and peak bytes above the inputs of one loss and its backward pass, after a small one that warms up."""
    generator = torch.Generator().manual_seed(0)
    for num_tokens, vocabulary in ((64, 1000), (NUM_TOKENS, VOCABULARY)):
        hidden_ND = torch.randn(num_tokens, WIDTH, generator=generator).requires_grad_()
        weight_VD = (0.02 * torch.randn(vocabulary, WIDTH, generator=generator)).requires_grad_()
        targets_N = torch.randint(0, vocabulary, (num_tokens,), generator=generator)
        # L gets 7 of 10 right, as a trained model may; S at its start nearly none.
        rank_N = (torch.rand(num_tokens, generator=generator) < 0.3).long()
        ids_NK = torch.randint(0, vocabulary, (num_tokens, 12), generator=generator)
        teacher = TeacherSignal(rank_N, rank_N.float(), ids_NK, torch.full((num_tokens, 12), 1 / 12))
        Path("/proc/self/clear_refs").write_text("5")
        before, start = resident("VmRSS"), time.process_time()
        if path == "ours":
            inputs = HeadInputs(Head(hidden_ND, weight_VD), targets_N, teacher, generator)
            loss = build_chunked_loss(LOSSES[name])(inputs).loss_sum
        elif path == "plain":
            whole = LossInputs(hidden_ND @ weight_VD.T, targets_N, teacher, generator)
            loss = build_loss(LOSSES[name])(whole).loss_sum
        else:
            loss = functional.cross_entropy(hidden_ND @ weight_VD.T, targets_N, reduction="sum")
        torch.autograd.backward(loss)
        result = {"seconds": time.process_time() - start, "bytes": resident("VmHWM") - before, "loss": loss.item()}
    return result


def measured(path: str, name: str) -> dict[str, float]:
    """`one_run` in a process of its own."""
    command = [sys.executable, __file__, path, name]
    return dict(json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout))


def main() -> None:
    """Write benchmarks/results/memory.json."""
    rows = []
    for name in LOSSES:
        peer = "torch" if name == "xent" else "plain"
        peer_name = (
            "torch.nn.functional.cross_entropy on all logits" if name == "xent" else "the plain loss on all logits"
        )
        pairs = []
        for number in range(REPEATS[name]):  # ours first in every other pair
            found = {path: measured(path, name) for path in (("ours", peer) if number % 2 else (peer, "ours"))}
            pairs.append((found["ours"], found[peer]))
        for ours, theirs in pairs:
            assert abs(ours["loss"] - theirs["loss"]) < 1e-4 * abs(theirs["loss"]), (name, ours, theirs)
        main_row = name == "cat_xent"
        mib = [[run["bytes"] / 2**20 for run in column] for column in zip(*pairs, strict=True)]
        peak = row(
            f"{name}: peak memory above inputs", (mib[0], mib[1]), peer_name=peer_name, unit="MiB",
            target="at least 16x less" if main_row else "",
            note="with the gradient of the head, 125 MiB, which both have",
        )  # fmt: skip
        seconds = [[run["seconds"] for run in column] for column in zip(*pairs, strict=True)]
        timed = row(
            f"{name}: loss and gradients", (seconds[0], seconds[1]), peer_name=peer_name,
            target="at least 1.25x faster" if main_row else "", note="CPU seconds of one thread",
        )  # fmt: skip
        rows += [peak, timed]
        print(name, show(peak), show(timed))
    write("memory", rows, "python benchmarks/speed/memory.py")


def show(item: Row) -> str:
    """A row on one line."""
    return f"{item.what}: {item.ours:.4g} beside {item.peer:.4g} {item.unit}, {sorted(item.ratios)}"


if __name__ == "__main__":
    torch.set_num_threads(1)
    if sys.argv[1:]:
        print(json.dumps(one_run(*sys.argv[1:])))
    else:
        main()
