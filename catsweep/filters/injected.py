"""Filters that know which target tokens label noise has replaced, and how well any filter finds these.

Source: [ours]. Against xent, dropping exactly the injected tokens is the gain of noise removed, and a filter on the clean
tokens alone that of easier tokens.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

DETECTION = ("injected_share", "kept_share_injected", "kept_share_clean", "noise_precision")
"""What `detection` may give."""


def clean_only(kept_C: Tensor, injected_N: Tensor) -> Tensor:
    """The weights of all target tokens, float32 (N,), where a filter gave those of the C clean ones: injected ones are kept.

    kept_C: in the order of the clean tokens. injected_N: bool.
    """
    kept_N = torch.ones(len(injected_N), device=injected_N.device)
    kept_N[~injected_N] = kept_C.float()
    return kept_N


def injected_sums(alpha_N: Tensor, injected_N: Tensor) -> dict[str, Tensor]:
    """How many target tokens are injected, and the sum of their weights: scalars that add up over micro-batches and ranks."""
    return {"injected": injected_N.float().sum(), "kept_injected": (alpha_N * injected_N).sum()}


def detection(sums: Mapping[str, float]) -> dict[str, float]:
    """The filter as a detector of injected tokens, from the sums of a step or of several; empty where no noise is known.

    injected_share: of all target tokens. kept_share_injected, kept_share_clean: mean weight of either; 1 - the first is the
    recall. noise_precision: share of the dropped weight that lay on injected tokens; where nothing is dropped, as where
    there is no injected or no clean token, it is left out.
    """
    if "injected" not in sums:
        return {}
    target, kept, injected, kept_injected = (sums[name] for name in ("target", "kept", "injected", "kept_injected"))
    found = {"injected_share": injected / target}
    if injected:
        found["kept_share_injected"] = kept_injected / injected
    if injected < target:
        found["kept_share_clean"] = (kept - kept_injected) / (target - injected)
    if kept < target:
        found["noise_precision"] = (injected - kept_injected) / (target - kept)
    return found
