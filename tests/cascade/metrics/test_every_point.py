"""Every metric on small tables: each point of a curve, each resample, against a slow computation of its own."""

import math
import pickle

import numpy as np
import pytest

from catsweep.cascade.compare import System, bootstrap_curves
from catsweep.cascade.confidence import aiq, aurc, auroc, correctness
from catsweep.cascade.curve import Curve, apgr, audc, best_point, cascade_curve, cost_at_quality, cpt, quality_at_cost
from catsweep.cascade.lines import oracle_curve, quality_oracle, random_line
from catsweep.cascade.metrics import METRIC_NAMES, Metric
from catsweep.cascade.order import hash_ids
from catsweep.cascade.resample import group_counts
from catsweep.cascade.rows import objective_value
from catsweep.errors import DataError
from catsweep.spec.search import AudcObjective, CostAtQualityObjective, QualityAtCostObjective

from .slow import Row, judge, make_rows, quality, statistics


class Table:
    """Rows of two models with a random uncertainty; row i of the models has the id `row i`."""

    def __init__(self, name: str, n: int, seed: int, *, rows: tuple[list[Row], list[Row]] | None = None) -> None:
        self.name, self.metric = name, judge(name)
        self.small, self.large = rows or make_rows(name, n, seed)
        self.uncertainty = np.random.default_rng(seed + 100).random(n)
        self.order = np.argsort(-self.uncertainty)
        self.ids = [f"row {row}" for row in range(n)]

    def curve(self, *, oracle: bool = False) -> Curve:
        n = len(self.ids)
        arguments = {
            "ids": self.ids,
            "small_statistics": statistics(self.metric, self.small),
            "large_statistics": statistics(self.metric, self.large),
            "small_cost": np.ones(n),
            "large_cost": np.full(n, 10.0),
            "metric": self.metric,
        }
        return oracle_curve(**arguments) if oracle else cascade_curve(uncertainty=self.uncertainty, **arguments)

    def mix(self, k: int) -> tuple[list[Row], list[Row]]:
        """What the small model keeps, and what the large one gets, after k deferrals."""
        kept, taken = self.order[k:], self.order[:k]
        return [self.small[row] for row in kept], [self.large[row] for row in taken]


def tolerance(metric: Metric) -> float:
    return 1e-9 * metric.scale


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("name", METRIC_NAMES)
def test_every_point_of_a_curve_equals_a_slow_computation(name: str, seed: int) -> None:
    table = Table(name, 30, seed)
    curve = table.curve()
    for k in range(31):
        kept, taken = table.mix(k)
        expected = [quality(name, kept + taken), quality(name, kept), quality(name, taken)]
        found = [curve.quality[k], curve.small_kept_quality[k], curve.large_deferred_quality[k]]
        assert found == pytest.approx(expected, abs=tolerance(table.metric), nan_ok=True), f"k = {k}"
    assert curve.quality_small == pytest.approx(table.metric.quality(statistics(table.metric, table.small)))
    assert curve.quality_large == pytest.approx(table.metric.quality(statistics(table.metric, table.large)))
    assert curve.scale == table.metric.scale
    assert curve.lowest == (-1 if name in ("matthews", "pearson", "spearman") else 0)


@pytest.mark.parametrize("name", METRIC_NAMES)
def test_draws_equal_slow_computations_of_really_resampled_tables(name: str) -> None:
    table = Table(name, 24, 3)
    # A group holds whole questions; the other metrics need no more than that.
    groups = [f"g{int(row.question[1:]) % 5}" for row in table.small]
    keys, codes = np.unique(groups, return_inverse=True)
    system = System(
        table.ids, statistics(table.metric, table.small), statistics(table.metric, table.large), table.uncertainty
    )
    drawn = bootstrap_curves({"a": system}, groups=groups, metric=table.metric, num_resamples=8, seed=1)["a"]
    assert drawn.audc == pytest.approx(audc(table.curve()), abs=tolerance(table.metric))
    counts = np.concatenate(list(group_counts(len(keys), 8, seed=1, chunk=8)))
    for resample, count in enumerate(counts):
        # A copy of a question is a question of its own.
        rows = [
            [
                Row(row.output, row.references, f"{row.question}/{copy}", row.number)
                for index in table.order
                for copy in range(count[codes[index]])
                for row in [model[index]]
            ]
            for model in (table.small, table.large)
        ]
        size = len(rows[0])
        qualities = np.array([quality(name, rows[1][:k] + rows[0][k:]) for k in grid_of(name, size)])
        line = np.nan_to_num(np.interp(np.arange(size + 1), grid_of(name, size), qualities))
        assert drawn.audc_draws[resample] == pytest.approx(
            (line[1:] + line[:-1]).mean() / 2, abs=1e-9 * line.max() + 1e-12
        )
        ends = [drawn.quality_small_draws[resample], drawn.quality_large_draws[resample]]
        assert ends == pytest.approx([qualities[0], qualities[-1]], abs=tolerance(table.metric), nan_ok=True)


def grid_of(name: str, size: int) -> np.ndarray:
    return np.arange(size + 1) if name != "spearman" or size <= 100 else np.linspace(0, size, 101).round().astype(int)


def test_questions_in_two_groups_cannot_be_resampled() -> None:
    table = Table("multirc_em", 12, 0)
    system = System(
        table.ids, statistics(table.metric, table.small), statistics(table.metric, table.large), table.uncertainty
    )
    with pytest.raises(DataError, match="rows of one question lie in several groups"):
        bootstrap_curves({"a": system}, groups=table.ids, metric=table.metric, num_resamples=5)


