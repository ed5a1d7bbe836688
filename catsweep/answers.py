"""A model's answer to one example, and the statistics of its tokens."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, stack

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
    logprobs_NV = logits_NV.log_softmax(1)
    top_N2 = logprobs_NV.topk(2, dim=1).values
    # p log p is 0 where p is 0, also where a model masks tokens with -inf
    entropy_N = -(logprobs_NV.exp() * logprobs_NV.clamp(min=-1e4)).sum(1)
    margin_N = top_N2[:, 0].exp() - top_N2[:, 1].exp()
    if ids_M is None:
        return stack([top_N2[:, 0], entropy_N, margin_N], dim=1)
    if places_M is None:
        return stack([logprobs_NV.gather(1, ids_M[:, None]).squeeze(1), entropy_N, margin_N], dim=1)
    return stack([logprobs_NV[places_M, ids_M], entropy_N[places_M], margin_N[places_M]], dim=1)


def answer_columns(statistics: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
    """The three columns of `token_statistics`, as an Answer takes them."""
    return statistics[:, 0].copy(), statistics[:, 1].copy(), statistics[:, 2].copy()
