"""Which training targets label noise replaces, by what, and which tokens of them: against values worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from catsweep.noise import START, Counts, Units, changed_tokens, draws, noisy_label, noisy_tokens, previous_tokens
from catsweep.spec.noise import LabelNoise

END = 9
# Two targets, `a a b c` and `b c`, each with its end.
IDS = np.array([1, 1, 2, 3, END, 2, 3, END], dtype=np.int32)
OFFSETS = np.array([0, 5, 8])


def many_targets(num: int) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Targets of four tokens out of five, and the end."""
    ids = np.random.default_rng(0).integers(1, 6, (num, 5)).astype(np.int32)
    ids[:, 4] = END
    return ids.reshape(-1), np.arange(0, 5 * num + 1, 5), [f"train:{index}" for index in range(num)]


def test_units_are_counted_in_all_and_behind_each_token_without_ends() -> None:
    units = Units.of([(IDS, OFFSETS)], END)
    assert units.all.ids.tolist() == [1, 2, 3]
    assert units.all.ends.tolist() == [2, 4, 6]  # two of each
    found = {before: (counts.ids.tolist(), counts.ends.tolist()) for before, counts in units.behind.items()}
    assert found == {START: ([1, 2], [1, 2]), 1: ([1, 2], [1, 2]), 2: ([3], [2])}
    halves = [(IDS[:5], OFFSETS[:2]), (IDS[5:], OFFSETS[1:] - 5)]
    assert Units.of(halves, END).all.ends.tolist() == [2, 4, 6]
    assert previous_tokens(IDS, OFFSETS).tolist() == [START, 1, 1, 2, 3, START, 2, 3]


@pytest.mark.parametrize(
    ("right", "picked"),  # at the shares 0, 1/4, 1/2, 3/4 of the occurrences of the others than `right`
    [(4, [5, 5, 5, 8]), (5, [4, 4, 4, 8]), (8, [4, 4, 5, 5]), (6, [4, 4, 5, 5])],
)
def test_another_token_is_as_likely_as_it_is_frequent(right: int, picked: list[int]) -> None:
    # Right 4: 5 5 5 8. Right 5: 4 4 8. Right 8: 4 4 5 5 5. A token that stands nowhere: 4 4 5 5 5 8.
    counts = Counts.of(np.array([4, 5, 8]), np.array([2, 3, 1]))
    assert [counts.pick(right, share) for share in (0.0, 0.25, 0.5, 0.75)] == picked


def test_without_another_token_there_is_none_to_pick() -> None:
    assert Counts.of(np.array([4]), np.array([3])).pick(4, 0.5) is None
    assert Counts.of(np.array([], dtype=np.int64), np.array([], dtype=np.int64)).pick(4, 0.5) is None


@pytest.mark.parametrize("kind", ["uniform", "confusable"])
def test_the_rate_is_the_share_of_tokens_and_the_end_stays(kind: str) -> None:
    ids, offsets, names = many_targets(4_000)
    noise = LabelNoise(rate=0.15, kind=kind)
    noisy, injected = noisy_tokens(ids, offsets, names, noise, Units.of([(ids, offsets)], END))
    assert (injected == (noisy != ids)).all()
    assert not injected[ids == END].any()
    assert not (noisy[injected] == END).any()
    assert injected[ids != END].mean() == pytest.approx(0.15, abs=0.01)  # 16,000 draws: three standard errors are .0085


def test_uniform_tokens_come_as_often_as_they_stand_in_the_targets() -> None:
    ids, offsets, names = many_targets(6_000)
    ids[ids == 1] = 2  # so 2 stands twice as often as 3, 4 and 5
    noise = LabelNoise(rate=0.5)
    noisy, injected = noisy_tokens(ids, offsets, names, noise, Units.of([(ids, offsets)], END))
    shares = np.bincount(noisy[injected & (ids == 5)], minlength=6) / (injected & (ids == 5)).sum()
    assert shares == pytest.approx([0, 0, 0.5, 0.25, 0.25, 0], abs=0.04)


