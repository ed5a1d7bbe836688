"""Row steps of a task as pure functions of rows; their specs are in catsweep/spec/process.py.

Rows that a step is given stay as they are: changed rows are new. What a step cannot use is an error that names the row.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, assert_never

from catsweep.errors import DataError
from catsweep.spec.process import (
    CleanText,
    DropRows,
    ExplodeTurns,
    KeepDistinct,
    KeepLength,
    KeepRows,
    MapValues,
    MergeRows,
    MultiRc,
    ProcessStep,
    Record,
    ScoreBuckets,
    SpoilText,
    SquadAnswers,
)
from catsweep.spec.task import Origin
from catsweep.spec.yaml import did_you_mean
from catsweep.tasks.columns import Row, column_value, with_value
from catsweep.tasks.texts import clean, fix_punct_source, word_segment_source

Rows = list[dict[str, Any]]


class NothingLeftError(DataError):
    """A step dropped every row."""


class _BadRow(Exception):
    """A row that a step cannot use. found, expected and hint as in every error."""

    def __init__(self, found: str, expected: str, hint: str = "") -> None:
        super().__init__(found)
        self.message = f"found {found}; expected {expected}" + (f". {hint}" if hint else "")


def apply_steps(
    steps: Sequence[ProcessStep], rows: Iterable[dict[str, Any]], place: str, origin: Origin | None = None
) -> Iterator[dict[str, Any]]:
    """The rows after all steps, in their order and as they are needed; only `merge_rows` holds them all. place: task and
    split; origin: where the task stands; both for messages. Raises DataError: a column that is not there or has no use, a
    step that keeps no row."""
    for number, step in enumerate(steps):
        where = (origin or Origin()).prefix("process", str(number))
        rows = _apply(step, rows, f"{where}{place}: process step {number} ({step.kind})")
    yield from rows


def _apply(step: ProcessStep, rows: Iterable[dict[str, Any]], where: str) -> Iterator[dict[str, Any]]:
    if isinstance(step, MergeRows):
        yield from _merge(step, list(rows), where)
        return
    change = _row_function(step)
    num_given = num_kept = 0
    for index, row in enumerate(rows):
        num_given += 1
        try:
            changed = change(row)
        except _BadRow as error:
            raise DataError(f"{where}: row {index}: {error.message}") from None
        num_kept += len(changed)
        yield from changed
    if num_given and not num_kept:
        raise NothingLeftError(
            f"{where}: found no row that it keeps, of {num_given}; expected at least one. Check its column and values"
        )


def _row_function(step: ProcessStep) -> Callable[[dict[str, Any]], Rows]:
    """What a step makes of one row: no row, one, or several."""
    match step:
        case DropRows(column=column, values=values):
            return lambda row: [] if _value(row, column) in values else [row]
        case KeepRows(column=column, values=values):
            return lambda row: [row] if _value(row, column) in values else []
        case KeepLength(column=column, num=num):
            return lambda row: [row] if len(_list(row, column)) == num else []
        case KeepDistinct():
            return lambda row: [row] if _is_distinct(step, row) else []
        case MapValues():
            return lambda row: [_map_value(step, row)]
        case Record():
            return _record
        case MultiRc():
            return _multirc
        case ExplodeTurns():
            return lambda row: list(_turns(step, row))
        case ScoreBuckets():
            return lambda row: [_bucket(step, row)]
        case SquadAnswers():
            return lambda row: [_squad_answers(step, row)]
        case SpoilText():
            return lambda row: _spoil(step, row)
        case CleanText(column=column):
            return lambda row: [with_value(row, column, clean(_text(row, column), step))]
        case MergeRows():
            raise AssertionError("merge_rows needs all rows at once")
        case _:
            assert_never(step)


def _value(row: Row, column: str) -> Any:
    try:
        return column_value(row, column)
    except KeyError:
        hint = did_you_mean(column, row)
        raise _BadRow(f"no column {column!r}", f"one of {', '.join(sorted(row))}", hint) from None


def _list(row: Row, column: str) -> list[Any]:
    value = _value(row, column)
    if not isinstance(value, list):
        raise _BadRow(f"{value!r:.80} in column {column!r}", "a list")
    return value


def _text(row: Row, column: str) -> str:
    value = _value(row, column)
    if not isinstance(value, str):
        raise _BadRow(f"{value!r:.80} in column {column!r}", "a text")
    return value


def _is_distinct(step: KeepDistinct, row: Row) -> bool:
    values = [_value(row, column) for column in step.columns]
    texts = [item for value in values for item in (value if isinstance(value, list) else [value])]
    return len({str(text).strip() for text in texts}) == len(texts)


def _map_value(step: MapValues, row: dict[str, Any]) -> dict[str, Any]:
    value = str(_value(row, step.column))
    if value not in step.values:
        known = ", ".join(step.values)
        raise _BadRow(f"{value!r:.80} in column {step.column!r}", f"one of {known}", did_you_mean(value, step.values))
    return with_value(row, step.column, step.values[value])


def _record(row: dict[str, Any]) -> Rows:
    """Highlights become a list of lines, which keeps what they say and removes their mark."""
    passage, *highlights = _text(row, "passage").split("@highlight")
    lines = [passage.strip(), *(f"- {highlight.strip()}" for highlight in highlights if highlight.strip())]
    entities = list(dict.fromkeys(_list(row, "entities")))
    answers = [answer for answer in dict.fromkeys(_list(row, "answers")) if answer in entities]
    if not answers or len(entities) < 2:
        return []
    return [{**row, "passage": "\n".join(lines), "entities": entities, "answers": answers}]


def _multirc(row: dict[str, Any]) -> Rows:
    paragraph, question = _value(row, "idx.paragraph"), _value(row, "idx.question")
    return [{**row, "question_key": f"{paragraph}-{question}"}]


def _turns(step: ExplodeTurns, row: dict[str, Any]) -> Iterator[dict[str, Any]]:
    questions, answers = _list(row, step.question), _list(row, step.answer)
    references = [None] * len(questions) if step.reference is None else _list(row, step.reference)
    if not len(questions) == len(answers) == len(references):
        given = {step.question: questions, step.answer: answers} | (
            {step.reference: references} if step.reference else {}
        )
        counts = ", ".join(f"{len(values)} in {name}" for name, values in given.items())
        raise _BadRow(f"{counts} items", "one item a turn in each")
    history: list[dict[str, Any]] = []
    for turn, (question, answer, reference) in enumerate(zip(questions, answers, references, strict=True)):
        added = {"question": question, "answer": answer, "turn": turn, "history": list(history)}
        yield {**row, **added} if step.reference is None else {**row, **added, "reference": reference}
        history.append({"question": question, "answer": answer})


def _bucket(step: ScoreBuckets, row: dict[str, Any]) -> dict[str, Any]:
    value = _value(row, step.column)
    try:
        score = float(value)
    except (TypeError, ValueError):
        raise _BadRow(f"{value!r:.80} in column {step.column!r}", "a number") from None
    if not step.low - step.step <= score <= step.high + step.step:
        raise _BadRow(f"the score {score}", f"a number from {step.low} to {step.high}")
    # float32 columns hold 3.7999999 for 3.8: rounded, so that a score in the middle of two buckets is seen as such
    place = int(round((score - step.low) / step.step, 4) + 0.5)
    last = int((step.high - step.low) / step.step + 1e-9)
    bucket = step.low + min(max(place, 0), last) * step.step
    decimals = len(f"{step.step:.10f}".rstrip("0").split(".")[1])
    return {**row, step.adds[0]: f"{bucket:.{decimals}f}"}


def _squad_answers(step: SquadAnswers, row: dict[str, Any]) -> dict[str, Any]:
    answers = list(dict.fromkeys(_list(row, step.column)))
    if not answers:
        if step.no_answer is None:
            hint = "Give `no_answer`, or drop such rows"
            raise _BadRow(f"an empty list in column {step.column!r}", "at least one answer", hint)
        answers = [step.no_answer]
    return {**row, "answer_texts": answers}


def _spoil(step: SpoilText, row: dict[str, Any]) -> Rows:
    text = _text(row, step.column).strip()
    match step.kind:
        case "true_case":
            source = text.lower()
        case "fix_punct":
            source = fix_punct_source(text)
        case "word_segment":
            source = word_segment_source(text)
    unchanged = source == text and step.kind != "word_segment"
    return [] if unchanged or not source.strip() else [{**row, "source": source, "target": text}]


def _merge(step: MergeRows, rows: Rows, where: str) -> Rows:
    merged: dict[Any, dict[str, Any]] = {}
    for index, row in enumerate(rows):
        try:
            key, value = _value(row, step.key), _value(row, step.column)
        except _BadRow as error:
            raise DataError(f"{where}: row {index}: {error.message}") from None
        shown = tuple(key) if isinstance(key, list) else key
        if shown in merged:
            merged[shown][step.column].append(value)
        else:
            merged[shown] = {**row, step.column: [value]}
    return list(merged.values())
