import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sacrebleu.metrics import BLEU, CHRF

from catsweep.cascade.table import read_table, summary_dict, table_curve
from catsweep.errors import DataError, TableError

from .metrics import slow
from .metrics.slow import METRIC_NAMES, Row, make_rows

CORRECT = "id,score,small_correct,large_correct\n"
TEXTS = "id,score,small_output,large_output,reference,reference_2\n"


def write(folder: Path, text: str, name: str = "table.csv") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def test_four_rows_give_the_json_worked_out_by_hand(tmp_path: Path) -> None:
    # Surest is row d; deferred first is row a.
    path = write(tmp_path, CORRECT + "a,-4,0,1\nb,-3,0,1\nc,-2,1,0\nd,-1,1,1\n")
    result = json.loads(json.dumps(summary_dict(table_curve(read_table(path), metric="accuracy")), allow_nan=False))
    intervals = result.pop("intervals")
    assert list(intervals) == ["audc", "quality_small", "quality_large"]
    assert all(lower <= upper for lower, upper in intervals.values())
    assert result.pop("points")[2] == {"deferral_rate": 0.5, "quality": 1.0, "cost": 0.5, "is_threshold": True}
    assert result == {
        "num_rows": 4,
        "quality_small": 0.5,
        "quality_large": 0.75,
        "quality_oracle": 1.0,
        "audc": 0.78125,
        "apgr": 1.125,
        "cpt": {"20": 0.25, "50": 0.25, "80": 0.25},
    }


