"""Seconds of an answer, measured while a model was evaluated: what its batches took, as a linear model of tokens. [ours]

A batch is answered together, so no query has a time of its own, and a timing of one row would be that of its neighbours.
What is known is the time of each batch; in generation, where prompts take the places of answers that ended, of each stretch
between two such times: the prompts that are read at its start, and the tokens that all rows write in it. The seconds of a query
are read off a least-squares fit to the batches

    seconds(batch) = a * queries + b * prompt tokens + c * tokens of answers (of all choices, where there are some)

with a, b, c >= 0, scaled so that all queries that were counted take the measured time. So it is the share of a busy machine
that a query takes at this batch size on this device: not what one user waits for, and loaded by whatever else ran there.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from catsweep.cascade.ragged import FloatArray

_WORTH_A_TERM = 1e-9
"""A further term must explain this share of the seconds' squares more; with one batch all terms explain it fully."""


@dataclass(frozen=True)
class BatchSeconds:
    """What one batch of an evaluation took, or one stretch of a generation. num_output_tokens: of the answers, or of all
    choices. goes_on: whether answers to its queries are still written in the next stretch."""

    num_queries: int
    num_prompt_tokens: int
    num_output_tokens: int
    seconds: float
    goes_on: bool = False


@dataclass(frozen=True)
class Latency:
    """The linear model, and what it was measured on. batch_size: queries in memory at once, at most."""

    seconds_a_query: float
    seconds_a_prompt_token: float
    seconds_an_output_token: float
    device: str
    batch_size: int
    num_batches: int

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON data."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Latency:
        """The inverse of `to_dict`."""
        return cls(**values)

    def seconds(self, num_prompt_tokens: ArrayLike, num_output_tokens: ArrayLike) -> FloatArray:
        """(n,) seconds of each query, from its (n,) tokens of prompt and of answer or all choices."""
        prompt, output = (np.asarray(count, dtype=np.float64) for count in (num_prompt_tokens, num_output_tokens))
        return self.seconds_a_query + self.seconds_a_prompt_token * prompt + self.seconds_an_output_token * output


def fit_latency(batches: Sequence[BatchSeconds], *, device: str, batch_size: int) -> Latency | None:
    """The model of the batches of an evaluation, in their order; None where there was none.

    The first batch is left out where others follow: it also loads what the device needs for the first time. The first stretch
    of several counts: the next ones are also the time of its queries, and the device has been used before it began.
    """
    counted = list(batches if batches and batches[0].goes_on else batches[1:] or batches)
    if not counted:
        return None
    counts = np.array([[batch.num_queries, batch.num_prompt_tokens, batch.num_output_tokens] for batch in counted])
    seconds = np.array([batch.seconds for batch in counted])
    factors = _nonnegative_fit(counts.astype(np.float64), seconds)
    a, b, c = (factors * seconds.sum() / (counts @ factors).sum()).tolist()
    return Latency(a, b, c, device, batch_size, len(counted))


def _nonnegative_fit(columns: FloatArray, values: FloatArray) -> FloatArray:
    """(k,) least-squares factors >= 0 of the columns (m, k), the fewest that do: every set of columns is tried, and the
    best fit without a negative factor is the constrained optimum."""
    sizes = np.maximum(columns.sum(axis=0), 1.0)  # columns of one size, so that none is lost in rounding
    best, smallest = np.zeros(columns.shape[1]), float("inf")
    for size in range(1, columns.shape[1] + 1):
        for chosen in itertools.combinations(range(columns.shape[1]), size):
            part = columns[:, chosen] / sizes[list(chosen)]
            found = np.linalg.lstsq(part, values, rcond=None)[0]
            error = float(((part @ found - values) ** 2).sum())
            if (found >= 0).all() and found.any() and error < smallest - _WORTH_A_TERM * float((values**2).sum()):
                smallest = error
                best = np.zeros(columns.shape[1])
                best[list(chosen)] = found / sizes[list(chosen)]
    return best
