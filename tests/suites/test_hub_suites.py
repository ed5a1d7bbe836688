"""Every task of the public suites runs on made-up rows with exactly the columns and labels of its public copy.

What is expected comes from hub_columns.py, not from the task files; the rows go through the real loader.
"""

from __future__ import annotations

import functools
import re
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow.parquet as pq
import pytest
from hub_columns import COPIES, WMT22, Columns
from made_rows import SHARED, dataset_files, features, make_dataset

from catsweep.cli.inspect import validate_command
from catsweep.prepare import prepare_task
from catsweep.spec.load import load_sweep, load_task, task_files
from catsweep.spec.source import HubSource
from catsweep.spec.task import TaskSpec
from catsweep.tasks.examples import Example, TaskExamples, load_task_data

SWEEP = """
name: made
tasks: [{task}]
data_root: {root}
small: {{config: &tiny {{model_type: llama, hidden_size: 16, intermediate_size: 16, num_hidden_layers: 1,
  num_attention_heads: 2}}, tokenizer: {{kind: byte}}}}
large: {{config: *tiny, finetune: {{steps: 1, batch_size: 4, learning_rate: 1.0e-3}}}}
training: {{steps: 1, batch_size: 4, max_prompt_tokens: 512}}
search: {{num_samples: 1, confirm_seeds: 1}}
data: {{max_train_rows: 20, max_evaluation_rows: 10, verify: schema}}
"""
NAMES = sorted(COPIES)
TARGET_LANGUAGES = {"para_crawl_enes": "es", "wmt14_enfr": "fr"}
"""Of the translation tasks that do not go into English."""


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data root of made-up datasets; each is written when the first test needs it."""
    datasets.disable_progress_bars()
    return tmp_path_factory.mktemp("made")


def shipped(name: str) -> TaskSpec:
    return load_task(task_files()[name])


@functools.cache
def loaded(name: str, root: Path) -> TaskExamples:
    make_dataset(root, COPIES[name])
    return load_task_data(shipped(name), data_root=root, verify="schema")


def everything(name: str, root: Path) -> list[Example]:
    return [example for examples in loaded(name, root).splits.values() for example in examples]


def label_of(example: Example) -> int:
    """The label that the made-up row marked its texts with."""
    return int(re.findall(r"L(\d)L", example.prompt)[0])


def has_own_choices(columns: Columns) -> bool:
    own = {"choice1", "choices", "endings", "sentence_quiz1", "sol1", "option1", "candidates", "answer0", "entities"}
    return not own.isdisjoint(columns)


OTHERS = ("flan2021/stsb", "flan2021/sentiment140", "flan2021/trec")
OWN_CHOICES = [name for name in NAMES if has_own_choices(COPIES[name].columns)]
TRANSLATED = [name for name in NAMES if "translation" in COPIES[name].columns]
LABELLED = [name for name in NAMES if COPIES[name].words]
GENERATED = [name for name in NAMES if name not in (*OTHERS, *OWN_CHOICES, *TRANSLATED, *LABELLED)]


def test_the_suites_are_complete() -> None:
    suites = ("superglue/", "flan2021/", "wmt22/")
    found = {name: path for name, path in task_files().items() if name.startswith(suites)}
    assert found.keys() == {*NAMES, *(f"wmt22/{pair}" for pair in WMT22)}
    flan = [load_task(path) for name, path in found.items() if name.startswith("flan2021/")]
    assert (len(found), len(flan), len({task.group for task in flan})) == (98, 69, 17)


@pytest.mark.parametrize("name", NAMES)
def test_a_task_file_says_what_its_public_copy_says(name: str) -> None:
    copy, task = COPIES[name], shipped(name)
    source = task.source
    assert isinstance(source, HubSource)
    assert (task.task, task.tag) == (name, [name.split("/")[0]])
    assert (source.dataset_path, source.dataset_name, source.revision) == (copy.path, copy.config, copy.revision)
    expect = source.expect
    assert expect.labels == {column: list(names) for column, names in copy.columns.items() if isinstance(names, tuple)}
    assert set(expect.columns) == set(copy.columns)
    used = {text.split("[")[0] for text in (source.training_split, source.validation_split, source.test_split) if text}
    assert expect.num_rows.items() <= copy.sizes.items()
    assert used.isdisjoint(copy.unlabelled)
    assert not copy.sizes or used <= set(expect.num_rows)


@pytest.mark.parametrize("name", NAMES)
def test_the_prompts_are_several_and_differ(name: str) -> None:
    already_templated = COPIES[name].path == "Muennighoff/flan"
    assert len(set(shipped(name).prompt_templates)) >= (1 if already_templated else 3)


EVERY_COPY = [*COPIES.values(), *(direction.train for direction in WMT22.values())]
DISTINCT = {f"{copy.path} {copy.config} {copy.files.get('train', '')}": copy for copy in EVERY_COPY}


@pytest.mark.parametrize("name", sorted(DISTINCT))
def test_the_library_reads_the_same_made_dataset(name: str, made: Path, tmp_path: Path) -> None:
    copy = DISTINCT[name]
    folder = make_dataset(made, copy)
    read = datasets.load_dataset(str(folder), data_files=dataset_files(copy), cache_dir=str(tmp_path))
    assert set(read) == set(dataset_files(copy))
    for split in read.values():
        assert set(split.column_names) == set(copy.columns)
        assert copy.json or split.features == features(copy.columns)


def rows_of_a_sweep(name: str, root: Path, out: Path, capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    """The large model's rows of a task, from `validate` on through the real loader."""
    file = out / "made.yaml"
    file.write_text(SWEEP.format(task=name, root=root))
    assert validate_command(file, [], out=out) == 0, capsys.readouterr()
    sweep = load_sweep(file)
    short = sweep.tasks[0].generation_kwargs.model_copy(update={"max_gen_toks": 6})
    task = sweep.tasks[0].model_copy(update={"generation_kwargs": short})  # an untrained model never ends by itself
    facts = prepare_task(task, sweep.spec, root=out)
    assert facts["num_rows"]["large_train"] + facts["num_rows"]["train"] == 20
    rows = pq.read_table(out / "cache" / "answers" / facts["keys"]["answers"] / "rows.parquet").to_pylist()
    assert [row["split"] for row in rows] == ["validation"] * 10 + ["calibration"] * 10 + ["test"] * 10
    assert len({row["id"] for row in rows}) == 30
    for item in task.metric_list:
        assert np.isfinite([row[f"statistics/{item.metric}"] for row in rows]).all()
    return rows


