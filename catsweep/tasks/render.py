"""A row -> prompt, target, references, choices and label, by the Jinja2 templates of a task.

A template without `{{` or `{%` names a column (in `doc_to_choice` it is the text itself). Templates run in a sandbox
(tasks/sandbox.py): they read the row's columns and nothing else, and end in seconds.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import jinja2
import jinja2.meta

from catsweep.errors import DataError
from catsweep.spec.task import Origin, TaskSpec
from catsweep.spec.templates import QUESTION_FIELD, is_template, used_columns
from catsweep.spec.yaml import did_you_mean
from catsweep.tasks.columns import Row, column_value
from catsweep.tasks.groups import hash_key
from catsweep.tasks.sandbox import BoundedEnvironment, bounded
from catsweep.tasks.texts import plain_text


@dataclass(frozen=True)
class Rendered:
    """The texts of one row; the fields are those of `Example`."""

    prompt: str
    target: str
    references: tuple[str, ...]
    choices: tuple[str, ...]
    label: int
    key: str | None = None


@dataclass(frozen=True)
class Place:
    """Where a row comes from, for messages: `task emoji/en-fr, row train:17`; and where its task stands."""

    task: str
    row: str
    origin: Origin = field(default_factory=Origin)

    def error(self, name: str, template: str | list[str], *, found: str, expected: str, hint: str = "") -> DataError:
        """What is wrong with a row, or with a template on this row. name: of the field, such as `doc_to_text`."""
        where = self.origin.prefix(name, template if isinstance(template, str) else "")
        text = f"{where}task {self.task}, row {self.row}: {name} {template!r}: found {found}; expected {expected}"
        return DataError(f"{text}. {hint}" if hint else text)


class _NullValue(Exception):
    """A template prints a value that is missing in the row."""


def _refuse_null(value: Any) -> Any:
    if value is None:
        raise _NullValue
    return value


_ONE_COLUMN = re.compile(r"\{\{ *([A-Za-z_][A-Za-z0-9_]*) *\}\}")
_ONE_EXPRESSION = re.compile(r"\s*\{\{((?:(?!\{\{|\}\}|\{%).)*)\}\}\s*", re.DOTALL)
_ENVIRONMENT = BoundedEnvironment(undefined=jinja2.StrictUndefined, finalize=_refuse_null)


def render(task: TaskSpec, row: Row, place: Place, *, template: int = 0, may_lack_references: bool = False) -> Rendered:
    """The texts of one row, the prompt by one of the task's templates. may_lack_references: the target is the reference of a
    row that has not what `doc_to_reference` names. Raises DataError: unknown column, empty text, bad label, bad choices."""
    prompt = _text("doc_to_text", task.prompt_templates[template], row, place)
    key = question_key(task, row, place)
    other = task.doc_to_reference
    if other is not None and may_lack_references and not _has_columns(other, row):
        other = None
    references = None if other is None else _answers("doc_to_reference", other, row, place)
    if task.doc_to_choice is None:
        answers = _answers("doc_to_target", task.doc_to_target, row, place)
        return Rendered(prompt, answers[0], references or answers, (), -1, key)
    choices = _choices(task.doc_to_choice, row, place)
    label = _label(task, choices, row, place)
    return Rendered(prompt, choices[label], references or (choices[label],), choices, label, key)


def choose_template(task: TaskSpec, row_id: str) -> int:
    """Which of the task's templates a row uses: drawn by a hash of its id, the same in every process."""
    num_templates = len(task.prompt_templates)
    if num_templates == 1:
        return 0
    key = hash_key(f"{task.template_seed}:{row_id}", b"template")
    return int.from_bytes(key[:8], "big") % num_templates


def render_group_keys(task: TaskSpec, row: Row, place: Place) -> tuple[str, ...]:
    """The group keys of a row: by `doc_to_group`, as they are; else the prompt by the first template, without letter case
    and differences of white space."""
    if task.doc_to_group is None:
        return (plain_text(_text("doc_to_text", task.prompt_templates[0], row, place)),)
    templates = [task.doc_to_group] if isinstance(task.doc_to_group, str) else task.doc_to_group
    return tuple(_text("doc_to_group", template, row, place) for template in templates)


def prompt_values(task: TaskSpec, row: Row) -> list[Any]:
    """What the row holds in the columns that any of the task's prompts shows, sorted by column."""
    return [_value_or_none(row, column) for column in _shown_columns(tuple(task.prompt_templates))]


@functools.lru_cache(maxsize=256)
def _shown_columns(templates: tuple[str, ...]) -> list[str]:
    """The columns that any of these prompts shows, sorted."""
    columns = (_used(template) if is_template(template) else {template} for template in templates)
    return sorted(set().union(*columns))


def _value_or_none(row: Row, column: str) -> Any:
    try:
        return column_value(row, column)
    except KeyError:
        return None


def question_key(task: TaskSpec, row: Row, place: Place) -> str | None:
    """The question that a row belongs to; None where no metric of the task asks for it."""
    return None if task.question_key is None else _text(QUESTION_FIELD, task.question_key, row, place)


def _has_columns(template: str, row: Row) -> bool:
    """Whether a row has the columns that a template or the name of a column asks for."""
    if is_template(template):
        return set(used_columns(template)) <= row.keys()
    try:
        column_value(row, template)
    except KeyError:
        return False
    return True


def _answers(field: str, template: str, row: Row, place: Place) -> tuple[str, ...]:
    """All accepted answers, each once, in the row's order."""
    value = _value(field, template, row, place)
    if not isinstance(value, list | tuple):
        return (_not_empty(field, template, str(value), place),)
    if not value or any(answer is None for answer in value):
        expected = "a list of at least one answer, none of them null"
        raise place.error(field, template, found=repr(value)[:80], expected=expected)
    answers = [_not_empty(field, template, str(answer), place) for answer in value]
    return tuple(dict.fromkeys(answers))


