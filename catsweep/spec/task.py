"""A task: where its rows come from, how a row becomes prompt and target, and how an answer is judged.

Field names follow lm-evaluation-harness where it has one.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, PrivateAttr, model_validator

from catsweep.spec.base import Json, Name, Spec, TaskName
from catsweep.spec.process import ProcessStep
from catsweep.spec.source import HubSource, Source, SplitsSource

MetricName = Literal[
    "accuracy",
    "exact_match",
    "token_f1",
    "squad_em",
    "bleu",
    "chrf",
    "rouge1",
    "rouge2",
    "rougeLsum",
    "macro_f1",
    "f1",
    "matthews",
    "pearson",
    "spearman",
    "multirc_f1a",
    "multirc_em",
]


QUESTION_KEY = "question_key"
"""The column of a row's question, unless the metric names another one."""


class MetricSpec(Spec):
    """One metric of a task."""

    metric: MetricName = Field(description="Name of the metric")
    tokenize: str | None = Field(None, description="Tokeniser of BLEU, for example zh or ja-mecab; sacrebleu's names")
    positive: str | None = Field(
        None, description="f1, multirc_f1a: the answer that is the positive class; every other one is negative"
    )
    key: str | None = Field(
        None,
        description="multirc_em: which rows are one question, a column or a template. Default: the column `question_key`",
        min_length=1,
    )

    def cache_key(self) -> Json:
        """What determines an answer's statistics, besides the data. Settings that came later count where they are given."""
        return {name: value for name, value in self.to_json().items() if value is not None or name == "tokenize"}

    @model_validator(mode="after")
    def _settings_fit_metric(self) -> MetricSpec:
        if self.tokenize is not None and self.metric != "bleu":
            raise ValueError(f"`tokenize` belongs to bleu; {self.metric} has no tokeniser")
        if (self.positive is not None) != (self.metric in ("f1", "multirc_f1a")):
            raise ValueError("`positive` is needed by f1 and multirc_f1a, and by no other metric")
        if self.key is not None and self.metric != "multirc_em":
            raise ValueError(f"`key` belongs to multirc_em; {self.metric} judges each row by itself")
        return self


class GenerationKwargs(Spec):
    """How an answer is generated. Decoding is greedy."""

    max_gen_toks: int = Field(64, description="At most so many output tokens, the end token included", ge=1, le=8192)
    until: list[Annotated[str, Field(min_length=1)]] = Field(
        [], description="Texts that end an answer: it is cut before the first of them, and metrics see what is left"
    )


class TaskMetadata(Spec):
    """Facts about a task file."""

    version: float = Field(1, description="Raise it when the prompt or the data changes", ge=0)
    notes: str = Field("", description="What a reader should know")
    status: Literal["run", "real_rows", "public_columns", "likely", "local_files"] | None = Field(
        None,
        description="Shipped tasks: on what they were tried, and how sure the place of their data is; see tasks.md",
    )


Template = Annotated[str, Field(min_length=1)]

FLAT_KEYS = tuple(name for name in HubSource.model_fields if name != "kind")
"""Keys of `source` that may stand at the top level of a task file, as in lm-evaluation-harness."""

_ADDED_SINCE = ("process", "num_templates", "template_seed", "doc_to_reference")
"""Fields that left the keys of caches as they were when they came: they count where they differ from the default."""


class Origin:
    """Where the parts of a task stand in its file, for messages. Two tasks are the same wherever they stand, so all origins
    are equal.

    lines: (field, text of a template, or "" for the whole field) -> FILE:LINE.
    """

    def __init__(self, lines: dict[tuple[str, str], str] | None = None) -> None:
        self.lines = lines or {}

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Origin)

    def __hash__(self) -> int:
        return 0

    def prefix(self, field: str, text: str = "") -> str:
        """`FILE:LINE: ` of a field, or of one of its templates; empty where the task came from no file."""
        where = self.lines.get((field, text)) or self.lines.get((field, ""))
        return f"{where}: " if where else ""


def nest_flat_source(data: Any) -> Any:
    """A task's settings with the keys of a flat task file moved below `source`."""
    if not isinstance(data, dict) or "source" in data or "dataset_path" not in data:
        return data
    source = {"kind": "hub"} | {name: data[name] for name in FLAT_KEYS if name in data}
    return {name: value for name, value in data.items() if name not in FLAT_KEYS} | {"source": source}


