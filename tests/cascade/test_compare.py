import math

import numpy as np
import pytest

from catsweep.cascade import resample
from catsweep.cascade.compare import (
    Bootstrap,
    Interval,
    System,
    bootstrap_curves,
    half_width,
    holm,
    macro_difference,
    mean_interval,
    mean_ranks,
    percentile_interval,
    task_difference,
)
from catsweep.cascade.curve import audc, cascade_curve
from catsweep.cascade.order import hash_ids
from catsweep.cascade.resample import group_counts
from catsweep.cascade.student import two_sided_quantile

from .example import Rows, random_rows


def system(rows: Rows) -> System:
    return System(rows.ids, rows.small, rows.large, rows.uncertainty)


def difference(first: Bootstrap, second: Bootstrap) -> Interval:
    return percentile_interval(first.audc - second.audc, first.audc_draws - second.audc_draws)


def really_resampled_audc(rows: Rows, copies: np.ndarray) -> float:
    """The curve of a table in which row i really stands copies[i] times; copies share the id and so its hash."""
    index = np.repeat(np.arange(rows.n), copies)
    curve = cascade_curve(
        ids=hash_ids(rows.ids)[index],
        small_statistics=rows.small[index],
        large_statistics=rows.large[index],
        uncertainty=rows.uncertainty[index],
        small_cost=rows.small_cost[index],
        large_cost=rows.large_cost[index],
        metric=rows.metric,
    )
    return audc(curve)


@pytest.mark.parametrize("num_levels", [0, 5])
@pytest.mark.parametrize("metric", ["accuracy", "bleu", "chrf"])
def test_draws_equal_the_curves_of_really_resampled_tables(
    metric: str, num_levels: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resample, "POINTS_AT_ONCE", 300)  # several blocks, the last one shorter
    rows = random_rows(40, metric=metric, num_levels=num_levels)
    groups = [f"g{row % 13}" for row in range(rows.n)]
    drawn = bootstrap_curves({"a": system(rows)}, groups=groups, metric=rows.metric, num_resamples=25, seed=4)["a"]
    codes = np.unique(groups, return_inverse=True)[1]
    counts = np.concatenate(list(group_counts(13, 25, seed=4, chunk=25)))
    assert (counts.sum(axis=1) == 13).all()
    assert drawn.audc == pytest.approx(audc(rows.curve()), abs=1e-12 * rows.metric.scale)
    for number, count in enumerate(counts):
        copies = count[codes]
        assert drawn.audc_draws[number] == pytest.approx(
            really_resampled_audc(rows, copies), abs=1e-12 * rows.metric.scale
        )
        for draws, statistics in ((drawn.quality_small_draws, rows.small), (drawn.quality_large_draws, rows.large)):
            quality = float(rows.metric.score((copies[:, None] * statistics).sum(axis=0)))
            assert draws[number] == pytest.approx(quality, abs=1e-12 * rows.metric.scale)


def test_the_interval_of_a_mean_is_close_to_the_textbook_one() -> None:
    rows = random_rows(2_000)
    drawn = bootstrap_curves({"a": system(rows)}, groups=rows.ids, metric=rows.metric, num_resamples=4_000)["a"]
    p = rows.small[:, 0].mean()
    error = math.sqrt(p * (1 - p) / rows.n)
    interval = drawn.quality_small_interval
    assert interval.value == pytest.approx(p)
    assert interval.standard_error == pytest.approx(error, rel=0.06)
    # A 2.5% quantile of 4,000 draws has a standard error of 0.042 errors; the qualities lie on a grid of 0.045 errors.
    assert interval.lower == pytest.approx(p - 1.96 * error, abs=0.21 * error)
    assert interval.upper == pytest.approx(p + 1.96 * error, abs=0.21 * error)


def test_groups_are_resampled_whole_so_that_copies_of_rows_add_no_certainty() -> None:
    once = random_rows(300)
    thrice = random_rows(300)
    for name in ("small", "large", "uncertainty"):
        setattr(thrice, name, np.tile(getattr(once, name).T, 3).T)
    thrice.ids = [f"{row}/{copy}" for copy in range(3) for row in once.ids]
    options = {"metric": once.metric, "num_resamples": 500}
    single = bootstrap_curves({"a": system(once)}, groups=once.ids, **options)["a"]
    grouped = bootstrap_curves({"a": system(thrice)}, groups=once.ids * 3, **options)["a"]
    np.testing.assert_allclose(grouped.quality_small_draws, single.quality_small_draws, rtol=1e-12)
    assert grouped.audc_interval.standard_error == pytest.approx(single.audc_interval.standard_error, rel=0.05)


