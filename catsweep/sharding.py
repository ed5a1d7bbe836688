"""A model whose weights lie in shards on the ranks of a process group (torch's FSDP2), and whole tensors of it.

Each rank holds 1/size of every weight, of its gradient and of the optimiser's state; a layer's weights are put together
for as long as it computes. So every rank has to call the model equally often.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, distribute_tensor

from catsweep.models import TargetLogits


def shard(module: TargetLogits, device: torch.device) -> None:
    """Cut a model's weights into shards on all ranks, in place, layer by layer; one in shards stays as it is.

    device: where the shards go; the model may lie on the CPU before. Every rank calls this with the same weights.
    """
    if module.sharded:
        return
    from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method  # slow to import, and seldom needed

    mesh = init_device_mesh(device.type, (dist.get_world_size(),))
    layers = set(module.model._no_split_modules or ())
    for layer in list(module.model.modules()):
        if type(layer).__name__ in layers:
            fully_shard(layer, mesh=mesh)
    # What no layer holds (embeddings, head) stays together between the hidden states and the head's parts of logits.
    fully_shard(module, mesh=mesh, reshard_after_forward=False)
    register_fsdp_forward_method(module, "generate")
    module.sharded = True


def release(module: TargetLogits) -> None:
    """Give the weights of embeddings and head that an evaluation put together back to their shards."""
    if module.sharded:
        module.reshard()  # type: ignore[operator]  # a method of FSDPModule, whose class the module has now


def local(tensor: Tensor) -> Tensor:
    """This rank's part of a tensor; a plain one is its own part."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def whole(tensor: Tensor) -> Tensor:
    """All of a tensor, detached. Every rank calls this."""
    return (tensor.full_tensor() if isinstance(tensor, DTensor) else tensor).detach()


def whole_on_first_rank(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """All of some tensors, on the CPU of the first rank where they lie in shards; then the others get nothing.

    Every rank that holds shards calls this. Of tensors that are one object (tied weights) the copies are one object too.
    """
    found: dict[int, Tensor] = {}
    result = {}
    for name, tensor in tensors.items():
        if id(tensor) not in found:
            full = whole(tensor)
            if isinstance(tensor, DTensor):
                full = full.cpu() if dist.get_rank() == 0 else full.new_empty(0)
            found[id(tensor)] = full
        result[name] = found[id(tensor)]
    return result


def whole_weights(module: TargetLogits) -> dict[str, Tensor]:
    """A model's weights and saved buffers by name, as transformers writes them. Of a model in shards every rank calls
    this, and the first one gets them."""
    release(module)
    return whole_on_first_rank(module.model.state_dict(keep_vars=True))


def cut_like(own: Tensor, full: Tensor) -> Tensor:
    """A whole tensor on the device of `own`, in shards where that lies in shards."""
    moved = full.to(own.device)
    if not isinstance(own, DTensor):
        return moved
    # No rank sends anything: each has the whole tensor and keeps its part.
    return distribute_tensor(moved, own.device_mesh, own.placements, src_data_rank=None)
