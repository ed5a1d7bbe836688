"""What queries cost under each cost model, worked out by hand, and the curves at these costs."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from catsweep.cascade.cost import ModelShape, forward_flops
from catsweep.cascade.latency import Latency
from catsweep.cascade.lines import router_cost
from catsweep.cascade.metrics import get_metric
from catsweep.cascade.ragged import Ragged
from catsweep.cascade.rows import Cascade, make_cascade, query_costs
from catsweep.records import rows_schema
from catsweep.spec.cascade import FlopsCost, LatencyCost, PriceCost, TokenPrice

SMALL, LARGE = ModelShape("decoder", 1_000, 100, 2, 8), ModelShape("decoder", 50_000, 400, 4, 32)
PRICE = PriceCost(
    small=TokenPrice(input_per_million=1, output_per_million=2),
    large=TokenPrice(input_per_million=10, output_per_million=30),
)
LATENCIES = Latency(0.5, 0.01, 0.1, "abacus", 8, 4), Latency(1.0, 0.1, 1.0, "engine", 8, 4)


def rows(outputs: list[int], choices: list[list[int]], logprobs: list[float], right: list[float]) -> pa.Table:
    n = len(outputs)
    columns = {
        "id": [f"q{row}" for row in range(n)], "group": [f"q{row}" for row in range(n)], "split": ["test"] * n,
        "output": ["x"] * n, "num_prompt_tokens": [10, 20, 30][:n], "num_output_tokens": outputs,
        "token_logprobs": [[value] for value in logprobs], "token_entropies": [[0.1]] * n, "token_margins": [[0.1]] * n,
        "choice_logprobs": [[-1.0] * len(own) for own in choices], "choice_num_tokens": choices,
        "statistics/accuracy": [[value, 1.0] for value in right],
    }  # fmt: skip
    return pa.table(columns, schema=rows_schema(["accuracy"]))


def cascade(*costs: FlopsCost | LatencyCost | PriceCost) -> Cascade:
    small = rows([5, 5, 2], [[], [], [2, 3, 4]], [-0.1, -3.0, -1.0], [1, 0, 0])
    large = rows([4, 8, 2], [[], [], [2, 3, 4]], [-0.1, -0.1, -0.1], [1, 1, 1])
    return make_cascade(
        small, large, get_metric("accuracy"), small_shape=SMALL, large_shape=LARGE, costs=costs, latencies=LATENCIES
    )


def test_price_is_dollars_of_prompts_and_answers_and_of_all_choices() -> None:
    small, large = cascade(PRICE).costs["price"]
    np.testing.assert_allclose(small, np.array([10 + 2 * 5, 20 + 2 * 5, 30 + 2 * 9]) / 1e6)
    np.testing.assert_allclose(large, np.array([100 + 30 * 4, 200 + 30 * 8, 300 + 30 * 9]) / 1e6)


def test_latency_is_seconds_by_the_model_of_each_side() -> None:
    small, large = cascade(LatencyCost()).costs["latency"]
    np.testing.assert_allclose(small, [0.5 + 0.1 + 0.5, 0.5 + 0.2 + 0.5, 0.5 + 0.3 + 0.9])
    np.testing.assert_allclose(large, [1 + 1 + 4, 1 + 2 + 8, 1 + 3 + 9])


def test_latency_that_was_not_measured_is_refused() -> None:
    table = rows([5], [[]], [-1.0], [1])
    with pytest.raises(ValueError, match="latencies"):
        query_costs(LatencyCost(), (table, table), (SMALL, LARGE), None)


def test_the_first_cost_model_counts_and_flops_are_always_there() -> None:
    found = cascade(PRICE, LatencyCost())
    assert list(found.costs) == ["price", "latency", "flops"]
    np.testing.assert_array_equal(found.small_cost, found.costs["price"][0])
    choices = Ragged.from_lists([[], [], [2, 3, 4]])
    np.testing.assert_allclose(found.costs["flops"][0], forward_flops(SMALL, [10, 20, 30], [5, 5, 2], choices))


@pytest.mark.parametrize("kind", ["flops", "price", "latency"])
def test_a_curve_at_other_costs_is_that_of_a_cascade_that_had_them_first(kind: str) -> None:
    models = {"flops": FlopsCost(), "price": PRICE, "latency": LatencyCost()}
    several = cascade(PRICE, LatencyCost(), FlopsCost())
    found = several.at_cost(several.curve("mean"), kind)
    wanted = cascade(models[kind]).curve("mean")
    for name, value in vars(wanted).items():
        np.testing.assert_array_equal(getattr(found, name), value, err_msg=name)


def test_cascade_and_router_cost_what_was_worked_out_by_hand() -> None:
    """Query 1 is deferred first, then 2, then 0."""
    found = cascade(PRICE)
    curve = found.curve("mean")
    small, large = np.array([20, 30, 48]), np.array([220, 440, 570])
    wanted = (small.sum() + np.array([0, large[1], large[1] + large[2], large.sum()])) / 3e6
    np.testing.assert_allclose(curve.cost, wanted)
    paid_twice = np.array([0, small[1], small[1] + small[2], small.sum()]) / 3e6
    np.testing.assert_allclose(router_cost(curve), wanted - paid_twice)
    assert router_cost(curve)[-1] == pytest.approx(curve.cost_large)
