"""The unit that prepares a task: with one worker in its own process, with several as a group of Ray Train."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.torch import load_file

from catsweep.prepare import prepare_task
from catsweep.records import read_rows
from catsweep.spec.load import Sweep
from catsweep.sweep.cluster import Cluster
from catsweep.sweep.prepare import Preparation


def prepare(sweep: Sweep, root: Path) -> dict[str, Any]:
    (outcome,) = Preparation([sweep.tasks[0]], sweep.spec, prepare_task, root).poll(300)
    assert outcome.error == ""
    return outcome.facts


@pytest.mark.slow
@pytest.mark.parametrize("task", ["reverse.yaml", "parity.yaml"])
def test_two_workers_make_the_large_model_signal_and_answers_of_one(
    cluster: Cluster, make_sweep: Callable[..., Sweep], task: str, tmp_path: Path
) -> None:
    settings: dict[str, Any] = {
        "tasks": (task,),
        "search": {"space": {"loss": {"space": "choice", "options": [{"kind": "dist"}, {"kind": "cat_xent"}]}}},
    }
    one = make_sweep(**settings)
    two = make_sweep(**settings, resources={"large": {"num_workers": 2}})
    facts = prepare(one, tmp_path / "one")
    assert prepare(two, tmp_path / "two")["keys"] == facts["keys"]
    large, signal, answers = (Path("cache") / name / facts["keys"][name] for name in ("large", "signal", "answers"))

    weights = [load_file(tmp_path / root / large / "model.safetensors") for root in ("one", "two")]
    for name, tensor in weights[0].items():
        np.testing.assert_allclose(weights[1][name].numpy(), tensor.numpy(), atol=1e-3, err_msg=name)

    # With the very same weights, two workers make the same signal to the bit, and the same answers.
    shutil.copytree(tmp_path / "one" / large, tmp_path / "same" / large)
    assert prepare(two, tmp_path / "same")["keys"] == facts["keys"]
    for name in ("rank", "logprob", "ids"):
        first, second = (np.load(tmp_path / root / signal / f"{name}.npy") for root in ("one", "same"))
        assert first.tobytes() == second.tobytes(), name
    first, second = (read_rows(tmp_path / root / answers / "rows.parquet") for root in ("one", "same"))
    for column in first.column_names:
        before, after = first[column].combine_chunks(), second[column].combine_chunks()
        if "logprobs" in column or column in ("token_entropies", "token_margins"):
            np.testing.assert_allclose(after.flatten(), before.flatten(), atol=1e-5, err_msg=column)
        else:
            assert after.equals(before), column


@pytest.mark.slow
def test_two_workers_make_the_signal_of_fold_models_as_one_does(
    cluster: Cluster, make_sweep: Callable[..., Sweep], tmp_path: Path
) -> None:
    finetune = {"steps": 30, "batch_size": 16, "learning_rate": 1e-2, "cross_fit": 2}
    base = make_sweep().spec.large.to_json()
    found = {}
    for name, workers in (("one", 1), ("two", 2)):
        large = {"config": base["config"], "finetune": finetune}
        sweep = make_sweep(large=large, resources={"large": {"num_workers": workers}})
        facts = prepare(sweep, tmp_path / name)
        signal = tmp_path / name / "cache" / "signal" / facts["keys"]["signal"]
        found[name] = facts["keys"], np.load(signal / "rank.npy"), np.load(signal / "logprob.npy")
    assert found["one"][0] == found["two"][0]
    assert np.mean(found["one"][1] == found["two"][1]) > 0.98  # weights of two ranks are summed in another order
    np.testing.assert_allclose(found["two"][2].astype(float), found["one"][2].astype(float), atol=0.02)
