"""BLEU and chrF as corpus scores: sacrebleu's own statistics, from its own extraction.

Only the last step, from summed statistics to a score, is repeated here so that it runs over many sums at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from sacrebleu.metrics import BLEU, CHRF

from catsweep.cascade.metrics.base import Additive, need_references
from catsweep.cascade.ragged import FloatArray

BLEU_ORDER = 4
CHRF_ORDER = 6
CHRF_BETA = 2
DEFAULT_TOKENIZE = "13a"
TOKENIZERS = tuple(sorted(BLEU.TOKENIZERS))


@dataclass(frozen=True)
class BleuMetric(Additive):
    """Corpus BLEU as sacrebleu's default: order 4, exponential smoothing, cased. Statistics: lengths of answer and
    reference, then matches and totals of the four orders. A corpus without a match, or without answers, has 0."""

    tokenize: str = DEFAULT_TOKENIZE
    name = "bleu"
    scale = 100.0
    num_statistics = 2 + 2 * BLEU_ORDER

    @property
    def signature(self) -> str:
        return self.signature_for(1)

    def signature_for(self, num_references: int) -> str:
        return _signature(BLEU(tokenize=self.tokenize), num_references)

    def statistics(self, output: str, references: Sequence[str], key: str | None = None) -> list[float]:
        need_references(self.name, references)
        return _segment_statistics(_bleu(self.tokenize), output, references)

    def score(self, sums: ArrayLike) -> FloatArray:
        # One column of the sums after the other: a reduction along an axis of four numbers takes ten times as long.
        columns = np.moveaxis(np.asarray(sums, dtype=np.float64), -1, 0)
        output_length, reference_length = columns[0], columns[1]
        defined, any_match = output_length > 0, np.zeros(output_length.shape, dtype=np.bool_)
        product, missing = np.ones(output_length.shape), np.ones(output_length.shape)
        for match, total in zip(columns[2 : 2 + BLEU_ORDER], columns[2 + BLEU_ORDER :], strict=True):
            defined &= total > 0
            any_match |= match > 0
            # Each order without a match counts half of what the order without a match before it did.
            missing = np.where(match == 0, missing / 2, missing)
            product *= np.where(match == 0, missing, match) / np.where(total > 0, total, 1.0)
        defined &= any_match
        log_penalty = np.minimum(1.0 - reference_length / np.where(defined, output_length, 1.0), 0.0)
        score: FloatArray = 100.0 * np.exp(log_penalty) * product ** (1 / BLEU_ORDER)
        return np.where(defined, score, 0.0)


@dataclass(frozen=True)
class ChrfMetric(Additive):
    """Corpus chrF2 as sacrebleu's default: character order 6, beta 2, no words, no whitespace. Statistics: n-grams of
    the answer, of the best reference, and common ones, for each order. A corpus without a match has 0."""

    name = "chrf"
    scale = 100.0
    num_statistics = 3 * CHRF_ORDER

    @property
    def signature(self) -> str:
        return self.signature_for(1)

    def signature_for(self, num_references: int) -> str:
        return _signature(CHRF(), num_references)

    def statistics(self, output: str, references: Sequence[str], key: str | None = None) -> list[float]:
        need_references(self.name, references)
        return _segment_statistics(_chrf(), output, references)

    def score(self, sums: ArrayLike) -> FloatArray:
        # One column of the sums after the other: a reduction along an axis of six numbers takes ten times as long.
        columns = np.moveaxis(np.asarray(sums, dtype=np.float64), -1, 0)
        shape = columns.shape[1:]
        precision, recall, num_orders = np.zeros(shape), np.zeros(shape), np.zeros(shape)
        for in_output, in_reference, matches in zip(columns[0::3], columns[1::3], columns[2::3], strict=True):
            num_orders += (in_output > 0) & (in_reference > 0)
            # No matches are among no n-grams: there any divisor but 0 will do.
            precision += matches / (in_output + (in_output == 0))
            recall += matches / (in_reference + (in_reference == 0))
        num_orders = np.maximum(num_orders, 1.0)
        precision, recall = precision / num_orders, recall / num_orders
        weighted = CHRF_BETA**2 * precision + recall
        score: FloatArray = 100.0 * (1 + CHRF_BETA**2) * precision * recall / np.where(weighted > 0, weighted, 1.0)
        return score


@lru_cache(maxsize=8)
def _bleu(tokenize: str) -> Any:
    return BLEU(tokenize=tokenize, force=True)  # force: no warning that a text looks tokenised


@lru_cache(maxsize=1)
def _chrf() -> Any:
    return CHRF()


def _segment_statistics(scorer: Any, output: str, references: Sequence[str]) -> list[float]:
    segment = scorer._extract_corpus_statistics([output], [[reference] for reference in references])[0]
    return [float(value) for value in segment]


def _signature(scorer: Any, num_references: int) -> str:
    scorer.num_refs = num_references
    return str(scorer.get_signature())
