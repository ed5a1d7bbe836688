from __future__ import annotations

import json
import logging
import subprocess
import sys
from collections import Counter
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest

from catsweep.errors import DataError
from catsweep.spec.load import load_task, task_files
from catsweep.spec.task import TaskSpec
from catsweep.tasks.examples import SPLITS, Example, load_examples, load_task_data, preview

PACKAGE_TASKS = ["emoji/en-fr", "emoji/en-de", "lemma/cs"]
SLOW_PACKAGE_TASKS = ["lemma/es", "langid/nordic"]  # large dictionaries: five and ten seconds


def shipped(name: str) -> TaskSpec:
    return load_task(task_files()[name])


def assert_sound(splits: dict[str, list[Example]]) -> None:
    """No group key in two splits, no id twice, and every text is there."""
    assert tuple(splits) == SPLITS
    assert all(splits.values())
    for one, other in combinations(SPLITS, 2):
        assert not {row.group for row in splits[one]} & {row.group for row in splits[other]}
    rows = [row for split in SPLITS for row in splits[split]]
    assert len({row.id for row in rows}) == len(rows)
    for row in rows:
        assert row.prompt.strip()
        assert row.target == row.references[0]
        assert row.target == (row.choices[row.label] if row.choices else row.target)


@pytest.mark.parametrize(
    "name", [*PACKAGE_TASKS, *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW_PACKAGE_TASKS)]
)
def test_shipped_package_tasks_share_no_key_and_no_word_between_splits(name: str, cache: Path) -> None:
    task = shipped(name)
    data = load_task_data(task, cache=cache)
    assert_sound(data.splits)
    num_rows = sum(len(rows) for rows in data.splits.values())
    size = 1_000 if num_rows > 10_000 else num_rows // 10
    assert [len(data.splits[split]) for split in SPLITS[1:]] == [size] * 3
    assert data.facts["largest_group_share"] < 0.01
    texts = {
        split: {text.casefold() for row in rows for text in (row.prompt, row.target if not row.choices else row.prompt)}
        for split, rows in data.splits.items()
    }
    for one, other in combinations(SPLITS, 2):
        assert not texts[one] & texts[other]
    lengths = sorted(len(row.target) for rows in data.splits.values() for row in rows)
    if task.output_type == "generate_until":  # one token a character, and the end token
        assert lengths[int(0.999 * len(lengths))] + 1 <= task.generation_kwargs.max_gen_toks


@pytest.mark.slow
def test_every_split_of_nordic_words_has_each_language_as_often(cache: Path) -> None:
    for split, rows in load_examples(shipped("langid/nordic"), cache=cache).items():
        shares = {language: count / len(rows) for language, count in Counter(row.target for row in rows).items()}
        assert all(0.2 < share < 0.3 for share in shares.values()), (split, shares)
        assert 0.7 < len({row.prompt for row in rows}) / len(rows) < 0.82  # words of several languages


