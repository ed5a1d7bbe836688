"""Tiny datasets with the columns of the public ones, made by a seeded generator and written as the hub lays them out.

Marks in the texts let a test tell whether a task file reads the right columns: `L1L` stands in every text of a row
whose label has index 1, `right` in the right one of a row's own choices, `gold` in what a free answer should be, and
rows that share a passage share its text.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
from hub_columns import Columns, Copy

Row = dict[str, Any]
WORDS = [
    "amber", "birch", "cedar", "delta", "ember", "flint", "grove", "heron", "inlet", "jetty", "knoll", "ledge", "maple",
    "north", "ocean", "pearl", "quartz", "river",
]  # fmt: skip
SHARED = ("passage", "paragraph", "context", "premise", "story")
"""Columns whose value two neighbouring rows have in common."""
ANSWERS = ("subject_line", "highlights", "summary", "target", "targets")
NUM_ROWS = 210
MORE_ROWS = {
    ("Helsinki-NLP/opus-100", "da-en"): 5_400,
    ("stanfordnlp/sentiment140", "sentiment140"): 3_600,
    ("allenai/common_gen", None): 600,
}
"""Training rows of datasets of which a task takes a few percent, or whose rows it merges."""
TREC = ("DESC", "ENTY", "ABBR", "HUM", "NUM", "LOC")


def make_dataset(root: Path, copy: Copy) -> Path:
    """Write the dataset below root, once, in the layout of its public copy. Returns its folder."""
    folder = root / copy.path
    for split, file in dataset_files(copy).items():
        path = folder / file
        if path.exists():
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        train = split == next(iter(copy.sizes), "train")
        rows = make_rows(copy, split, MORE_ROWS.get((copy.path, copy.config), NUM_ROWS) if train else NUM_ROWS)
        made = datasets.Dataset.from_list(rows, features=features(copy.columns))
        if copy.json:
            made.to_json(str(path))
        else:
            made.to_parquet(str(path))
    return folder


def make_test_set(root: Path, test_set: str, langpair: str, references: tuple[str, ...]) -> None:
    """Write a small test set below root as the organisers publish theirs: sources, and a file of each reference set."""
    source, target = langpair.split("-")
    stem = {"wmt21": "newstest2021", "wmt22": "generaltest2022"}[test_set]
    files = {f"sources/{stem}.{langpair}.src.{source}": f"The {source} text: {test_set} {{index}}."}
    for name in references:
        text = f"The {target} text of set {name}: {test_set} {{index}}."
        files[f"references/{stem}.{langpair}.ref.{name}.{target}"] = text
    for file, text in files.items():
        path = root / test_set / "txt" / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(text.format(index=index) + "\n" for index in range(60)), encoding="utf-8")


def dataset_files(copy: Copy) -> dict[str, str]:
    """Split -> file below the dataset's folder."""
    if copy.files:
        return copy.files
    return {split: f"{copy.config or 'data'}/{split}-00000-of-00001.parquet" for split in copy.sizes}


def features(columns: Columns) -> datasets.Features:
    """The columns as `datasets` names them."""
    return datasets.Features({name: _feature(value) for name, value in columns.items()})


def _feature(column: Any) -> Any:
    match column:
        case str():
            return datasets.Value(column)
        case tuple():
            return datasets.ClassLabel(names=list(column))
        case [item]:
            return datasets.List(_feature(item))
        case _:
            return {name: _feature(value) for name, value in column.items()}


def make_rows(copy: Copy, split: str, num_rows: int) -> list[Row]:
    """The rows of a split; the same on every call."""
    generator = random.Random(f"{copy.path} {copy.config} {copy.files.get(split)} {split}")
    change = CHANGES.get((copy.path, copy.config)) or CHANGES.get((copy.path, None))
    rows = []
    for index in range(num_rows):
        label = index % max(2, len(copy.words))
        mark = f"{split} {index} L{label}L"
        row = {
            name: _value(name, column, index, label, mark, split, generator) for name, column in copy.columns.items()
        }
        if change is not None:
            change(row, index, mark, generator)
        if split in copy.unlabelled:
            _hide_answer(row, copy.columns)
        rows.append(row)
    return rows


def sentence(generator: random.Random, mark: str) -> str:
    """A few words that no other mark shares."""
    return f"{' '.join(generator.choices(WORDS, k=4))} {mark}"


def _value(name: str, column: Any, index: int, label: int, mark: str, split: str, generator: random.Random) -> Any:
    match column:
        case tuple():
            return label % len(column)
        case "string" if name in SHARED:
            return f"{WORDS[index // 2 % 18]} of {split} {index // 2}"
        case "string" if name in ANSWERS:
            return f"gold {sentence(generator, mark)}"
        case "string":
            return sentence(generator, mark)
        case "bool":
            return bool(label)
        case "float32":
            return generator.randint(0, 500) / 100
        case "int32" | "int64":
            return index
        case [item]:
            return [_value(name, item, index, label, f"{mark} {part}", split, generator) for part in range(3)]
        case _:
            return {key: _value(key, value, index, label, mark, split, generator) for key, value in column.items()}


