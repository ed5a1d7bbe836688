"""Quality of answers: every metric is a score of sufficient statistics that add up over rows.

A mean metric has the statistics [value, 1]. BLEU and chrF have sacrebleu's own, from sacrebleu's own extraction; only the
last step, from summed statistics to a score, is repeated here so that it runs over many sums at once.
"""

from __future__ import annotations

import difflib
import re
import string
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike
from sacrebleu.metrics import BLEU, CHRF

from catsweep.cascade.ragged import FloatArray
from catsweep.errors import DataError, TableError

BLEU_ORDER = 4
CHRF_ORDER = 6
CHRF_BETA = 2
DEFAULT_TOKENIZE = "13a"


class Metric(Protocol):
    """How answers are judged.

    name: as in a task's YAML. scale: the largest quality, 1 or 100. is_mean: quality is the mean of a value of each row.
    num_statistics: k. signature: what fixes the number, for one reference (`signature_for` has others).
    """

    @property
    def name(self) -> str: ...
    @property
    def scale(self) -> float: ...
    @property
    def is_mean(self) -> bool: ...
    @property
    def higher_is_better(self) -> bool: ...
    @property
    def num_statistics(self) -> int: ...
    @property
    def signature(self) -> str: ...

    def signature_for(self, num_references: int) -> str:
        """The signature for so many references an answer; -1: it varies."""
        ...

    def statistics(self, output: str, references: Sequence[str]) -> list[float]:
        """k numbers of one answer. Several references are alternatives. Raises DataError where there is none."""
        ...

    def score(self, sums: ArrayLike) -> FloatArray:
        """(...) quality in [0, scale] of sums (..., k) of statistics over the rows of each corpus."""
        ...


@dataclass(frozen=True)
class MeanMetric:
    """The mean over rows of a value in [0, 1]; of several references the best counts. The mean of no rows is NaN."""

    name: str
    value: Callable[[str, str], float]
    scale: float = 1.0
    is_mean: bool = True
    higher_is_better: bool = True
    num_statistics: int = 2

    @property
    def signature(self) -> str:
        return self.name

    def signature_for(self, num_references: int) -> str:
        return self.name

    def statistics(self, output: str, references: Sequence[str]) -> list[float]:
        _need_references(self.name, references)
        return [max(self.value(output, reference) for reference in references), 1.0]

    def score(self, sums: ArrayLike) -> FloatArray:
        values = np.asarray(sums, dtype=np.float64)
        result = np.full(values.shape[:-1], np.nan)
        np.divide(values[..., 0], values[..., 1], out=result, where=values[..., 1] != 0)
        return result


@dataclass(frozen=True)
class BleuMetric:
    """Corpus BLEU as sacrebleu's default: order 4, exponential smoothing, cased. Statistics: lengths of answer and
    reference, then matches and totals of the four orders. A corpus without a match, or without answers, has 0."""

    tokenize: str = DEFAULT_TOKENIZE
    name: str = "bleu"
    scale: float = 100.0
    is_mean: bool = False
    higher_is_better: bool = True
    num_statistics: int = 2 + 2 * BLEU_ORDER

    @property
    def signature(self) -> str:
        return self.signature_for(1)

    def signature_for(self, num_references: int) -> str:
        return _signature(BLEU(tokenize=self.tokenize), num_references)

    def statistics(self, output: str, references: Sequence[str]) -> list[float]:
        _need_references(self.name, references)
        return _segment_statistics(_bleu(self.tokenize), output, references)

    def score(self, sums: ArrayLike) -> FloatArray:
        values = np.asarray(sums, dtype=np.float64)
        output_length, reference_length = values[..., 0], values[..., 1]
        matches, totals = values[..., 2 : 2 + BLEU_ORDER], values[..., 2 + BLEU_ORDER :]
        defined = (matches > 0).any(axis=-1) & (totals > 0).all(axis=-1)
        # Each order without a match counts half of what the order without a match before it did.
        halvings = np.cumsum(matches == 0, axis=-1)
        smoothed = np.where(matches == 0, 0.5**halvings, matches)
        precisions = 100.0 * smoothed / np.where(totals > 0, totals, 1.0)
        log_penalty = np.minimum(1.0 - reference_length / np.where(defined, output_length, 1.0), 0.0)
        score: FloatArray = np.exp(log_penalty + np.log(precisions).mean(axis=-1))
        return np.where(defined, score, 0.0)