@pytest.mark.parametrize("name", ["superglue/rte", "superglue/boolq"])
def test_shipped_hub_tasks_share_no_key_between_splits(
    name: str, hub_data: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        data = load_task_data(shipped(name), verify="schema")
    assert_sound(data.splits)
    assert len(data.splits["test"]) == data.facts["num_source_rows"]["test"] == {"superglue/rte": 277}.get(name, 3_270)
    assert {row.id.split(":")[0] for row in data.splits["test"]} == {"validation"}
    assert all(row.id.startswith("train:") for split in SPLITS[:3] for row in data.splits[split])
    dropped = data.facts["num_dropped"]["train"]
    assert dropped > 0
    assert f"task {name}: dropped {dropped} of" in caplog.text
    assert sum(data.facts["num_rows"].values()) + dropped == sum(data.facts["num_source_rows"].values())


def test_a_boolq_question_of_test_is_in_no_other_split(hub_data: Path) -> None:
    task = shipped("superglue/boolq").model_copy(update={"num_templates": 1})
    splits = load_examples(task, verify="schema")
    questions = {split: {row.prompt.split(" yes or no. ")[-1] for row in rows} for split, rows in splits.items()}
    for one, other in combinations(SPLITS, 2):
        assert not questions[one] & questions[other]


def test_caps_give_subsets_of_the_uncapped_splits(cache: Path) -> None:
    task = shipped("emoji/en-fr")
    whole = load_examples(task, cache=cache)
    capped = load_examples(task, max_train_rows=300, max_evaluation_rows=64, cache=cache)
    assert [len(capped[split]) for split in SPLITS] == [300, 64, 64, 64]
    for split in SPLITS:
        assert set(capped[split]) < set(whole[split])
        order = {row: index for index, row in enumerate(whole[split])}
        assert [order[row] for row in capped[split]] == sorted(order[row] for row in capped[split])


def test_examples_are_the_same_in_every_process(cache: Path, tmp_path: Path) -> None:
    code = """
import json, sys
from dataclasses import asdict
from pathlib import Path
from catsweep.spec.load import load_task, task_files
from catsweep.tasks.examples import load_examples
rows = load_examples(load_task(task_files()["emoji/en-de"]), max_train_rows=50, max_evaluation_rows=50,
                     cache=Path(sys.argv[1]))
assert not {"torch", "transformers", "ray", "datasets"} & set(sys.modules)
print(json.dumps({split: [asdict(row) for row in rows[split]] for split in rows}, default=sorted))
"""
    seen = [
        subprocess.run(
            [sys.executable, "-c", code, str(folder)], capture_output=True, text=True, check=True,
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": ":".join(sys.path)},
        ).stdout
        for seed, folder in (("0", cache), ("1", tmp_path))
    ]  # fmt: skip
    assert seen[0] == seen[1]
    assert len(json.loads(seen[0])["test"]) == 50


def write_rows(folder: Path, name: str, rows: list[dict[str, Any]]) -> str:
    (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(folder / name)


def test_files_are_cut_rendered_and_numbered(tmp_path: Path, make_task: Any) -> None:
    rows = [{"question": f"{n} + 1", "answer": [str(n + 1), f"={n + 1}"]} for n in range(200)]
    source = {
        "format": "jsonl",
        "train": write_rows(tmp_path, "train.jsonl", rows),
        "test": write_rows(tmp_path, "test.jsonl", [{"question": "7 + 1", "answer": ["8"]}, *rows[:1]]),
    }
    task = make_task(source={"kind": "files", **source})
    data = load_task_data(task)
    assert data.splits["test"][0] == Example("test:0", "7 + 1", "7 + 1", "8", ("8",))
    assert_sound(data.splits)
    assert data.facts["num_dropped"] == {"train": 2, "test": 0}
    assert Counter({split: len(found) for split, found in data.splits.items()}) == {
        "train": 98, "validation": 50, "calibration": 50, "test": 2,
    }  # fmt: skip
    by_id = {row.id: row for found in data.splits.values() for row in found}
    assert by_id["train:41"] == Example("train:41", "41 + 1", "41 + 1", "42", ("42", "=42"))


def test_prompts_that_differ_in_letter_case_and_white_space_lie_in_one_split(tmp_path: Path, make_task: Any) -> None:
    rows = [{"question": text, "answer": "a"} for n in range(300) for text in (f"Question {n}?", f"question  {n}? ")]
    source = {"kind": "files", "format": "jsonl", "train": write_rows(tmp_path, "train.jsonl", rows)}
    splits = load_examples(make_task(source=source))
    numbers = {split: {row.prompt.split()[1] for row in found} for split, found in splits.items()}
    assert sum(map(len, numbers.values())) == 300
    assert all(len(found) == 2 * len(numbers[split]) for split, found in splits.items())
    exact = load_examples(make_task(source=source, doc_to_group="{{question}}"))
    assert {row.group for found in exact.values() for row in found} >= {"Question 7?", "question  7? "}


def test_rows_that_share_one_of_several_group_keys_stay_together(tmp_path: Path, make_task: Any) -> None:
    rows = [
        {"question": f"q{n // 2}", "answer": f"a{(n + 1) // 2}"} for n in range(6)
    ]  # q0-a0 q0-a1 q1-a1 ...: a chain
    rows += [{"question": f"question {n}", "answer": f"answer {n}"} for n in range(400)]
    train = write_rows(tmp_path, "train.jsonl", rows)
    source = {"kind": "files", "format": "jsonl", "train": train}
    splits = load_examples(make_task(source=source, doc_to_group=["{{question}}", "{{answer}}"]))
    assert_sound(splits)
    groups = {row.id: row.group for found in splits.values() for row in found}
    assert {groups[f"train:{n}"] for n in range(6)} == {"a0"}
    assert groups["train:6"] == "answer 0"


def test_errors_name_the_split_as_its_source_does(hub_data: Path) -> None:
    task = shipped("superglue/rte").model_copy(update={"doc_to_target": "lable"})
    with pytest.raises(DataError) as error:
        load_examples(task, max_train_rows=60, max_evaluation_rows=60)
    assert str(error.value).startswith(f"{task_files()['superglue/rte']}:19: task superglue/rte, row train:")
    assert str(error.value).endswith("expected one of hypothesis, idx, label, premise. Did you mean 'label'?")


def test_the_preview_is_the_first_training_rows(hub_data: Path, cache: Path) -> None:
    rows = preview(shipped("superglue/rte"))
    assert [row.id for row in rows] == ["train:0", "train:1", "train:2"]
    whole = {row.id: row for found in load_examples(shipped("superglue/rte")).values() for row in found}
    assert all(whole[row.id].prompt == row.prompt for row in rows if row.id in whole)
    assert len(preview(shipped("emoji/en-fr"), 5, cache=cache)) == 5


def test_the_preview_of_files_reads_no_more_than_it_shows(tmp_path: Path, make_task: Any) -> None:
    path = tmp_path / "train.jsonl"
    path.write_text('{"question": "1", "answer": "one"}\nbroken\n')
    source = {"kind": "files", "format": "jsonl", "train": str(path)}
    assert preview(make_task(source=source), 1) == [Example("train:0", "1", "1", "one", ("one",))]


def test_each_split_may_come_from_a_source_of_its_own(tmp_path: Path, make_task: Any) -> None:
    def rows(name: str, count: int) -> str:
        return write_rows(tmp_path, name, [{"question": f"{name} {n}", "answer": f"{n}"} for n in range(count)])

    part = {"kind": "files", "format": "jsonl"}
    source = {
        "kind": "splits",
        "train": part | {"train": rows("a.jsonl", 200)},
        "test": part | {"train": rows("b.jsonl", 7)},
    }
    data = load_task_data(make_task(source=source))
    assert_sound(data.splits)
    assert [row.prompt for row in data.splits["test"]] == [f"b.jsonl {n}" for n in range(7)]
    assert {row.id for row in data.splits["test"]} == {f"test:{n}" for n in range(7)}
    assert data.facts["num_source_rows"] == {"train": 200, "test": 7}


def test_prompts_of_several_templates_keep_rows_of_one_question_together(tmp_path: Path, make_task: Any) -> None:
    rows = [{"question": f"q{n // 2}", "answer": f"a{n}"} for n in range(400)]
    source = {"kind": "files", "format": "jsonl", "train": write_rows(tmp_path, "train.jsonl", rows)}
    splits = load_examples(make_task(source=source, doc_to_text=["{{question}}", "Question: {{question}}"]))
    assert_sound(splits)
    prompts = [row.prompt for found in splits.values() for row in found]
    assert 150 < sum(prompt.startswith("Question") for prompt in prompts) < 250
    assert len({row.group for found in splits.values() for row in found}) == 200
