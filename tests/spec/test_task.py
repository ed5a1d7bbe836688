"""What a task file may say: the flat form of lm-evaluation-harness, templates, sources, cache keys."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from catsweep.errors import SpecError
from catsweep.spec.load import load_task
from catsweep.spec.source import Alternative, HubPart, HubSource, SplitsSource
from catsweep.spec.task import TaskSpec

FLAT = """\
task: flat
group: toys
dataset_path: owner/name
dataset_name: small
revision: abc
test_split: validation[:100]
alternatives: [{dataset_path: other/name}]
expect: {labels: {label: [a, b]}, num_rows: {train: 7}}
output_type: generate_until
doc_to_text: "{{q}}"
doc_to_target: a
metric_list: [{metric: exact_match}]
"""


def load(folder: Path, text: str) -> TaskSpec:
    (folder / "task.yaml").write_text(text)
    return load_task(folder / "task.yaml")


def messages(folder: Path, text: str) -> list[str]:
    with pytest.raises(SpecError) as caught:
        load(folder, text)
    return [str(problem).replace(str(folder / "task.yaml"), "F") for problem in caught.value.problems]


def test_a_flat_file_is_a_hub_source(tmp_path: Path) -> None:
    source = load(tmp_path, FLAT).source
    assert isinstance(source, HubSource)
    assert (source.dataset_path, source.dataset_name, source.revision) == ("owner/name", "small", "abc")
    assert (source.training_split, source.validation_split, source.test_split) == ("train", None, "validation[:100]")
    assert source.locations == [source, Alternative(dataset_path="other/name")]
    assert source.expect.num_rows == {"train": 7}


def test_problems_of_a_flat_file_point_at_its_lines(tmp_path: Path) -> None:
    text = (
        FLAT.replace("validation[:100]", "'validation[:100'")
        .replace("train: 7", "train: many")
        .replace("revision", "revison")
    )
    assert messages(tmp_path, text) == [
        "F:6: test_split: found 'validation[:100'; expected a valid combination. 'validation[:100' is no split: write a "
        "name, or a slice such as train[:1000] or train[10%:20%]",
        "F:8: expect.num_rows.train: found 'many'; expected a valid integer, unable to parse string as an integer",
        "F:5: revison: found unknown key 'revison'; expected one of alternatives, data_files, dataset_name, dataset_path, "
        "doc_to_choice, doc_to_group, doc_to_reference, doc_to_target, doc_to_text, expect, generation_kwargs, group, "
        "include, metadata, metric_list, normalize, num_templates, output_type, process, revision, source, tag, "
        "target_delimiter, task, template_seed, test_split, training_split, validation_split. Did you mean 'revision'?",
    ]  # fmt: skip


def test_flat_keys_beside_a_source_are_an_error(tmp_path: Path) -> None:
    text = FLAT.replace("group: toys\n", "group: toys\nsource: {kind: hub, dataset_path: a/b}\n")
    assert messages(tmp_path, text)[0] == (
        "F:4: dataset_path: found 'dataset_path' beside `source`; expected either `source` or the keys of a hub source at "
        "the top level"
    )


def test_a_task_without_any_source_says_so(tmp_path: Path) -> None:
    text = "\n".join(
        line for line in FLAT.splitlines() if not line.startswith(("dataset", "rev", "test", "alt", "exp"))
    )
    assert messages(tmp_path, text) == [
        "F:1: source: found nothing; expected a value (Where the rows come from, or the keys of a hub source at the top level)"
    ]


@pytest.mark.parametrize(
    ("field", "value", "reason"),
    [
        ("dataset_path", "../etc", "'../etc' leaves the data root; name a path below it, without `..`"),
        ("data_files", {"train": "/etc/passwd"}, "'/etc/passwd' is an absolute path; name a file or pattern below dataset_path"),
        ("data_files", {"train": "a/../../b"}, "'a/../../b' leaves the data root"),
        ("dataset_name", "../up", "String should match pattern"),
    ],
)  # fmt: skip
def test_places_outside_the_data_root_are_refused(field: str, value: Any, reason: str) -> None:
    with pytest.raises(ValidationError) as caught:
        HubSource.model_validate({"dataset_path": "a/b"} | {field: value})
    assert reason in str(caught.value)


@pytest.mark.parametrize("split", ["train", "train[:1000]", "train[10%:20%]", "train[-200:]", "test_r1", "train[5:]"])
def test_splits_may_be_slices(split: str) -> None:
    assert HubSource(dataset_path="a/b", training_split=split).training_split == split


@pytest.mark.parametrize("split", ["", "train[5]", "train[::2]", "train[a:b]", "../x", "train[:10"])
def test_bad_slices_are_refused(split: str) -> None:
    with pytest.raises(ValidationError, match="is no split"):
        HubSource(dataset_path="a/b", training_split=split)


def test_num_templates_takes_the_first_prompts(make_task: Any) -> None:
    three = ["a {{q}}", "b {{q}}", "c {{q}}"]
    assert make_task(doc_to_text=three).prompt_templates == three
    assert make_task(doc_to_text=three, num_templates=1).prompt_templates == three[:1]
    assert make_task(doc_to_text="{{q}}", num_templates=1).prompt_templates == ["{{q}}"]
    with pytest.raises(ValidationError, match="num_templates is 4, but `doc_to_text` has 3 templates"):
        make_task(doc_to_text=three, num_templates=4)
    with pytest.raises(ValidationError, match="write at least one template"):
        make_task(doc_to_text=[])


def test_each_split_may_have_a_source_of_its_own(tmp_path: Path, make_task: Any) -> None:
    source = {
        "kind": "splits",
        "train": {"kind": "hub", "dataset_path": "a/b", "split": "train[:10]"},
        "validation": {"kind": "files", "format": "jsonl", "train": "x.jsonl"},
        "test": {"kind": "sacrebleu", "langpair": "cs-en", "references": ["B"]},
    }
    task = make_task(source=source)
    assert isinstance(task.source, SplitsSource)
    assert isinstance(task.source.train, HubPart)
    assert task.source.train.as_source().training_split == "train[:10]"
    with pytest.raises(ValidationError, match="sacrebleu"):
        make_task(source={"kind": "sacrebleu", "langpair": "cs-en"})


def test_files_inside_splits_are_relative_to_the_task_file(tmp_path: Path) -> None:
    text = FLAT[FLAT.index("output_type") :] + (
        "task: s\ngroup: g\nsource:\n  kind: splits\n  train: {kind: files, format: jsonl, train: a.jsonl}\n"
    )
    source = load(tmp_path, text).source
    assert source.train.train == str(tmp_path.resolve() / "a.jsonl")  # type: ignore[union-attr]


def test_the_data_key_follows_what_determines_the_rows(make_task: Any) -> None:
    key = make_task().data_key()
    assert not {"process", "num_templates", "template_seed", "doc_to_reference"} & set(key)
    assert key["generation_kwargs"] == {"max_gen_toks": 64}
    for fields in (
        {"process": [{"kind": "multirc"}]},
        {"doc_to_text": ["{{question}}", "{{question}}?"]},
        {"template_seed": 1},
        {"doc_to_reference": "answers"},
        {"generation_kwargs": {"until": ["\n"]}},
    ):
        assert make_task(**fields).data_key() != key, fields


def test_checks_and_other_places_of_the_same_rows_do_not_change_the_data_key(make_task: Any) -> None:
    hub = {"kind": "hub", "dataset_path": "a/b"}
    more = {"alternatives": [{"dataset_path": "c/d"}], "expect": {"num_rows": {"train": 5}}}
    assert make_task(source=hub).data_key() == make_task(source=hub | more).data_key()
    files = {"kind": "files", "format": "csv"}
    one, other = ({"kind": "splits", "train": files | {"train": name}} for name in ("x.csv", "y.csv"))
    assert make_task(source=one).data_key() == make_task(source=other).data_key()