class TaskSpec(Spec):
    """One task, one YAML file.

    The keys of a hub source may stand at the top level, without `source`. `include: FILE` or a list of files, relative
    to the file itself, gives defaults: maps are merged, all else is replaced, and the first of several files wins.
    """

    other_keys: ClassVar[tuple[str, ...]] = (*FLAT_KEYS, "include")

    _origin: Origin = PrivateAttr(default_factory=Origin)

    task: TaskName = Field(description="Name of the task, as a sweep lists it")
    group: Name = Field(
        description="Kind of task; kinds weigh equally in macro means",
        examples=["task: mine/reviews\ngroup: sentiment"],
    )
    tag: list[Name] = Field([], description="Further names under which a sweep can list the task")
    source: Source = Field(description="Where the rows come from, or the keys of a hub source at the top level")
    process: list[ProcessStep] = Field([], description="Steps on the rows of every split, before the templates")
    output_type: Literal["multiple_choice", "generate_until"] = Field(description="Score given choices, or generate")
    doc_to_text: Template | list[Template] = Field(
        description="Jinja2 template of the prompt, or several: each example uses one, drawn by a hash of its id"
    )
    num_templates: int | None = Field(None, description="Use the first so many templates; 1: a fixed prompt", ge=1)
    template_seed: int = Field(0, description="Another seed draws other templates", ge=0)
    doc_to_target: Template = Field(
        description="Jinja2 template of the answer, or the name of a column; a list holds several accepted answers, the "
        "first of which is trained on. For multiple_choice: the choice's text or its index"
    )
    doc_to_choice: list[str] | str | None = Field(
        None,
        description="multiple_choice: the choices, each a template; or the name of a list column, or a template `{{...}}` "
        "that gives a list",
    )
    doc_to_reference: Template | None = Field(
        None,
        description="What metrics compare answers with, where it is not the target: a template or the name of a column; "
        "a list holds several accepted answers. With `kind: splits` and a `test` of its own, training and validation rows may "
        "lack what it names: their reference is the target",
    )
    doc_to_group: Template | list[Template] | None = Field(
        None,
        description="Template of the group key, or several: rows that share any key, also through other rows, never "
        "lie in two splits. Default: the prompt (by the first template), letter case and white space aside; for "
        "packages the reader's own key, column `group`",
    )
    target_delimiter: str = Field(" ", description="Stands between prompt and answer", max_length=8)
    normalize: Literal["sum", "tokens"] = Field(
        "sum", description="Pick a choice by its summed log-likelihood, or by the mean over its tokens"
    )
    generation_kwargs: GenerationKwargs = Field(GenerationKwargs(), description="Limits of generation")
    metric_list: list[MetricSpec] = Field(description="Metrics; the first is the one that is searched", min_length=1)
    metadata: TaskMetadata = Field(TaskMetadata(), description="Version and notes")

    @model_validator(mode="before")
    @classmethod
    def _flat_source(cls, data: Any) -> Any:
        return nest_flat_source(data)

    @model_validator(mode="after")
    def _choices_fit_output_type(self) -> TaskSpec:
        if (self.output_type == "multiple_choice") != (self.doc_to_choice is not None):
            raise ValueError("`doc_to_choice` is needed by output_type multiple_choice, and by no other")
        names = [metric.metric for metric in self.metric_list]
        corpus = [name for name in names if name in ("bleu", "chrf", "rouge1", "rouge2", "rougeLsum")]
        if self.output_type == "multiple_choice" and corpus:
            raise ValueError(f"{corpus[0]} compares free texts; a multiple_choice task takes accuracy, for example")
        if len(set(names)) != len(names):
            raise ValueError("a metric stands twice in metric_list")
        return self

    @model_validator(mode="after")
    def _templates_are_there(self) -> TaskSpec:
        num_given = len(self.doc_to_text) if isinstance(self.doc_to_text, list) else 1
        if num_given == 0:
            raise ValueError("`doc_to_text` is an empty list; write at least one template")
        if self.num_templates is not None and self.num_templates > num_given:
            raise ValueError(f"num_templates is {self.num_templates}, but `doc_to_text` has {num_given} templates")
        return self

    @property
    def prompt_templates(self) -> list[str]:
        """The templates that examples use, at least one."""
        templates = [self.doc_to_text] if isinstance(self.doc_to_text, str) else self.doc_to_text
        return templates[: self.num_templates]

    @property
    def origin(self) -> Origin:
        """Where the task stands, if it was read from a file."""
        return self._origin

    def with_origin(self, origin: Origin) -> TaskSpec:
        """The same task, which knows where it stands."""
        copy = self.model_copy()
        copy._origin = origin
        return copy

    def may_lack_references(self, split: str) -> bool:
        """Whether rows of a given split may lack what `doc_to_reference` names, so that the target is their reference: with
        a source for each split those of train and validation may, since test is what is reported."""
        return isinstance(self.source, SplitsSource) and self.source.test is not None and split != "test"

    @property
    def question_key(self) -> str | None:
        """Column or template of the question that a row belongs to; None where no metric asks for it."""
        return next((item.key or QUESTION_KEY for item in self.metric_list if item.metric == "multirc_em"), None)

    def data_key(self) -> Json:
        """What determines the rows, prompts and targets of this task: the part of the spec that caches depend on.

        Where rows lie does not count, since their content does (see tasks.fingerprint).
        """
        left_out = {"task", "group", "tag", "metric_list", "metadata", "normalize"}
        data = self.model_dump(mode="json", exclude=left_out) | {"version": self.metadata.version}
        for name in _ADDED_SINCE:
            if getattr(self, name) == type(self).model_fields[name].default:
                del data[name]
        if not self.generation_kwargs.until:
            del data["generation_kwargs"]["until"]
        if self.question_key is not None:
            data["question_key"] = self.question_key
        data["source"] = _without_places(data["source"])
        return data


def _without_places(source: Json) -> Json:
    """A source as JSON without the places of its rows and its checks."""
    if source["kind"] == "files":
        return {"format": source["format"]}
    if source["kind"] == "splits":
        return {name: _without_places(part) if isinstance(part, dict) else part for name, part in source.items()}
    return {name: value for name, value in source.items() if name not in ("alternatives", "expect")}
