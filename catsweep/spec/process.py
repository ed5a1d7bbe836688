"""Row steps of a task: what templates cannot express. Each is a pure function of rows, in catsweep/tasks/process.py."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from catsweep.spec.base import Spec

Scalar = str | int | float | bool | None
"""A value of a column as YAML writes it."""

Column = Annotated[str, Field(min_length=1, description="Name of the column; a dotted name reaches into structs")]


class _Step(Spec):
    @property
    def adds(self) -> tuple[str, ...]:
        """Names of the columns that the step adds."""
        return ()


class DropRows(_Step):
    """Leave out rows whose column has one of the values: a label of -1, an empty text."""

    kind: Literal["drop_rows"] = "drop_rows"
    column: Column
    values: list[Scalar] = Field(
        description="Values of the rows to leave out; null: the value is missing", min_length=1
    )


class KeepRows(_Step):
    """Keep only rows whose column has one of the values."""

    kind: Literal["keep_rows"] = "keep_rows"
    column: Column
    values: list[Scalar] = Field(description="Values of the rows to keep", min_length=1)


class KeepLength(_Step):
    """Keep only rows whose list column has exactly so many items, such as the four choices of most ARC questions."""

    kind: Literal["keep_length"] = "keep_length"
    column: Column
    num: int = Field(description="Number of items", ge=1)


class KeepDistinct(_Step):
    """Keep only rows whose choices all differ: a few rows of public datasets offer one text twice."""

    kind: Literal["keep_distinct"] = "keep_distinct"
    columns: list[Column] = Field(description="Columns of the choices, or one list column", min_length=1)


class MapValues(_Step):
    """Replace the values of a column by others, such as codes by words. A value that is not listed is an error."""

    kind: Literal["map_values"] = "map_values"
    column: Column
    values: dict[str, Scalar] = Field(description="Old value (as text) -> new value", min_length=1)


class Record(_Step):
    """ReCoRD: columns passage, query, entities, answers.

    Entities and answers are deduplicated in their order. The `@highlight` lines behind the passage become a list of
    `- ` lines. Answers that are no entity are left out, and rows without an answer or with fewer than two entities.
    """

    kind: Literal["record"] = "record"


class MultiRc(_Step):
    """MultiRC: adds `question_key`, `<paragraph>-<question>` of column idx: the rows of one question share it."""

    kind: Literal["multirc"] = "multirc"

    @property
    def adds(self) -> tuple[str, ...]:
        """Names of the columns that the step adds."""
        return ("question_key",)


class ExplodeTurns(_Step):
    """Conversations: one row a turn instead of one a dialogue.

    Adds columns question, answer, turn (from 0), history (a list of {question, answer} of the turns before), and
    reference where it is given. The named columns hold one item a turn.
    """

    kind: Literal["explode_turns"] = "explode_turns"
    question: Column = Field(description="List column of the questions, for example `questions`")
    answer: Column = Field(description="List column of the answers, for example `answers.input_text`")
    reference: str | None = Field(None, description="List column of the lists of accepted answers", min_length=1)

    @property
    def adds(self) -> tuple[str, ...]:
        """Names of the columns that the step adds."""
        return ("question", "answer", "turn", "history", *(("reference",) if self.reference else ()))


class ScoreBuckets(_Step):
    """Adds `<column>_bucket`: the nearest of low, low + step, ..., high as text, with the decimals of `step`.

    A score in the middle goes up. A dotted column gives its last name.
    """

    kind: Literal["score_buckets"] = "score_buckets"
    column: Column
    low: float = Field(description="Smallest bucket")
    high: float = Field(description="Largest bucket")
    step: float = Field(description="Distance of neighbouring buckets", gt=0)

    @model_validator(mode="after")
    def _bounds_are_ordered(self) -> ScoreBuckets:
        if not self.low < self.high:
            raise ValueError(f"low {self.low} is not below high {self.high}")
        return self

    @property
    def adds(self) -> tuple[str, ...]:
        """Names of the columns that the step adds."""
        return (f"{self.column.split('.')[-1]}_bucket",)


class SquadAnswers(_Step):
    """Adds `answer_texts`: the answers of a list column, each once, in their order; never empty."""

    kind: Literal["squad_answers"] = "squad_answers"
    column: Column = Field("answers.text", description="List column of the answers")
    no_answer: str | None = Field(
        None, description="The answer of rows whose list is empty; without it such rows are an error", min_length=1
    )

    @property
    def adds(self) -> tuple[str, ...]:
        """Names of the columns that the step adds."""
        return ("answer_texts",)


class MergeRows(_Step):
    """Rows of one key become one, the first of them, in which `column` is the list of all their values."""

    kind: Literal["merge_rows"] = "merge_rows"
    key: Column = Field(description="Column whose value rows share")
    column: str = Field(description="Column whose values are collected; not a dotted name", pattern=r"^[^.]+$")


class SpoilText(_Step):
    """A corrected text from any text: adds `target`, the text, and `source`, the text spoiled.

    true_case lower-cases it, fix_punct removes all that is neither word nor space, word_segment removes spaces.
    Rows that true_case or fix_punct leave unchanged are left out, as are rows of which nothing is left.
    """

    kind: Literal["true_case", "fix_punct", "word_segment"] = Field(description="What is spoiled")
    column: Column

    @property
    def adds(self) -> tuple[str, ...]:
        """Names of the columns that the step adds."""
        return ("source", "target")


class CleanText(_Step):
    """Small repairs of a text column, in the order in which they stand here."""

    kind: Literal["clean_text"] = "clean_text"
    column: Column
    strip_byte_repr: bool = Field(False, description="`b'text\\n'`, written by Python, becomes `text`")
    unescape_quotes: bool = Field(False, description='`\\"` becomes `"`, and `\\n` of two characters a line break')
    strip_html_breaks: bool = Field(False, description="`<br />`, also several, become one line break")
    drop_angle_tags: bool = Field(False, description="`<file_photo>` and the like go")
    normalise_newlines: bool = Field(False, description="Line breaks of other systems become `\\n`")

    @model_validator(mode="after")
    def _does_something(self) -> CleanText:
        flags = [name for name in type(self).model_fields if name not in ("kind", "column")]
        if not any(getattr(self, name) for name in flags):
            raise ValueError(f"clean_text repairs nothing: set one of {', '.join(flags)} to true")
        return self


ProcessStep = Annotated[
    DropRows | KeepRows | KeepLength | KeepDistinct | MapValues | Record | MultiRc | ExplodeTurns | ScoreBuckets
    | SquadAnswers | MergeRows | SpoilText | CleanText,
    Field(discriminator="kind"),
]  # fmt: skip
