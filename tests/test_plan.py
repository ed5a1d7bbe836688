"""The plan of a sweep, against what the sweep then really makes."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from catsweep.cascade.cost import ModelShape, forward_flops
from catsweep.cascade.ragged import Ragged
from catsweep.plan import make_plan
from catsweep.prepare import load_prepared, prepare_task
from catsweep.spec.load import Sweep


@pytest.mark.parametrize("task", ["reverse.yaml", "parity.yaml"])
def test_the_large_models_pass_costs_what_its_rows_say(
    make_sweep: Callable[..., Sweep], task: str, tmp_path: Path
) -> None:
    sweep = make_sweep(tasks=(task,))
    (planned,) = make_plan(sweep, root=tmp_path).tasks
    assert planned.cached == {"data": False, "large": False, "signal": False, "answers": False}
    prepare_task(sweep.tasks[0], sweep.spec, root=tmp_path)
    prepared = load_prepared(tmp_path, "tiny", sweep.tasks[0].task)
    shape = ModelShape.from_dict(prepared.facts["large_shape"])
    rows, train = prepared.large_rows(), prepared.task_data().tokens("train")
    choices = Ragged.from_lists(rows["choice_num_tokens"].to_pylist())
    signal = forward_flops(shape, train.prompts.lengths, train.targets.lengths).sum()
    answers = forward_flops(shape, rows["num_prompt_tokens"], rows["num_output_tokens"], choices).sum()
    # Outputs of a badly trained model differ in length from the targets; choices are those of the task.
    assert planned.flops_large_pass == pytest.approx(signal + answers, rel=0.2 if task == "reverse.yaml" else 0.02)
    if task == "parity.yaml":
        assert planned.mean_choice_tokens == len("even") + len("uneven")
        assert planned.mean_target_tokens == pytest.approx(float(np.mean(train.targets.lengths)), abs=0.1)
    (again,) = make_plan(sweep, root=tmp_path).tasks
    assert again.cached == {"data": True, "large": True, "signal": True, "answers": True}


def test_every_task_that_cannot_be_planned_is_named_and_the_others_are_planned(
    make_sweep: Callable[..., Sweep], tmp_path: Path
) -> None:
    sweep = make_sweep(tasks=("reverse.yaml", "parity.yaml"))
    broken = [
        task.model_copy(update={"task": f"made/broken-{n}", "doc_to_text": "{{ nothing }}"})
        for n, task in enumerate(sweep.tasks)
    ]
    plan = make_plan(Sweep(sweep.spec, (broken[0], *sweep.tasks, broken[1]), sweep.document), root=tmp_path)
    assert [task.task for task in plan.tasks] == ["made/reverse", "made/parity"]
    assert len(plan.problems) == 2
    assert all(f"made/broken-{n}" in problem for n, problem in enumerate(plan.problems))

    def elsewhere(function: Callable[[Any], Any], items: Sequence[Any]) -> list[Any]:
        """As in another process."""
        return [pickle.loads(pickle.dumps(pickle.loads(pickle.dumps(function))(item))) for item in items]

    whole = Sweep(sweep.spec, (broken[0], *sweep.tasks, broken[1]), sweep.document)
    assert make_plan(whole, root=tmp_path, map_function=elsewhere) == make_plan(whole, root=tmp_path)


def test_checkpoints_are_counted_where_there_are_any(make_sweep: Callable[..., Sweep], tmp_path: Path) -> None:
    def plan(**sections: Any) -> Any:
        return make_plan(make_sweep(**sections), root=tmp_path).tasks[0]

    alone = plan()
    assert alone.disk_bytes_large_checkpoint == 24 * alone.large_parameters
    assert alone.disk_bytes_trial_checkpoint == 0.0  # evaluated once, at its end
    asha = plan(search={"scheduler": {"type": "asha", "grace_period": 4}})
    assert asha.disk_bytes_trial_checkpoint == 24 * asha.small_parameters
    more = plan(search={"num_samples": 9, "confirm_seeds": 1})
    assert more.disk_bytes > alone.disk_bytes


def test_weights_that_do_not_stay_take_no_disk_and_checkpoints_count_at_the_peak(
    make_sweep: Callable[..., Sweep], tmp_path: Path
) -> None:
    def plan(**sections: Any) -> Any:
        return make_plan(make_sweep(search={"num_samples": 1, "confirm_seeds": 6}, **sections), root=tmp_path)

    (everything,), (best,) = plan().tasks, plan(keep_models=1).tasks
    # The best one, and one more before the two are compared.
    assert everything.disk_bytes - best.disk_bytes == pytest.approx(4 * (6 - 2) * best.small_parameters)
    total = plan().to_json()["total"]
    assert total["disk_bytes_at_peak"] == pytest.approx(total["disk_bytes"] + 24 * everything.large_parameters)


def test_each_client_trains_for_all_steps_and_is_planned_so(make_sweep: Callable[..., Sweep], tmp_path: Path) -> None:
    def plan(federated: object) -> Any:
        search = {"num_samples": 1, "confirm_seeds": 1, "space": {"federated": federated}}
        return make_plan(make_sweep(search=search), root=tmp_path).tasks[0]

    clients = {"clients": 3, "rounds": 2, "local_steps": 6, "partition": {"kind": "iid"}}
    alone, three, mixed = (plan(value) for value in (None, clients, {"space": "choice", "options": [None, clients]}))
    per_run = (three.flops_search - alone.flops_search) / 2  # two more models a run
    assert three.flops_confirm - alone.flops_confirm == pytest.approx(2 * per_run)
    assert mixed.flops_search == pytest.approx(alone.flops_search + per_run)


def test_a_limit_that_cuts_most_prompts_is_warned_of(make_sweep: Callable[..., Sweep], tmp_path: Path) -> None:
    def warnings(limit: int) -> list[str]:
        training = {"steps": 12, "batch_size": 16, "max_prompt_tokens": limit}
        return make_plan(make_sweep(training=training), root=tmp_path).tasks[0].warnings

    (text,) = warnings(4)  # words of two to five letters, two thirds of them longer than three, and the delimiter
    assert text.startswith("made/reverse: training.max_prompt_tokens 4 cuts the beginning of ")
    assert "half of which have 5 tokens or more" in text
    assert warnings(6) == []
