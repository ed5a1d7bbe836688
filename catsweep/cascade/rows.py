"""From rows on storage to curves: the only file that knows both."""

from __future__ import annotations

from dataclasses import dataclass
from typing import assert_never

import numpy as np
import pyarrow as pa

from catsweep.cascade.cost import ModelShape, forward_flops
from catsweep.cascade.curve import Curve, audc, cascade_curve, cost_at_quality, quality_at_cost
from catsweep.cascade.metrics import Metric
from catsweep.cascade.ragged import FloatArray, Ragged
from catsweep.cascade.rules import parse_rule, uncertainty
from catsweep.cascade.signals import Signals
from catsweep.errors import StorageError
from catsweep.spec.search import AudcObjective, CostAtQualityObjective, ObjectiveSpec, QualityAtCostObjective


@dataclass(frozen=True, eq=False)
class Cascade:
    """Aligned rows of a small and a large model: what every curve of the pair is computed from."""

    signals: Signals
    groups: list[str]
    small_statistics: FloatArray
    large_statistics: FloatArray
    small_cost: FloatArray
    large_cost: FloatArray
    metric: Metric

    def uncertainty(self, rule: str) -> FloatArray:
        """(n,) uncertainty of the small model by a deferral rule's name."""
        return uncertainty(parse_rule(rule), self.signals)

    def curve(self, rule: str) -> Curve:
        """The curve of a deferral rule."""
        return cascade_curve(
            ids=self.signals.ids,
            small_statistics=self.small_statistics,
            large_statistics=self.large_statistics,
            uncertainty=self.uncertainty(rule),
            small_cost=self.small_cost,
            large_cost=self.large_cost,
            metric=self.metric,
        )


def make_cascade(
    small: pa.Table, large: pa.Table, metric: Metric, *, small_shape: ModelShape, large_shape: ModelShape
) -> Cascade:
    """Both models' rows of one split in one order; costs are FLOPs a query. Raises StorageError where ids differ."""
    if small["id"] != large["id"]:
        raise StorageError(
            f"the rows of the small and the large model have different ids ({small.num_rows} and {large.num_rows} "
            "rows); expected the same examples in one order. Remove the trial's folder and run the same command again"
        )
    signals = Signals(
        ids=np.array(small["id"].to_pylist(), dtype=np.str_),
        token_logprobs=ragged(small, "token_logprobs"),
        token_entropies=ragged(small, "token_entropies"),
        token_margins=ragged(small, "token_margins"),
        choice_logprobs=ragged(small, "choice_logprobs"),
        choice_num_tokens=ragged(small, "choice_num_tokens"),
    )
    column = f"statistics/{metric.name}"
    return Cascade(
        signals=signals,
        groups=small["group"].to_pylist(),
        small_statistics=statistics(small, column),
        large_statistics=statistics(large, column),
        small_cost=row_flops(small, small_shape),
        large_cost=row_flops(large, large_shape),
        metric=metric,
    )


def row_flops(rows: pa.Table, shape: ModelShape) -> FloatArray:
    """(n,) FLOPs of answering each query with a model."""
    return forward_flops(
        shape,
        rows["num_prompt_tokens"].to_numpy(),
        rows["num_output_tokens"].to_numpy(),
        ragged(rows, "choice_num_tokens"),
    )


def ragged(rows: pa.Table, column: str) -> Ragged:
    """A list column as flat values and offsets."""
    lists = rows[column].combine_chunks()
    lists = lists.chunk(0) if isinstance(lists, pa.ChunkedArray) else lists
    offsets = lists.offsets.to_numpy().astype(np.int64)
    values = lists.values.to_numpy(zero_copy_only=False)[offsets[0] : offsets[-1]]
    return Ragged(np.asarray(values, dtype=np.float64), offsets - offsets[0])


def statistics(rows: pa.Table, column: str) -> FloatArray:
    """A column of equally long lists as an array (n, k)."""
    flat = ragged(rows, column)
    return flat.values.reshape(rows.num_rows, -1)


def objective_value(spec: ObjectiveSpec, curve: Curve) -> float:
    """The value that a search optimises, from a validation curve: always a number. A correlation that is not defined counts
    as none, 0."""
    match spec:
        case AudcObjective():
            return audc(curve)
        case QualityAtCostObjective(cost=cost):
            quality = quality_at_cost(curve, cost)
            return curve.lowest if quality is None else float(np.nan_to_num(quality))
        case CostAtQualityObjective(quality=quality_to_reach):
            assert quality_to_reach is not None, "a gap becomes a quality before trials are made"
            return cost_at_quality(curve, quality_to_reach).cost / curve.cost_large
        case _:
            assert_never(spec)
