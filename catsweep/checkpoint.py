"""A run's checkpoint: weights, optimiser and step in one file, whose name holds the hash of its content.

A file that was cut short or changed on storage is never loaded: the run then starts where no checkpoint is.
"""

from __future__ import annotations

import hashlib
import logging
import re
from pathlib import Path

import torch
import torch.distributed as dist
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from catsweep import storage
from catsweep.models import TargetLogits
from catsweep.sharding import cut_like, local, whole_on_first_rank

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
    for cut in target.glob(".*.safetensors"):  # of a process that was killed
        cut.unlink(missing_ok=True)
    temporary = target / f".{step:08d}.safetensors"
    try:
        save_file({name: value.contiguous() for name, value in tensors.items()}, temporary)
        whole = temporary.rename(target / f"{step:08d}-{_fingerprint(temporary)}.safetensors")
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    storage.put(whole)
    for old in target.glob("[0-9]*.safetensors"):
        if old != whole:
            storage.delete(old)


def load_checkpoint(folder: Path, module: TargetLogits, optimizer: torch.optim.Optimizer | None) -> int:
    """Restore the newest whole checkpoint of a run's folder; returns its step, or 0 where there is none."""
    path = newest_checkpoint(folder)
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


def newest_checkpoint(folder: Path) -> Path | None:
    """The file of the newest checkpoint that is as it was written."""
    for path in sorted((folder / "checkpoint").glob("[0-9]*.safetensors"), reverse=True):
        name = _NAME.fullmatch(path.name)
        if name is not None and _fingerprint(path) == name[2]:
            return path
        logging.getLogger("catsweep").warning("%s is damaged, and is not used", path)
    return None


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
