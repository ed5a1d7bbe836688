"""What each metric means, written from its definition or by another library, and texts on which they differ."""

from __future__ import annotations

import math
import re
import string
import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray
from rouge_score.rouge_scorer import RougeScorer
from sacrebleu.metrics import BLEU, CHRF
from scipy.stats import pearsonr, spearmanr
from sklearn.metrics import f1_score, matthews_corrcoef

from catsweep.cascade.metrics import METRIC_NAMES, Metric, get_metric

POSITIVE = "yes"
ROUGE = RougeScorer(["rouge1", "rouge2", "rougeLsum"], use_stemmer=True)


@dataclass(frozen=True)
class Row:
    """An answer with its accepted answers and its question. number: what a correlation takes the answer for."""

    output: str
    references: tuple[str, ...]
    question: str
    number: float = math.nan


def judge(name: str) -> Metric:
    return get_metric(name, positive=POSITIVE if name in ("f1", "multirc_f1a") else None)


def statistics(metric: Metric, rows: Sequence[Row]) -> NDArray[np.float64]:
    return np.array([metric.statistics(row.output, row.references, row.question) for row in rows])


def quality(name: str, rows: Sequence[Row]) -> float:
    """The quality of these answers; NaN of no rows, and of correlations that are not defined."""
    if not rows:
        return math.nan
    outputs, wanted = [row.output.strip() for row in rows], [row.references[0] for row in rows]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        match name:
            case "accuracy" | "exact_match":
                return float(np.mean([row.output.strip() in [text.strip() for text in row.references] for row in rows]))
            case "token_f1" | "squad_em":
                value = squad_f1 if name == "token_f1" else lambda one, other: float(squad(one) == squad(other))
                return float(np.mean([max(value(row.output, text) for text in row.references) for row in rows]))
            case "rouge1" | "rouge2" | "rougeLsum":
                best = [rouge(name, row.output, row.references) for row in rows]
                return 100 * float(np.mean(best))
            case "bleu" | "chrf":
                scorer = BLEU(force=True) if name == "bleu" else CHRF()
                streams = [list(stream) for stream in zip(*(row.references for row in rows), strict=True)]
                return float(scorer.corpus_score([row.output for row in rows], streams).score)
            case "macro_f1":
                return float(f1_score(wanted, outputs, average="macro"))
            case "f1" | "multirc_f1a":
                return float(f1_score([text == POSITIVE for text in wanted], [text == POSITIVE for text in outputs]))
            case "matthews":
                return float(matthews_corrcoef(wanted, outputs))
            case "pearson" | "spearman":
                numbers, truth = [row.number for row in rows], [float(text) for text in wanted]
                if len(set(numbers)) < 2 or len(set(truth)) < 2:
                    return math.nan
                return float((pearsonr if name == "pearson" else spearmanr)(numbers, truth).statistic)
            case "multirc_em":
                return multirc_em(rows)
    raise AssertionError(name)


@cache
def rouge(name: str, output: str, references: tuple[str, ...]) -> float:
    return float(ROUGE.score_multi(references, output)[name].fmeasure)


def multirc_em(rows: Sequence[Row]) -> float:
    """Of all questions of these rows, the share of those without a wrong row."""
    questions = {row.question for row in rows}
    good = [all(r.output.strip() in r.references for r in rows if r.question == question) for question in questions]
    return sum(good) / len(questions)


def squad(text: str) -> str:
    """SQuAD's normalisation, step by step: lower case, no punctuation, no articles, single spaces."""
    text = "".join(character for character in text.lower() if character not in set(string.punctuation))
    text = re.sub(r"\b(a|an|the)\b", " ", text)
    return " ".join(text.split())


def squad_f1(output: str, reference: str) -> float:
    given, wanted = squad(output).split(), squad(reference).split()
    if not given or not wanted:
        return float(given == wanted)
    common = sum((Counter(given) & Counter(wanted)).values())
    if common == 0:
        return 0.0
    precision, recall = common / len(given), common / len(wanted)
    return 2 * precision * recall / (precision + recall)


def make_rows(name: str, n: int, seed: int) -> tuple[list[Row], list[Row]]:
    """Answers of a small and a large model to the same n questions, with empty ones and ones of no class or no number."""
    random = np.random.default_rng(seed)
    references: list[tuple[str, ...]]
    if name in ("pearson", "spearman"):
        references = [(f"{random.integers(0, 11) / 2:.1f}",) for _ in range(n)]
        spoil = [f"{value:.1f}" for value in np.arange(0, 5.5, 0.5)] + ["", "about three", "nan", "1e300"]
    elif name in ("token_f1", "squad_em", "rouge1", "rouge2", "rougeLsum", "bleu", "chrf", "exact_match"):
        words = ["The", "quick", "foxes", "are", "running.", "an", "apple", "\n", "over", "lazy!"]
        texts = [" ".join(random.choice(words, size=random.integers(1, 8))) for _ in range(2 * n)]
        references = [(texts[row] + " end", texts[n + row] + " fin") for row in range(n)]
        spoil = ["", *texts[:7]]
    else:
        references = [(str(random.choice(["yes", "no", "maybe", "rare"], p=[0.5, 0.3, 0.15, 0.05])),) for _ in range(n)]
        spoil = ["yes", "no", "maybe", "never", "", *(f"garbage {number}" for number in range(n // 6))]
    questions = [f"q{number}" for number in random.integers(0, max(1, n // 3), size=n)]
    mean = np.mean([float(row[0]) for row in references]) if name in ("pearson", "spearman") else math.nan
    models = []
    for rate in (0.5, 0.25):
        outputs = [str(random.choice(spoil)) if random.random() < rate else f" {texts[0]}" for texts in references]
        outputs = [text.strip() if name == "multirc_em" else text for text in outputs]
        models.append([
            Row(output, texts, question, _number(output, mean))
            for output, texts, question in zip(outputs, references, questions, strict=True)
        ])  # fmt: skip
    return models[0], models[1]


def _number(text: str, otherwise: float) -> float:
    return float(text) if re.fullmatch(r" ?\d+\.\d", text) else otherwise


__all__ = ["METRIC_NAMES", "Row", "judge", "make_rows", "quality", "statistics"]
