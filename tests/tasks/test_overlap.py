"""Keys of source texts: what two tasks with other prompts share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from catsweep.spec.task import TaskSpec
from catsweep.tasks.overlap import LONG_TEXT, source_keys
from catsweep.tasks.render import Place

MakeTask = Callable[..., TaskSpec]

PASSAGE = "The river rises in the hills and flows through two lakes to the sea."
PLACE = Place("made", "train:0")


def keys(make_task: MakeTask, row: dict[str, Any], **fields: Any) -> frozenset[bytes]:
    return source_keys(make_task(**fields), row, PLACE)


def test_tasks_with_other_prompts_and_column_names_share_what_their_prompts_show(make_task: MakeTask) -> None:
    first = keys(
        make_task,
        {"premise": "It rains.", "hypothesis": "It is wet.", "label": "yes"},
        doc_to_text="{{premise}} So {{hypothesis}}?",
        doc_to_target="label",
    )
    second = keys(
        make_task,
        {"a": "It  is WET.", "b": "It rains.", "label": "no"},
        doc_to_text="Does '{{a}}' follow from '{{b}}'?",
        doc_to_target="label",
    )
    assert first & second


def test_one_short_text_in_common_is_no_common_source(make_task: MakeTask) -> None:
    fields = {"doc_to_text": "{{language}}: {{word}}", "doc_to_target": "label"}
    first = keys(make_task, {"language": "French", "word": "chien", "label": "x"}, **fields)
    assert not first & keys(make_task, {"language": "French", "word": "chat", "label": "x"}, **fields)


def test_a_long_text_in_common_is_a_common_source(make_task: MakeTask) -> None:
    assert len(PASSAGE) >= LONG_TEXT
    question = keys(
        make_task,
        {"passage": PASSAGE, "question": "Where does it rise?", "label": "x"},
        doc_to_text="{{passage}} {{question}}",
        doc_to_target="label",
    )
    summary = keys(
        make_task, {"parts": [PASSAGE], "label": "x"}, doc_to_text="Sum up: {{parts[0]}}", doc_to_target="label"
    )
    assert question & summary


def test_group_keys_count_and_what_only_the_answer_shows_does_not(make_task: MakeTask) -> None:
    row = {"title": "Rivers", "text": "short", "label": PASSAGE}
    grouped = keys(make_task, row, doc_to_text="{{text}}", doc_to_target="label", doc_to_group="{{title}}")
    other = keys(make_task, {"title": "rivers", "label": "x"}, doc_to_text="{{title}}", doc_to_target="label")
    answer = keys(make_task, {"passage": PASSAGE, "label": "x"}, doc_to_text="{{passage}}", doc_to_target="label")
    assert grouped & other
    assert not grouped & answer