def test_systems_share_their_draws_in_one_call_and_in_several_whatever_the_chunks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    first, second = random_rows(50), random_rows(50)
    second.uncertainty = second.uncertainty + 0.3 * second.small[:, 0]
    options = {"groups": first.ids, "metric": first.metric, "num_resamples": 64}
    together = bootstrap_curves({"a": system(first), "b": system(second)}, **options)
    monkeypatch.setattr("catsweep.cascade.compare._CELLS_IN_MEMORY", 150)
    alone = bootstrap_curves({"b": system(second)}, **options)["b"]
    np.testing.assert_allclose(alone.audc_draws, together["b"].audc_draws, rtol=1e-13)
    interval = difference(together["a"], together["b"])
    assert interval.value == pytest.approx(audc(first.curve()) - audc(second.curve()))
    spread = together["a"].audc_interval.standard_error + together["b"].audc_interval.standard_error
    assert interval.standard_error < spread / 2


def test_a_system_paired_with_itself_differs_by_exactly_nothing() -> None:
    rows = random_rows(30)
    both = bootstrap_curves(
        {"a": system(rows), "b": system(rows)}, groups=rows.ids, metric=rows.metric, num_resamples=9
    )
    interval = difference(both["a"], both["b"])
    assert (interval.value, interval.lower, interval.upper) == (0.0, 0.0, 0.0)


def test_group_keys_must_fit_the_rows() -> None:
    rows = random_rows(5)
    with pytest.raises(ValueError, match="5 rows; expected 4"):
        bootstrap_curves({"a": system(rows)}, groups=rows.ids[:4], metric=rows.metric)


def test_a_percentile_interval_holds_the_middle_95_percent() -> None:
    interval = percentile_interval(50.0, np.arange(101.0))
    assert (interval.lower, interval.upper) == pytest.approx((2.5, 97.5))


def test_a_task_adds_the_variance_of_examples_and_of_seeds() -> None:
    draws = np.array([[0.1, 0.3, 0.2], [0.2, 0.2, 0.5], [0.3, 0.1, 0.2]])
    result = task_difference([0.1, 0.2, 0.6], draws)
    example = np.var([0.2, 0.2, 0.3], ddof=1)
    seed = np.var([0.1, 0.2, 0.6], ddof=1) / 3
    assert result.value == pytest.approx(0.3)
    assert result.example_variance == pytest.approx(example)
    assert result.seed_variance == pytest.approx(seed)
    half = math.sqrt(1.959964**2 * example + 4.302653**2 * seed)
    assert result.upper - result.value == pytest.approx(half, rel=1e-5)
    assert result.value - result.lower == pytest.approx(half, rel=1e-5)


def test_p_is_the_level_at_which_the_interval_ends_at_zero() -> None:
    example = np.array([[0.1, 0.3]])  # variance 0.02
    for seeds in ([0.3, 0.5], [0.35, 0.4, 0.6], [0.2, 0.21, 0.19, 0.2]):
        result = task_difference(seeds, np.repeat(example, len(seeds), axis=0))
        p, degrees = result.p_value, len(seeds) - 1
        t, z = two_sided_quantile(1 - p, degrees), two_sided_quantile(1 - p, math.inf)
        assert result.seed_variance is not None
        assert z**2 * 0.02 + t**2 * result.seed_variance == pytest.approx(np.mean(seeds) ** 2, rel=1e-6)
    only_seeds = task_difference([0.1, 0.2, 0.6], np.zeros((3, 5)))
    t = 0.3 / math.sqrt(np.var([0.1, 0.2, 0.6], ddof=1) / 3)
    assert only_seeds.p_value == pytest.approx(1 - t / math.sqrt(2 + t * t))  # Student's t with 2 degrees, closed form


@pytest.mark.parametrize("num_seeds", [2, 3, 5])
@pytest.mark.parametrize("seed_share", [0.0, 0.3, 0.7, 1.0])
def test_the_interval_of_a_task_holds_the_truth_in_95_of_100_cases_or_a_little_more(
    num_seeds: int, seed_share: float
) -> None:
    """Simulated: an example effect that all seeds share, and an effect of each seed. Were Student's t taken on the whole,
    two seeds would hold the truth always; with Satterthwaite's degrees, in 87%."""
    random = np.random.default_rng([num_seeds, round(10 * seed_share)])
    example = math.sqrt(1 - seed_share) * random.normal(size=(5_000, 1))
    values = example + math.sqrt(seed_share * num_seeds) * random.normal(size=(5_000, num_seeds))
    seed_variances = values.var(axis=1, ddof=1) / num_seeds
    halves = [half_width(1 - seed_share, variance, num_seeds) for variance in seed_variances.tolist()]
    held = np.mean(np.abs(values.mean(axis=1)) <= halves)
    assert 0.94 <= held <= 0.99  # three standard errors are 0.009


def test_one_seed_gives_an_interval_of_the_examples_alone() -> None:
    draws = np.random.default_rng(0).normal(0.2, 0.1, size=(1, 4_000))
    result = task_difference([0.2], draws)
    assert result.seed_variance is None
    assert result.upper == pytest.approx(0.2 + 1.96 * draws.std(ddof=1), rel=1e-4)
    assert task_difference([0.0], np.zeros((1, 5))).p_value == 1.0
    assert task_difference([0.1, 0.1], np.full((2, 5), 0.1)).p_value == 0.0