def test_confusable_tokens_stand_behind_the_same_token_elsewhere() -> None:
    units = Units.of([(IDS, OFFSETS)], END)
    noise = LabelNoise(rate=0.99, kind="confusable")
    noisy, injected = noisy_tokens(IDS, OFFSETS, ["x", "y"], noise, units)
    assert injected[[0, 1, 2, 5]].all()
    # Behind the start and behind `a` stand `a` and `b`. Behind `b` stands `c` alone: there any other token will do.
    assert noisy[[0, 1, 2, 5]].tolist() == [2, 2, 1, 1]
    assert set(noisy[[3, 6]].tolist()) <= {1, 2}


def test_what_is_replaced_follows_from_seed_and_id_alone() -> None:
    ids, offsets, names = many_targets(50)
    units = Units.of([(ids, offsets)], END)

    def injected(rate: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
        return noisy_tokens(ids, offsets, names, LabelNoise(rate=rate, seed=seed), units)

    noisy, mask = injected(0.3)
    again, same = injected(0.3)
    assert (noisy == again).all()
    assert (mask == same).all()
    assert (injected(0.3, seed=1)[1] != mask).any()
    less, fewer = injected(0.1)
    assert not (fewer & ~mask).any()  # a subset, replaced by the same
    assert (less[fewer] == noisy[fewer]).all()
    alone, part = noisy_tokens(ids[100:105], np.array([0, 5]), names[20:21], LabelNoise(rate=0.3), units)
    assert (alone == noisy[100:105]).all()
    assert (part == mask[100:105]).all()
    assert not injected(0.0)[1].any()


def test_a_label_becomes_any_other_choice_alike() -> None:
    noise = LabelNoise(rate=0.3)
    labels = [noisy_label(["da", "nb", "nn", "sv"], 1, noise, f"train:{index}") for index in range(4_000)]
    shares = np.bincount(labels, minlength=4) / 4_000
    assert shares == pytest.approx([0.1, 0.7, 0.1, 0.1], abs=0.025)


def test_a_confusable_label_is_the_choice_that_reads_most_alike() -> None:
    noise = LabelNoise(rate=0.5, kind="confusable")
    names = [f"train:{index}" for index in range(400)]
    assert {noisy_label(["da", "nb", "nn", "sv"], 1, noise, name) for name in names} == {1, 2}
    # `da` shares no letter with any other: all are as near.
    assert {noisy_label(["da", "nb", "nn", "sv"], 0, noise, name) for name in names} == {0, 1, 2, 3}


def test_a_choice_that_reads_the_same_is_no_other_one() -> None:
    for seed in range(20):
        assert noisy_label(["yes", "yes"], 0, LabelNoise(rate=0.99, seed=seed), "train:0") == 0
        assert noisy_label(["yes", "yes", "no"], 1, LabelNoise(rate=0.99, seed=seed), "train:0") in (1, 2)


@pytest.mark.parametrize(
    ("right", "wrong", "changed"),
    [
        ([1, 2, 3], [1, 4, 3], [False, True, True]),  # what follows stands behind a wrong beginning
        ([1, 2], [1, 2, 3], [False, False, True]),
        ([1, 2, 3], [1, 2], [False, False]),
        ([1, 2], [1, 2], [False, False]),
        ([1], [2], [True]),
    ],
)
def test_tokens_of_a_wrong_choice_are_injected_from_the_first_difference_on(
    right: list[int], wrong: list[int], changed: list[bool]
) -> None:
    assert changed_tokens(np.array(right, np.int32), np.array(wrong, np.int32)).tolist() == changed


def test_each_target_has_two_draws_of_its_own() -> None:
    found = draws(0, "train:1", 3)
    assert found.shape == (3, 2)
    assert len(np.unique(found)) == 6
    assert (draws(0, "train:1", 2) == found[:2]).all()
    assert ((found >= 0) & (found < 1)).all()
