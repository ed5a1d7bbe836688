"""Metrics that are the mean of a value of each row; of several references the best one counts."""

from __future__ import annotations

import importlib.metadata
import re
import string
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from catsweep.cascade.metrics.base import Additive, divide, equal_text, need_references
from catsweep.cascade.ragged import FloatArray

ROUGE_TYPES = ("rouge1", "rouge2", "rougeLsum")


@dataclass(frozen=True)
class MeanMetric(Additive):
    """The mean over rows of a value in [0, scale]; the mean of no rows is NaN. Statistics: [value, 1]."""

    name: str
    value: Callable[[str, str], float]
    scale: float = 1.0
    settings: str = ""
    is_mean = True
    num_statistics = 2

    @property
    def signature(self) -> str:
        return self.name + self.settings

    def signature_for(self, num_references: int) -> str:
        return self.signature

    def statistics(self, output: str, references: Sequence[str], key: str | None = None) -> list[float]:
        need_references(self.name, references)
        return [max(self.value(output, reference) for reference in references), 1.0]

    def right(self, statistics: ArrayLike) -> FloatArray:
        return (self.score(statistics) >= self.scale).astype(np.float64)

    def score(self, sums: ArrayLike) -> FloatArray:
        values = np.asarray(sums, dtype=np.float64)
        return divide(values[..., 0], values[..., 1], empty=np.nan)

    def gain(self, small: FloatArray, large: FloatArray) -> FloatArray:
        """The difference of the two answers' values."""
        return self.score(large) - self.score(small)


def mean_metric(name: str) -> MeanMetric:
    """accuracy, exact_match, token_f1, squad_em, rouge1, rouge2 or rougeLsum."""
    if name in ROUGE_TYPES:
        settings = f"|stemmer:yes|rouge-score:{importlib.metadata.version('rouge-score')}"
        return MeanMetric(name, partial(rouge, name), 100.0, settings)
    values = {"accuracy": equal_text, "exact_match": equal_text, "token_f1": token_f1, "squad_em": squad_em}
    return MeanMetric(name, values[name])


def token_f1(output: str, reference: str) -> float:
    """F1 of the bags of words, as SQuAD's script: lower case, no ASCII punctuation, no English articles.

    Where one side has no words: 1 if neither has, else 0 (SQuAD 2.0).
    """
    given, wanted = _squad_words(output), _squad_words(reference)
    if not given or not wanted:
        return float(given == wanted)
    common = sum((Counter(given) & Counter(wanted)).values())
    return 2.0 * common / (len(given) + len(wanted))


def squad_em(output: str, reference: str) -> float:
    """1 where the texts are equal after SQuAD's normalisation (see `token_f1`), else 0. Two texts without words are
    equal: a question without an answer, answered by nothing (SQuAD 2.0)."""
    return float(_squad_words(output) == _squad_words(reference))


def rouge(kind: str, output: str, reference: str) -> float:
    """ROUGE F in [0, 100] of one answer, from the package rouge-score with its Porter stemmer, as T5 and FLAN report it.

    Its tokeniser keeps a-z and 0-9 only, so texts of other scripts score 0: use chrF there. rougeLsum takes each line as
    a sentence, so answers and references need line breaks where their sentences end.
    """
    return 100.0 * float(_rouge_scorer(kind).score(reference, output)[kind].fmeasure)


_WITHOUT_PUNCTUATION = str.maketrans("", "", string.punctuation)


def _squad_words(text: str) -> list[str]:
    return re.sub(r"\b(a|an|the)\b", " ", text.lower().translate(_WITHOUT_PUNCTUATION)).split()


@lru_cache(maxsize=len(ROUGE_TYPES))
def _rouge_scorer(kind: str) -> Any:
    from rouge_score.rouge_scorer import RougeScorer  # brings nltk, seconds that only its users should wait

    return RougeScorer([kind], use_stemmer=True)
