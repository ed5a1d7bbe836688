from __future__ import annotations

from typing import Any

import pytest

from catsweep.errors import DataError
from catsweep.tasks.render import Place, Rendered, choose_template, render, render_group_keys

PLACE = Place("toy", "train:17")
ROW = {"question": "2 + 2", "answer": "4", "answers": ["4", "four", "4"], "options": ["3", "4"], "blank": None, "no": 1}


def message(task: Any, row: dict[str, Any] = ROW) -> str:
    with pytest.raises(DataError) as error:
        render(task, row, PLACE)
    return str(error.value)


def test_templates_give_prompt_and_target(make_task: Any) -> None:
    task = make_task(doc_to_text="Q: {{question|upper}}?", doc_to_target="{{answer}}!")
    assert render(task, ROW, PLACE) == Rendered("Q: 2 + 2?", "4!", ("4!",), (), -1)


def test_a_bare_name_is_a_column(make_task: Any) -> None:
    rendered = render(make_task(doc_to_text="question", doc_to_target="no"), ROW, PLACE)
    assert (rendered.prompt, rendered.target) == ("2 + 2", "1")


def test_a_list_column_holds_several_accepted_answers_each_once(make_task: Any) -> None:
    rendered = render(make_task(doc_to_target="answers"), ROW, PLACE)
    assert (rendered.target, rendered.references) == ("4", ("4", "four"))


@pytest.mark.parametrize("template", ["{{question}}", "{{ question }}", "{{question}}{{''}}"])
def test_the_short_way_for_one_column_prints_what_jinja_prints(make_task: Any, template: str) -> None:
    for value in ("<b>&", 7, 1.5, True, ["a"], "last line\n"):
        assert render(make_task(doc_to_text=template), {"question": value, "answer": "x"}, PLACE).prompt == str(value)


@pytest.mark.parametrize(
    ("target", "label"),
    [(1, 1), (True, 1), (False, 0), ("1", 1), ("yes", 1), (" yes\n", 1), ("no", 0)],
)
def test_a_label_is_an_index_or_the_text_of_a_choice(make_task: Any, target: object, label: int) -> None:
    task = make_task(doc_to_choice=["no", "yes"])
    rendered = render(task, {"question": "?", "answer": target}, PLACE)
    assert rendered == Rendered("?", ("no", "yes")[label], (("no", "yes")[label],), ("no", "yes"), label)


def test_a_text_is_first_a_choice_and_a_number_is_always_an_index(make_task: Any) -> None:
    task = make_task(doc_to_choice=["1", "0"])
    assert render(task, {"question": "?", "answer": "1"}, PLACE).label == 0
    assert render(task, {"question": "?", "answer": 1}, PLACE).label == 1


def test_choices_may_be_templates_or_a_list_column(make_task: Any) -> None:
    row = ROW | {"answer": "4"}
    assert render(make_task(doc_to_choice="options"), row, PLACE).label == 1
    assert render(make_task(doc_to_choice=["{{options[1]}}", "none of them"]), row, PLACE).choices == (
        "4",
        "none of them",
    )


def test_group_keys_are_the_prompt_or_one_or_several_templates(make_task: Any) -> None:
    assert render_group_keys(make_task(), ROW, PLACE) == ("2 + 2",)
    assert render_group_keys(make_task(doc_to_group="no"), ROW, PLACE) == ("1",)
    assert render_group_keys(make_task(doc_to_group=["{{no}}", "answer"]), ROW, PLACE) == ("1", "4")
    row = {"question": "Who  is\nÖdön? "}
    assert render_group_keys(make_task(), row, PLACE) == ("who is ödön?",)
    assert render_group_keys(make_task(doc_to_group="question"), row, PLACE) == ("Who  is\nÖdön? ",)


