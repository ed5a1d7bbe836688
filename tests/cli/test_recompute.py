"""`catsweep curves NAME --deferral ... --cost ...`."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from synthetic import ONE_TASK, copy_sweep
from typer.testing import CliRunner

from catsweep.cli.main import app
from catsweep.cli.recompute import compute_all, override
from catsweep.curves import Recomputation, compute_task
from catsweep.errors import SpecError, StorageError
from catsweep.spec.cascade import CascadeSpec, PriceCost

OWN = CascadeSpec(deferral=["mean"], num_resamples=100)
PRICE = {
    "kind": "price",
    "small": {"input_per_million": 0.1, "output_per_million": 0.4},
    "large": {"input_per_million": 2.5, "output_per_million": 10.0},
}


def test_options_may_be_repeated_or_hold_commas_and_what_is_not_given_stays() -> None:
    found = override(OWN, ["mean,max", "quantile:0.9, learned", "max"], [])
    assert found == OWN.model_copy(update={"deferral": ["mean", "max", "quantile:0.9", "learned"]})
    costs = override(OWN, [], ["flops,latency", "price:0.1/0.4/2.5/10"])
    assert costs.deferral == ["mean"]
    assert costs.to_json()["costs"] == ["flops", "latency", PRICE]


def test_price_alone_is_the_sweeps_own() -> None:
    priced = CascadeSpec.model_validate({"costs": ["flops", PRICE]})
    assert override(priced, [], ["price"]).costs == [PriceCost.model_validate(PRICE)]
    with pytest.raises(SpecError, match="the sweep names no prices; expected price:A/B/C/D"):
        override(OWN, [], ["price"])


@pytest.mark.parametrize(
    ("rules", "costs", "message"),
    [
        (["meen"], [], "Did you mean 'mean'"),
        (["mean,,max"], [], "--deferral: found an empty name"),
        (["oracle"], [], "--deferral: found oracle; expected unknown deferral rule"),
        ([], ["flop"], "--cost: found 'flop'; expected flops, latency, price"),
        ([], ["price:1/2/3"], "--cost: found 'price:1/2/3'"),
        ([], ["price:a/2/3/4"], "--cost: found a"),
        ([], ["price:-1/2/3/4"], "--cost: found -1"),
    ],
)
def test_what_is_wrong_with_an_option_is_said(rules: list[str], costs: list[str], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        override(OWN, rules, costs)


def test_the_folder_is_named_after_the_settings() -> None:
    assert Recomputation(override(OWN, ["mean,quantile:0.9"], [])).folder == "recomputed/mean+quantile-0.9_flops"
    one, two = (Recomputation(override(OWN, [], [f"price:{price}/1/1/1"])).folder for price in (1, 2))
    assert one != two
    many = [f"quantile:0.{number}" for number in range(100, 120)]
    assert len(Recomputation(override(OWN, many, [])).folder) < 40


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return copy_sweep(tmp_path_factory.mktemp("finished"), ONE_TASK)


def test_the_command_prints_the_rules_and_what_it_wrote_where_without_ray_or_a_model(root: Path) -> None:
    before = {path: path.read_bytes() for path in (root / "tiny" / "curves").rglob("*") if path.is_file()}
    loaded = set(sys.modules)
    arguments = [
        "curves",
        "tiny",
        "--deferral",
        "mean,max,learned",
        "--cost",
        "flops,price:1/2/10/20",
        "--out",
        str(root),
    ]
    result = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert result.exit_code == 0
    (folder,) = [path for path in (root / "tiny" / "recomputed").iterdir() if "learned" in path.name]
    text = " ".join(result.stdout.split())
    assert f"wrote {folder}: results and points of each task, summary.json, report.html" in text
    assert "audc on calibration" in text
    assert {path.name for path in folder.iterdir()} == {"langid", "summary.json", "report.html"}
    assert {path: path.read_bytes() for path in before} == before
    assert not {"ray", "mlflow", "torch"} & (set(sys.modules) - loaded)


def test_the_command_prints_json(root: Path) -> None:
    arguments = ["curves", "tiny", "--deferral", "max", "--json", "--out", str(root)]
    result = CliRunner().invoke(app, arguments, catch_exceptions=False)
    data = json.loads(result.stdout)
    assert data["tasks"][0]["rules"] == ["max"]
    assert set(data["summary"]["macro"]) == {"cat_xent/either"}


def test_a_sweep_that_is_not_there_is_named(tmp_path: Path) -> None:
    arguments = ["curves", "none", "--deferral", "max", "--out", str(tmp_path)]
    with pytest.raises(StorageError, match="none holds no sweep"):
        CliRunner().invoke(app, arguments, catch_exceptions=False)


def test_a_table_has_no_rules_to_choose_from(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["curves", "--table", str(tmp_path / "x.csv"), "--deferral", "max"])
    assert result.exit_code == 2


def test_several_processes_give_what_one_gives(root: Path) -> None:
    other = Recomputation(override(OWN, ["mean,max"], []))
    wanted = compute_task(root, "tiny", "langid/nordic", other=other)
    assert compute_all(root, "tiny", ["langid/nordic"] * 3, other) == [wanted] * 3
