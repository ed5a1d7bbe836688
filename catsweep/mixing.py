"""Which example of which member of a mixture stands where in every batch, and which training examples have to go."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

IntArray = NDArray[np.int64]


class MixtureOrder:
    """The examples of every step of a mixture.

    A batch holds floor or ceil of batch_size * rate examples of each member, and its expectation is exactly
    batch_size * rate: systematic sampling with one random offset a step. A member's examples come in permutations of
    its own, one an epoch of it. A pure function of seed and step, as train.BatchOrder is: so resumed runs, any number
    of ranks and all losses see the same batches.
    """

    def __init__(self, sizes: Sequence[int], rates: Sequence[float], batch_size: int, seed: int) -> None:
        if len(sizes) != len(rates) or min(sizes) < 1 or abs(sum(rates) - 1) > 1e-6:
            raise ValueError(f"{len(sizes)} members of sizes {list(sizes)} with rates {list(rates)}")
        self.sizes = list(sizes)
        self.batch_size = batch_size
        self.seed = seed
        self._starts = np.concatenate([[0], np.cumsum(sizes)])
        self._edges = batch_size * np.concatenate([[0.0], np.cumsum(rates)])
        self._edges[-1] = batch_size  # no rounding may lose the last example
        self._drawn = (0, np.zeros(len(sizes), dtype=np.int64))  # steps so far, and each member's examples in them
        self._epochs: dict[int, tuple[int, IntArray]] = {}

    def counts(self, step: int) -> IntArray:
        """How many examples each member has in the batch of step 0, 1, ...: int64 (members,)."""
        offset = np.random.default_rng([self.seed, step, 1]).random()
        # Places offset, offset + 1, ... of the batch: member i has those from its lower to its upper edge.
        counts: IntArray = np.diff(np.ceil(self._edges - offset)).astype(np.int64)
        return counts

    def batch(self, step: int) -> IntArray:
        """Indices into the members' examples behind one another, in random order: int64 (batch_size,)."""
        done, drawn = self._drawn if self._drawn[0] <= step else (0, np.zeros(len(self.sizes), dtype=np.int64))
        for earlier in range(done, step):
            drawn = drawn + self.counts(earlier)
        self._drawn = (step, drawn)
        parts = []
        for member, count in enumerate(self.counts(step).tolist()):
            places = np.arange(drawn[member], drawn[member] + count)
            parts += [self._starts[member] + self._example(member, int(place)) for place in places]
        order = np.random.default_rng([self.seed, step, 2]).permutation(self.batch_size)
        return np.array(parts, dtype=np.int64)[order]

    def _example(self, member: int, place: int) -> int:
        epoch, index = divmod(place, self.sizes[member])
        if self._epochs.get(member, (-1, None))[0] != epoch:
            permutation = np.random.default_rng([self.seed, epoch, member, 3]).permutation(self.sizes[member])
            self._epochs[member] = (epoch, permutation)
        return int(self._epochs[member][1][index])


def leaking(
    training: Mapping[str, Sequence[frozenset[bytes]]], evaluation: Mapping[str, Sequence[frozenset[bytes]]]
) -> dict[str, list[int]]:
    """The indices of each member's training examples whose source text stands among any member's evaluation examples.
    Each example is given by the keys of its source (tasks.overlap); one common key is enough.

    A member's own splits count too: they share no group, but may share a passage that is no group key.
    """
    shown = {key for examples in evaluation.values() for keys in examples for key in keys}
    return {
        member: [index for index, keys in enumerate(examples) if not shown.isdisjoint(keys)]
        for member, examples in training.items()
    }
