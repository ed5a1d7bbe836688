"""The 21 task files of wmt22: against the facts, on tiny data in the hub's layout, and scored like sacrebleu."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import sacrebleu
from sacrebleu.metrics import BLEU, CHRF

from catsweep.cascade.metrics import get_metric
from catsweep.errors import DataError
from catsweep.spec.load import load_task, task_files
from catsweep.spec.source import HubPart, SacrebleuSource, SplitsSource
from catsweep.spec.task import TaskSpec
from catsweep.tasks.examples import load_task_data
from catsweep.tasks.hub import read_hub
from catsweep.tasks.sacrebleu_sets import read_sacrebleu, reference_sets

SHARED = Path(__file__).parents[3] / "shared"
DIRECTIONS = sorted(sacrebleu.dataset.DATASETS["wmt22"].langpairs)
IN_WMT21 = ["cs-en", "en-cs", "de-en", "en-de", "de-fr", "fr-de", "en-ja", "ja-en", "en-ru", "ru-en", "en-zh", "zh-en"]


def task_of(langpair: str) -> TaskSpec:
    return load_task(task_files()[f"wmt22/{langpair}"])


def sources(task: TaskSpec) -> tuple[HubPart, SacrebleuSource]:
    """Where training and test rows come from."""
    assert isinstance(task.source, SplitsSource)
    assert isinstance(task.source.train, HubPart)
    assert isinstance(task.source.test, SacrebleuSource)
    return task.source.train, task.source.test


@pytest.mark.skipif(not (SHARED / "tasks.tsv").is_file(), reason="the table of facts is absent")
def test_the_files_say_what_the_facts_say() -> None:
    with (SHARED / "tasks.tsv").open(encoding="utf-8") as file:
        facts = [row for row in csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE) if row["suite"] == "wmt22"]
    assert len(facts) == 21
    for row in facts:
        task = task_of(row["task"])
        train, test = sources(task)
        assert train.dataset_path.startswith("local/") or train.dataset_path in row["train_split"]
        assert train.dataset_name is None or f"{train.dataset_path}[{train.dataset_name}]" in row["train_split"]
        default = row["label_names"].rpartition("sacrebleu default: ")[2]
        assert reference_sets(test) == ["" if default.startswith("unnamed") else default]
        tokenize = row["metrics"].rpartition("sacrebleu tokenizer ")[2].split()[0]
        assert [(metric.metric, metric.tokenize or "13a") for metric in task.metric_list] == [
            ("bleu", tokenize),
            ("chrf", "13a"),
        ]


@pytest.mark.parametrize("langpair", DIRECTIONS)
def test_each_direction_trains_on_its_pair_and_tests_on_wmt22(langpair: str) -> None:
    task = task_of(langpair)
    train, test = sources(task)
    assert isinstance(task.source, SplitsSource)
    assert (task.task, task.group) == (f"wmt22/{langpair}", "translation")
    assert "wmt22" in task.tag
    assert (test.test_set, test.langpair) == ("wmt22", langpair)
    validation = task.source.validation
    assert isinstance(validation, SacrebleuSource) == (langpair in IN_WMT21)
    if isinstance(validation, SacrebleuSource):
        assert (validation.test_set, validation.langpair) == ("wmt21", langpair)
    if train.dataset_path == "wmt/wmt19":  # tens of millions of rows
        assert train.split == "train[:1000000]"
    small = langpair in ("en-liv", "liv-en")
    assert ("420 segments" in task.metadata.notes) == small


def tiny_data(root: Path, task: TaskSpec, num_train: int = 260) -> None:
    """Made-up rows of every source of a task, in the layouts of the hub and of sacrebleu."""
    assert isinstance(task.source, SplitsSource)
    source, target = sources(task)[1].langpair.split("-")

    def texts(split: str, number: int) -> list[dict[str, str]]:
        return [{source: f"{source} {split} {index}", target: f"{target} {split} {index}"} for index in range(number)]

    for split in ("train", "validation", "test"):
        part = getattr(task.source, split)
        if isinstance(part, HubPart):
            pairs = texts(split, num_train if split == "train" else 60)
            if split == "train":  # test sentences in the training data: by source, by target; and a broken row
                pairs[0][source], pairs[1][target] = f"{source} test 3", f"{target} test 4"
                pairs[2][target] = ""
            folder = root / part.dataset_path / (part.dataset_name or "")
            file = folder / f"{part.split.split('[')[0]}-00000-of-00001.parquet"
            if part.data_files:
                file = folder / part.data_files[split].replace("*", "0000")
            file.parent.mkdir(parents=True, exist_ok=True)
            columns = pa.struct([(language, pa.string()) for language in sorted((source, target))])
            pq.write_table(pa.table({"translation": pa.array(pairs, columns)}), file)
        elif isinstance(part, SacrebleuSource):
            folder = root / part.test_set
            folder.mkdir(exist_ok=True)
            pairs = texts(split, 60)
            reference = reference_sets(part)[0] or "A"
            for name, language in ((f"src.{source}", source), (f"ref.{reference}.{target}", target)):
                lines = "".join(f"{pair[language]}\n" for pair in pairs)
                (folder / f"{part.test_set}.{part.langpair}.{name}").write_text(lines, encoding="utf-8")


@pytest.mark.parametrize("langpair", DIRECTIONS)
def test_no_test_sentence_lies_in_train(langpair: str, tmp_path: Path) -> None:
    task = task_of(langpair)
    tiny_data(tmp_path, task)
    data = load_task_data(task, data_root=tmp_path, verify="schema")
    source, target = langpair.split("-")
    assert [row.target for row in data.splits["test"]] == [f"{target} test {index}" for index in range(60)]
    others = [row for split in ("train", "validation", "calibration") for row in data.splits[split]]
    assert not any(f"{language} test " in row.prompt + row.target for row in others for language in (source, target))
    assert data.facts["num_dropped"]["train"] == 2
    train = data.splits["train"]
    assert len(train) >= 50
    kinds = {row.prompt.replace(f"{source} train {row.target.split()[-1]}", "X") for row in train}
    assert len(kinds) == 4  # every prompt template is used, and every prompt holds the source text


def test_a_set_that_people_make_is_explained_where_it_is_missing(tmp_path: Path) -> None:
    task = task_of("cs-uk")
    with pytest.raises(DataError) as error:
        load_task_data(task, data_root=tmp_path)
    assert str(error.value).startswith(
        f"task wmt22/cs-uk: hub dataset local/opus-100/cs-uk, split 'train': found it neither in {tmp_path}, "
    )
    assert str(error.value).endswith(f". Notes of wmt22/cs-uk: {task.metadata.notes}")
    assert "docs/wmt22.md makes one" in task.metadata.notes


def trivial_outputs(rows: list[dict[str, str]]) -> list[str]:
    """Answers of every quality: the reference with words left out, the source copied, and nothing."""
    outputs = []
    for index, row in enumerate(rows):
        source, target = row["source"], row["target"]
        words = target.split() if " " in target else list(target)
        joint = " " if " " in target else ""
        shortened = joint.join(word for number, word in enumerate(words) if (number + index) % 5)
        outputs.append([shortened, target, source, shortened, ""][index % 5])
    return outputs


def assert_scored_like_sacrebleu(
    task: TaskSpec, references: list[str] | None, step: int, root: Path, metrics: tuple[str, ...] = ("bleu", "chrf")
) -> None:
    _, test = sources(task)
    source, target = test.langpair.split("-")
    rows = read_sacrebleu(test.model_copy(update={"references": references}), root)[::step]
    texts = [{"source": row["translation"][source], "target": row["translation"][target]} for row in rows]
    outputs = trivial_outputs(texts)
    streams = [list(stream) for stream in zip(*(row["references"] for row in rows), strict=True)]
    for spec in (metric for metric in task.metric_list if metric.metric in metrics):
        metric = get_metric(spec.metric, tokenize=spec.tokenize)
        statistics = [
            metric.statistics(*pair) for pair in zip(outputs, (row["references"] for row in rows), strict=True)
        ]
        found = float(metric.score(np.sum(statistics, axis=0)))
        if spec.metric == "bleu":
            scorer: BLEU | CHRF = BLEU(tokenize=spec.tokenize or "13a")
            expected = sacrebleu.corpus_bleu(outputs, streams, tokenize=spec.tokenize or "13a").score
        else:
            scorer, expected = CHRF(), sacrebleu.corpus_chrf(outputs, streams).score
        assert found == pytest.approx(expected, rel=1e-12)
        assert 5 < expected < 95
        scorer.corpus_score(outputs[:5], [stream[:5] for stream in streams])  # a signature knows how many references
        assert metric.signature_for(len(streams)) == str(scorer.get_signature())


@pytest.fixture
def wmt22() -> Path:
    """The data root with the real WMT22 files; skips where it is absent."""
    if not (SHARED / "data" / "wmt22").is_dir():
        pytest.skip(f"{SHARED / 'data' / 'wmt22'} is absent")
    return SHARED / "data"


SETS: list[tuple[str, list[str] | None]] = [(pair, None) for pair in DIRECTIONS]
SETS += [("cs-en", ["B", "C"]), ("en-cs", ["B", "C"]), ("en-hr", ["A", "stud"])]
SETS += [(pair, ["A", "B"]) for pair in ("de-en", "en-de", "en-zh", "zh-en")]


@pytest.mark.parametrize(("langpair", "references"), SETS)
def test_real_segments_are_scored_like_sacrebleu(langpair: str, references: list[str] | None, wmt22: Path) -> None:
    assert_scored_like_sacrebleu(task_of(langpair), references, 40, wmt22)


@pytest.mark.slow
def test_whole_test_sets_have_the_bleu_of_sacrebleu(wmt22: Path) -> None:
    for langpair, references in SETS:
        assert_scored_like_sacrebleu(task_of(langpair), references, 1, wmt22, metrics=("bleu",))


def recipe(title: str) -> str:
    """The Python block below a heading of docs/wmt22.md."""
    text = (Path(__file__).parents[2] / "docs" / "wmt22.md").read_text(encoding="utf-8")
    return text.partition(f"## {title}\n")[2].partition("```python\n")[2].partition("```")[0]


def test_the_recipe_for_livonian_makes_what_the_task_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    sentences = [{"liv": f"līvõ {index}", "en": f"english {index}", "et": "eesti"} for index in range(3)]
    corpora = [{"source": "a", "sentences": [*sentences, {"liv": "x", "lv": "y"}, {"liv": "z", "en": ""}]}]
    Path("train.json").write_text(json.dumps(corpora), encoding="utf-8")
    exec(recipe("Livonian"), {})
    rows = list(read_hub(sources(task_of("liv-en"))[0].as_source(), "train", data_root=tmp_path / "data"))
    assert rows[2] == {"translation": {"en": "english 2", "liv": "līvõ 2"}}
    assert len(rows) == 3


def test_the_recipe_for_czech_and_ukrainian_joins_on_english(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    english = [f"the same long English sentence {index}" for index in range(5)]
    for pair, language, texts in (("cs-en", "cs", ["Yes", *english[1:]]), ("en-uk", "uk", ["Yes", *english[:3]])):
        folder = Path("data/Helsinki-NLP/opus-100") / pair
        folder.mkdir(parents=True)
        rows = [{"en": text, language: f"{language}: {text}"} for text in texts]
        pq.write_table(pa.table({"translation": rows}), folder / "train-00000-of-00001.parquet")
    exec(recipe("Czech and Ukrainian"), {})
    rows = list(read_hub(sources(task_of("cs-uk"))[0].as_source(), "train", data_root=tmp_path / "data"))
    assert [row["translation"] for row in rows] == [{"cs": f"cs: {text}", "uk": f"uk: {text}"} for text in english[1:3]]
