"""From rows on storage to curves: the only file that knows both."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import assert_never

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from catsweep.cascade.cost import ModelShape, forward_flops
from catsweep.cascade.curve import Curve, audc, cascade_curve, cost_at_quality, quality_at_cost, with_costs
from catsweep.cascade.latency import Latency
from catsweep.cascade.lines import oracle_curve
from catsweep.cascade.metrics import Metric
from catsweep.cascade.order import hash_ids
from catsweep.cascade.ragged import FloatArray, Ragged
from catsweep.cascade.rules import parse_rule, uncertainty
from catsweep.cascade.signals import Signals
from catsweep.errors import StorageError
from catsweep.spec.cascade import AnyCost, FlopsCost, LatencyCost, PriceCost, TokenPrice
from catsweep.spec.search import AudcObjective, CostAtQualityObjective, ObjectiveSpec, QualityAtCostObjective

UNCERTAINTY = "uncertainty/"
"""Prefix of the columns that hold uncertainties, before the name of a rule."""
Costs = tuple[FloatArray, FloatArray]
"""(n,) costs of each query under the small and under the large model, of one unit."""


@dataclass(frozen=True, eq=False)
class Cascade:
    """Aligned rows of a small and a large model: what every curve of the pair is computed from.

    costs: by the kind of a cost model, the first of which counts where none is named; FLOPs are always among them.
    known: (n,) uncertainties that no signal gives, by rule: the learned rule's, where it was fitted, and all those of rows
    that keep uncertainties in place of signals.
    """

    signals: Signals
    groups: list[str]
    small_statistics: FloatArray
    large_statistics: FloatArray
    costs: dict[str, Costs]
    metric: Metric
    known: Mapping[str, FloatArray] = field(default_factory=dict)

    @property
    def small_cost(self) -> FloatArray:
        """(n,) of the first cost model."""
        return next(iter(self.costs.values()))[0]

    @property
    def large_cost(self) -> FloatArray:
        """(n,) of the first cost model."""
        return next(iter(self.costs.values()))[1]

    @cached_property
    def id_hashes(self) -> NDArray[np.uint64]:
        """(n,) by which every curve of these rows breaks ties."""
        return hash_ids(self.signals.ids)

    def uncertainty(self, rule: str) -> FloatArray:
        """(n,) uncertainty of the small model by a deferral rule's name."""
        return self.known[rule] if rule in self.known else uncertainty(parse_rule(rule), self.signals)

    def at_cost(self, curve: Curve, cost: str) -> Curve:
        """A curve of these rows at the costs of another cost model."""
        return with_costs(curve, *self.costs[cost])

    def curve(self, rule: str) -> Curve:
        """The curve of a deferral rule."""
        return cascade_curve(
            ids=self.signals.ids,  # hashed where they tie, which few do under most rules
            small_statistics=self.small_statistics,
            large_statistics=self.large_statistics,
            uncertainty=self.uncertainty(rule),
            small_cost=self.small_cost,
            large_cost=self.large_cost,
            metric=self.metric,
        )

    @cached_property
    def oracle(self) -> Curve:
        """The curve that defers the queries which gain most, the same under every rule."""
        return oracle_curve(
            ids=self.id_hashes,
            small_statistics=self.small_statistics,
            large_statistics=self.large_statistics,
            small_cost=self.small_cost,
            large_cost=self.large_cost,
            metric=self.metric,
        )


def make_cascade(
    small: pa.Table,
    large: pa.Table,
    metric: Metric,
    *,
    small_shape: ModelShape,
    large_shape: ModelShape,
    costs: Sequence[AnyCost] = (FlopsCost(),),
    latencies: tuple[Latency, Latency] | None = None,
) -> Cascade:
    """Both models' rows of one split in one order, with the costs of each query under some cost models.

    latencies: of both models; only the cost model latency needs them. Columns `uncertainty/<rule>` of the small model's rows,
    which only unpacked ones have (catsweep.compact), stand for what the signals would give. Raises StorageError where ids
    differ.
    """
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
        costs={
            cost.kind: query_costs(cost, (small, large), (small_shape, large_shape), latencies)
            for cost in {cost.kind: cost for cost in (*costs, FlopsCost())}.values()
        },
        metric=metric,
        known={
            name.removeprefix(UNCERTAINTY): small[name].to_numpy().astype(np.float64)
            for name in small.column_names
            if name.startswith(UNCERTAINTY)
        },
    )


def query_costs(
    cost: AnyCost,
    rows: tuple[pa.Table, pa.Table],
    shapes: tuple[ModelShape, ModelShape],
    latencies: tuple[Latency, Latency] | None,
) -> Costs:
    """What each query costs under the small and under the large model, in the unit of the cost model.

    A query with choices costs its prompt once and the tokens of all choices as tokens of answers. [ours]
    """
    match cost:
        case FlopsCost():
            small, large = (row_flops(table, shape) for table, shape in zip(rows, shapes, strict=True))
        case LatencyCost():
            if latencies is None:
                raise ValueError("the cost model latency needs `latencies`, measured when the rows were made")
            small, large = (latency.seconds(*num_tokens(table)) for table, latency in zip(rows, latencies, strict=True))
        case PriceCost():
            small, large = (_dollars(table, price) for table, price in zip(rows, (cost.small, cost.large), strict=True))
        case _:
            assert_never(cost)
    return small, large


def num_tokens(rows: pa.Table) -> tuple[FloatArray, FloatArray]:
    """(n,) tokens of the prompts, and of the answers or of all choices where there are some."""
    choices = ragged(rows, "choice_num_tokens").sum()
    output = rows["num_output_tokens"].to_numpy().astype(np.float64)
    return rows["num_prompt_tokens"].to_numpy().astype(np.float64), np.where(choices > 0, choices, output)


def _dollars(rows: pa.Table, price: TokenPrice) -> FloatArray:
    prompt, output = num_tokens(rows)
    dollars: FloatArray = (price.input_per_million * prompt + price.output_per_million * output) / 1e6
    return dollars


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