COLUMNS = "answer, answers, blank, no, options, question"


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        (
            {"doc_to_text": "{{qestion}}"},
            f"task toy, row train:17: doc_to_text '{{{{qestion}}}}': found no column 'qestion'; expected one of {COLUMNS}. "
            "Did you mean 'question'?",
        ),
        (
            {"doc_to_target": "anser"},
            f"task toy, row train:17: doc_to_target 'anser': found no column 'anser'; expected one of {COLUMNS}. "
            "Did you mean 'answer'?",
        ),
        (
            {"doc_to_text": "{{blank}} {{question}}"},
            "task toy, row train:17: doc_to_text '{{blank}} {{question}}': found nothing in column blank; expected a "
            "value. Drop the row, or write a default: {{ column or '-' }}",
        ),
        (
            {"doc_to_target": "blank"},
            "task toy, row train:17: doc_to_target 'blank': found nothing in column 'blank'; expected a value. "
            "Drop the row",
        ),
        (
            {"doc_to_text": "{{question[9:]}}"},
            "task toy, row train:17: doc_to_text '{{question[9:]}}': found an empty text; expected some text. "
            "Drop such rows, or change the template",
        ),
        (
            {"doc_to_text": "{{question"},
            "task toy, row train:17: doc_to_text '{{question': found broken Jinja2 (unexpected end of template, "
            "expected 'end of print statement'); expected a Jinja2 template",
        ),
        (
            {"doc_to_text": "{{no / 0}}"},
            "task toy, row train:17: doc_to_text '{{no / 0}}': found ZeroDivisionError: division by zero; expected a "
            "template that this row can fill",
        ),
        (
            {"doc_to_choice": ["3", "3", "4"]},
            "task toy, row train:17: doc_to_choice ['3', '3', '4']: found ['3', '3', '4']; expected at least two "
            "choices, each a different text",
        ),
        (
            {"doc_to_choice": ["4"]},
            "task toy, row train:17: doc_to_choice ['4']: found ['4']; expected at least two choices, each a different "
            "text",
        ),
        (
            {"doc_to_choice": "question"},
            "task toy, row train:17: doc_to_choice 'question': found '2 + 2'; expected a column that holds a list of "
            "texts",
        ),
        (
            {"doc_to_choice": ["three", "fours"], "doc_to_target": "{{'four'}}"},
            "task toy, row train:17: doc_to_target \"{{'four'}}\": found 'four'; expected an index from 0 to 1, or one "
            "of ['three', 'fours']. Did you mean 'fours'?",
        ),
        (
            {"doc_to_choice": ["no", "yes"], "doc_to_target": "{{0 - 1}}"},
            "task toy, row train:17: doc_to_target '{{0 - 1}}': found -1; expected an index from 0 to 1, or one of ['no', "
            "'yes']. -1 marks rows whose label is not public: name a labelled split, for example `test_split: "
            "validation`",
        ),
    ],
)  # fmt: skip
def test_errors_name_the_row_the_template_what_was_found_and_the_next_move(
    make_task: Any, fields: dict[str, Any], expected: str
) -> None:
    assert message(make_task(**fields)) == expected


def test_an_answer_list_without_an_answer_is_refused(make_task: Any) -> None:
    for answers in ([], [None]):
        assert "a list of at least one answer" in message(
            make_task(doc_to_target="answers"), ROW | {"answers": answers}
        )
    assert "found an empty text" in message(make_task(doc_to_target="answers"), ROW | {"answers": ["4", " "]})


@pytest.mark.parametrize(
    "template",
    ["{{question.__class__.__mro__}}", "{{ ''.__class__ }}", "{{answers.append('x')}}", "{{cycler.__init__.__globals__}}"],
)  # fmt: skip
def test_a_template_cannot_leave_the_sandbox_or_change_the_row(make_task: Any, template: str) -> None:
    assert "task toy, row train:17: doc_to_text" in message(make_task(doc_to_text=template))
    assert ROW["answers"] == ["4", "four", "4"]


