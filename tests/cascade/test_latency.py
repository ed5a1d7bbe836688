"""Seconds of an answer, from those of batches."""

from __future__ import annotations

import numpy as np
import pytest

from catsweep.cascade.latency import BatchSeconds, Latency, fit_latency


def fit(batches: list[BatchSeconds]) -> Latency:
    found = fit_latency(batches, device="abacus", batch_size=8)
    assert found is not None
    return found


def test_exact_seconds_are_found_again_and_the_first_batch_is_left_out() -> None:
    counts = [(8, 80, 24), (8, 120, 30), (8, 160, 8), (4, 90, 50)]
    batches = [BatchSeconds(*count, 0.1 * count[0] + 0.01 * count[1] + 0.5 * count[2]) for count in counts]
    found = fit([BatchSeconds(8, 80, 24, 1_000.0), *batches])
    assert found.seconds_a_query == pytest.approx(0.1)
    assert found.seconds_a_prompt_token == pytest.approx(0.01)
    assert found.seconds_an_output_token == pytest.approx(0.5)
    assert (found.device, found.batch_size, found.num_batches) == ("abacus", 8, 4)
    np.testing.assert_allclose(found.seconds([10, 20], [3, 0]), [0.1 + 0.1 + 1.5, 0.1 + 0.2])


def test_a_first_stretch_whose_queries_go_on_counts() -> None:
    found = fit([BatchSeconds(128, 5_000, 4_000, 4.0, goes_on=True), BatchSeconds(1, 20, 2_000, 2.0)])
    assert found.num_batches == 2
    assert found.seconds_a_query < 0.1  # the one query of the last stretch is not what that took


def test_one_batch_gives_every_query_the_same_share() -> None:
    found = fit([BatchSeconds(4, 100, 20, 2.0)])
    np.testing.assert_allclose(found.seconds([10, 90], [1, 19]), [0.5, 0.5])


def test_no_factor_is_negative_and_all_queries_together_take_the_measured_time() -> None:
    random = np.random.default_rng(0)
    batches = [
        BatchSeconds(8, int(random.integers(50, 90)), int(random.integers(8, 40)), float(random.random() + 0.1))
        for _ in range(12)
    ]
    batches += [BatchSeconds(8, 60, 40, 0.1), BatchSeconds(8, 60, 8, 2.0)]  # more output in less time
    found = fit(batches)
    factors = np.array([found.seconds_a_query, found.seconds_a_prompt_token, found.seconds_an_output_token])
    assert (factors >= 0).all()
    counted = batches[1:]
    totals = np.sum([[b.num_queries, b.num_prompt_tokens, b.num_output_tokens] for b in counted], axis=0)
    assert totals @ factors == pytest.approx(sum(batch.seconds for batch in counted))


def test_the_fit_is_that_of_nonnegative_least_squares() -> None:
    from scipy.optimize import nnls

    random = np.random.default_rng(1)
    counts = random.integers(5, 100, size=(20, 3))
    seconds = counts @ [0.02, 0.0, 0.1] + random.random(20)
    found = fit([BatchSeconds(1, 1, 1, 1.0), *(BatchSeconds(*row, value) for row, value in zip(counts.tolist(), seconds, strict=True))])  # fmt: skip
    wanted = nnls(counts.astype(float), seconds)[0]
    wanted *= seconds.sum() / (counts @ wanted).sum()
    factors = [found.seconds_a_query, found.seconds_a_prompt_token, found.seconds_an_output_token]
    np.testing.assert_allclose(factors, wanted, rtol=1e-8)


def test_without_a_batch_nothing_is_known_and_plain_data_come_back() -> None:
    assert fit_latency([], device="abacus", batch_size=8) is None
    found = fit([BatchSeconds(4, 100, 20, 2.0)])
    assert Latency.from_dict(found.to_dict()) == found
