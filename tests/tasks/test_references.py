"""References that only the test rows of a task have: training rows fall back to their target."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sacrebleu.metrics import BLEU

from catsweep.cascade.metrics import get_metric
from catsweep.errors import DataError
from catsweep.spec.task import TaskSpec
from catsweep.tasks.examples import load_task_data, preview

OUTPUT = "a b c d e q"
FIRST, SECOND = "a b c d z", "y b c d e"
BOTH, ALONE = 100 * (1 / 3) ** 0.25, 100 * (1 / 15) ** 0.25
"""BLEU of OUTPUT by hand. With both references 5 of 6 words, 4 of 5 pairs, 3 of 4 triples and 2 of 3 quadruples stand in one
of them: 5/6 * 4/5 * 3/4 * 2/3 = 1/3. With the first alone 4/6 * 3/5 * 2/4 * 1/3 = 1/15. It is longer than either reference,
so nothing is taken off for brevity."""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A data root: 240 pairs to train on, without references, and a test set of 60 segments with two reference sets."""
    pairs = [{"de": f"satz {index}", "en": f"sentence {index}"} for index in range(240)]
    (tmp_path / "my" / "pairs").mkdir(parents=True)
    pq.write_table(pa.table({"translation": pairs}), tmp_path / "my" / "pairs" / "train.parquet")
    (tmp_path / "wmt22").mkdir()
    for name, text in (("src.de", "test {}"), ("ref.A.en", FIRST + " {}"), ("ref.B.en", SECOND + " {}")):
        lines = "".join(text.format(index) + "\n" for index in range(60))
        (tmp_path / "wmt22" / f"wmt22.de-en.{name}").write_text(lines.replace(" 0\n", "\n", 1))
    return tmp_path


@pytest.fixture
def task(make_task: Any) -> TaskSpec:
    task: TaskSpec = make_task(
        source={
            "kind": "splits",
            "train": {"kind": "hub", "dataset_path": "my/pairs"},
            "test": {"kind": "sacrebleu", "langpair": "de-en", "references": ["A", "B"]},
        },
        doc_to_text="{{translation.de}}",
        doc_to_target="translation.en",
        doc_to_reference="references",
        metric_list=[{"metric": "bleu"}],
    )
    return task


@pytest.mark.parametrize("template", ["references", "{{references}}"])
def test_test_rows_have_all_references_and_training_rows_their_target(
    task: TaskSpec, template: str, root: Path, tmp_path: Path
) -> None:
    changed = task.model_copy(update={"doc_to_reference": template})
    splits = load_task_data(changed, data_root=root, cache=tmp_path / "cache").splits
    assert splits["test"][0].references == (FIRST, SECOND)
    assert {len(row.references) for row in splits["test"]} == {2}
    for split in ("train", "validation", "calibration"):
        assert all(row.references == (row.target,) for row in splits[split])
    assert [row.references for row in preview(changed, 1, data_root=root)] == [("sentence 0",)]


def test_two_references_are_scored_as_by_hand_and_as_sacrebleu_scores_them(
    task: TaskSpec, root: Path, tmp_path: Path
) -> None:
    row = load_task_data(task, data_root=root, cache=tmp_path / "cache").splits["test"][0]
    bleu = get_metric("bleu")
    for references, expected in ((row.references, BOTH), (row.references[:1], ALONE)):
        assert bleu.quality(np.array([bleu.statistics(OUTPUT, references)])) == pytest.approx(expected, rel=1e-9)
        assert BLEU().corpus_score([OUTPUT], [[text] for text in references]).score == pytest.approx(expected, rel=1e-9)


def test_a_typo_in_the_column_of_references_is_found_in_the_first_rows_since_test_rows_must_have_it(
    task: TaskSpec, root: Path, tmp_path: Path
) -> None:
    wrong = task.model_copy(update={"doc_to_reference": "refrences"})
    with pytest.raises(DataError, match=r"row test:0: doc_to_reference 'refrences': found no column .*'references'\?"):
        preview(wrong, data_root=root)
    with pytest.raises(DataError, match="row test:0: doc_to_reference"):
        load_task_data(wrong, data_root=root, cache=tmp_path / "cache")


def test_rows_of_one_source_must_have_what_is_named(make_task: Any, tmp_path: Path) -> None:
    (tmp_path / "train.jsonl").write_text('{"question": "1", "answer": "one"}\n')
    source = {"kind": "files", "format": "jsonl", "train": str(tmp_path / "train.jsonl")}
    with pytest.raises(DataError, match=r"row train:0 of train\.jsonl: doc_to_reference 'references': found no column"):
        preview(make_task(source=source, doc_to_reference="references"))
