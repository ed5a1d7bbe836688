"""The learned deferral rule: an estimate of what deferring a query gains, Q_L - Q_S, from what the small model said about
its own answer (arXiv 2307.02764). Fitted on calibration; every score of a calibration row comes from a model that has
seen no row of its group.

The estimator is ridge regression on standardised features, its strength chosen by leave-one-out error among
STRENGTHS: calibration has 50 to 1,000 rows, too few for more. [ours] It is deterministic; the seed decides the folds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from catsweep.cascade.lines import quality_gain
from catsweep.cascade.metrics import Metric
from catsweep.cascade.order import hash_ids
from catsweep.cascade.ragged import FloatArray
from catsweep.cascade.rules import MOST_UNCERTAIN, choice_uncertainty, token_uncertainties
from catsweep.cascade.signals import Signals

NUM_FOLDS = 5
MIN_ROWS = 10
"""With fewer rows to learn from nothing is learned: all scores are 0. [ours]"""
STRENGTHS = (0.1, 1.0, 10.0, 100.0, 1_000.0, 10_000.0)
HIGHEST_UNCERTAINTY = 20.0
"""Cap of a token's uncertainty in the features, nats: one token of probability 0 must not outweigh all rows. [ours]"""
QUANTILES = (0.0, 0.25, 0.5, 0.75, 0.9)


@dataclass(frozen=True, eq=False)
class Example:
    """Rows of which the gain is known: what the small model said, both models' statistics (n, k), each row's group key."""

    signals: Signals
    small_statistics: FloatArray
    large_statistics: FloatArray
    groups: Sequence[str]


@dataclass(frozen=True, eq=False)
class LearnedGains:
    """Estimated gains less the mean gain of the rows that were learned from, in the metric's unit; high defers.

    out_of_fold: (n,) of the calibration rows, each by a model without any row of its group. applied: (m,) of the other
    rows, by the model of all calibration rows.
    """

    out_of_fold: FloatArray
    applied: FloatArray


def learned_gains(
    calibration: Example, others: Signals, metric: Metric, *, num_folds: int = NUM_FOLDS, seed: int = 0
) -> LearnedGains:
    """Fit on calibration and score both.

    The gain of a row is `quality_gain` among the rows that a model learns from: Q_L - Q_S for means; for BLEU, chrF and
    other corpus metrics a proxy, the change of the corpus quality when this row alone is swapped and every other counts
    half from each model. The mean gain is taken off each model's estimates, since it would be lowest in the very fold
    whose own gains are highest. [ours] An answer without tokens is deferred first, as under every rule of tokens, and
    nothing is learned from it. With one group, or fewer than MIN_ROWS rows to learn from, all other scores are 0.
    """
    known, unknown = features(calibration.signals), features(others)
    usable = calibration.signals.token_logprobs.lengths > 0
    fold_of_row = folds(calibration.groups, num_folds=num_folds, seed=seed)
    out_of_fold = np.zeros(len(known))
    for fold in np.unique(fold_of_row):
        held_out = fold_of_row == fold
        if not held_out.all():
            out_of_fold[held_out] = _fitted(calibration, usable & ~held_out, known, metric, known[held_out])
    applied = _fitted(calibration, usable, known, metric, unknown)
    out_of_fold[~usable] = MOST_UNCERTAIN
    applied[others.token_logprobs.lengths == 0] = MOST_UNCERTAIN
    return LearnedGains(out_of_fold, applied)


def folds(groups: Sequence[str], *, num_folds: int, seed: int = 0) -> NDArray[np.int64]:
    """(n,) fold of each row: whole groups, dealt out in the order of a hash of their key, so that folds have as many
    groups each as can be; fewer folds where there are fewer groups."""
    keys, group_of_row = np.unique(np.asarray(groups, dtype=np.str_), return_inverse=True)
    rank = np.empty(len(keys), dtype=np.int64)
    rank[np.lexsort((keys, hash_ids(keys, seed=seed)))] = np.arange(len(keys))
    fold_of_row: NDArray[np.int64] = rank[group_of_row] % num_folds
    return fold_of_row


def features(signals: Signals) -> FloatArray:
    """(n, f) what is learned from: of the token uncertainties mean, largest, QUANTILES, and the probability of the answer
    and of its mean token; entropies and margins of the tokens, mean and extreme; the logarithm of the length; where
    every row has choices, how sure the small model is among them. All 0 for an answer without tokens."""
    tokens = token_uncertainties(signals)
    tokens = tokens.map(np.minimum(tokens.values, HIGHEST_UNCERTAINTY))
    mean = tokens.mean(empty=0.0)
    columns = [
        mean,
        tokens.max(empty=0.0),
        *(tokens.quantile(share, empty=0.0) for share in QUANTILES),
        np.exp(-mean),
        np.exp(-tokens.sum()),
        signals.token_entropies.mean(empty=0.0),
        signals.token_entropies.max(empty=0.0),
        signals.token_margins.mean(empty=0.0),
        signals.token_margins.quantile(0.0, empty=0.0),
        np.log1p(tokens.lengths.astype(np.float64)),
    ]
    num_choices = signals.choice_logprobs.lengths
    if len(num_choices) and num_choices.min() > 0:
        columns += [
            choice_uncertainty("choice_max_probability", signals),
            choice_uncertainty("choice_margin", signals),
            choice_uncertainty("choice_entropy", signals),
            np.log1p(num_choices.astype(np.float64)),
        ]
    return np.stack(columns, axis=1)


def _fitted(
    rows: Example, chosen: NDArray[np.bool_], known: FloatArray, metric: Metric, wanted: FloatArray
) -> FloatArray:
    """(m,) estimated gains of the rows with features `wanted`, learned from the chosen rows alone."""
    if chosen.sum() < MIN_ROWS or len(wanted) == 0:
        return np.zeros(len(wanted))
    gain = quality_gain(rows.small_statistics[chosen], rows.large_statistics[chosen], metric)
    if np.ptp(gain) <= 1e-12 * metric.scale:  # nothing to tell apart; rounding must not order the rows
        return np.zeros(len(wanted))
    values: FloatArray = _ridge().fit(known[chosen], gain).predict(wanted) - gain.mean()
    return values


def _ridge() -> Any:
    from sklearn.linear_model import RidgeCV  # a second that only the users of this rule should wait
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    return make_pipeline(StandardScaler(), RidgeCV(alphas=STRENGTHS))
