"""This process among those that train one model together, and what it computes on."""

from __future__ import annotations

import math
import os
import resource
import sys
from dataclasses import dataclass

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray

from catsweep.spec.sweep import DDP, ParallelSpec


@dataclass(frozen=True)
class Workers:
    """This process among those that train together. device: where its tensors live. sharded: whether each holds a part of
    the weights only (see catsweep.sharding), instead of all of them."""

    rank: int
    size: int
    device: torch.device
    sharded: bool = False

    @property
    def build_device(self) -> torch.device:
        """Where a model is built: one that will be cut into shards may not fit on one device."""
        return torch.device("cpu") if self.sharded else self.device


def current_workers(parallel: ParallelSpec = DDP) -> Workers:
    """The process group that Ray Train (or torchrun) set up, else this process alone, which has no use for shards."""
    local = int(os.environ.get("LOCAL_RANK", "0"))
    device = (
        torch.device("cuda", local % torch.cuda.device_count()) if torch.cuda.is_available() else torch.device("cpu")
    )
    if dist.is_available() and dist.is_initialized():
        size = dist.get_world_size()
        return Workers(dist.get_rank(), size, device, sharded=parallel.kind == "fsdp" and size > 1)
    return Workers(0, 1, device)


def share_of(num: int, workers: Workers) -> NDArray[np.int64]:
    """This rank's share of `num` examples, as many on every rank: the last example fills the shares up, so that ranks
    which hold one model together call it equally often."""
    mine = np.arange(num)[workers.rank :: workers.size]
    missing = min(num, math.ceil(num / workers.size) - len(mine))
    return np.concatenate([mine, np.full(missing, num - 1)]).astype(np.int64)


def barrier(workers: Workers) -> None:
    """Wait for all ranks."""
    if workers.size > 1:
        dist.barrier()


def first_rank_says(value: bool, workers: Workers) -> bool:
    """What the first rank found; another one may look at storage a moment later and see something else."""
    answer = [value]
    if workers.size > 1:
        dist.broadcast_object_list(answer)
    return answer[0]


def device_name() -> str:
    """What this process computes on, for readers of measured times."""
    if torch.cuda.is_available():
        return str(torch.cuda.get_device_name())
    return f"cpu, {torch.get_num_threads()} threads"


def peak_memory_bytes() -> int:
    """The most memory that this process has held so far: the GPU's where there is one, else its resident memory.

    One process may run several trials, one after another.
    """
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