def test_kinds_weigh_equally_then_tasks() -> None:
    result = macro_difference(["b", "a", "a", "a"], [0.9, 0.1, 0.2, 0.3], num_resamples=4_000)
    assert result.by_kind == pytest.approx({"a": 0.2, "b": 0.9})
    assert result.value == pytest.approx(0.55)
    factor = math.sqrt(2) * 12.7062 / 1.959964
    assert result.lower == pytest.approx(0.55 - 0.35 * factor, abs=0.06 * factor)  # both draws are kind a, in 1 of 4
    assert result.upper == pytest.approx(0.55 + 0.35 * factor)  # both draws are kind b, in 1 of 4
    assert result.p_value == pytest.approx(0.5, abs=0.03)  # kind a twice puts the stretched draw below 0


def test_a_macro_bootstrap_equals_a_loop() -> None:
    kinds, values = ["a"] * 4 + ["b"] * 2 + ["c"] * 3, np.random.default_rng(1).normal(0.05, 0.1, 9)
    random = np.random.default_rng(2)
    by_kind = {kind: values[np.array(kinds) == kind] for kind in "abc"}
    draws = [
        np.mean([random.choice(by_kind[kind], len(by_kind[kind])).mean() for kind in random.choice(list("abc"), 3)])
        for _ in range(4_000)
    ]
    result = macro_difference(kinds, values)
    draws = result.value + math.sqrt(3 / 2) * 4.302653 / 1.959964 * (np.array(draws) - result.value)
    assert result.lower == pytest.approx(np.quantile(draws, 0.025), abs=0.016)
    assert result.upper == pytest.approx(np.quantile(draws, 0.975), abs=0.016)
    assert result.p_value == pytest.approx(2 * np.mean(np.array(draws) <= 0), abs=0.05)


def test_holm_steps_down_and_never_falls() -> None:
    np.testing.assert_allclose(holm([0.01, 0.04, 0.03, 0.005]), [0.03, 0.06, 0.06, 0.02])
    np.testing.assert_allclose(holm([0.9, 0.5]), [1.0, 1.0])
    assert holm([]).shape == (0,)


@pytest.mark.parametrize(("num_kinds", "between", "within"), [(3, 1.0, 0.1), (6, 1.0, 0.5), (10, 0.5, 1.0)])
def test_the_macro_interval_holds_the_truth_in_95_of_100_cases_or_more(
    num_kinds: int, between: float, within: float
) -> None:
    random = np.random.default_rng(num_kinds)
    kinds = [str(kind) for kind in range(num_kinds) for _ in range(4)]
    held = []
    for case in range(400):
        kind_effects = between * random.normal(size=(num_kinds, 1))
        values = kind_effects + within * random.normal(size=(num_kinds, 4))
        result = macro_difference(kinds, values.ravel(), num_resamples=400, seed=case)
        held.append(result.lower <= 0 <= result.upper)
    assert np.mean(held) >= 0.915  # three standard errors are 0.033


def test_one_task_has_no_macro_interval_and_one_kind_has_that_of_its_tasks() -> None:
    alone = macro_difference(["a"], [0.3])
    assert alone.value == 0.3
    assert math.isnan(alone.lower)
    one_kind = macro_difference(["a"] * 5, [0.1, 0.2, 0.3, 0.2, 0.2])
    assert one_kind.lower == pytest.approx(0.2 - 2.776 * math.sqrt(0.005 / 5), abs=0.03)


def test_a_mean_has_students_interval() -> None:
    interval = mean_interval([0.1, 0.2, 0.6])
    error = math.sqrt(np.var([0.1, 0.2, 0.6], ddof=1) / 3)
    assert (interval.value, interval.standard_error) == pytest.approx((0.3, error))
    assert interval.upper == pytest.approx(0.3 + 4.302653 * error)
    assert math.isnan(mean_interval([0.1]).lower)


def test_mean_ranks_share_places_and_weigh_kinds_equally() -> None:
    qualities = [[0.5, 0.7, 0.6], [0.5, 0.5, 0.1], [0.9, 0.1, 0.9]]  # ranks 3 1 2; 1.5 1.5 3; 1.5 3 1.5
    ranks = mean_ranks(["a", "a", "b"], qualities)
    np.testing.assert_allclose(ranks, [(2.25 + 1.5) / 2, (1.25 + 3) / 2, (2.5 + 1.5) / 2])


def test_holm_equals_the_definition_by_every_subset_of_smaller_values() -> None:
    """Adjusted p of the i-th smallest: the largest of (m - j + 1) p_(j) over j <= i, as statsmodels' multipletests."""
    p_values = np.random.default_rng(3).random(9) ** 3
    rising = sorted(p_values.tolist())
    expected = [
        min(1.0, max((len(rising) - j) * rising[j] for j in range(rising.index(p) + 1))) for p in p_values.tolist()
    ]
    np.testing.assert_allclose(holm(p_values), expected)
