import math

import pytest

from catsweep.cascade.student import incomplete_beta, two_sided_p, two_sided_quantile


@pytest.mark.parametrize(
    ("degrees", "quantile"),
    [(1, 12.7062), (2, 4.30265), (4, 2.77645), (9, 2.26216), (30, 2.04227), (120, 1.97993), (math.inf, 1.95996)],
)
def test_quantiles_are_those_of_the_printed_table(degrees: float, quantile: float) -> None:
    assert two_sided_quantile(0.95, degrees) == pytest.approx(quantile, abs=1e-4)
    assert two_sided_p(quantile, degrees) == pytest.approx(0.05, abs=1e-5)


@pytest.mark.parametrize("t", [0.0, 0.3, 1.0, 5.0, 1e6])
def test_one_and_two_degrees_have_closed_forms(t: float) -> None:
    assert two_sided_p(t, 1) == pytest.approx(1 - 2 / math.pi * math.atan(t), rel=1e-9, abs=1e-12)
    assert two_sided_p(-t, 2) == pytest.approx(1 - t / math.sqrt(2 + t * t), rel=1e-6, abs=1e-12)


def test_the_ends_of_the_distribution_are_exact() -> None:
    assert two_sided_p(0.0, 3) == 1.0
    assert two_sided_p(math.inf, 3) == 0.0
    assert incomplete_beta(2, 3, 0.0) == 0.0
    assert incomplete_beta(2, 3, 1.0) == 1.0