@dataclass(frozen=True)
class ChrfMetric:
    """Corpus chrF2 as sacrebleu's default: character order 6, beta 2, no words, no whitespace. Statistics: n-grams of
    the answer, of the best reference, and common ones, for each order. A corpus without a match has 0."""

    name: str = "chrf"
    scale: float = 100.0
    is_mean: bool = False
    higher_is_better: bool = True
    num_statistics: int = 3 * CHRF_ORDER

    @property
    def signature(self) -> str:
        return self.signature_for(1)

    def signature_for(self, num_references: int) -> str:
        return _signature(CHRF(), num_references)

    def statistics(self, output: str, references: Sequence[str]) -> list[float]:
        _need_references(self.name, references)
        return _segment_statistics(_chrf(), output, references)

    def score(self, sums: ArrayLike) -> FloatArray:
        values = np.asarray(sums, dtype=np.float64)
        in_output, in_reference, matches = values[..., 0::3], values[..., 1::3], values[..., 2::3]
        counted = (in_output > 0) & (in_reference > 0)
        num_orders = np.maximum(counted.sum(axis=-1), 1)
        precision = np.where(counted, matches / np.where(counted, in_output, 1.0), 0.0).sum(axis=-1) / num_orders
        recall = np.where(counted, matches / np.where(counted, in_reference, 1.0), 0.0).sum(axis=-1) / num_orders
        weighted = CHRF_BETA**2 * precision + recall
        score: FloatArray = 100.0 * (1 + CHRF_BETA**2) * precision * recall / np.where(weighted > 0, weighted, 1.0)
        return score


def get_metric(name: str, *, tokenize: str | None = None) -> Metric:
    """The metric of a name: accuracy, exact_match, token_f1, bleu or chrf.

    tokenize: sacrebleu's tokenizer of BLEU, 13a where None. Raises TableError for an unknown name or tokenizer.
    """
    if name not in METRIC_NAMES:
        raise TableError(
            f"metric: found {name!r}; expected one of {', '.join(METRIC_NAMES)}{_hint(name, METRIC_NAMES)}"
        )
    if name == "bleu":
        known = sorted(BLEU.TOKENIZERS)
        if tokenize is not None and tokenize not in known:
            expected = f"one of sacrebleu's: {', '.join(known)}"
            raise TableError(f"tokenize: found {tokenize!r}; expected {expected}{_hint(tokenize, known)}")
        return BleuMetric(tokenize or DEFAULT_TOKENIZE)
    if tokenize is not None:
        raise TableError(f"tokenize: found {tokenize!r} with metric {name}; only bleu has a tokenizer. Leave it out")
    if name == "chrf":
        return ChrfMetric()
    return MeanMetric(name, token_f1 if name == "token_f1" else equal_text)


METRIC_NAMES = ("accuracy", "exact_match", "token_f1", "bleu", "chrf")


def equal_text(output: str, reference: str) -> float:
    """1 where the texts are equal but for whitespace around them, else 0: accuracy and exact match. [ours]"""
    return float(output.strip() == reference.strip())


def token_f1(output: str, reference: str) -> float:
    """F1 of the bags of words, as SQuAD's script: lower case, no ASCII punctuation, no English articles.

    Where one side has no words: 1 if neither has, else 0 (SQuAD 2.0).
    """
    given, wanted = _squad_words(output), _squad_words(reference)
    if not given or not wanted:
        return float(given == wanted)
    common = sum((Counter(given) & Counter(wanted)).values())
    return 2.0 * common / (len(given) + len(wanted))


_WITHOUT_PUNCTUATION = str.maketrans("", "", string.punctuation)


def _squad_words(text: str) -> list[str]:
    return re.sub(r"\b(a|an|the)\b", " ", text.lower().translate(_WITHOUT_PUNCTUATION)).split()


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


def _need_references(name: str, references: Sequence[str]) -> None:
    if isinstance(references, str) or not references:
        raise DataError(f"{name}: found the references {references!r}; expected a list of one or more accepted answers")


def _hint(word: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(word.lower(), known, n=1)
    return f". Did you mean {close[0]!r}?" if close else ""
