"""A filter that forgives near misses: the target need not be a model's first choice.

Source: [ours], a relaxation of arXiv 2406.00060, whose filter is k = 1.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor


def top_k(small_rank_N: Tensor, large_rank_N: Tensor, *, k: int) -> Tensor:
    """Which target tokens are among the k most probable tokens of either model: bool (N,).

    Ranks count from 0. The large model's are clipped at 255, so that k in [1, 255] is exact. Judges each token alone.
    """
    return (small_rank_N < k) | (large_rank_N < k)


def target_rank(logits_NV: Tensor, target_ids_N: Tensor) -> Tensor:
    """How many tokens come before the target: int64 (N,), 0 exactly where it is argmax's choice.

    Of equal logits the smaller id comes first, as in torch.argmax on the CPU, where numpy compares three times as fast as torch.
    """
    target_N1 = logits_NV.gather(1, target_ids_N[:, None])
    ids_1V = torch.arange(logits_NV.shape[1], dtype=torch.int32, device=logits_NV.device)[None]
    values = logits_NV, target_N1, ids_1V, target_ids_N[:, None].int()
    if logits_NV.device.type == "cpu":
        arrays = (value.detach().numpy() for value in values)
        return torch.from_numpy(np.count_nonzero(_comes_before(*arrays), axis=1))
    return torch.count_nonzero(_comes_before(*values), dim=1)


def _comes_before(logits_NV: Any, target_N1: Any, ids_1V: Any, target_ids_N1: Any) -> Any:
    return (logits_NV > target_N1) | ((logits_NV == target_N1) & (ids_1V < target_ids_N1))