def _hide_answer(row: Row, columns: Columns) -> None:
    """What public test splits hold instead of the answer."""
    if isinstance(columns.get("label"), tuple) or columns.get("label") == "int32":
        row["label"] = -1
    for name in ("label", "target", "answer"):
        if columns.get(name) == "string":
            row[name] = ""
    if "answers" in row:
        row["answers"] = []


def _options(mark: str, right: int, num: int) -> list[str]:
    return [f"{'right' if index == right else 'wrong'} {index} {mark}" for index in range(num)]


def _copa(row: Row, index: int, mark: str, generator: random.Random) -> None:
    row["question"] = ("cause", "effect")[index % 2]
    row["choice1"], row["choice2"] = _options(mark, row["label"], 2)


def _multirc(row: Row, index: int, mark: str, generator: random.Random) -> None:
    row["idx"] = {"paragraph": index // 2, "question": 0, "answer": index}


def _record(row: Row, index: int, mark: str, generator: random.Random) -> None:
    right = index // 2 % 3
    names = [f"{'right' if number == right else 'wrong'} name {number}" for number in range(3)]
    row["passage"] += ". " + ", ".join(names) + "\n@highlight\nThe first point\n@highlight\nThe second"
    row["query"] = f"@placeholder was there {mark}"
    row["entities"] = [*names, names[0]]
    row["answers"] = [names[right]]


def _wic(row: Row, index: int, mark: str, generator: random.Random) -> None:
    for number in ("1", "2"):
        row[f"start{number}"], row[f"end{number}"] = 0, row[f"sentence{number}"].index(" ")


def _wsc(row: Row, index: int, mark: str, generator: random.Random) -> None:
    row["span1_index"], row["span2_index"] = 0, 2
    row["span1_text"], row["span2_text"] = (row["text"].split()[position] for position in (0, 2))


def _four_choices(row: Row, index: int, mark: str, generator: random.Random) -> None:
    right, num = index % 4, 5 if index % 7 == 0 else 4
    keys = list("12345" if index % 2 else "ABCDE")[:num]
    if index % 5 == 0:  # numbers as choices: an index would be taken for a choice
        texts = [f"{number}" for number in (2, 3, 0, 1, 4)][:num]
        row["question" if "question" in row else "question_stem"] += f" number {texts[right]}"
    else:
        texts = _options(mark, right, num)
    row["choices"] = {"text": texts, "label": keys}
    row["answerKey"] = keys[right]


def _openbookqa(row: Row, index: int, mark: str, generator: random.Random) -> None:
    row["choices"] = {"text": _options(mark, index % 4, 4), "label": list("ABCD")}
    row["answerKey"] = "ABCD"[index % 4]


def _hellaswag(row: Row, index: int, mark: str, generator: random.Random) -> None:
    row["endings"], row["label"] = _options(mark, index % 4, 4), str(index % 4)
    row["source_id"] = f"video {mark.split()[0]} {index // 2}"


def _story_cloze(row: Row, index: int, mark: str, generator: random.Random) -> None:
    row["answer_right_ending"] = index % 2 + 1
    row["sentence_quiz1"], row["sentence_quiz2"] = _options(mark, index % 2, 2)


def _piqa(row: Row, index: int, mark: str, generator: random.Random) -> None:
    row["sol1"], row["sol2"] = _options(mark, row["label"], 2)


def _winogrande(row: Row, index: int, mark: str, generator: random.Random) -> None:
    row["sentence"] = f"{mark} saw that _ was late"
    row["option1"], row["option2"] = _options(mark, index % 2, 2)
    row["answer"] = str(index % 2 + 1)


def _pronouns(row: Row, index: int, mark: str, generator: random.Random) -> None:
    row["candidates"] = _options(mark, row["label"], 2)


def _cosmos(row: Row, index: int, mark: str, generator: random.Random) -> None:
    row["label"] = index % 4
    row |= {f"answer{number}": text for number, text in enumerate(_options(mark, index % 4, 4))}


def _sentiment140(row: Row, index: int, mark: str, generator: random.Random) -> None:
    label = (
        int(mark[-2])
        if mark.startswith("test")
        else int(index >= MORE_ROWS["stanfordnlp/sentiment140", "sentiment140"] // 2)
    )
    neutral = mark.startswith("test") and index % 5 == 0
    row["sentiment"] = 2 if neutral else 4 * label
    row["text"] = f"{sentence(generator, mark[:-3])}L{label}L"


def _trec(row: Row, index: int, mark: str, generator: random.Random) -> None:
    row["label_coarse_original"] = TREC[index % 6]
    row["label_coarse"] = index % 6
    row["text"] = f"what about {mark[:-3]}L{index % 6}L"


def _stsb(row: Row, index: int, mark: str, generator: random.Random) -> None:
    row["label"] = round(index % 51 / 10, 1)


def _squad(row: Row, index: int, mark: str, generator: random.Random) -> None:
    texts = [f"gold {mark}", f"gold {mark} too", f"gold {mark}"][: index % 3 + 1]
    row["answers"] = {"text": texts, "answer_start": list(range(len(texts)))}


def _squad_v2(row: Row, index: int, mark: str, generator: random.Random) -> None:
    _squad(row, index, mark, generator)
    if index % 3 == 0:
        row["answers"] = {"text": [], "answer_start": []}


def _drop(row: Row, index: int, mark: str, generator: random.Random) -> None:
    spans = [f"gold {index}", "gold two"][: index % 2 + 1]
    row["answers_spans"] = {"spans": spans, "types": ["span"] * len(spans)}


def _trivia(row: Row, index: int, mark: str, generator: random.Random) -> None:
    row["entity_pages"] = {key: [] for key in row["entity_pages"]}
    row["search_results"] = {key: [] for key in row["search_results"]}
    row["answer"] |= {"value": f"Gold {index}", "normalized_value": f"gold {index}", "aliases": [f"Gold {index}", "Au"]}
    row["answer"] |= {"normalized_aliases": [f"gold {index}", "au"]}


def _nq(row: Row, index: int, mark: str, generator: random.Random) -> None:
    row["answer"] = [f"gold {index}", "au"]


def _gold_answer(row: Row, index: int, mark: str, generator: random.Random) -> None:
    row["answer"] = f"gold {index}"


def _quac(row: Row, index: int, mark: str, generator: random.Random) -> None:
    texts = [f"gold {mark} {turn}" if turn < 2 else "CANNOTANSWER" for turn in range(3)]
    row["orig_answers"] = {"texts": texts, "answer_starts": [0, 1, 2]}
    row["answers"] = {"texts": [[text, f"{text} too"] for text in texts], "answer_starts": [[0, 1]] * 3}


def _coqa(row: Row, index: int, mark: str, generator: random.Random) -> None:
    row["answers"]["input_text"] = [f"gold {mark} {turn}" for turn in range(3)]


def _common_gen(row: Row, index: int, mark: str, generator: random.Random) -> None:
    row["concept_set_idx"] = index // 3
    row["concepts"] = [WORDS[index // 3 % 18], f"{mark.split()[0]}{index // 3}", "walk"]


def _gem(row: Row, index: int, mark: str, generator: random.Random) -> None:
    """Training rows have no references."""
    row["references"] = [] if mark.startswith("train") else [f"gold reference {mark}", f"gold other {mark}"]


def _translation(row: Row, index: int, mark: str, generator: random.Random) -> None:
    row["translation"] = {
        language: f"The {language} text: {sentence(generator, mark)}, Number {index}."
        for language in row["translation"]
    }


CHANGES: dict[tuple[str, str | None], Callable[[Row, int, str, random.Random], None]] = {
    ("aps/super_glue", "copa"): _copa,
    ("aps/super_glue", "multirc"): _multirc,
    ("aps/super_glue", "record"): _record,
    ("aps/super_glue", "wic"): _wic,
    ("aps/super_glue", "wsc.fixed"): _wsc,
    ("allenai/ai2_arc", None): _four_choices,
    ("allenai/openbookqa", None): _openbookqa,
    ("Rowan/hellaswag", None): _hellaswag,
    ("MoE-UNC/story_cloze", None): _story_cloze,
    ("baber/piqa", None): _piqa,
    ("allenai/winogrande", None): _winogrande,
    ("community-datasets/definite_pronoun_resolution", None): _pronouns,
    ("Samsoup/cosmos_qa", None): _cosmos,
    ("stanfordnlp/sentiment140", None): _sentiment140,
    ("SetFit/TREC-QC", None): _trec,
    ("nyu-mll/glue", "stsb"): _stsb,
    ("rajpurkar/squad", None): _squad,
    ("rajpurkar/squad_v2", None): _squad_v2,
    ("ucinlp/drop", None): _drop,
    ("mandarjoshi/trivia_qa", None): _trivia,
    ("google-research-datasets/nq_open", None): _nq,
    ("deepmind/math_dataset", None): _gold_answer,
    ("allenai/quac", None): _quac,
    ("stanfordnlp/coqa", None): _coqa,
    ("allenai/common_gen", None): _common_gen,
    ("GEM/gem", None): _gem,
    ("GEM/web_nlg", None): _gem,
    ("GEM/e2e_nlg", None): _gem,
    ("Helsinki-NLP/opus-100", None): _translation,
    ("wmt/wmt14", None): _translation,
    ("wmt/wmt16", None): _translation,
    ("wmt/wmt19", None): _translation,
    ("wmt/yakut", None): _translation,
    ("tartuNLP/liv4ever", None): _translation,
    ("local/opus-100/cs-uk", None): _translation,
}
"""What a dataset's rows need beyond their columns, by (path, config) or (path, None)."""