def test_csv_and_parquet_give_the_same(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    n = 60
    table = pa.table(
        {
            "id": [f"{row:03d}" for row in range(n)],
            "score": random.random(n),
            "small_correct": random.random(n) < 0.5,
            "large_correct": random.random(n).round(3),
            "small_cost": random.random(n),
            "large_cost": random.random(n) + 1,
            "group": [f"g{row // 3}" for row in range(n)],
            "note": ["ignored"] * n,
        }
    )
    pq.write_table(table, tmp_path / "t.parquet")
    lines = [",".join(table.column_names)]
    lines += [",".join(str(value) for value in row.values()) for row in table.to_pylist()]
    one, other = read_table(write(tmp_path, "\n".join(lines) + "\n")), read_table(tmp_path / "t.parquet")
    assert one.ids == other.ids == table["id"].to_pylist()
    results = [summary_dict(table_curve(item, metric="accuracy")) for item in (one, other)]
    assert results[0] == results[1]
    assert results[0]["points"][0]["cost"] == pytest.approx(np.mean(table["small_cost"]))


@pytest.mark.parametrize("metric", ["bleu", "chrf"])
def test_texts_with_two_references_equal_sacrebleu_at_both_ends(tmp_path: Path, metric: str) -> None:
    small, large = ["a b c d 🙂", "", "one, two\nthree four"], ["a b c d e", "x y z w v", "one, two three four"]
    first, second = ["a b c d e f", "x y z w", "one, two three"], ["a b c", "", "one two three four"]
    rows = [f'{row},{row},"{small[row]}","{large[row]}","{first[row]}","{second[row]}"' for row in range(3)]
    summary = table_curve(read_table(write(tmp_path, TEXTS + "\n".join(rows) + "\n")), metric=metric, num_resamples=20)
    references = [first, [text or None for text in second]]
    for quality, outputs in ((summary.curve.quality_small, small), (summary.curve.quality_large, large)):
        scorer = BLEU() if metric == "bleu" else CHRF()
        assert quality == pytest.approx(scorer.corpus_score(outputs, references).score, abs=1e-9)
    assert "nrefs:var" in summary.signature


def test_accuracy_compares_texts_where_no_correctness_is_given(tmp_path: Path) -> None:
    path = write(tmp_path, TEXTS + "a,1,yes,no,no,yes\nb,2,no,maybe,maybe,\n")
    curve = table_curve(read_table(path), metric="accuracy").curve
    assert (curve.quality_small, curve.quality_large) == (0.5, 1.0)


def test_points_are_thinned_evenly_with_both_ends(tmp_path: Path) -> None:
    rows = "".join(f"{row},{row % 10},{row % 2},1\n" for row in range(100))
    summary = table_curve(read_table(write(tmp_path, CORRECT + rows)), metric="accuracy", num_resamples=10)
    assert len(summary_dict(summary)["points"]) == 101
    rates = [point["deferral_rate"] for point in summary_dict(summary, num_points=5)["points"]]
    assert rates == [0, 0.25, 0.5, 0.75, 1]
    assert len(summary_dict(summary, num_points=1000)["points"]) == 101
    with pytest.raises(TableError, match="at least 2"):
        summary_dict(summary, num_points=1)


def test_a_large_model_that_is_worse_gives_nulls(tmp_path: Path) -> None:
    path = write(tmp_path, CORRECT + "a,1,1,0\nb,2,1,1\n")
    result = summary_dict(table_curve(read_table(path), metric="accuracy"))
    assert result["apgr"] is None
    assert result["cpt"] == {"20": None, "50": None, "80": None}


def test_ids_of_a_csv_keep_their_zeros_and_a_byte_order_mark_does_no_harm(tmp_path: Path) -> None:
    path = write(tmp_path, "\ufeff" + CORRECT + "007,1,1,1\n7,1,true,False\n")
    table = read_table(path)
    assert table.ids == ["007", "7"]
    assert table.correct is not None
    assert table.correct.tolist() == [[1, 1], [1, 0]]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (CORRECT + "a,1,0,1\nb,nan,1,1\n", r":3: row 2, column 'score': found 'nan'; expected a finite number"),
        (CORRECT + "a,1,0,1\nb,,1,1\n", r":3: row 2, column 'score': found an empty cell"),
        (CORRECT + "a,high,0,1\n", r":2: row 1, column 'score': found 'high'"),
        (CORRECT + "a,1,yes,1\n", r"column 'small_correct': found 'yes'; expected a number, such as 0 or 1"),
        (CORRECT + "a,1,0,1\nb,1,0,1\na,2,1,1\n", r":4: row 3, column 'id': found 'a'; expected a new one; row 1 has"),
        (CORRECT + ",1,0,1\n", r"row 1, column 'id': found an empty cell"),
        (CORRECT, "found a header and no rows"),
        ("", "cannot be read as csv"),
        ("id,scores,small_correct,large_correct\na,1,1,1\n", r"'score' is missing.*Did you mean 'scores'"),
        ("id,score,smal_correct,large_correct\na,1,1,1\n", r"'small_correct' is missing.*Did you mean 'smal_correct'"),
        ("id,score,smal_correct,larg_correct\na,1,1,1\n", r"'smal_correct' is not known.*Did you mean 'small_correct'"),
        ("id,score,small_output,large_output\na,1,x,y\n", r"column 'reference' is missing"),
        ("id,score\na,1\n", r"expected also small_correct and large_correct, or small_output"),
        ("id,score,small_correct,large_correct,small_cost\na,1,1,1,2\n", r"'large_cost' is missing"),
        ("id,score,small_correct,large_correct,groups\na,1,1,1,2\n", r"'groups' is not known.*Did you mean 'group'"),
        (TEXTS.replace("reference_2", "reference2") + "a,1,x,y,z,w\n", r"'reference2' is not known.*'reference_2'"),
        (
            "id,score,small_correct,large_correct,small_cost,large_cost\na,1,1,1,-2,3\n",
            r"found '-2'; expected a cost of at",
        ),
        ("id,score,id\na,1,b\n", r"column 'id' stands more than once"),
        (CORRECT + "a,1,1\n", r"cannot be read as csv.*4 columns"),
    ],
)
def test_what_is_wrong_with_a_table_is_said_with_its_place(tmp_path: Path, text: str, message: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(TableError, match=message) as caught:
        read_table(path)
    assert str(path) in str(caught.value)


def test_the_line_of_an_error_counts_line_breaks_in_cells_and_blank_lines(tmp_path: Path) -> None:
    text = 'id,score,small_output,large_output,reference\na,1,"two\nlines",y,z\n\nb,x,u,v,w\n'
    with pytest.raises(TableError, match=r":5: row 2, column 'score': found 'x'"):
        read_table(write(tmp_path, text))


def test_other_files_and_missing_ones_are_refused(tmp_path: Path) -> None:
    with pytest.raises(TableError, match=r"type \.txt; expected \.csv or \.parquet"):
        read_table(write(tmp_path, "", "table.txt"))
    with pytest.raises(TableError, match="no such file"):
        read_table(tmp_path / "absent.csv")
    with pytest.raises(TableError, match="cannot be read as parquet"):
        read_table(write(tmp_path, "not parquet", "table.parquet"))


def test_missing_values_of_a_parquet_file_are_named(tmp_path: Path) -> None:
    columns = {"id": ["a", "b"], "score": [1.0, None], "small_correct": [1, 0], "large_correct": [1, 1]}
    pq.write_table(pa.table(columns), tmp_path / "t.parquet")
    with pytest.raises(TableError, match=r"t\.parquet: row 2, column 'score': found an empty cell"):
        read_table(tmp_path / "t.parquet")


QUESTIONS = "id,score,small_output,large_output,reference,key\n"


@pytest.mark.parametrize("name", METRIC_NAMES)
def test_a_table_of_texts_has_a_curve_under_every_metric(tmp_path: Path, name: str) -> None:
    small, large = make_rows(name, 40, 1)
    columns = {
        "id": [f"row {row}" for row in range(40)],
        "score": np.random.default_rng(0).random(40),
        "small_output": [row.output for row in small],
        "large_output": [row.output for row in large],
        "reference": [row.references[0] for row in small],
        "key": [row.question for row in small],
    }
    pq.write_table(pa.table(columns), tmp_path / "t.parquet")
    positive = "yes" if name in ("f1", "multirc_f1a") else None
    summary = table_curve(read_table(tmp_path / "t.parquet"), metric=name, positive=positive, num_resamples=30)
    result = json.loads(json.dumps(summary_dict(summary), allow_nan=False))
    one = [Row(row.output, row.references[:1], row.question, row.number) for row in small]
    assert result["quality_small"] == pytest.approx(slow.quality(name, one))
    assert result["quality_oracle"] >= max(result["quality_small"], result["quality_large"])
    assert result["intervals"]["audc"][0] <= result["audc"] <= result["intervals"]["audc"][1]
    assert ("facts" in result) == (name in ("pearson", "spearman"))


def test_words_are_judged_before_correctness_by_every_metric_but_accuracy(tmp_path: Path) -> None:
    text = (
        "id,score,small_correct,large_correct,small_output,large_output,reference\na,1,0,1,x y,x,x y\nb,2,0,1,z,z,z\n"
    )
    table = read_table(write(tmp_path, text))
    assert table_curve(table, metric="accuracy", num_resamples=5).curve.quality_small == 0
    assert table_curve(table, metric="squad_em", num_resamples=5).curve.quality_small == 1
    assert table_curve(table, metric="rouge1", num_resamples=5).curve.quality_large == pytest.approx(250 / 3)


def test_questions_are_resampled_whole_unless_a_group_is_given(tmp_path: Path) -> None:
    rows = [f"r{row},{row},{'yes' if row % 3 else 'no'},yes,yes,q{row // 2}\n" for row in range(20)]
    table = read_table(write(tmp_path, QUESTIONS + "".join(rows)))
    assert table.groups is None
    summary = table_curve(table, metric="multirc_em", num_resamples=20)
    assert summary.curve.quality_small == pytest.approx(
        sum(row % 3 != 0 and (row + 1) % 3 != 0 for row in range(0, 20, 2)) / 10
    )
    assert summary.intervals["quality_small"].lower < summary.curve.quality_small
    grouped = QUESTIONS.replace("key", "key,group") + "".join(
        row.replace("\n", f",g{n}\n") for n, row in enumerate(rows)
    )
    with pytest.raises(DataError, match="rows of one question lie in several groups"):
        table_curve(read_table(write(tmp_path, grouped)), metric="multirc_em", num_resamples=5)


@pytest.mark.parametrize(
    ("text", "metric", "message"),
    [
        (TEXTS + "a,1,x,y,z,\n", "multirc_em", r"judges whole questions; found no column 'key'"),
        (QUESTIONS + "a,1,x,y,z,q\nb,1,x,y,z,\n", "multirc_em", r"row 2: multirc_em: found no key"),
        (TEXTS + "a,1,1,2,3,\nb,1,1,2,high,\n", "pearson", r"row 2: pearson: found the reference 'high'"),
        (TEXTS + "a,1,x,y,z,w\n", "macro_f1", r"row 1: macro_f1: found 2 references"),
        (TEXTS + "a,1,x,y,z,\n", "f1", r"metric f1: found no positive class"),
        (CORRECT + "a,1,1,1\n", "matthews", r"matthews compares texts; found no columns small_output"),
    ],
)
def test_a_metric_says_what_it_misses_in_a_table(tmp_path: Path, text: str, metric: str, message: str) -> None:
    with pytest.raises(TableError, match=message):
        table_curve(read_table(write(tmp_path, text)), metric=metric)


def test_a_correlation_of_equal_answers_is_null(tmp_path: Path) -> None:
    rows = "".join(f"r{row},{row},3.0,{row},{row % 7},\n" for row in range(30))
    result = summary_dict(table_curve(read_table(write(tmp_path, TEXTS + rows)), metric="pearson", num_resamples=20))
    assert (result["quality_small"], result["intervals"]["quality_small"]) == (None, [None, None])
    assert result["points"][0]["quality"] is None
    assert result["points"][1]["quality"] is not None
    assert (result["apgr"], result["cpt"]["50"]) == (None, None)
    assert isinstance(result["audc"], float)
    assert result["facts"] == {"num_unreadable_small": 0, "num_unreadable_large": 0}


def test_a_corpus_metric_asks_for_texts(tmp_path: Path) -> None:
    table = read_table(write(tmp_path, CORRECT + "a,1,1,1\n"))
    with pytest.raises(TableError, match=r"bleu compares texts; found no columns small_output"):
        table_curve(table, metric="bleu")
