"""A task: where its rows come from, how a row becomes prompt and target, and how an answer is judged.

Field names follow lm-evaluation-harness where it has one.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from catsweep.spec.base import Json, Name, Spec, TaskName
from catsweep.spec.package import PackageReader


class HubSource(Spec):
    """A dataset of the Hugging Face hub, or a local folder in its layout. Parquet only, no remote code."""

    kind: Literal["hub"] = "hub"
    dataset_path: str = Field(
        description="Path on the hub, for example `google/boolq`, or a local folder", min_length=1
    )
    dataset_name: str | None = Field(None, description="Configuration of the dataset")
    revision: str | None = Field(None, description="Commit or tag; part of the cache key")
    data_files: dict[str, str] | None = Field(None, description="Split name -> file or pattern below dataset_path")
    training_split: str = Field("train", description="Split to train on")
    validation_split: str | None = Field(None, description="Split for selection; cut from training where absent")
    test_split: str | None = Field(None, description="Split for reported numbers; cut from training where absent")


class FilesSource(Spec):
    """Files that lie beside the YAML or at absolute paths.

    jsonl, csv, tsv and parquet give one row a record. `text` reads aligned plain-text files: line i of each file is
    column `name` of row i.
    """

    kind: Literal["files"] = "files"
    format: Literal["jsonl", "csv", "tsv", "parquet", "text"] = Field(description="How to read the files")
    train: str | dict[str, str] = Field(description="File of the training rows; for `text` a map column -> file")
    validation: str | dict[str, str] | None = Field(None, description="File for selection; cut from train where absent")
    test: str | dict[str, str] | None = Field(
        None, description="File for reported numbers; cut from train where absent"
    )

    @model_validator(mode="after")
    def _text_has_columns(self) -> FilesSource:
        for split in ("train", "validation", "test"):
            value = getattr(self, split)
            if value is not None and (self.format == "text") != isinstance(value, dict):
                wanted = "a map column -> file" if self.format == "text" else "one file name"
                raise ValueError(f"`{split}` of format {self.format} takes {wanted}")
        return self


class PackageSource(Spec):
    """Rows that an installed Python package ships, read at run time. They form one pool that catsweep cuts."""

    kind: Literal["package"] = "package"
    reader: PackageReader = Field(description="Which package's data, and which part of it")


Source = Annotated[HubSource | FilesSource | PackageSource, Field(discriminator="kind")]


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


class TaskMetadata(Spec):
    """Facts about a task file."""

    version: float = Field(1, description="Raise it when the prompt or the data changes", ge=0)
    notes: str = Field("", description="What a reader should know")


class TaskSpec(Spec):
    """One task, one YAML file."""

    task: TaskName = Field(description="Name of the task, as a sweep lists it")
    group: Name = Field(description="Kind of task; kinds weigh equally in macro means")
    tag: list[Name] = Field([], description="Further names under which a sweep can list the task")
    source: Source = Field(description="Where the rows come from")
    output_type: Literal["multiple_choice", "generate_until"] = Field(description="Score given choices, or generate")
    doc_to_text: str = Field(description="Jinja2 template of the prompt", min_length=1)
    doc_to_target: str = Field(
        description="Jinja2 template of the answer, or the name of a column; a list column holds several accepted "
        "answers, the first of which is trained on. For multiple_choice: the choice's text or its index",
        min_length=1,
    )
    doc_to_choice: list[str] | str | None = Field(
        None, description="multiple_choice: the choices, each a template, or the name of a list column"
    )
    doc_to_group: str | list[str] | None = Field(
        None,
        description="Template of the group key, or several: rows that share any key, also through other rows, never "
        "lie in two splits. Default: the prompt; for packages the reader's own key, column `group`",
        min_length=1,
    )
    target_delimiter: str = Field(" ", description="Stands between prompt and answer", max_length=8)
    normalize: Literal["sum", "tokens"] = Field(
        "sum", description="Pick a choice by its summed log-likelihood, or by the mean over its tokens"
    )
    generation_kwargs: GenerationKwargs = Field(GenerationKwargs(), description="Limits of generation")
    metric_list: list[MetricSpec] = Field(description="Metrics; the first is the one that is searched", min_length=1)
    metadata: TaskMetadata = Field(TaskMetadata(), description="Version and notes")

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

    def data_key(self) -> Json:
        """What determines the rows, prompts and targets of this task: the part of the spec that caches depend on."""
        left_out = {"task", "group", "tag", "metric_list", "metadata", "normalize"}
        data = self.model_dump(mode="json", exclude=left_out) | {"version": self.metadata.version}
        if isinstance(self.source, FilesSource):  # the content of files counts (see tasks.fingerprint), not their place
            data["source"] = {"format": self.source.format}
        return data
