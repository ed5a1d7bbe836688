"""Deferral rules and cost models in YAML, and which of them an objective may use."""

from __future__ import annotations

from pathlib import Path

import pytest

from catsweep.errors import SpecError
from catsweep.spec.cascade import CascadeSpec, FlopsCost, LatencyCost, PriceCost, TokenPrice, objective_cost, uses_cost
from catsweep.spec.load import load_sweep

SWEEP = """\
name: good
tasks: [emoji/en-fr]
small: {config: {model_type: llama}, tokenizer: {kind: char}}
large: {pretrained: some/model}
training: {steps: 100}
search: {metric: METRIC}
cascade:
  deferral: RULES
  costs: COSTS
"""
PRICE = "{kind: price, small: {input_per_million: 1, output_per_million: 2}, large: {input_per_million: 10, output_per_million: 20}}"
AT_COST = "{kind: quality_at_cost, cost: 0.5}"


def load(folder: Path, metric: str = "{kind: audc}", rules: str = "[mean]", costs: str = "[flops]") -> CascadeSpec:
    path = folder / "sweep.yaml"
    path.write_text(SWEEP.replace("METRIC", metric).replace("RULES", rules).replace("COSTS", costs))
    return load_sweep(path).spec.cascade


def problem(folder: Path, **settings: str) -> str:
    with pytest.raises(SpecError) as caught:
        load(folder, **settings)
    (found,) = caught.value.problems
    return str(found).replace(str(folder / "sweep.yaml"), "F")


def test_cost_models_are_read_from_their_names_and_survive_json(tmp_path: Path) -> None:
    found = load(tmp_path, costs=f"[latency, {{kind: flops}}, {PRICE}]")
    small, large = (TokenPrice(input_per_million=factor, output_per_million=2 * factor) for factor in (1, 10))
    assert found.costs == [LatencyCost(), FlopsCost(), PriceCost(small=small, large=large)]
    assert found.to_json()["costs"][:2] == ["latency", "flops"]
    assert CascadeSpec.model_validate(found.to_json()) == found


def test_the_settings_of_an_older_sweep_stay_as_they_were() -> None:
    assert CascadeSpec().to_json() == {"deferral": ["mean"], "costs": ["flops"], "num_resamples": 1_000, "seed": 0}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rules": "[learned, mean]"}, "F:8: cascade.deferral.0: found learned as the first rule; expected a rule that needs no fit"),
        ({"rules": "[mean, leaned]"}, "F:8: cascade.deferral.1: found 'leaned'; expected a valid combination. unknown deferral rule"),
        ({"costs": "[latency]", "metric": AT_COST}, "F:9: cascade.costs.0: found latency as the first cost model; expected flops or price"),
        ({"costs": "[{kind: latency}, flops]", "metric": AT_COST}, "F:9: cascade.costs.0: found latency as the first cost model"),
        ({"costs": "[flop]"}, "F:9: cascade.costs.0: found kind 'flop'; expected kind: one of flops, latency, price. Did you mean 'flops'?"),
        ({"costs": "[flops, flops]"}, "F:9: cascade.costs: found flops, flops; expected each cost model once"),
        ({"costs": f"[{PRICE.replace('10', '0').replace('20', '0')}]"}, "F:9: cascade.costs.0: found a large model that costs nothing"),
        ({"costs": f"[{PRICE.replace(', output_per_million: 20', '')}]"}, "F:9: cascade.costs.0.large.output_per_million: found nothing"),
    ],
)  # fmt: skip
def test_what_an_objective_cannot_use_is_refused_with_file_and_line(
    tmp_path: Path, settings: dict[str, str], message: str
) -> None:
    assert problem(tmp_path, **settings).startswith(message)


def test_an_objective_uses_the_first_cost_model_and_audc_none(tmp_path: Path) -> None:
    assert objective_cost(load(tmp_path, costs="[latency, flops]")) == FlopsCost()
    assert objective_cost(load(tmp_path, AT_COST, costs=f"[{PRICE}, latency]")).kind == "price"
    assert not uses_cost({"kind": "audc"})
    assert not uses_cost(None)
    assert uses_cost([{"kind": "audc"}, {"kind": "cost_at_quality", "quality": 0.5}])