@pytest.mark.parametrize("name", NAMES)
def test_a_task_goes_from_validate_to_rows(
    name: str, made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_dataset(made, COPIES[name])
    assert rows_of_a_sweep(name, made, tmp_path, capsys)


@pytest.mark.parametrize("name", NAMES)
def test_splits_share_no_group_and_rows_of_a_passage_stay_together(name: str, made: Path) -> None:
    data = loaded(name, made)
    groups = [{example.group for example in examples} for examples in data.splits.values()]
    assert all(first.isdisjoint(second) for index, first in enumerate(groups) for second in groups[:index])
    if set(SHARED) & set(COPIES[name].columns):
        assert len(groups[-1]) < len(data.splits["test"])


@pytest.mark.parametrize("name", LABELLED)
def test_every_label_has_its_own_word(name: str, made: Path) -> None:
    found = {(label_of(example), example.target) for example in everything(name, made)}
    assert found == set(enumerate(COPIES[name].words))


@pytest.mark.parametrize("name", OWN_CHOICES)
def test_the_right_one_of_a_rows_own_choices_is_the_target(name: str, made: Path) -> None:
    examples = everything(name, made)
    for example in examples:
        number = re.search(r" number (\d)", example.prompt)
        assert example.target.startswith("right") or (number is not None and example.target == number[1])
        assert example.target == example.choices[example.label]
    assert {example.label for example in examples} == set(range(len(examples[0].choices)))


@pytest.mark.parametrize("name", TRANSLATED)
def test_translations_go_into_the_right_language(name: str, made: Path) -> None:
    language = TARGET_LANGUAGES.get(name.split("/")[1], "en")
    for example in everything(name, made):
        assert example.target.startswith(f"The {language} text")
        assert example.target not in example.prompt


@pytest.mark.parametrize("name", GENERATED)
def test_the_answer_is_the_target_and_stays_out_of_the_prompt(name: str, made: Path) -> None:
    no_answer = {"flan2021/squad_v2": "unanswerable", "flan2021/quac": "CANNOTANSWER"}.get(name)
    for example in everything(name, made):
        assert example.target == no_answer or example.target.startswith("gold")
        assert example.target == no_answer or example.target not in example.prompt
        assert example.references


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("flan2021/sentiment140", ["negative", "positive"]),
        ("flan2021/trec", ["description", "entity", "abbreviation", "human", "numeric", "location"]),
    ],
)
def test_codes_stand_for_the_right_words_in_every_split(name: str, words: list[str], made: Path) -> None:
    for examples in loaded(name, made).splits.values():
        assert {(label_of(example), example.target) for example in examples} == set(enumerate(words))


def test_scores_train_on_the_nearest_number_and_count_by_the_raw_one(made: Path) -> None:
    examples = loaded("flan2021/stsb", made).splits["test"]
    assert {example.target for example in examples} == set("012345")
    assert all(abs(float(example.references[0]) - int(example.target)) <= 0.5001 for example in examples)


@pytest.mark.parametrize(
    ("name", "num"), [("trivia_qa", 2), ("natural_questions", 2), ("quac", 2), ("web_nlg_en", 2), ("common_gen", 3)]
)
def test_all_accepted_answers_reach_the_metrics(name: str, num: int, made: Path) -> None:
    examples = loaded(f"flan2021/{name}", made).splits["test"]
    assert {len(example.references) for example in examples} == {num}


def test_a_dialogue_becomes_one_example_a_turn_that_knows_the_earlier_ones(made: Path) -> None:
    for name in ("flan2021/quac", "flan2021/coqa"):
        examples = loaded(name, made).splits["test"][:3]
        assert len({example.group for example in examples}) == 1
        golden = [example.target for example in examples[:2]]
        assert [sum(target in example.prompt for target in golden) for example in examples] == [0, 1, 2]
