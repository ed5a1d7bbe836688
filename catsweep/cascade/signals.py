"""What the small model said about its own answers: everything that a deferral rule may look at."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from catsweep.cascade.ragged import Ragged


@dataclass(frozen=True, eq=False)
class Signals:
    """Signals of n answers of the small model, from raw log-probabilities (docs/curves.md).

    ids: (n,) text, unique.
    token_logprobs: natural log-probability of each token of the answer (generated text, or the picked choice), <= 0.
    token_entropies: entropy of the model's distribution at each of these tokens, nats, >= 0.
    token_margins: probability of the first minus that of the second token, in [0, 1].
    choice_logprobs: summed log-probability of each choice; an empty row for generated text.
    choice_num_tokens: tokens of each choice; an empty row for generated text.
    Raises ValueError where the numbers of rows differ.
    """

    ids: NDArray[np.str_]
    token_logprobs: Ragged
    token_entropies: Ragged
    token_margins: Ragged
    choice_logprobs: Ragged
    choice_num_tokens: Ragged

    def __post_init__(self) -> None:
        for name in ("token_logprobs", "token_entropies", "token_margins", "choice_logprobs", "choice_num_tokens"):
            rows = len(getattr(self, name))
            if rows != len(self.ids):
                raise ValueError(f"{name} has {rows} rows; expected {len(self.ids)}, one for each id")

    def __len__(self) -> int:
        return len(self.ids)
