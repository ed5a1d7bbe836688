"""A model's answer to one example, and the statistics of its tokens."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, cat, split, stack

from catsweep.first_choice import first_choice
from catsweep.logit_rows import SCAN_LOGITS, num_rows_at_once

FloatArray = NDArray[np.float32]


@dataclass(frozen=True)
class Answer:
    """A model's answer to one example. The three lists have an entry for each output token."""

    output: str
    num_prompt_tokens: int
    token_logprobs: FloatArray
    token_entropies: FloatArray
    token_margins: FloatArray
    choice_logprobs: FloatArray = field(default_factory=lambda: np.empty(0, np.float32))
    choice_num_tokens: NDArray[np.int32] = field(default_factory=lambda: np.empty(0, np.int32))


def token_statistics(logits_NV: Tensor, ids_M: Tensor | None = None, places_M: Tensor | None = None) -> Tensor:
    """Log-probability of a token, entropy in nats, and the probability of the first minus the second most probable token.

    (N, 3), of the most probable token at each place, where ids_M is None; else (M, 3), of the tokens ids_M at the places
    places_M (all places in their order where that is None).
    """
    slices = split(logits_NV, num_rows_at_once(logits_NV, SCAN_LOGITS))
    largest_N, log_sum_N, entropy_N, margin_N = cat([_of_rows(rows_NV) for rows_NV in slices], dim=1)
    if ids_M is None:
        return stack([-log_sum_N, entropy_N, margin_N], dim=1)
    if places_M is None:
        chosen_N = logits_NV.gather(1, ids_M[:, None]).squeeze(1)
        return stack([chosen_N - largest_N - log_sum_N, entropy_N, margin_N], dim=1)
    chosen_M = logits_NV[places_M, ids_M]
    of_places = (chosen_M - largest_N[places_M] - log_sum_N[places_M], entropy_N[places_M], margin_N[places_M])
    return stack(of_places, dim=1)


def _of_rows(logits_NV: Tensor) -> Tensor:
    """Largest logit, logarithm of the sum of exponentials of all less the largest, entropy and margin: (4, N)."""
    first_N1 = first_choice(logits_NV)[:, None]
    largest_N1 = logits_NV.gather(1, first_N1)
    shifted_NV = logits_NV - largest_N1
    weights_NV = shifted_NV.exp()
    sum_N = weights_NV.sum(1)
    # x exp(x) is 0 where exp(x) is 0, also where a model masks tokens with -inf
    mean_N = shifted_NV.clamp_(min=-1e4).mul_(weights_NV).sum(1) / sum_N
    second_N = weights_NV.scatter_(1, first_N1, 0).amax(1)
    return stack([largest_N1.squeeze(1), sum_N.log(), sum_N.log() - mean_N, (1 - second_N) / sum_N])


def answer_columns(statistics: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
    """The three columns of `token_statistics`, as an Answer takes them."""
    return statistics[:, 0].copy(), statistics[:, 1].copy(), statistics[:, 2].copy()
