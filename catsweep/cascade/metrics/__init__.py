"""Quality of answers: every metric gives statistics of each answer, and from them the quality of any mix of answers.

base.py            what a metric is; Additive: a function of sums over rows
means.py           accuracy, exact_match, token_f1, squad_em, rouge1, rouge2, rougeLsum
translation.py     bleu, chrf
cells.py           metrics that sum a function of counts over classes or questions
classification.py  f1, multirc_f1a, macro_f1, matthews
questions.py       multirc_em
correlation.py     pearson, spearman
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import assert_never, get_args

from catsweep.cascade.metrics.base import Additive, Metric, Path, area
from catsweep.cascade.metrics.classification import BinaryF1, MacroF1, Matthews
from catsweep.cascade.metrics.correlation import Pearson, Spearman
from catsweep.cascade.metrics.means import MeanMetric, mean_metric
from catsweep.cascade.metrics.questions import QuestionMatch
from catsweep.cascade.metrics.translation import DEFAULT_TOKENIZE, TOKENIZERS, BleuMetric, ChrfMetric
from catsweep.errors import TableError
from catsweep.spec.task import MetricName, MetricSpec

__all__ = ["METRIC_NAMES", "Additive", "MeanMetric", "Metric", "Path", "area", "get_metric", "metric_of"]

METRIC_NAMES: tuple[MetricName, ...] = get_args(MetricName)


def metric_of(spec: MetricSpec) -> Metric:
    """The metric that a task file asks for."""
    return get_metric(spec.metric, tokenize=spec.tokenize, positive=spec.positive)


def get_metric(name: str, *, tokenize: str | None = None, positive: str | None = None) -> Metric:
    """The metric of a name (METRIC_NAMES).

    tokenize: sacrebleu's tokenizer of BLEU, 13a where None. positive: the positive class of f1 and multirc_f1a. Raises
    TableError for an unknown name or tokenizer, and where a metric lacks a setting or has no such setting.
    """
    if name not in METRIC_NAMES:
        raise TableError(
            f"metric: found {name!r}; expected one of {', '.join(METRIC_NAMES)}{_hint(name, METRIC_NAMES)}"
        )
    known = name
    if tokenize is not None and known != "bleu":
        raise TableError(f"tokenize: found {tokenize!r} with metric {name}; only bleu has a tokenizer. Leave it out")
    if positive is not None and known not in ("f1", "multirc_f1a"):
        raise TableError(
            f"positive: found {positive!r} with metric {name}; only f1 and multirc_f1a have a positive class. Leave it out"
        )
    match known:
        case "accuracy" | "exact_match" | "token_f1" | "squad_em" | "rouge1" | "rouge2" | "rougeLsum":
            return mean_metric(known)
        case "bleu":
            if tokenize is not None and tokenize not in TOKENIZERS:
                expected = f"one of sacrebleu's: {', '.join(TOKENIZERS)}"
                raise TableError(f"tokenize: found {tokenize!r}; expected {expected}{_hint(tokenize, TOKENIZERS)}")
            return BleuMetric(tokenize or DEFAULT_TOKENIZE)
        case "chrf":
            return ChrfMetric()
        case "f1" | "multirc_f1a":
            if positive is None:
                raise TableError(f"metric {name}: found no positive class; name the answer that it is: `positive`")
            return BinaryF1(known, positive)
        case "macro_f1":
            return MacroF1()
        case "matthews":
            return Matthews()
        case "pearson":
            return Pearson()
        case "spearman":
            return Spearman()
        case "multirc_em":
            return QuestionMatch()
        case _:
            assert_never(known)


def _hint(word: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(word.lower(), known, n=1)
    return f". Did you mean {close[0]!r}?" if close else ""