STRUCT = {
    "q": "?",
    "answers": {"text": ["x", "y", "x"]},
    "choices": {"text": ["a", "b"], "label": ["A", "B"]},
    "key": "B",
}


def test_dotted_names_and_list_templates_give_accepted_answers(make_task: Any) -> None:
    for template in ("answers.text", "{{answers.text}}", "{{ answers['text'][:2] }}"):
        assert render(make_task(doc_to_text="q", doc_to_target=template), STRUCT, PLACE).references == ("x", "y")
    assert render(make_task(doc_to_text="q", doc_to_target="{{answers.text[0]}}"), STRUCT, PLACE).references == ("x",)


def test_choices_and_labels_inside_structs_are_found_as_in_lm_evaluation_harness(make_task: Any) -> None:
    for choices in ("choices.text", "{{choices.text}}", "{{[choices.text[0], choices.text[1]]}}"):
        task = make_task(doc_to_text="q", doc_to_choice=choices, doc_to_target="{{choices.label.index(key)}}")
        assert render(task, STRUCT, PLACE) == Rendered("?", "b", ("b",), ("a", "b"), 1)


def test_a_list_template_for_choices_has_to_give_a_list(make_task: Any) -> None:
    assert message(make_task(doc_to_text="q", doc_to_choice="{{key}}"), STRUCT) == (
        "task toy, row train:17: doc_to_choice '{{key}}': found 'B'; expected a template that gives a list of texts"
    )
    task = make_task(doc_to_text="q", doc_to_choice="{{choices.texts + ['a']}}")
    assert message(task, STRUCT).startswith(
        "task toy, row train:17: doc_to_choice \"{{choices.texts + ['a']}}\": found 'dict object' has no attribute 'texts'"
    )


def test_references_may_differ_from_the_target(make_task: Any) -> None:
    row = {"question": "?", "answer": "3", "score": 2.8, "all": ["3", "three", "3"]}
    scored = render(make_task(doc_to_reference="score"), row, PLACE)
    assert (scored.target, scored.references) == ("3", ("2.8",))
    assert render(make_task(doc_to_reference="all"), row, PLACE).references == ("3", "three")
    chosen = render(make_task(doc_to_choice=["3", "4"], doc_to_reference="{{all}}"), row, PLACE)
    assert (chosen.target, chosen.references, chosen.label) == ("3", ("3", "three"), 0)


def test_a_reference_may_be_missing_in_some_rows_if_its_template_says_so(make_task: Any) -> None:
    task = make_task(doc_to_reference="{{references if references is defined else [answer]}}")
    assert render(task, {"question": "?", "answer": "a"}, PLACE).references == ("a",)
    assert render(task, {"question": "?", "answer": "a", "references": ["b", "c"]}, PLACE).references == ("b", "c")


def test_each_row_uses_one_of_several_templates(make_task: Any) -> None:
    task = make_task(doc_to_text=["{{question}} = ", "What is {{question}}? "])
    assert [render(task, ROW, PLACE, template=index).prompt for index in (0, 1)] == ["2 + 2 = ", "What is 2 + 2? "]
    assert render_group_keys(task, ROW, PLACE) == ("2 + 2 =",)


def test_templates_are_drawn_evenly_by_the_id_and_the_seed(make_task: Any) -> None:
    texts = ["a {{q}}", "b {{q}}", "c {{q}}"]
    task, other = make_task(doc_to_text=texts), make_task(doc_to_text=texts, template_seed=1)
    ids = [f"train:{n}" for n in range(3_000)]
    drawn = [choose_template(task, row_id) for row_id in ids]
    assert all(900 < drawn.count(index) < 1_100 for index in range(3))
    assert drawn == [choose_template(task, row_id) for row_id in ids]
    assert 900 < sum(one == choose_template(other, row_id) for one, row_id in zip(drawn, ids, strict=True)) < 1_100
    fixed = make_task(doc_to_text=texts, num_templates=1)
    assert {choose_template(fixed, row_id) for row_id in ids} == {0}
