"""Row steps on rows made by hand; the rows that go in stay as they are."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from catsweep.errors import DataError
from catsweep.spec.process import ProcessStep
from catsweep.tasks.process import apply_steps

STEP: TypeAdapter[ProcessStep] = TypeAdapter(ProcessStep)


def run(rows: list[dict[str, Any]], kind: str, **fields: Any) -> list[dict[str, Any]]:
    before = copy.deepcopy(rows)
    after = list(apply_steps([STEP.validate_python({"kind": kind, **fields})], rows, "task t, split train"))
    assert rows == before
    return after


def message(rows: list[dict[str, Any]], kind: str, **fields: Any) -> str:
    with pytest.raises(DataError) as error:
        run(rows, kind, **fields)
    return str(error.value).removeprefix("task t, split train: ")


LABELS = [{"a": {"label": label}, "n": n} for n, label in enumerate([0, -1, 1, None, ""])]


def test_rows_are_dropped_or_kept_by_value() -> None:
    assert [row["n"] for row in run(LABELS, "drop_rows", column="a.label", values=[-1, None, ""])] == [0, 2]
    assert [row["n"] for row in run(LABELS, "keep_rows", column="a.label", values=[1, 0])] == [0, 2]
    assert [row["n"] for row in run(LABELS, "keep_rows", column="a.label", values=["1", -1])] == [1]


def test_rows_are_kept_by_the_length_of_a_list() -> None:
    rows = [{"c": {"text": list("abcd")}}, {"c": {"text": list("abc")}}]
    assert run(rows, "keep_length", column="c.text", num=4) == rows[:1]


def test_rows_that_offer_one_choice_twice_are_left_out() -> None:
    rows = [{"c": {"text": ["a", "b"]}, "x": 1, "y": "1 "}, {"c": {"text": ["a", "a"]}, "x": 1, "y": "2"}]
    assert run(rows, "keep_distinct", columns=["c.text"]) == rows[:1]
    assert run(rows, "keep_distinct", columns=["x", "y"]) == rows[1:]


def test_values_are_replaced_by_name() -> None:
    rows = [{"code": "X", "s": {"n": 2}}, {"code": "Y", "s": {"n": 3}}]
    assert [row["code"] for row in run(rows, "map_values", column="code", values={"X": "ex", "Y": 7})] == ["ex", 7]
    inner = run(rows, "map_values", column="s.n", values={"2": "two", "3": "three"})
    assert [row["s"] for row in inner] == [{"n": "two"}, {"n": "three"}]
    assert message(rows, "map_values", column="code", values={"X": "ex", "YY": "why"}) == (
        "process step 0 (map_values): row 1: found 'Y' in column 'code'; expected one of X, YY. Did you mean 'YY'?"
    )


def record(**fields: Any) -> dict[str, Any]:
    row = {
        "passage": "A met B.\nMore text.\n@highlight\nfirst point\n@highlight\nsecond point",
        "query": "@placeholder met B",
        "entities": ["B", "A", "B"],
        "answers": ["A", "A"],
    }
    return row | fields


def test_record_deduplicates_and_lists_the_highlights() -> None:
    (row,) = run([record()], "record")
    assert row == {
        "passage": "A met B.\nMore text.\n- first point\n- second point",
        "query": "@placeholder met B",
        "entities": ["B", "A"],
        "answers": ["A"],
    }


def test_record_drops_rows_without_an_answer_among_two_entities() -> None:
    rows = [record(), record(answers=[]), record(answers=["C"]), record(entities=["A", "A"])]
    assert len(run(rows, "record")) == 1
    (row,) = run([record(answers=["C", "B"])], "record")
    assert row["answers"] == ["B"]


def test_multirc_rows_of_one_question_share_a_key() -> None:
    rows = [{"idx": {"paragraph": 3, "question": 1, "answer": answer}} for answer in range(2)]
    assert [row["question_key"] for row in run(rows, "multirc")] == ["3-1", "3-1"]


DIALOGUE = {"story": "s", "questions": ["q0", "q1"], "answers": {"text": ["a0", "a1"]}, "all": [["a0", "x"], ["a1"]]}


def test_a_dialogue_becomes_one_row_a_turn() -> None:
    first, second = run([DIALOGUE], "explode_turns", question="questions", answer="answers.text", reference="all")
    assert (first["question"], first["answer"], first["turn"], first["history"]) == ("q0", "a0", 0, [])
    assert second["history"] == [{"question": "q0", "answer": "a0"}]
    assert (second["story"], second["turn"], first["reference"]) == ("s", 1, ["a0", "x"])
    assert "reference" not in run([DIALOGUE], "explode_turns", question="questions", answer="answers.text")[0]


def test_turns_of_different_number_are_an_error() -> None:
    rows = [DIALOGUE | {"all": [["a0"]]}]
    fields = {"question": "questions", "answer": "answers.text", "reference": "all"}
    assert message(rows, "explode_turns", **fields) == (
        "process step 0 (explode_turns): row 0: found 2 in questions, 2 in answers.text, 1 in all items; expected one item "
        "a turn in each"
    )


@pytest.mark.parametrize(
    ("score", "step", "bucket"),
    [
        (3.799999952316284, 0.2, "3.8"),
        (0.09, 0.2, "0.0"),
        (0.1, 0.2, "0.2"),
        (5.0, 0.2, "5.0"),
        (5.05, 0.2, "5.0"),
        (2.5, 1, "3"),
        (2.49, 1, "2"),
        ("4.4", 1, "4"),
        (1.3, 0.25, "1.25"),
    ],
)
def test_a_score_goes_to_the_nearest_bucket(score: object, step: float, bucket: str) -> None:
    (row,) = run([{"x": {"label": score}}], "score_buckets", column="x.label", low=0, high=5, step=step)
    assert row["label_bucket"] == bucket


def test_a_score_that_is_no_number_or_far_outside_is_an_error() -> None:
    fields = {"column": "label", "low": 0, "high": 5, "step": 1}
    assert message([{"label": 9.0}], "score_buckets", **fields).endswith(
        "found the score 9.0; expected a number from 0.0 to 5.0"
    )
    assert message([{"label": None}], "score_buckets", **fields).endswith(
        "found None in column 'label'; expected a number"
    )


def test_squad_answers_are_unique_and_never_empty() -> None:
    rows = [{"answers": {"text": ["x", "y", "x"]}}, {"answers": {"text": []}}]
    found = run(rows, "squad_answers", no_answer="unanswerable")
    assert [row["answer_texts"] for row in found] == [["x", "y"], ["unanswerable"]]
    assert message(rows, "squad_answers") == (
        "process step 0 (squad_answers): row 1: found an empty list in column 'answers.text'; expected at least one "
        "answer. Give `no_answer`, or drop such rows"
    )


def test_rows_of_one_key_become_one() -> None:
    rows = [{"k": "b", "t": "1"}, {"k": "a", "t": "2"}, {"k": "b", "t": "3"}]
    assert run(rows, "merge_rows", key="k", column="t") == [{"k": "b", "t": ["1", "3"]}, {"k": "a", "t": ["2"]}]
    lists = [{"k": ["x", "y"], "t": 1}, {"k": ["x", "y"], "t": 2}]
    assert run(lists, "merge_rows", key="k", column="t") == [{"k": ["x", "y"], "t": [1, 2]}]
    assert "row 0: found no column 'kk'; expected one of k, t" in message(rows, "merge_rows", key="kk", column="t")


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("true_case", [("it is, ok.", "It is, OK.")]),
        ("fix_punct", [("It is OK", "It is, OK."), ("plain text", "plain, text")]),
        ("word_segment", [("Itis,OK.", "It is, OK."), ("plain,text", "plain, text"), ("word", "word"), ("...", "...")]),
    ],
)
def test_spoiled_texts_and_their_targets(kind: str, expected: list[tuple[str, str]]) -> None:
    rows = [{"t": {"en": text}} for text in ("It is, OK.", "plain, text", " word", "...", " ")]
    found = [(row["source"], row["target"]) for row in run(rows, kind, column="t.en")]
    assert found == expected


@pytest.mark.parametrize(
    ("flag", "text", "expected"),
    [
        ("strip_html_breaks", "One.<br /><br />Two <BR> three", "One.\nTwo\nthree"),
        ("strip_byte_repr", "b'x + 1 = \\'2\\'\\n'", "x + 1 = '2'"),
        ("strip_byte_repr", "b is 'a letter'", "b is 'a letter'"),
        ("normalise_newlines", "a\r\nb\rc\u2028d", "a\nb\nc\nd"),
        ("drop_angle_tags", "look <file_photo> here, 1 < 2", "look here, 1 < 2"),
        ("unescape_quotes", 'said \\"yes\\" and \\""no\\"" twice.\\nThen', 'said "yes" and "no" twice.\nThen'),
    ],
)  # fmt: skip
def test_texts_are_repaired_as_the_flag_says(flag: str, text: str, expected: str) -> None:
    assert run([{"t": text}], "clean_text", column="t", **{flag: True}) == [{"t": expected}]


def test_repairs_run_one_after_another() -> None:
    flags = {"strip_byte_repr": True, "strip_html_breaks": True}
    assert run([{"s": {"t": "b'a<br/>b\\n'"}}], "clean_text", column="s.t", **flags) == [{"s": {"t": "a\nb"}}]


def test_steps_run_in_their_order_and_name_themselves_in_errors() -> None:
    steps = [
        STEP.validate_python({"kind": "squad_answers", "column": "a"}),
        STEP.validate_python({"kind": "keep_length", "column": "answer_texts", "num": 1}),
        STEP.validate_python({"kind": "drop_rows", "column": "answer_text", "values": [1]}),
    ]
    rows = [{"a": ["x", "x"]}, {"a": ["x", "y"]}]
    assert list(apply_steps(steps[:2], rows, "task t, split train")) == [{"a": ["x", "x"], "answer_texts": ["x"]}]
    with pytest.raises(DataError) as error:
        list(apply_steps(steps, rows, "task t, split train"))
    assert str(error.value) == (
        "task t, split train: process step 2 (drop_rows): row 0: found no column 'answer_text'; expected one of a, "
        "answer_texts. Did you mean 'answer_texts'?"
    )


def test_a_step_that_leaves_no_row_is_an_error() -> None:
    assert message([{"label": -1}], "drop_rows", column="label", values=[-1]) == (
        "process step 0 (drop_rows): found no row that it keeps, of 1; expected at least one. Check its column and values"
    )
    assert run([], "drop_rows", column="label", values=[-1]) == []


def test_a_column_of_the_wrong_kind_is_an_error() -> None:
    assert message([{"t": 7}], "clean_text", column="t", drop_angle_tags=True).endswith(
        "row 0: found 7 in column 't'; expected a text"
    )
    assert message([{"t": "abcd"}], "keep_length", column="t", num=4).endswith(
        "found 'abcd' in column 't'; expected a list"
    )


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"kind": "drop", "column": "x", "values": [1]}, "does not match any of the expected tags"),
        ({"kind": "drop_rows", "column": "x", "values": []}, "at least 1 item"),
        ({"kind": "score_buckets", "column": "x", "low": 5, "high": 0, "step": 1}, "low 5.0 is not below high 0.0"),
        ({"kind": "clean_text", "column": "x"}, "clean_text repairs nothing: set one of strip_byte_repr"),
        ({"kind": "record", "column": "x"}, "Extra inputs are not permitted"),
    ],
)  # fmt: skip
def test_steps_that_cannot_be_meant_are_refused(fields: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValidationError, match=reason):
        STEP.validate_python(fields)
