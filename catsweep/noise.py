"""Label noise: wrong training targets on purpose, and which target tokens they are.

What is replaced is fixed by the noise's seed and the example's id alone: neither by other examples nor by the rate, so
that the targets injected at a lower rate are among those injected at a higher one. Source: [ours]; arXiv 2406.00060 asks
how much of its gain is label noise removed, and leaves open how to find out.
"""

from __future__ import annotations

import difflib
import functools
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from catsweep.spec.noise import LabelNoise

IntArray = NDArray[np.int64]
TokenArray = NDArray[np.int32]
BoolArray = NDArray[np.bool_]

START = -1
"""What stands before the first token of a target."""


def draws(seed: int, name: str, num: int) -> NDArray[np.float64]:
    """Two numbers in [0, 1) for each of `num` targets of the example `name`, (num, 2): the first decides whether it is
    replaced (below the rate), the second by what."""
    value = hashlib.blake2b(f"noise:{seed}:{name}".encode(), digest_size=16).digest()
    return np.random.default_rng(int.from_bytes(value, "big")).random((num, 2))


def noisy_label(choices: Sequence[str], label: int, noise: LabelNoise, name: str) -> int:
    """The label of an example under noise: with probability `rate` that of another choice. [ours]

    uniform: any of them alike. confusable: the one whose text is the most similar to the right choice's (Ratcliff and
    Obershelp's ratio, as difflib computes it), one of them where several are. Choices that read like the right one are none;
    without any other the label stays.
    """
    ((decides, picks),) = draws(noise.seed, name, 1)
    others = [index for index, text in enumerate(choices) if text != choices[label]]
    if decides >= noise.rate or not others:
        return label
    if noise.kind == "confusable":
        ratios = [_similarity(choices[label], choices[index]) for index in others]
        others = [index for index, ratio in zip(others, ratios, strict=True) if ratio == max(ratios)]
    return others[int(picks * len(others))]


def changed_tokens(right: TokenArray, wrong: TokenArray) -> BoolArray:
    """Which tokens of a wrong choice are injected: from the first one on that differs from the right choice's, bool (N,).

    Those before it are right. None where the wrong choice begins the right one.
    """
    shared = min(len(right), len(wrong))
    different = np.flatnonzero(right[:shared] != wrong[:shared])
    first = int(different[0]) if len(different) else shared
    return np.arange(len(wrong)) >= first


def noisy_tokens(
    ids: TokenArray, offsets: IntArray, names: Sequence[str], noise: LabelNoise, units: Units
) -> tuple[TokenArray, BoolArray]:
    """Generated targets under noise, and which of their tokens are injected: ids and bool, (M,) each. [ours]

    Each token alone is replaced with probability `rate` by another one; lengths stay, and the end token is never replaced.
    So a filter may drop the wrong tokens of a target and keep the right ones, and the question has an answer for each token.
    uniform: token v with probability count(v) / the count of all but the right one, over the training targets. confusable:
    the same among the tokens that stand behind the same clean token there; where only the right one does, as uniform.
    ids, offsets: of the clean targets, as data.Tokens has them. names: ids of the examples.
    """
    drawn = np.concatenate(
        [draws(noise.seed, name, int(num)) for name, num in zip(names, np.diff(offsets), strict=True)]
    )
    previous = previous_tokens(ids, offsets)
    noisy, injected = np.array(ids), np.zeros(len(ids), dtype=bool)
    for place in np.flatnonzero((drawn[:, 0] < noise.rate) & (ids != units.end_id)).tolist():
        right, picks = int(ids[place]), float(drawn[place, 1])
        context = units.behind.get(int(previous[place])) if noise.kind == "confusable" else None
        other = context.pick(right, picks) if context else None
        other = units.all.pick(right, picks) if other is None else other
        if other is not None:
            noisy[place], injected[place] = other, True
    return noisy, injected


def previous_tokens(ids: TokenArray, offsets: IntArray) -> IntArray:
    """The token before each token of a list, START before the first: int64 (M,)."""
    previous = np.full(len(ids), START, dtype=np.int64)
    previous[1:] = ids[:-1]
    previous[offsets[:-1][np.diff(offsets) > 0]] = START
    return previous


@dataclass(frozen=True)
class Units:
    """How often each token stands in a task's training targets, in all and behind each token; end tokens are left out."""

    all: Counts
    behind: dict[int, Counts]
    end_id: int

    @classmethod
    def of(cls, lists: Sequence[tuple[TokenArray, IntArray]], end_id: int) -> Units:
        """Counted over all lists, each with its ids and offsets."""
        every = np.concatenate([part[0] for part in lists]).astype(np.int64)
        before = np.concatenate([previous_tokens(*part) for part in lists])
        before, every = before[every != end_id], every[every != end_id]
        width = int(every.max(initial=0)) + 1
        pairs, counts = np.unique((before - START) * width + every, return_counts=True)
        contexts, starts = np.unique(pairs // width, return_index=True)
        parts = zip(np.split(pairs % width, starts[1:]), np.split(counts, starts[1:]), strict=True)
        behind = {int(context) + START: Counts.of(*part) for context, part in zip(contexts, parts, strict=False)}
        return cls(Counts.of(*np.unique(every, return_counts=True)), behind, end_id)


@dataclass(frozen=True)
class Counts:
    """ids: different tokens, rising. ends: running sums of their counts."""

    ids: IntArray
    ends: IntArray

    @classmethod
    def of(cls, ids: IntArray, counts: IntArray) -> Counts:
        """The same from counts."""
        return cls(ids, np.cumsum(counts))

    def pick(self, right: int, share: float) -> int | None:
        """The token at a share in [0, 1) of all occurrences of the others than `right`; None where there is no other."""
        if not len(self.ids):
            return None
        at = int(np.searchsorted(self.ids, right))
        is_here = at < len(self.ids) and self.ids[at] == right
        before = int(self.ends[at - 1]) if at else 0
        own = int(self.ends[at]) - before if is_here else 0
        place = int(share * (int(self.ends[-1]) - own))
        if own == self.ends[-1]:
            return None
        place += own if place >= before else 0
        return int(self.ids[np.searchsorted(self.ends, place, side="right")])


@functools.lru_cache(maxsize=1 << 14)
def _similarity(first: str, second: str) -> float:
    return difflib.SequenceMatcher(None, first, second, autojunk=False).ratio()
