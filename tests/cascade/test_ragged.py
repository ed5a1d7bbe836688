import numpy as np
import pytest

from catsweep.cascade.ragged import Ragged


@pytest.fixture
def rows() -> list[list[float]]:
    random = np.random.default_rng(0)
    return [[], *(random.normal(size=length).tolist() for length in (3, 1, 0, 0, 7, 3, 2)), []]


def test_reductions_equal_a_loop_over_the_rows_also_at_empty_first_and_last_rows(rows: list[list[float]]) -> None:
    ragged = Ragged.from_lists(rows)
    assert ragged.lengths.tolist() == [len(row) for row in rows]
    np.testing.assert_allclose(ragged.sum(), [sum(row) for row in rows], rtol=1e-14)
    np.testing.assert_allclose(ragged.mean(empty=5.0), [np.mean(row) if row else 5.0 for row in rows], rtol=1e-14)
    np.testing.assert_array_equal(ragged.max(empty=-1.0), [max(row) if row else -1.0 for row in rows])


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9, 1.0])
def test_quantile_is_that_of_numpy_for_each_row(rows: list[list[float]], share: float) -> None:
    expected = [np.quantile(row, share) if row else 9.0 for row in rows]
    np.testing.assert_allclose(Ragged.from_lists(rows).quantile(share, empty=9.0), expected, rtol=1e-13)


def test_no_rows_and_only_empty_rows_reduce_to_nothing() -> None:
    assert Ragged.from_lists([]).sum().shape == (0,)
    assert Ragged.from_lists([[], []]).sum().tolist() == [0.0, 0.0]
    assert np.isnan(Ragged.from_lists([[]]).mean()).all()


def test_sums_of_float32_values_are_made_in_float64() -> None:
    values = np.full(10_000, 0.1, dtype=np.float32)
    ragged = Ragged(values, np.array([0, 10_000]))
    assert abs(ragged.sum()[0] - values.astype(np.float64).sum()) < 1e-9


@pytest.mark.parametrize("offsets", [[0, 2], [1, 3], [0, 3, 2, 3], []])
def test_offsets_that_do_not_cover_the_values_are_refused(offsets: list[int]) -> None:
    with pytest.raises(ValueError, match="rise from 0"):
        Ragged(np.zeros(3), np.array(offsets, dtype=np.int64))
