"""The learned rule: what it may look at, what it learns, and where it learns nothing."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from numpy.typing import NDArray

from catsweep.cascade.confidence import auroc
from catsweep.cascade.learned import Example, LearnedGains, features, folds, learned_gains
from catsweep.cascade.metrics import Metric, get_metric
from catsweep.cascade.ragged import Ragged
from catsweep.cascade.rules import MOST_UNCERTAIN
from catsweep.cascade.signals import Signals

ACCURACY, CHRF = get_metric("accuracy"), get_metric("chrf")


def make_signals(n: int, *, seed: int = 0, choices: bool = False) -> Signals:
    random = np.random.default_rng(seed)
    lists = [(-random.exponential(0.5, size=random.integers(1, 6))).tolist() for _ in range(n)]
    tokens = Ragged.from_lists(lists)
    others = tokens.map(random.random(len(tokens.values)))
    chosen = Ragged.from_lists([[-1.0, -2.0 * random.random()] if choices else [] for _ in range(n)])
    ids = np.array([f"q{seed}-{row}" for row in range(n)])
    return Signals(ids, tokens, others, others, chosen, chosen.map(np.ones(len(chosen.values))))


def statistics(values: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.stack([values, np.ones(len(values))], axis=1)


def example(n: int, *, seed: int = 0, rows_a_group: int = 2) -> Example:
    """L is always right; S is wrong where its longest surprise is long, but for noise."""
    signals, random = make_signals(n, seed=seed), np.random.default_rng(seed + 1)
    surprise = -signals.token_logprobs.map(-signals.token_logprobs.values).max()
    right = (-surprise + 0.2 * random.normal(size=n) < 0.8) * 1.0
    groups = [f"g{row // rows_a_group}" for row in range(n)]
    return Example(signals, statistics(right), statistics(np.ones(n)), groups)


def test_folds_hold_whole_groups_and_equally_many_of_them() -> None:
    groups = [f"g{row % 23}" for row in range(100)]
    found = folds(groups, num_folds=5)
    by_group = {group: {int(fold) for fold, own in zip(found, groups, strict=True) if own == group} for group in groups}
    assert all(len(members) == 1 for members in by_group.values())
    sizes = np.bincount([members.pop() for members in by_group.values()])
    assert sorted(sizes) == [4, 4, 5, 5, 5]
    assert (folds(groups, num_folds=5, seed=1) != found).any()


def test_fewer_groups_than_folds_have_a_fold_each() -> None:
    assert sorted(folds(["a", "b", "c"], num_folds=5).tolist()) == [0, 1, 2]
    assert folds(["a", "a"], num_folds=5).tolist() == [0, 0]


@pytest.mark.parametrize("metric", [ACCURACY, CHRF])
def test_the_score_of_a_calibration_row_does_not_depend_on_the_answers_of_its_group(metric: Metric) -> None:
    rows = example(60)
    if metric is CHRF:
        texts = ["one answer", "another one", "no", "right answer"]
        made = [np.array(metric.statistics(texts[row % 4], ["right answer"])) for row in range(60)]
        large = np.array([metric.statistics("right answers", ["right answer"])] * 60)
        rows = dataclasses.replace(rows, small_statistics=np.array(made), large_statistics=large)
    before = learned_gains(rows, make_signals(5, seed=9), metric)
    changed = rows.small_statistics.copy()
    changed[[6, 7]] = rows.large_statistics[[6, 7]] - rows.small_statistics[[6, 7]]
    changed[[6, 7], -1] = rows.small_statistics[[6, 7], -1]
    assert (changed != rows.small_statistics).any()
    after = learned_gains(dataclasses.replace(rows, small_statistics=changed), make_signals(5, seed=9), metric)
    np.testing.assert_array_equal(after.out_of_fold[[6, 7]], before.out_of_fold[[6, 7]])
    assert (after.out_of_fold != before.out_of_fold).any()
    assert (after.applied != before.applied).all()


def test_scores_are_those_of_ridge_regression_on_the_other_folds_less_their_mean_gain() -> None:
    from sklearn.linear_model import RidgeCV

    from catsweep.cascade.learned import STRENGTHS

    rows, others = example(80), make_signals(7, seed=5)
    found = learned_gains(rows, others, ACCURACY)
    gain = rows.large_statistics[:, 0] - rows.small_statistics[:, 0]

    def by_hand(train: NDArray[np.bool_], wanted: NDArray[np.float64]) -> NDArray[np.float64]:
        known = features(rows.signals)[train]
        middle, spread = known.mean(axis=0), known.std(axis=0)
        model = RidgeCV(alphas=STRENGTHS).fit((known - middle) / spread, gain[train])
        return (wanted - middle) / spread @ model.coef_

    np.testing.assert_allclose(found.applied, by_hand(np.ones(80, bool), features(others)), atol=1e-10)
    fold = folds(rows.groups, num_folds=5)
    for number in range(5):
        wanted = by_hand(fold != number, features(rows.signals)[fold == number])
        np.testing.assert_allclose(found.out_of_fold[fold == number], wanted, atol=1e-10)


def test_what_is_learned_tells_where_the_small_model_is_wrong_on_both_splits() -> None:
    rows, test = example(400), example(400, seed=3)
    found = learned_gains(rows, test.signals, ACCURACY)
    assert auroc(found.out_of_fold, rows.small_statistics[:, 0]) > 0.85  # type: ignore[operator]
    assert auroc(found.applied, test.small_statistics[:, 0]) > 0.85  # type: ignore[operator]


def test_the_same_rows_give_the_same_scores_and_another_seed_other_folds() -> None:
    rows, others = example(60), make_signals(5, seed=9)
    one, two = (learned_gains(rows, others, ACCURACY) for _ in range(2))
    np.testing.assert_array_equal(one.out_of_fold, two.out_of_fold)
    np.testing.assert_array_equal(one.applied, two.applied)
    other = learned_gains(rows, others, ACCURACY, seed=1)
    assert (other.out_of_fold != one.out_of_fold).any()
    np.testing.assert_array_equal(other.applied, one.applied)


def all_zero(found: LearnedGains) -> bool:
    return not found.out_of_fold.any() and not found.applied.any()


@pytest.mark.parametrize("gain", [0.0, 0.3, 1.0])
def test_from_a_gain_that_is_the_same_everywhere_nothing_is_learned(gain: float) -> None:
    rows = example(40)
    large = statistics(rows.small_statistics[:, 0] + gain)
    assert all_zero(learned_gains(dataclasses.replace(rows, large_statistics=large), make_signals(5), ACCURACY))


@pytest.mark.parametrize(("n", "rows_a_group"), [(1, 1), (3, 1), (9, 1), (40, 40)])
def test_from_too_few_rows_or_one_group_no_order_of_calibration_is_learned(n: int, rows_a_group: int) -> None:
    found = learned_gains(example(n, rows_a_group=rows_a_group), make_signals(5, seed=9), ACCURACY)
    assert not found.out_of_fold.any()
    assert found.applied.any() == (n == 40)


def test_an_answer_without_tokens_is_deferred_first_and_teaches_nothing() -> None:
    rows, others = example(40), make_signals(5, seed=9)
    empty = Ragged.from_lists([[], *([[-1.0]] * 39)])
    signals = dataclasses.replace(rows.signals, token_logprobs=empty, token_entropies=empty, token_margins=empty)
    found = learned_gains(dataclasses.replace(rows, signals=signals), others, ACCURACY)
    assert found.out_of_fold[0] == MOST_UNCERTAIN
    assert (found.out_of_fold[1:] < 1).all()
    assert (found.applied < 1).all()
    wrong = rows.small_statistics.copy()
    wrong[0, 0] = 1 - wrong[0, 0]
    other = learned_gains(dataclasses.replace(rows, signals=signals, small_statistics=wrong), others, ACCURACY)
    np.testing.assert_array_equal(other.out_of_fold, found.out_of_fold)
    np.testing.assert_array_equal(other.applied, found.applied)
    to_empty = learned_gains(rows, signals, ACCURACY)
    assert to_empty.applied[0] == MOST_UNCERTAIN


def test_features_are_the_values_worked_out_by_hand() -> None:
    tokens = Ragged.from_lists([[-1.0, -3.0, -math.inf], []])
    entropies, margins = Ragged.from_lists([[0.5, 1.0, 0.0], []]), Ragged.from_lists([[0.9, 0.3, 0.6], []])
    choices = Ragged.from_lists([[math.log(0.6), math.log(0.4)], [-1.0, -1.0]])
    signals = Signals(np.array(["a", "b"]), tokens, entropies, margins, choices, choices)
    entropy = -(0.6 * math.log(0.6) + 0.4 * math.log(0.4))
    wanted = [8, 20, 1, 2, 3, 11.5, 16.6, math.exp(-8), math.exp(-24), 0.5, 1, 0.6, 0.3, math.log(4), 0.4, 0.8, entropy, math.log(3)]  # fmt: skip
    found = features(signals)
    np.testing.assert_allclose(found[0], wanted, rtol=1e-12)
    np.testing.assert_allclose(found[1, :14], [0] * 7 + [1, 1] + [0] * 5)
    without = dataclasses.replace(signals, choice_logprobs=Ragged.from_lists([[], [-1.0]]))
    assert features(without).shape == (2, 14)
