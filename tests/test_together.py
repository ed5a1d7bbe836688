"""What the ranks of a process group have to agree on where their nodes do not see the same files, or another sweep is ahead."""

from __future__ import annotations

import time
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from test_storage import make_record
from torch import nn

from catsweep.cache import held, try_held
from catsweep.checkpoint import newest_checkpoint, save_checkpoint
from catsweep.large import held_together
from catsweep.models import TargetLogits
from catsweep.sweep.trainable import _first_ranks
from catsweep.workers import current_workers


def _start(rank: int, store: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)


def _agree(rank: int, folder: Path) -> None:
    """Rank 0 has written what was not sent when its node's group was ended."""
    _start(rank, folder / "store")
    newest = newest_checkpoint(folder / str(rank), num_ranks=2)
    assert newest is not None
    assert newest.name.startswith("00000100-")
    record = _first_ranks(make_record("trials/a/xent/00000") if rank == 0 else None)
    assert record == make_record("trials/a/xent/00000")
    assert _first_ranks(None) is None
    dist.destroy_process_group()


def test_all_ranks_go_on_from_the_newest_checkpoint_that_all_of_them_have(tmp_path: Path) -> None:
    module = TargetLogits(nn.Linear(2, 2))  # type: ignore[arg-type]
    for rank in (0, 1):
        save_checkpoint(tmp_path / str(rank), module, None, 100)
    (older,) = (tmp_path / "0" / "checkpoint").iterdir()
    kept = older.read_bytes()
    nn.init.zeros_(module.model.weight)
    save_checkpoint(tmp_path / "0", module, None, 200)
    older.write_bytes(kept)  # its node's mirror may hold both
    alone = newest_checkpoint(tmp_path / "0")
    assert alone is not None
    assert alone.name.startswith("00000200-")
    mp.spawn(_agree, args=(tmp_path,), nprocs=2)


def _hold(rank: int, folder: Path) -> None:
    _start(rank, folder / "store2")
    (folder / f"waits-{rank}").touch()
    with held_together(folder / "key", current_workers()):
        assert (folder / "released").exists()
        with try_held(folder / "key") as take:
            assert not take()
        dist.barrier()
    dist.destroy_process_group()


def test_all_ranks_wait_together_for_what_another_sweep_holds(tmp_path: Path) -> None:
    with held(tmp_path / "key"):
        ranks = mp.spawn(_hold, args=(tmp_path,), nprocs=2, join=False)
        deadline = time.monotonic() + 120
        while not all((tmp_path / f"waits-{rank}").exists() for rank in (0, 1)):
            assert time.monotonic() < deadline
            time.sleep(0.1)
        time.sleep(2.5)  # they ask more than once
        (tmp_path / "released").touch()
    while not ranks.join():
        pass
    with try_held(tmp_path / "key") as take:
        assert take()
