"""What can be said about a task's templates without its rows: whether they parse, and which columns they name."""

from __future__ import annotations

import functools
from collections.abc import Iterator

import jinja2
import jinja2.meta
from jinja2 import nodes
from jinja2.sandbox import ImmutableSandboxedEnvironment

from catsweep.errors import Problem
from catsweep.spec.source import HubSource
from catsweep.spec.task import Origin, TaskSpec
from catsweep.spec.yaml import Document, KeyPath, did_you_mean

ENVIRONMENT = ImmutableSandboxedEnvironment()
QUESTION_FIELD = "key of multirc_em"
"""What messages call the template of a row's question."""
_FIELDS = ("doc_to_text", "doc_to_target", "doc_to_choice", "doc_to_reference", "doc_to_group")


def is_template(text: str) -> bool:
    """Whether a text is a Jinja2 template; else it names a column (in a list of choices it is the text itself)."""
    return "{{" in text or "{%" in text


def template_problems(task: TaskSpec, document: Document, columns: set[str] | None = None) -> list[Problem]:
    """Templates that do not parse, and columns that neither `expect.columns` nor a step of `process` names.

    Columns are checked for hub tasks with `expect.columns`: all that the task uses have to be among them. columns: those of
    a real row behind all steps, where one was read; then templates are held to these, and steps are not looked at.
    """
    known = _known_columns(task) if columns is None else columns
    whose = "one that `expect.columns` or a step of `process` names" if columns is None else "a column of the rows"
    problems: list[Problem] = []
    for keys, text, is_choice in _texts(task):
        if columns is not None and keys[0] == "doc_to_reference" and task.may_lack_references("train"):
            continue
        used: tuple[str, ...] = () if is_choice else (text,)
        if is_template(text):
            try:
                used = used_columns(text)
            except jinja2.TemplateSyntaxError as error:
                lines = text.splitlines()
                shown = lines[error.lineno - 1] if error.lineno <= len(lines) else text
                found = f"broken Jinja2 {shown!r} ({(error.message or '').rstrip('.')})"
                problems.append(document.problem(keys, found=found, expected="a Jinja2 template"))
                continue
        problems += _unknown_columns(document, keys, used, known, whose)
    for index, step in enumerate(task.process if columns is None else ()):
        named = [getattr(step, name, None) for name in ("column", "key", "question", "answer", "reference")]
        given = [column for column in named if column is not None]
        problems += _unknown_columns(document, ("process", index), tuple(given), known, whose)
    return problems


def task_origin(task: TaskSpec, document: Document) -> Origin:
    """Where the fields, templates, steps and question key of a task stand, for messages about rows."""
    lines = {(str(name), ""): document.where((name,)) for name in document.data}
    lines |= {(str(keys[0]), text): document.where(keys) for keys, text, _ in _texts(task)}
    lines |= {("process", str(index)): document.where(("process", index)) for index in range(len(task.process))}
    for index, metric in enumerate(task.metric_list):
        if metric.metric == "multirc_em":
            lines[QUESTION_FIELD, ""] = document.where(("metric_list", index))
    return Origin(lines)


@functools.cache
def used_columns(template: str) -> tuple[str, ...]:
    """The columns that a template needs, sorted; those whose absence it asks for (`is defined`) may be missing. Raises
    TemplateSyntaxError, also for a filter or test that Jinja2 does not have."""
    try:
        tree = ENVIRONMENT.parse(template)
    except RecursionError:
        raise jinja2.TemplateSyntaxError("thousands of nested brackets", 1) from None
    for kind, known in ((nodes.Filter, ENVIRONMENT.filters), (nodes.Test, ENVIRONMENT.tests)):
        for node in tree.find_all(kind):
            if node.name not in known:
                hint = did_you_mean(node.name, known)
                message = f"no {kind.__name__.lower()} named {node.name!r}{f'; {hint}' if hint else ''}"
                raise jinja2.TemplateSyntaxError(message, node.lineno)
    asked = {
        node.node.name
        for node in tree.find_all(nodes.Test)
        if node.name in ("defined", "undefined") and isinstance(node.node, nodes.Name)
    }
    return tuple(sorted(jinja2.meta.find_undeclared_variables(tree) - asked - set(ENVIRONMENT.globals)))


def _texts(task: TaskSpec) -> Iterator[tuple[KeyPath, str, bool]]:
    """Each template or name of a column with its place in the document, and whether it is one of a list of choices."""
    for field in _FIELDS:
        value = getattr(task, field)
        if isinstance(value, list):
            yield from (((field, index), text, field == "doc_to_choice") for index, text in enumerate(value))
        elif value is not None:
            yield (field,), value, False


def _known_columns(task: TaskSpec) -> set[str] | None:
    """The columns of a row after `process`, where they are known."""
    if not isinstance(task.source, HubSource) or not task.source.expect.columns:
        return None
    return {*task.source.expect.columns, *(name for step in task.process for name in step.adds)}


def _unknown_columns(
    document: Document, keys: KeyPath, used: tuple[str, ...], known: set[str] | None, whose: str
) -> list[Problem]:
    if known is None:
        return []
    return [
        document.problem(
            keys,
            found=f"the column {name!r}",
            expected=f"{whose}: {', '.join(sorted(known))}",
            hint=did_you_mean(name, known),
        )
        for name in used
        if name not in known and name.split(".")[0] not in known
    ]
