import math

import numpy as np
import pytest

from catsweep.cascade.compare import (
    Bootstrap,
    Interval,
    System,
    bootstrap_curves,
    holm,
    macro_difference,
    percentile_interval,
    task_difference,
)
from catsweep.cascade.curve import audc, cascade_curve
from catsweep.cascade.order import hash_ids
from catsweep.cascade.resample import group_counts

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
def test_draws_equal_the_curves_of_really_resampled_tables(metric: str, num_levels: int) -> None:
    rows = random_rows(40, metric=metric, num_levels=num_levels)
    groups = [f"g{row % 13}" for row in range(rows.n)]
    drawn = bootstrap_curves({"a": system(rows)}, groups=groups, metric=rows.metric, num_resamples=25, seed=4)["a"]
    codes = np.unique(groups, return_inverse=True)[1]
    counts = np.concatenate(list(group_counts(13, 25, seed=4, chunk=25)))
    assert (counts.sum(axis=1) == 13).all()
    assert drawn.audc == pytest.approx(audc(rows.curve()), abs=1e-12 * rows.metric.scale)
    for resample, count in enumerate(counts):
        copies = count[codes]
        assert drawn.audc_draws[resample] == pytest.approx(
            really_resampled_audc(rows, copies), abs=1e-12 * rows.metric.scale
        )
        for draws, statistics in ((drawn.quality_small_draws, rows.small), (drawn.quality_large_draws, rows.large)):
            quality = float(rows.metric.score((copies[:, None] * statistics).sum(axis=0)))
            assert draws[resample] == pytest.approx(quality, abs=1e-12 * rows.metric.scale)


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
    assert result.upper - result.value == pytest.approx(4.30265 * math.sqrt(example + seed), rel=1e-5)
    t = 0.3 / math.sqrt(example + seed)
    assert result.p_value == pytest.approx(1 - t / math.sqrt(2 + t * t))


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
    assert result.lower == pytest.approx(0.2, abs=0.06)  # both draws are kind a, in 1 of 4
    assert result.upper == 0.9  # both draws are kind b, in 1 of 4
    assert result.p_value == pytest.approx(2 / 4_001)


def test_a_macro_bootstrap_equals_a_loop() -> None:
    kinds, values = ["a"] * 4 + ["b"] * 2 + ["c"] * 3, np.random.default_rng(1).normal(0.05, 0.1, 9)
    random = np.random.default_rng(2)
    by_kind = {kind: values[np.array(kinds) == kind] for kind in "abc"}
    draws = [
        np.mean([random.choice(by_kind[kind], len(by_kind[kind])).mean() for kind in random.choice(list("abc"), 3)])
        for _ in range(4_000)
    ]
    result = macro_difference(kinds, values)
    assert result.lower == pytest.approx(np.quantile(draws, 0.025), abs=0.006)
    assert result.upper == pytest.approx(np.quantile(draws, 0.975), abs=0.006)
    assert result.p_value == pytest.approx(2 * np.mean(np.array(draws) <= 0), abs=0.05)


def test_holm_steps_down_and_never_falls() -> None:
    np.testing.assert_allclose(holm([0.01, 0.04, 0.03, 0.005]), [0.03, 0.06, 0.06, 0.02])
    np.testing.assert_allclose(holm([0.9, 0.5]), [1.0, 1.0])
    assert holm([]).shape == (0,)
