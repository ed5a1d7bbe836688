"""Where a task's rows come from."""

from __future__ import annotations

import re
from pathlib import PurePosixPath
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from catsweep.spec.base import Name, Spec
from catsweep.spec.package import PackageReader
from catsweep.spec.types import canonical_type

_SLICE = re.compile(r"^[\w.-]+(\[(-?\d+%?)?:(-?\d+%?)?\])?$")


def _split_name(text: str) -> str:
    if not _SLICE.fullmatch(text):
        raise ValueError(f"{text!r} is no split: write a name, or a slice such as train[:1000] or train[10%:20%]")
    return text


SplitName = Annotated[str, AfterValidator(_split_name)]
"""A split as the dataset names it, or a slice of it as Hugging Face writes it: `train[:100000]`, `train[10%:20%]`."""


def _inside(path: str) -> str:
    parts = PurePosixPath(path)
    if ".." in parts.parts:
        raise ValueError(f"{path!r} leaves the data root; name a path below it, without `..`")
    return path


def _below(path: str) -> str:
    if PurePosixPath(path).is_absolute():
        raise ValueError(f"{path!r} is an absolute path; name a file or pattern below dataset_path")
    return _inside(path)


DatasetPath = Annotated[str, Field(min_length=1), AfterValidator(_inside)]
DataFiles = dict[str, Annotated[str, AfterValidator(_below)]]


ColumnType = Annotated[str, AfterValidator(canonical_type)]


class Expectation(Spec):
    """What a dataset has to look like. It is checked whenever the dataset is read; a difference is an error.

    Columns that are not named here may be there as well. Types are written `string`, `int`, `float`, `bool`,
    `ClassLabel`, `list<string>`, `{text: list<string>, answer_start: list<int>}`; the width of a number does not count.
    """

    columns: dict[str, ColumnType] | list[str] = Field({}, description="Columns with their types, or their names alone")
    labels: dict[str, list[str]] = Field({}, description="ClassLabel column -> its names, in their order")
    num_rows: dict[str, int] = Field({}, description="Split -> its number of rows; not compared with `verify: schema`")


class HubLocation(Spec):
    """A place of a dataset on the Hugging Face hub."""

    dataset_path: DatasetPath = Field(
        description="Path on the hub, for example `google/boolq`; below a data root, or as a local folder, it wins"
    )
    dataset_name: str | None = Field(
        None, description="Configuration of the dataset", pattern=r"^[A-Za-z0-9][A-Za-z0-9._+-]*$"
    )
    revision: str | None = Field(None, description="Commit, branch or tag; local folders have none")
    data_files: DataFiles | None = Field(None, description="Split name -> file or pattern below dataset_path")


class Alternative(HubLocation):
    """A further place of the same rows, perhaps under other column names."""

    rename: dict[str, str] = Field({}, description="Column of this copy -> its name in the first one")
    expect: Expectation | None = Field(
        None, description="What this copy has to look like once its columns are renamed; default: as the first one"
    )


class HubSource(HubLocation):
    """A dataset of the Hugging Face hub, or a local folder in its layout. Files of data only, no remote code.

    Its keys may also stand at the top level of a task file, without `source`, as in lm-evaluation-harness.
    """

    kind: Literal["hub"] = "hub"
    alternatives: list[Alternative] = Field(
        [], description="Further places of the same rows, tried in their order where the first cannot be found"
    )
    training_split: SplitName = Field("train", description="Split to train on, or a slice of it: `train[:100000]`")
    validation_split: SplitName | None = Field(None, description="Split for selection; cut from training where absent")
    test_split: SplitName | None = Field(None, description="Split for reported numbers; cut from training where absent")
    expect: Expectation = Field(Expectation(), description="What the dataset has to look like")

    @property
    def locations(self) -> list[HubLocation]:
        """The places of the dataset in the order in which they are tried."""
        return [self, *self.alternatives]


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


class SacrebleuSource(Spec):
    """A test set of sacrebleu: columns `translation` ({source language: text, target language: text}) and `references`.

    Text files below the data root come first (`<test_set>/generaltest2022.cs-en.src.cs` and so on), then sacrebleu's
    own folder, then its download.
    """

    kind: Literal["sacrebleu"] = "sacrebleu"
    test_set: Name = Field("wmt22", description="Name of the test set, as sacrebleu has it")
    langpair: str = Field(
        description="Languages, source first, for example `cs-en`", pattern=r"^[a-z]{2,3}-[a-z]{2,3}$"
    )
    references: list[Name] | None = Field(
        None, description="Reference sets, for example [B]; default: the one that sacrebleu takes", min_length=1
    )


class HubPart(HubLocation):
    """One split of a dataset of the hub."""

    kind: Literal["hub"] = "hub"
    alternatives: list[Alternative] = Field(
        [], description="Further places of the same rows, tried in their order where the first cannot be found"
    )
    split: SplitName = Field("train", description="The split, or a slice of it")
    expect: Expectation = Field(Expectation(), description="What the dataset has to look like")

    def as_source(self) -> HubSource:
        """The dataset whose training split this is."""
        return HubSource.model_validate(self.model_dump(exclude={"split"}) | {"training_split": self.split})


PartSource = Annotated[HubPart | FilesSource | PackageSource | SacrebleuSource, Field(discriminator="kind")]


class SplitsSource(Spec):
    """Each split from a source of its own: a hub split, the `train` file of files, a package's pool, or a test set.

    The rows of all of them need the columns that the task's templates use.
    """

    kind: Literal["splits"] = "splits"
    train: PartSource = Field(description="Rows to train on")
    validation: PartSource | None = Field(None, description="Rows for selection; cut from train where absent")
    test: PartSource | None = Field(None, description="Rows for reported numbers; cut from train where absent")


Source = Annotated[HubSource | FilesSource | PackageSource | SplitsSource, Field(discriminator="kind")]