@pytest.mark.parametrize("name", METRIC_NAMES)
def test_the_random_line_is_close_to_the_mean_over_random_orders(name: str) -> None:
    table = Table(name, 150, 5)
    curve = table.curve()
    line = random_line(curve, table.metric)
    random = np.random.default_rng(0)
    small, large = table.metric.align(statistics(table.metric, table.small), statistics(table.metric, table.large))
    orders = [random.permutation(150) for _ in range(300)]
    mean = np.mean([table.metric.mixed(small[order], large[order]) for order in orders], axis=0)
    np.testing.assert_allclose(line[[0, -1]], mean[[0, -1]], rtol=1e-9)
    assert np.abs(line - mean).max() < 0.012 * table.metric.scale


@pytest.mark.parametrize("name", METRIC_NAMES)
def test_the_oracle_is_better_than_any_order_that_knows_nothing(name: str) -> None:
    table = Table(name, 120, 7)
    curve, oracle = table.curve(), table.curve(oracle=True)
    assert audc(oracle) > audc(curve)
    assert quality_oracle(oracle) > max(curve.quality_small, curve.quality_large)
    assert oracle.quality[[0, -1]] == pytest.approx(curve.quality[[0, -1]], abs=tolerance(table.metric))


@pytest.mark.parametrize("name", METRIC_NAMES)
def test_objectives_savings_and_shares_of_the_gap_work_with_every_metric(name: str) -> None:
    table = Table(name, 120, 9)
    curve = table.curve()
    assert curve.quality_large > curve.quality_small
    middle = (curve.quality_small + curve.quality_large) / 2
    assert objective_value(AudcObjective(), curve) == audc(curve)
    found = objective_value(QualityAtCostObjective(cost=0.6), curve)
    allowed = curve.is_threshold & (curve.cost <= 6)
    assert found == curve.quality[allowed].max()
    cost = objective_value(CostAtQualityObjective(quality=middle), curve)
    first = int((curve.quality >= middle - 1e-9 * curve.scale).argmax())
    assert cost == pytest.approx(curve.cost[first] / 10)
    assert cost_at_quality(curve, middle).reached
    assert cpt(curve, 50) == pytest.approx(first / 120)
    assert apgr(curve) == pytest.approx(
        (audc(curve) - curve.quality_small) / (curve.quality_large - curve.quality_small)
    )
    assert math.isfinite(aurc(curve))
    assert aiq(curve) is not None
    right = correctness(statistics(table.metric, table.small), table.metric)
    if name in ("bleu", "chrf", "pearson", "spearman"):
        assert right is None
    else:
        assert right is not None
        assert auroc(table.uncertainty, right) is not None


@pytest.mark.parametrize("name", METRIC_NAMES)
def test_a_table_of_one_row_has_a_curve(name: str) -> None:
    text = "3.5" if name in ("pearson", "spearman") else "yes"
    row = Row(text, (text,), "q", 3.5)
    curve = Table(name, 1, 0, rows=([row], [row])).curve()
    perfect = quality(name, [row])
    assert curve.quality.tolist() == pytest.approx([perfect, perfect], nan_ok=True)
    assert math.isfinite(audc(curve))


@pytest.mark.parametrize("name", METRIC_NAMES)
def test_metrics_travel_to_other_processes_and_say_what_they_are(name: str) -> None:
    metric = pickle.loads(pickle.dumps(judge(name)))
    assert metric.name == name
    assert metric.signature.startswith(name) or name in ("bleu", "chrf")
    assert metric.signature_for(1) == metric.signature
    assert metric.scale == (100.0 if name in ("bleu", "chrf", "rouge1", "rouge2", "rougeLsum") else 1.0)
    rows, _ = make_rows(name, 9, 0)
    perfect = [Row(row.references[0], row.references, row.question) for row in rows]
    found = statistics(metric, perfect)
    assert found.shape == (9, metric.num_statistics)
    assert metric.quality(found) == pytest.approx(metric.scale)
    assert metric.needs_key == (name == "multirc_em")


@pytest.mark.parametrize("references", [[], "one text"])
@pytest.mark.parametrize("name", METRIC_NAMES)
def test_references_must_be_a_list_of_at_least_one(name: str, references: list[str]) -> None:
    with pytest.raises(DataError, match="one or more accepted answers"):
        judge(name).statistics("x", references, "q")


@pytest.mark.parametrize("name", ["pearson", "spearman"])
def test_a_small_model_whose_answers_are_all_equal_is_searched_and_compared_all_the_same(name: str) -> None:
    _, large = make_rows(name, 60, 1)
    small = [Row("2.5", row.references, row.question, 2.5) for row in large]
    table = Table(name, 60, 1, rows=(small, large))
    curve = table.curve()
    assert math.isnan(curve.quality_small)
    assert np.isfinite(curve.quality[1:]).all()
    assert audc(curve) == pytest.approx((np.nan_to_num(curve.quality)[1:].sum() - curve.quality[-1] / 2) / 60)
    assert (apgr(curve), cpt(curve, 50)) == (None, None)
    assert objective_value(QualityAtCostObjective(cost=0.1), curve) == 0.0
    assert quality_at_cost(curve, 0.9) == np.nanmax(curve.quality[curve.cost <= 9])
    assert best_point(curve, 0.9) is not None
    system = System(ids=hash_ids(table.ids), small_statistics=statistics(table.metric, small),
                    large_statistics=statistics(table.metric, large), uncertainty=table.uncertainty)  # fmt: skip
    drawn = bootstrap_curves({"": system}, groups=table.ids, metric=table.metric, num_resamples=20)[""]
    assert drawn.audc_interval.lower < drawn.audc < drawn.audc_interval.upper
    assert all(math.isnan(value) for value in vars(drawn.quality_small_interval).values())
