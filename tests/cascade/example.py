"""Small cascades for the tests, and slow loops that say what a number means."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from catsweep.cascade.curve import Curve, cascade_curve
from catsweep.cascade.metrics import Metric, get_metric
from catsweep.cascade.order import hash_ids

ACCURACY = get_metric("accuracy")


@dataclass
class Rows:
    """What a curve is computed from."""

    ids: list[str]
    small: NDArray[np.float64]
    large: NDArray[np.float64]
    uncertainty: NDArray[np.float64]
    small_cost: NDArray[np.float64]
    large_cost: NDArray[np.float64]
    metric: Metric

    @property
    def n(self) -> int:
        return len(self.ids)

    def curve(self, **changes: Any) -> Curve:
        return cascade_curve(
            ids=self.ids,
            small_statistics=changes.get("small", self.small),
            large_statistics=changes.get("large", self.large),
            uncertainty=changes.get("uncertainty", self.uncertainty),
            small_cost=changes.get("small_cost", self.small_cost),
            large_cost=changes.get("large_cost", self.large_cost),
            metric=self.metric,
        )

    def order(self) -> list[int]:
        return sorted(range(self.n), key=lambda row: (-self.uncertainty[row], int(hash_ids([self.ids[row]])[0])))


def of_values(small: list[float], large: list[float], uncertainty: list[float], *, small_cost: float = 1.0) -> Rows:
    """Rows of a mean metric; L costs 10 a query."""
    n = len(small)
    columns = [np.stack([np.array(values, dtype=float), np.ones(n)], axis=1) for values in (small, large)]
    ids = [f"row{row}" for row in range(n)]
    return Rows(ids, *columns, np.array(uncertainty, dtype=float), np.full(n, small_cost), np.full(n, 10.0), ACCURACY)


def random_rows(n: int, *, seed: int = 0, metric: str = "accuracy", num_levels: int = 0) -> Rows:
    """Random rows; num_levels > 0 gives so many distinct uncertainties, hence ties."""
    random = np.random.default_rng(seed)
    judge = get_metric(metric)
    if judge.is_mean:
        small = np.stack([(random.random(n) < 0.5) * 1.0, np.ones(n)], axis=1)
        large = np.stack([(random.random(n) < 0.8) * 1.0, np.ones(n)], axis=1)
    else:
        words = ["a", "b", "c", "d", "e", "f", "g", "h"]
        references = [" ".join(random.choice(words, size=random.integers(1, 9))) for _ in range(n)]
        small = _corrupted(judge, references, 0.5, random)
        large = _corrupted(judge, references, 0.2, random)
    uncertainty = random.integers(0, num_levels, n).astype(float) if num_levels else random.random(n)
    ids = [f"id-{number}" for number in random.permutation(n)]
    return Rows(ids, small, large, uncertainty, random.random(n), 5 + random.random(n), judge)


def _corrupted(metric: Metric, references: list[str], rate: float, random: np.random.Generator) -> NDArray[np.float64]:
    outputs = [" ".join("x" if random.random() < rate else word for word in text.split()) for text in references]
    return np.array([metric.statistics(*pair) for pair in zip(outputs, [[text] for text in references], strict=True)])
