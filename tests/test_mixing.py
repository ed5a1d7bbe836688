"""Which example of which member stands in a batch, and which training examples leak."""

from __future__ import annotations

import numpy as np
import pytest

from catsweep.mixing import MixtureOrder, leaking

SIZES = [7, 100, 400]
RATES = [0.05, 0.3, 0.65]


def member_of(indices: np.ndarray) -> np.ndarray:
    return np.searchsorted(np.cumsum(SIZES), indices, side="right")


def test_each_batch_holds_each_members_share_rounded_down_or_up() -> None:
    order = MixtureOrder(SIZES, RATES, 16, seed=3)
    for step in range(200):
        counts = np.bincount(member_of(order.batch(step)), minlength=3)
        assert counts.sum() == 16
        assert counts.tolist() == order.counts(step).tolist()
        for count, rate in zip(counts, RATES, strict=True):
            assert np.floor(16 * rate) <= count <= np.ceil(16 * rate)


def test_the_expected_share_is_exactly_the_rate() -> None:
    order = MixtureOrder(SIZES, RATES, 16, seed=0)
    counts = np.array([order.counts(step) for step in range(20_000)])
    # A count is floor or ceil of its mean m: its variance is at most 1/4, so 5 standard errors are 2.5 / sqrt(steps).
    assert counts.mean(axis=0) == pytest.approx(16 * np.array(RATES), abs=2.5 / np.sqrt(20_000))


def test_a_member_shows_all_its_examples_before_one_again() -> None:
    order = MixtureOrder(SIZES, RATES, 16, seed=1)
    drawn = np.concatenate([order.batch(step) for step in range(60)])
    small = drawn[drawn < 7]
    for start in range(0, len(small) - 6, 7):
        # A batch is shuffled, but holds at most one of this member: its order is that of the epochs.
        assert sorted(small[start : start + 7].tolist()) == list(range(7))
    assert np.bincount(drawn[drawn >= 107] - 107, minlength=400).max() <= 2


def test_a_batch_depends_on_seed_and_step_alone() -> None:
    order = MixtureOrder(SIZES, RATES, 16, seed=5)
    all_steps = [order.batch(step).tolist() for step in range(40)]
    assert MixtureOrder(SIZES, RATES, 16, seed=5).batch(33).tolist() == all_steps[33]
    assert order.batch(2).tolist() == all_steps[2]
    assert MixtureOrder(SIZES, RATES, 16, seed=6).batch(33).tolist() != all_steps[33]


def test_ranks_that_take_every_other_example_share_every_batch() -> None:
    batch = MixtureOrder(SIZES, RATES, 16, seed=5).batch(3)
    ranks = [MixtureOrder(SIZES, RATES, 16, seed=5).batch(3)[rank::2] for rank in (0, 1)]
    assert sorted(np.concatenate(ranks).tolist()) == sorted(batch.tolist())


def test_sizes_and_rates_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="2 members of sizes"):
        MixtureOrder([3, 0], [0.5, 0.5], 4, seed=0)
    with pytest.raises(ValueError, match="with rates"):
        MixtureOrder([3, 3], [0.5, 0.6], 4, seed=0)


def test_what_stands_in_any_members_evaluation_leaks_its_own_included() -> None:
    def keys(*texts: str) -> frozenset[bytes]:
        return frozenset(text.encode() for text in texts)

    training = {"a": [keys("x"), keys("y", "z"), keys("own a")], "b": [keys("x"), keys("own b")]}
    evaluation = {"a": [keys("own a"), keys("own b")], "b": [keys("z", "q"), keys("own b")]}
    assert leaking(training, evaluation) == {"a": [1, 2], "b": [1]}
    assert leaking(training, {"a": [], "b": []}) == {"a": [], "b": []}
