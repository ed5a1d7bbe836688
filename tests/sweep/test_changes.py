"""Which changes of a sweep may go on in its folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from sweep_fakes import SPACE, make_sweep

from catsweep.errors import StorageError, SweepChangedError
from catsweep.records import read_sweep, write_sweep
from catsweep.spec.load import Sweep
from catsweep.sweep.changes import check_unchanged

OPTIONS = SPACE["loss"]["options"]  # type: ignore[index]


def store(folder: Path, tasks: list[str] | None = None, **fields: Any) -> None:
    sweep = make_sweep(tasks or ["a"], **fields)
    write_sweep(folder, sweep.spec, sweep.tasks)


def space(**fields: Any) -> dict[str, Any]:
    return {**SPACE, **fields}


def test_a_sweep_survives_its_file(tmp_path: Path) -> None:
    assert read_sweep(tmp_path) is None
    sweep = make_sweep(["a", "b"])
    write_sweep(tmp_path, sweep.spec, sweep.tasks)
    assert read_sweep(tmp_path) == (sweep.spec, sweep.tasks)


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"search__num_samples": 9},
        {"search__confirm_seeds": 5},
        {"resources": {"num_workers": 2, "evaluation_batch_size": 8}},
        {"cascade": {"deferral": ["mean", "max"], "num_resamples": 500}},
        {"cascade": {"costs": ["latency", "flops"]}},
        {"keep_models": 3},
        {"resources": {"hang_minutes": 5}},
        {"tasks": ["b", "a"]},
        {"space": space(loss={"space": "choice", "options": [{"kind": "cat_xent"}, *OPTIONS]})},
    ],
)
def test_what_may_change(tmp_path: Path, fields: dict[str, Any]) -> None:
    store(tmp_path)
    fields = dict(fields)
    sweep = make_sweep(fields.pop("tasks", ["a"]), **fields)
    assert check_unchanged(sweep, tmp_path) is None  # type: ignore[func-returns-value]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"steps": 10}, r"training\.steps is 10, but the trials in .* were made with 9"),
        ({"small": {"pretrained": "tiny"}}, r"small\.pretrained is 'tiny'"),
        ({"search__metric": {"kind": "quality_at_cost", "cost": 0.4}}, r"search\.metric\.kind is 'quality_at_cost'"),
        ({"search__sampler": {"type": "tpe", "seed": 1}}, r"search\.sampler\.seed is 1"),
        (
            {"search__scheduler": {"type": "asha", "grace_period": 2}},
            r"search\.scheduler\.type is 'asha', .* made with 'none'",
        ),
        ({"large": {"pretrained": "larger"}}, r"large\.pretrained is 'larger', .* made with 'large'"),
        ({"distribution": {"num_entries": 4}}, r"distribution\.num_entries is 4, .* made with 12"),
        ({"training": {"steps": 9, "batch_size": 64}}, r"training\.batch_size is 64, .* made with"),
        ({"data": {"max_train_rows": 50}}, r"data\.max_train_rows is 50, .* made with None"),
        ({"cascade": {"deferral": ["max"]}}, r"cascade\.deferral\.0 is 'max'"),
        ({"tasks": ["b"]}, r"tasks\.a is 'nothing'"),
        (
            {"space": space(learning_rate={"space": "loguniform", "lower": 1e-5, "upper": 1e-2})},
            r"search\.space, stratum\.xent\.learning_rate\.upper is 0\.01, .* made with 0\.001",
        ),
        ({"space": space(loss={"space": "choice", "options": OPTIONS[:1]})}, r"stratum\.dist is 'nothing'"),
        ({"search__stratify": []}, r"stratum\.xent is 'nothing'"),
    ],
)
def test_what_may_not_change(tmp_path: Path, fields: dict[str, Any], message: str) -> None:
    store(tmp_path)
    fields = dict(fields)
    with pytest.raises(SweepChangedError, match=message):
        check_unchanged(make_sweep(fields.pop("tasks", ["a"]), **fields), tmp_path)


def test_the_first_cost_model_may_not_change_where_an_objective_names_a_cost(tmp_path: Path) -> None:
    metric = {"search__metric": {"kind": "quality_at_cost", "cost": 0.4}}
    store(tmp_path, **metric)
    check_unchanged(make_sweep(["a"], **metric, cascade={"costs": ["flops", "latency"]}), tmp_path)
    price = {"input_per_million": 1, "output_per_million": 2}
    costs = [{"kind": "price", "small": price, "large": price}, "flops"]
    with pytest.raises(SweepChangedError, match=r"cascade\.costs\.0 is .*price.*made with 'flops'"):
        check_unchanged(make_sweep(["a"], **metric, cascade={"costs": costs}), tmp_path)


def test_a_changed_task_is_refused_with_both_values(tmp_path: Path) -> None:
    store(tmp_path)
    sweep = make_sweep(["a"])
    other = sweep.tasks[0].model_copy(update={"doc_to_text": "{{ other }}"})
    with pytest.raises(SweepChangedError, match=r"tasks\.a\.doc_to_text is '{{ other }}', .*made with '{{ text }}'"):
        check_unchanged(Sweep(sweep.spec, (other,), sweep.document), tmp_path)


def test_a_file_of_another_version_is_refused(tmp_path: Path) -> None:
    store(tmp_path)
    path = tmp_path / "sweep.json"
    path.write_text(path.read_text().replace('"distribution"', '"distributions"'))
    with pytest.raises(StorageError, match="another version"):
        check_unchanged(make_sweep(["a"]), tmp_path)


def test_a_sweep_that_sets_no_new_key_stands_on_storage_as_before_there_were_any() -> None:
    spec = make_sweep(["a"]).spec
    assert "keep_models" not in spec.to_json()
    assert "hang_minutes" not in spec.to_json()["resources"]
    assert spec.resources.hang_seconds == 7200
    changed = make_sweep(["a"], keep_models=0, resources={"hang_minutes": None}).spec
    assert changed.to_json()["keep_models"] == 0
    assert changed.to_json()["resources"]["hang_minutes"] is None
    assert type(spec).model_validate(changed.to_json()) == changed