def _choices(templates: list[str] | str, row: Row, place: Place) -> tuple[str, ...]:
    if isinstance(templates, str):
        value = _value("doc_to_choice", templates, row, place)
        if not isinstance(value, list | tuple) or any(choice is None for choice in value):
            kind = "template that gives" if is_template(templates) else "column that holds"
            raise place.error("doc_to_choice", templates, found=repr(value)[:80], expected=f"a {kind} a list of texts")
        choices = tuple(_not_empty("doc_to_choice", templates, str(choice), place) for choice in value)
    else:
        choices = tuple(
            _text("doc_to_choice", template, row, place) if is_template(template) else template
            for template in templates
        )
    if len(choices) < 2 or len(set(choices)) < len(choices) or not all(choice.strip() for choice in choices):
        expected = "at least two choices, each a different text"
        raise place.error("doc_to_choice", templates, found=str(list(choices))[:200], expected=expected)
    return choices


def _label(task: TaskSpec, choices: tuple[str, ...], row: Row, place: Place) -> int:
    """The index of the right choice: a number is an index; a text is a choice, or else an index."""
    value = _value("doc_to_target", task.doc_to_target, row, place)
    if isinstance(value, str):
        text = value.strip()
        if value in choices or text in choices:
            return choices.index(value if value in choices else text)
        value = int(text) if text.isascii() and text.removeprefix("-").isdigit() else value
    if isinstance(value, int) and 0 <= value < len(choices):  # False and True are 0 and 1
        return int(value)
    hint = ""
    if value == -1:
        hint = "-1 marks rows whose label is not public: name a labelled split, for example `test_split: validation`"
    elif isinstance(value, str):
        hint = did_you_mean(value, choices)
    raise place.error(
        "doc_to_target",
        task.doc_to_target,
        found=repr(value)[:80],
        expected=f"an index from 0 to {len(choices) - 1}, or one of {str(list(choices))[:200]}",
        hint=hint,
    )


def _value(field: str, template: str, row: Row, place: Place) -> Any:
    """A column as it is; the list of a template `{{...}}` that gives one; else the text of a template."""
    if not is_template(template):
        return _column(field, template, row, place)
    column = _ONE_COLUMN.fullmatch(template)
    if column and row.get(column[1]) is not None:  # what the expression would give, without compiled code
        value = row[column[1]]
        return value if isinstance(value, list | tuple) else _not_empty(field, template, str(value), place)
    expression = _ONE_EXPRESSION.fullmatch(template)
    if expression:
        try:
            with bounded():
                value = _compiled_expression(expression[1])(**row)
        except Exception:  # rendered again as text, which says what is wrong
            value = None
        if isinstance(value, list | tuple):
            return value
    return _text(field, template, row, place)


def _column(field: str, name: str, row: Row, place: Place) -> Any:
    try:
        value = column_value(row, name)
    except KeyError:
        hint = did_you_mean(name, row) or f"For a template write `{{{{{name}}}}}`"
        raise place.error(
            field, name, found=f"no column {name!r}", expected=f"one of {_names(row)}", hint=hint
        ) from None
    if value is None:
        raise place.error(field, name, found=f"nothing in column {name!r}", expected="a value", hint="Drop the row")
    return value


def _text(field: str, template: str, row: Row, place: Place) -> str:
    """The text of a template, or of the column that it names; never blank."""
    if not is_template(template):
        return _not_empty(field, template, str(_column(field, template, row, place)), place)
    column = _ONE_COLUMN.fullmatch(template)
    if column and row.get(column[1]) is not None:  # what Jinja2 would print, 20 times faster
        return _not_empty(field, template, str(row[column[1]]), place)
    try:
        with bounded():
            text = _compiled(template).render(row)
    except jinja2.TemplateSyntaxError as error:
        found = f"broken Jinja2 ({(error.message or '').rstrip('.')})"
        raise place.error(field, template, found=found, expected="a Jinja2 template") from None
    except _NullValue:
        used = sorted(name for name in _used(template) if row.get(name, "") is None)
        found = f"nothing in column {', '.join(used)}" if used else "a null value"
        hint = "Drop the row, or write a default: {{ column or '-' }}"
        raise place.error(field, template, found=found, expected="a value", hint=hint) from None
    except jinja2.UndefinedError as error:
        unknown = sorted(name for name in _used(template) if name not in row)
        found = f"no column {', '.join(map(repr, unknown))}" if unknown else str(error.message)
        hint = did_you_mean(unknown[0], row) if unknown else ""
        raise place.error(field, template, found=found, expected=f"one of {_names(row)}", hint=hint) from None
    except Exception as error:  # anything that a template's own expression raises, the sandbox included
        found = f"{type(error).__name__}: {error}"
        raise place.error(field, template, found=found, expected="a template that this row can fill") from None
    return _not_empty(field, template, text, place)


def _not_empty(field: str, template: str, text: str, place: Place) -> str:
    if not text.strip():
        hint = "Drop such rows, or change the template"
        raise place.error(field, template, found="an empty text", expected="some text", hint=hint)
    return text


@functools.cache
def _compiled(template: str) -> jinja2.Template:
    return _ENVIRONMENT.from_string(template)


@functools.cache
def _compiled_expression(expression: str) -> Callable[..., Any]:
    return _ENVIRONMENT.compile_expression(expression, undefined_to_none=False)


@functools.cache
def _used(template: str) -> frozenset[str]:
    """The columns that a template mentions."""
    return frozenset(jinja2.meta.find_undeclared_variables(_ENVIRONMENT.parse(template)))


def _names(row: Row) -> str:
    return ", ".join(sorted(row))
