"""Cross-fitting: the fold of each training example, and what the model of each fold trains on.

The signal of an example must come from a model that has not seen its group, so folds are cut by a hash of the group key.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from catsweep.errors import DataError
from catsweep.mixing import leaking

IntArray = NDArray[np.int64]


@dataclass(frozen=True)
class Folds:
    """A task's n training examples in folds. number: the fold of each, int64 (n,). hidden: bool (folds, n), examples of
    other folds that the model of a fold must not see either: a member of the mixture shows their text in that fold."""

    number: IntArray
    hidden: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.hidden)

    def judged(self, fold: int) -> IntArray:
        """The examples whose signal the model of a fold gives: indices, rising."""
        return np.flatnonzero(self.number == fold)

    def trained(self, fold: int) -> IntArray:
        """The examples that the model of a fold trains on: indices, rising."""
        return np.flatnonzero((self.number != fold) & ~self.hidden[fold])


def cut_folds(groups: Sequence[str], num_folds: int, task: str) -> Folds:
    """Cut training examples into folds by group. Raises DataError where a fold gets no group. [ours]"""
    numbers = {group: _fold_of(group, num_folds) for group in set(groups)}
    number = np.array([numbers[group] for group in groups], dtype=np.int64)
    empty = sorted(set(range(num_folds)) - set(numbers.values()))
    if empty:
        raise DataError(
            f"task {task}: cross_fit: {num_folds} leaves fold {empty[0]} without any of the {len(numbers)} training groups; "
            "expected at least one in each. Lower large.finetune.cross_fit, or use holdout"
        )
    return Folds(number, np.zeros((num_folds, len(number)), dtype=bool))


def hide_leaks(folds: Mapping[str, Folds], sources: Mapping[str, Sequence[frozenset[bytes]]]) -> dict[str, Folds]:
    """The folds of a mixture's members, with those training examples hidden from the model of each fold whose source text
    any member shows in that fold. sources: keys of each training example's source, by member. Raises DataError where
    nothing is left to train on."""
    hidden = {name: found.hidden.copy() for name, found in folds.items()}
    for fold in range(len(next(iter(folds.values())))):
        judged = {name: [sources[name][index] for index in found.judged(fold)] for name, found in folds.items()}
        for name, indices in leaking(sources, judged).items():
            hidden[name][fold, indices] = True
            hidden[name][fold, folds[name].number == fold] = False  # left out anyway
    result = {name: Folds(found.number, hidden[name]) for name, found in folds.items()}
    for name, found in result.items():
        bare = [fold for fold in range(len(found)) if not len(found.trained(fold))]
        if bare:
            raise DataError(
                f"found no example of {name} for the model of fold {bare[0]} to train on: that fold shows all their source "
                "texts; expected at least one. Give tasks with common texts one doc_to_group, leave the task out of the "
                "mixture, or use holdout"
            )
    return result


def _fold_of(group: str, num_folds: int) -> int:
    return int.from_bytes(hashlib.blake2b(f"fold:{group}".encode(), digest_size=8).digest(), "big") % num_folds
