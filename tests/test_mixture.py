"""A mixture without Ray: prepare, train on all members, rows and objective of each, plan, results."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from catsweep.cascade.compare import macro_mean
from catsweep.curves import compute_task, result_names, results_on_storage, summarise, with_macros
from catsweep.errors import DataError, SpecError
from catsweep.inputs import read_inputs
from catsweep.mixture import prepare_unit, read_mixture
from catsweep.plan import MemberPlan, make_plan
from catsweep.prepare import load_prepared
from catsweep.records import StepMetrics, TrialRecord, read_json, read_rows, write_json, write_sweep
from catsweep.report.page import write_report
from catsweep.report.tables import notes, results_table
from catsweep.space import build_confirm, build_trial, check_search
from catsweep.spec.load import Sweep
from catsweep.spec.mixture import MixtureSpec
from catsweep.spec.sweep import TrialSpec
from catsweep.trial import run_trial

# Another prompt and another group key on the same words: what `reverse` is evaluated on, this one trains on.
SPELL_TASK = """\
task: made/spell
group: spelling
source: {kind: files, format: jsonl, train: words.jsonl}
output_type: generate_until
doc_to_text: "spell {{word}}"
doc_to_target: "{{word}}"
doc_to_group: "{{drow}}{{word}}"
target_delimiter: ">"
generation_kwargs: {max_gen_toks: 6}
metric_list: [{metric: chrf}]
"""
PASSAGE_TASK = """\
task: made/passages
group: questions
source: {kind: files, format: jsonl, train: passages.jsonl}
output_type: generate_until
doc_to_text: "{{passage}} | {{question}}"
doc_to_target: "{{answer}}"
generation_kwargs: {max_gen_toks: 6}
metric_list: [{metric: exact_match}]
"""
MEMBERS = ["reverse.yaml", "parity.yaml"]
CAT = {"kind": "cat_xent", "filter": {"kind": "either"}}
SEARCH = {
    "num_samples": 1,
    "confirm_seeds": 2,
    "space": {"loss": {"space": "choice", "options": [{"kind": "xent"}, CAT]}},
}


def mixed(make_sweep: Callable[..., Sweep], tasks: list[str] = MEMBERS, sections: Any = None, **entry: Any) -> Sweep:
    return make_sweep(tasks=({"mixture": "both", "tasks": tasks, **entry},), **{"search": SEARCH, **(sections or {})})


def trial(sweep: Sweep, loss: dict[str, Any] | None = None) -> TrialSpec:
    training = {**sweep.spec.training.to_json(), "loss": loss or {"kind": "xent"}}
    stratum = "cat_xent/either" if loss else "xent"
    return build_trial(sweep.spec, sweep.tasks[0], stratum, 0, training, {})


def run(spec: TrialSpec, root: Path, folder: Path | None = None) -> TrialRecord:
    reports: list[StepMetrics] = []
    folder = folder or root / spec.sweep / spec.trial_id
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "spec.json", spec.to_json())
    return run_trial(spec, root=root, folder=folder, report=reports.append)


@pytest.fixture(scope="module")
def both(make_sweep: Callable[..., Sweep], tmp_path_factory: pytest.TempPathFactory) -> tuple[Sweep, Path]:
    """A prepared mixture of a generation and a multiple-choice task."""
    root = tmp_path_factory.mktemp("root")
    sweep = mixed(make_sweep)
    prepare_unit(sweep.tasks[0], sweep.spec, root=root)
    return sweep, root


@pytest.fixture(scope="module")
def finished(both: tuple[Sweep, Path]) -> tuple[Sweep, Path]:
    """The same with all trials, confirm runs and results."""
    sweep, root = both
    write_sweep(root / "tiny", sweep.spec, sweep.tasks)
    for loss in (None, CAT):
        spec = trial(sweep, loss)
        for confirm in (spec, build_confirm(spec, 0), build_confirm(spec, 1)):
            run(confirm, root)
    summarise(root, "tiny", [compute_task(root, "tiny", name) for name in result_names(sweep.tasks)])
    return sweep, root


def test_members_share_one_large_model_and_one_tokeniser(both: tuple[Sweep, Path]) -> None:
    _, root = both
    members = [load_prepared(root, "tiny", f"both/{name}") for name in ("made/reverse", "made/parity")]
    assert members[0].large_model == members[1].large_model
    assert members[0].data != members[1].data
    vocabularies = [member.tokenizer().get_vocab() for member in members]
    assert vocabularies[0] == vocabularies[1]
    assert {"a", "v", "u"} <= set(vocabularies[0])  # `uneven` stands in the other member's choices only
    assert sum(member.facts["rate"] for member in members) == pytest.approx(1)
    assert list((root / "cache" / "large").glob("[0-9a-f]*[0-9a-f]")) == [members[0].large_model]


def test_rows_and_metrics_are_those_of_every_member(both: tuple[Sweep, Path], tmp_path: Path) -> None:
    sweep, root = both
    record = run(trial(sweep), root, tmp_path)
    rows = read_rows(tmp_path / "rows.parquet")
    assert set(rows["task"].to_pylist()) == {"made/reverse", "made/parity"}
    names = {"exact_match", "exact_match_audc", "chrf", "chrf_audc", "objective"}
    assert {f"validation/made/reverse/{name}" for name in names} <= set(record.metrics)
    parity = record.metrics["validation/made/parity/accuracy_audc"]
    reverse = record.metrics["validation/made/reverse/exact_match_audc"]
    assert record.objective == pytest.approx((parity + reverse) / 2)
    assert record.task == "both"


def test_kinds_weigh_equally_in_the_objective() -> None:
    assert macro_mean(["a", "b", "b", "b"], [1.0, 0.0, 0.3, 0.6]) == pytest.approx((1.0 + 0.3) / 2)


def test_an_interrupted_trial_ends_with_the_same_rows(both: tuple[Sweep, Path], tmp_path: Path) -> None:
    sweep, root = both
    spec = trial(sweep, CAT).model_copy(update={"evaluate_at": [5, 12]})
    run(spec, root, tmp_path / "whole")

    class Killed(Exception):
        pass

    def die(metrics: StepMetrics) -> None:
        raise Killed

    (tmp_path / "cut").mkdir()
    with pytest.raises(Killed):
        run_trial(spec, root=root, folder=tmp_path / "cut", report=die)
    run(spec, root, tmp_path / "cut")
    rows = [read_rows(tmp_path / name / "rows.parquet") for name in ("whole", "cut")]
    assert rows[0].equals(rows[1])


def test_training_examples_that_another_member_is_evaluated_on_are_dropped_and_counted(
    make_sweep: Callable[..., Sweep], task_folder: Path, tmp_path: Path
) -> None:
    (task_folder / "spell.yaml").write_text(SPELL_TASK)
    sweep = mixed(make_sweep, ["reverse.yaml", "spell.yaml"])
    mixture = sweep.tasks[0]
    assert isinstance(mixture, MixtureSpec)
    found = read_mixture(mixture, sweep.spec, root=tmp_path)
    shown = {name: texts(part) for name, part in found.inputs.items()}
    for name, other in (("made/reverse", "made/spell"), ("made/spell", "made/reverse")):
        evaluated = set().union(*(shown[other][split] for split in ("validation", "calibration", "test")))
        for split in ("train", "large_train"):
            assert not shown[name][split] & evaluated
        assert min(found.num_dropped[name][reason] for reason in ("small_evaluated", "large_evaluated")) > 0
    # What one member's small-model half shows is in no large-model half.
    assert not shown["made/reverse"]["train"] & shown["made/spell"]["large_train"]
    assert not shown["made/spell"]["train"] & shown["made/reverse"]["large_train"]
    alone = {task.task: texts(read_inputs(task, sweep.spec, root=tmp_path)) for task in mixture.members}
    for name, counts in found.num_dropped.items():
        for split in ("train", "large_train"):
            reasons = ["small_evaluated"] if split == "train" else ["large_evaluated", "large_signal"]
            gone = sum(counts[reason] for reason in reasons)
            assert len(alone[name][split]) - len(shown[name][split]) == gone
        for split in ("validation", "calibration", "test"):
            assert alone[name][split] == shown[name][split]
    plan = make_plan(sweep, root=tmp_path)
    for member in plan.tasks[0].members:
        counts = found.num_dropped[member.task]
        assert (member.num_evaluated_small, member.num_evaluated_large, member.num_signal_large) == (
            counts["small_evaluated"],
            counts["large_evaluated"],
            counts["large_signal"],
        )
        left = member.num_rows["train"]
        assert (
            f"S {member.num_evaluated_small} of {left + member.num_evaluated_small}, {left} left" in member.describe()
        )
    assert sum(member.rate for member in plan.tasks[0].members) == pytest.approx(1)
    assert plan.tasks[0].num_rows["test"] == 100


def write_passages(folder: Path) -> None:
    """A task of 400 questions, each a group of its own, on 200 passages: two questions a passage."""
    passages = [f"Passage {number:03}, long enough to be known again anywhere." for number in range(200)]
    rows = [{"passage": passages[n % 200], "question": f"q{n}", "answer": f"a{n % 7}"} for n in range(400)]
    (folder / "passages.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "passages.yaml").write_text(PASSAGE_TASK)


def passages_of(inputs: Any) -> dict[str, list[str]]:
    return {split: [row.prompt.split(" | ")[0] for row in rows] for split, rows in inputs.examples.items()}


@pytest.mark.parametrize("cross_fit", [False, True])
def test_a_passage_that_a_member_is_evaluated_on_itself_is_in_no_training_example(
    make_sweep: Callable[..., Sweep], task_folder: Path, tmp_path: Path, cross_fit: bool
) -> None:
    write_passages(task_folder)
    finetune = {"steps": 1, "batch_size": 4, "learning_rate": 1e-2, **({"cross_fit": 2} if cross_fit else {})}
    large = {"config": make_sweep().spec.large.to_json()["config"], "finetune": finetune}
    sweep = mixed(make_sweep, ["reverse.yaml", "passages.yaml"], {"large": large})
    mixture = sweep.tasks[0]
    assert isinstance(mixture, MixtureSpec)
    found = read_mixture(mixture, sweep.spec, root=tmp_path)
    shown = passages_of(found.inputs["made/passages"])
    evaluated = {text for split in ("validation", "calibration", "test") for text in shown[split]}
    alone = passages_of(read_inputs(mixture.members[1], sweep.spec, root=tmp_path))
    kept = [text for text in alone["train"] if text not in evaluated]
    assert 0 < len(kept) < len(alone["train"])
    assert shown["train"] == kept
    assert found.num_dropped["made/passages"]["small_evaluated"] == len(alone["train"]) - len(kept)
    if cross_fit:
        folds = found.inputs["made/passages"].folds
        assert folds is not None
        for fold in range(2):
            seen = {kept[index] for index in folds.trained(fold)}
            assert not seen & {kept[index] for index in folds.judged(fold)}
            assert not folds.hidden[fold][folds.judged(fold)].any()
    else:
        assert not set(shown["large_train"]) & (evaluated | set(shown["train"]))


def test_the_plan_names_a_common_group_where_most_of_a_member_is_lost() -> None:
    rows = {"train": 40, "large_train": 90}
    line = MemberPlan("b", "g", rows, 59, 8, 2, 0.25).describe()
    assert line.startswith("25.0% of the training examples are of b; dropped")
    assert "S 59 of 99, 40 left; L 8 and 2 that stand in S's part of a member of 100, 90 left." in line
    assert line.endswith("one doc_to_group on that text")
    assert "doc_to_group" not in MemberPlan("b", "g", rows, 9, 8, 2, 0.25).describe()
    assert "S and L 9 of 49, 40 left." in MemberPlan("b", "g", {"train": 40}, 9, 0, 0, 0.25).describe()


def test_a_member_of_which_nothing_is_left_names_what_gives_more(
    make_sweep: Callable[..., Sweep], task_folder: Path, tmp_path: Path
) -> None:
    text = "One passage under every question, long enough to be known."
    rows = [json.dumps({"passage": text, "question": f"q{n}", "answer": f"a{n % 7}"}) for n in range(400)]
    (task_folder / "one.jsonl").write_text("\n".join(rows))
    (task_folder / "one_passage.yaml").write_text(PASSAGE_TASK.replace("passages.jsonl", "one.jsonl"))
    sweep = mixed(make_sweep, ["reverse.yaml", "one_passage.yaml"])
    with pytest.raises(
        DataError, match=r"task made/passages: found no training example for L after .* doc_to_group.*holdout"
    ):
        prepare_unit(sweep.tasks[0], sweep.spec, root=tmp_path)


def texts(inputs: Any) -> dict[str, set[str]]:
    """The words that each split shows."""
    return {
        split: {example.prompt.removeprefix("spell ") for example in rows} for split, rows in inputs.examples.items()
    }


def test_a_member_that_is_used_as_it_is_alone_keeps_its_caches(
    make_sweep: Callable[..., Sweep], tmp_path: Path
) -> None:
    """Without a fine-tune, and where nothing leaks and the tokeniser is no made one."""
    scratch = {"config": {"model_type": "llama", "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1,
                          "num_attention_heads": 2}}  # fmt: skip
    from catsweep.models import build_model
    from catsweep.spec.model import ByteTokenizer, ScratchModel
    from catsweep.tokenization import make_tokenizer

    tokenizer = make_tokenizer(ByteTokenizer(), [])
    for name in ("small", "large"):
        build_model(ScratchModel(**scratch), tokenizer, seed=len(name)).save_pretrained(tmp_path / name)
        tokenizer.save_pretrained(tmp_path / name)
    models = {name: {"pretrained": str(tmp_path / name)} for name in ("small", "large")}
    sweep = mixed(make_sweep, sections=models)
    mixture = sweep.tasks[0]
    assert isinstance(mixture, MixtureSpec)
    found = read_mixture(mixture, sweep.spec, root=tmp_path)
    assert found.keys["large"] is None
    for task in mixture.members:
        assert found.inputs[task.task].keys == read_inputs(task, sweep.spec, root=tmp_path).keys


def test_one_quality_to_reach_needs_members_of_one_unit(
    make_sweep: Callable[..., Sweep], task_folder: Path, tmp_path: Path
) -> None:
    (task_folder / "spell.yaml").write_text(SPELL_TASK)
    search = {**SEARCH, "metric": {"kind": "cost_at_quality", "quality": 0.5}}
    sweep = mixed(make_sweep, ["reverse.yaml", "spell.yaml"], {"search": search})
    with pytest.raises(DataError, match=r"made/reverse in \[0, 1\], made/spell in \[0, 100\]\); expected one unit"):
        prepare_unit(sweep.tasks[0], sweep.spec, root=tmp_path)


def test_a_guard_needs_a_baseline(make_sweep: Callable[..., Sweep]) -> None:
    space = {"loss": {"space": "choice", "options": [CAT]}}
    sweep = mixed(make_sweep, sections={"search": {**SEARCH, "space": space}}, min_task_delta=0.1)
    with pytest.raises(SpecError, match=r"tasks\.0\.min_task_delta: .*expected a stratum named xent"):
        check_search(sweep.spec)


def test_results_are_those_of_the_members_and_their_macro_mean(finished: tuple[Sweep, Path]) -> None:
    _, root = finished
    results, summary = results_on_storage(root, "tiny")
    assert [result["task"] for result in results] == ["both/made/reverse", "both/made/parity"]
    (macro,) = summary["mixtures"]
    metric = macro["metrics"]["macro"]
    for stratum in ("xent", "cat_xent/either"):
        parts = [next(iter(result["metrics"].values()))["strata"][stratum] for result in results]
        assert metric["strata"][stratum]["audc"]["value"] == pytest.approx(
            np.mean([part["audc"]["value"] for part in parts])
        )
        curve = metric["strata"][stratum]["curve"]["quality"]
        assert curve == pytest.approx(np.mean([part["curve"]["quality"] for part in parts], axis=0))
        assert curve[100] == pytest.approx(metric["large"]["value"])
    either = metric["strata"]["cat_xent/either"]
    differences = {
        result["task"]: next(iter(result["metrics"].values()))["strata"]["cat_xent/either"]["difference"]["value"]
        for result in results
    }
    assert either["difference"]["value"] == pytest.approx(np.mean(list(differences.values())))
    worst = min(differences, key=lambda name: differences[name])
    assert either["worst"]["task"] == worst
    assert either["worst"]["value"] == pytest.approx(differences[worst])
    assert [result["task"] for result in with_macros(results, summary)] == [
        "both",
        "both/made/reverse",
        "both/made/parity",
    ]


def test_the_table_and_the_report_show_members_macro_mean_and_worst_member(finished: tuple[Sweep, Path]) -> None:
    _, root = finished
    rows = results_table(*results_on_storage(root, "tiny"))
    assert [(row.task, row.stratum) for row in rows][:2] == [("both", "xent"), ("both", "cat_xent/either")]
    assert {row.task for row in rows} == {"both", "both/made/reverse", "both/made/parity"}
    worst = next(row for row in rows if row.worst_task)
    line = next(line for line in notes(rows) if "worst member" in line)
    assert worst.worst_task is not None
    assert line.startswith(f"both cat_xent/either: the worst member is {worst.worst_task}")
    page = write_report(root, "tiny").read_text()
    assert line.split(",")[0] in page
    assert "both/made/parity" in page
    assert "macro mean" in page
    assert "on\n2 tasks." in page
    assert "trained on made/reverse 50%, made/parity 50%; 0 training examples dropped" in page


def test_the_results_come_again_from_the_files(finished: tuple[Sweep, Path], tmp_path: Path) -> None:
    sweep, root = finished
    shutil.copytree(root, tmp_path / "copy")
    curves = tmp_path / "copy" / "tiny" / "curves"
    before = read_json(curves / "summary.json")
    shutil.rmtree(curves)
    again = summarise(
        tmp_path / "copy", "tiny", [compute_task(tmp_path / "copy", "tiny", name) for name in result_names(sweep.tasks)]
    )
    assert json.loads(json.dumps(again)) == before
