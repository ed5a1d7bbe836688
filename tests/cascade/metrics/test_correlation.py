import math

import numpy as np
import pytest
from scipy.stats import pearsonr, rankdata, spearmanr

from catsweep.cascade.metrics import get_metric
from catsweep.cascade.metrics.correlation import centred_ranks, grid, read_number
from catsweep.errors import DataError

PEARSON, SPEARMAN = get_metric("pearson"), get_metric("spearman")
BOTH = pytest.mark.parametrize("metric", [PEARSON, SPEARMAN], ids=["pearson", "spearman"])


def columns(outputs: list[float], references: list[float]) -> np.ndarray:
    return np.stack([np.array(outputs, dtype=float), np.array(references, dtype=float)], axis=1)


@pytest.mark.parametrize(
    ("text", "number"),
    [
        (" 3.8 ", 3.8),
        ("4", 4.0),
        ("-1e2", -100.0),
        ("", None),
        ("3,8", None),
        ("nan", None),
        ("inf", None),
        ("1e13", None),
    ],
)
def test_numbers_are_read_as_they_stand(text: str, number: float | None) -> None:
    assert read_number(text) == number


@BOTH
def test_an_answer_that_is_no_number_counts_as_the_mean_of_the_references_and_is_counted(metric) -> None:  # type: ignore[no-untyped-def]
    outputs, wanted = ["1", "five", "2.5", "", "4"], [0.0, 5.0, 2.0, 3.0, 5.0]
    found = np.array([metric.statistics(output, [str(text)]) for output, text in zip(outputs, wanted, strict=True)])
    assert np.isnan(found[:, 0]).tolist() == [False, True, False, True, False]
    function = pearsonr if metric is PEARSON else spearmanr
    assert metric.quality(found) == pytest.approx(function([1, 3, 2.5, 3, 4], wanted).statistic)
    facts = metric.facts(found, found[:, [1, 1]])
    assert facts == {"num_unreadable_small": 2, "num_unreadable_large": 0}


@BOTH
def test_a_correlation_of_equal_values_is_not_defined(metric) -> None:  # type: ignore[no-untyped-def]
    assert math.isnan(metric.quality(columns([2.2, 2.2, 2.2], [1, 2, 3])))
    assert math.isnan(metric.quality(columns([1, 2, 3], [0.1, 0.1, 0.1])))
    assert math.isnan(metric.quality(columns([math.nan, math.nan], [1, 2])))  # nothing was a number
    assert metric.quality(columns([3, 2, 1], [1, 2, 3])) == pytest.approx(-1)


@BOTH
def test_a_reference_must_be_one_number(metric) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(DataError, match="found the reference 'high'; expected a number"):
        metric.statistics("1", ["high"])
    with pytest.raises(DataError, match="expected one number"):
        metric.statistics("1", ["1", "2"])


def test_pearson_stays_exact_far_from_zero_where_plain_sums_fail() -> None:
    random = np.random.default_rng(0)
    wanted = 1e9 + random.random(400)
    small, large = (1e9 + 0.3 + wanted - 1e9 + random.normal(size=400) * size for size in (1.0, 0.2))
    aligned = PEARSON.align(columns(small, wanted), columns(large, wanted))
    path = PEARSON.path(*aligned)
    for k in (0, 1, 200, 399, 400):
        mixed = np.concatenate([large[:k], small[k:]])
        assert path.quality[k] == pytest.approx(pearsonr(mixed, wanted).statistic, abs=1e-6)
    assert path.small_kept[398] == pytest.approx(pearsonr(small[398:], wanted[398:]).statistic, abs=1e-6)
    assert np.isnan(path.small_kept[399:]).all()
    assert np.isnan(path.large_deferred[:2]).all()
    x, y = small, wanted
    with np.errstate(divide="ignore", invalid="ignore"):
        plain = (400 * (x * y).sum() - x.sum() * y.sum()) / np.sqrt(
            (400 * (x * x).sum() - x.sum() ** 2) * (400 * (y * y).sum() - y.sum() ** 2)
        )
    assert not abs(plain - pearsonr(x, y).statistic) < 0.01


def test_ranks_of_equal_values_are_shared() -> None:
    values = np.array([3, 0, 1, 1, 3, 3])
    ranks = centred_ranks(np.bincount(values).astype(float))[values]
    np.testing.assert_array_equal(ranks, rankdata(values) - 3.5)


@pytest.mark.parametrize("num_values", [7, 100_000])
def test_a_long_rank_correlation_is_computed_on_a_grid_and_says_so(num_values: int) -> None:
    random = np.random.default_rng(1)
    n = 1234
    wanted = random.integers(0, num_values, n) / 2
    small, large = (wanted + random.integers(-size, size + 1, n) for size in (num_values, num_values // 4))
    pair = columns(small, wanted), columns(large, wanted)
    path = SPEARMAN.path(*SPEARMAN.align(*pair))
    points = grid(n)
    assert (len(points), points[0], points[-1]) == (101, 0, n)
    for k in points:
        mixed = np.concatenate([large[:k], small[k:]])
        assert path.quality[k] == pytest.approx(spearmanr(mixed, wanted).statistic, abs=1e-12)
        if 1 < k < n - 1:
            assert path.small_kept[k] == pytest.approx(spearmanr(small[k:], wanted[k:]).statistic, abs=1e-12)
            assert path.large_deferred[k] == pytest.approx(spearmanr(large[:k], wanted[:k]).statistic, abs=1e-12)
    between = np.interp(np.arange(n + 1), points, path.quality[points])
    np.testing.assert_allclose(path.quality, between, rtol=0, atol=1e-15)
    assert SPEARMAN.facts(*pair)["num_points"] == 101
    assert "num_points" not in SPEARMAN.facts(pair[0][:100], pair[1][:100])
    assert "num_points" not in PEARSON.facts(*pair)


def test_blocks_of_the_grid_give_what_one_block_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(2)
    wanted, small, large = random.random(300), random.random(300), random.random(300)
    aligned = SPEARMAN.align(columns(small, wanted), columns(large, wanted))
    whole = SPEARMAN.mixed(*aligned)
    monkeypatch.setattr("catsweep.cascade.metrics.correlation._CELLS_IN_MEMORY", 4_000)
    np.testing.assert_allclose(SPEARMAN.mixed(*aligned), whole, rtol=0, atol=1e-12)
