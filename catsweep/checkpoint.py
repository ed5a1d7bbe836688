"""A run's checkpoint: weights, optimiser and step in one file, whose name holds the hash of its content.

A file that was cut short or changed on storage is never loaded: the run then starts where no checkpoint is.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import re
import time
import uuid
from pathlib import Path

import torch
import torch.distributed as dist
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from catsweep import storage
from catsweep.models import TargetLogits
from catsweep.sharding import cut_like, local, whole_on_first_rank

LEFTOVER_SECONDS = 600
_NAME = re.compile(r"(\d{8})-([0-9a-f]{16})\.safetensors")


def save_checkpoint(folder: Path, module: TargetLogits, optimizer: torch.optim.Optimizer | None, step: int) -> None:
    """Keep weights, optimiser and step in folder/checkpoint; the older checkpoint goes once the new one is whole.

    The file holds whole tensors, so that a run in shards may go on without them or on another number of ranks. Of a model
    in shards every rank calls this, and the first one writes. Where there is no space the older one stays, and
    safetensors' error travels on (see errors.is_out_of_space).
    """
    tensors = {f"model.{name}": value for name, value in _changed(module.model).items()}
    for index, state in (optimizer.state_dict()["state"] if optimizer else {}).items():
        tensors |= {f"optimizer.{index}.{name}": value for name, value in state.items() if isinstance(value, Tensor)}
    tensors = whole_on_first_rank(tensors)
    if module.sharded and dist.get_rank() != 0:
        return
    target = folder / "checkpoint"
    target.mkdir(parents=True, exist_ok=True)
    _remove_leftovers(target)
    temporary = target / f".{step:08d}.{uuid.uuid4().hex}.safetensors"
    try:
        save_file({name: value.contiguous() for name, value in tensors.items()}, temporary)
        whole = temporary.rename(target / f"{step:08d}-{_fingerprint(temporary)}.safetensors")
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    if (folder / storage.LINES).exists():  # before the checkpoint: whoever goes on behind it has all lines up to it
        storage.put(folder / storage.LINES)
    storage.put(whole)
    for old in target.glob("[0-9]*.safetensors"):
        if old.name < whole.name:
            storage.delete(old)


def _remove_leftovers(target: Path) -> None:
    """Files of processes that were killed; a younger one may be another's, of a group that Ray has not ended yet."""
    for cut in target.glob(".*.safetensors"):
        with contextlib.suppress(FileNotFoundError):
            if time.time() - cut.stat().st_mtime > LEFTOVER_SECONDS:
                cut.unlink()


def load_checkpoint(
    folder: Path, module: TargetLogits, optimizer: torch.optim.Optimizer | None, *, num_ranks: int = 1
) -> int:
    """Restore the newest whole checkpoint of a run's folder; returns its step, or 0 where there is none.

    num_ranks: so many call this together, and take the newest that all of them have: on an object store the last one may
    not have been sent when its node was lost.
    """
    path = newest_checkpoint(folder, num_ranks=num_ranks)
    if path is None:
        return 0
    tensors = load_file(path)
    with torch.no_grad():
        for name, value in _changed(module.model).items():
            local(value).copy_(local(cut_like(value, tensors[f"model.{name}"])))
    parameters = [] if optimizer is None else [one for group in optimizer.param_groups for one in group["params"]]
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        kind, _, rest = name.partition(".")
        if kind == "optimizer" and parameters:
            index, _, field_name = rest.partition(".")
            own = value if field_name == "step" else cut_like(parameters[int(index)], value)
            state.setdefault(int(index), {})[field_name] = own
    if optimizer is not None:
        optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    return int(path.name[:8])


def newest_checkpoint(folder: Path, *, num_ranks: int = 1) -> Path | None:
    """The file of the newest checkpoint that is as it was written, on all ranks that call this together."""
    whole = []
    for path in sorted((folder / "checkpoint").glob("[0-9]*.safetensors"), reverse=True):
        name = _NAME.fullmatch(path.name)
        if name is not None and _fingerprint(path) == name[2]:
            whole.append(path.name)
        else:
            logging.getLogger("catsweep").warning("%s is damaged, and is not used", path)
    if num_ranks > 1:
        everywhere: list[list[str]] = [[]] * num_ranks
        dist.all_gather_object(everywhere, whole)
        whole = [name for name in whole if all(name in names for names in everywhere)]
    return folder / "checkpoint" / whole[0] if whole else None


def _changed(model: nn.Module) -> dict[str, Tensor]:
    """What a run changes: all but weights that it keeps as the model was built, such as those beside adapters."""
    frozen = {name for name, one in model.named_parameters(remove_duplicate=False) if not one.requires_grad}
    return {name: value for name, value in unique_tensors(model).items() if name not in frozen}


def unique_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and saved buffers, shared ones once (tied embeddings)."""
    seen: set[int] = set()
    tensors: dict[str, Tensor] = {}
    for name, value in model.state_dict(keep_vars=True).items():
        key = id(value) if isinstance(value, DTensor) else value.data_ptr()
        if key not in seen:
            seen.add(key)
            tensors[name] = value.detach()
    return tensors


def _fingerprint(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]
