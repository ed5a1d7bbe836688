"""Task files that take the settings of other files as defaults."""

from __future__ import annotations

from pathlib import Path

import pytest

from catsweep.errors import SpecError
from catsweep.spec.include import read_with_includes
from catsweep.spec.load import load_task, task_files
from catsweep.spec.source import FilesSource

BASE = """\
group: things
tag: [base]
source: {kind: files, format: csv, train: rows.csv}
output_type: generate_until
doc_to_text: "{{q}}"
doc_to_target: a
generation_kwargs: {max_gen_toks: 8}
metric_list: [{metric: exact_match}, {metric: chrf}]
metadata: {version: 2, notes: from the base}
"""


def write(folder: Path, **files: str) -> Path:
    """Files NAME.yaml of a folder; returns the path of the first."""
    folder.mkdir(exist_ok=True)
    for name, text in files.items():
        (folder / f"{name}.yaml").write_text(text)
    return folder / f"{next(iter(files))}.yaml"


def messages(path: Path) -> list[str]:
    with pytest.raises(SpecError) as caught:
        load_task(path)
    return [str(problem).replace(str(path.parent), "D") for problem in caught.value.problems]


def test_maps_are_merged_and_all_else_is_replaced(tmp_path: Path) -> None:
    child = "task: t/child\ninclude: base.yaml\ntag: [child]\nmetric_list: [{metric: bleu}]\nmetadata: {version: 3}\n"
    task = load_task(write(tmp_path, child=child, base=BASE))
    assert (task.task, task.group, task.tag) == ("t/child", "things", ["child"])
    assert [metric.metric for metric in task.metric_list] == ["bleu"]
    assert (task.metadata.version, task.metadata.notes) == (3, "from the base")
    assert task.generation_kwargs.max_gen_toks == 8


def test_the_first_of_several_files_wins_over_the_second(tmp_path: Path) -> None:
    first, second = "group: first\nnormalize: tokens\n", "group: second\ntarget_delimiter: '>'\n"
    task = load_task(
        write(tmp_path, child="task: c\ninclude: [first.yaml, second.yaml, base.yaml]\n", first=first, second=second, base=BASE)
    )  # fmt: skip
    assert (task.group, task.normalize, task.target_delimiter) == ("first", "tokens", ">")


def test_maps_of_different_kind_are_replaced_as_a_whole(tmp_path: Path) -> None:
    child = "task: c\ninclude: base.yaml\nsource: {kind: package, reader: {kind: lemmas, language: cs}}\n"
    assert load_task(write(tmp_path, child=child, base=BASE)).source.kind == "package"


def test_file_names_are_relative_to_the_file_in_which_they_stand(tmp_path: Path) -> None:
    write(tmp_path / "shared", base=BASE)
    child = "task: c\ninclude: ../shared/base.yaml\nsource: {kind: files, test: test.csv}\n"
    source = load_task(write(tmp_path / "mine", child=child)).source
    assert isinstance(source, FilesSource)
    assert source.train == str(tmp_path.resolve() / "shared" / "rows.csv")
    assert source.test == str(tmp_path.resolve() / "mine" / "test.csv")


def test_problems_name_the_file_and_line_where_the_value_stands(tmp_path: Path) -> None:
    middle = "include: base.yaml\nnormalize: mean\n"
    child = "task: c\ninclude: middle.yaml\ntarget_delimiter: 'far too long'\n"
    path = write(tmp_path, child=child, middle=middle, base=BASE.replace("8", "0").replace("bleu", "blue"))
    assert messages(path) == [
        "D/child.yaml:3: target_delimiter: found 'far too long'; expected String should have at most 8 characters",
        "D/middle.yaml:2: normalize: found 'mean'; expected 'sum' or 'tokens'",
        "D/base.yaml:7: generation_kwargs.max_gen_toks: found 0; expected greater than or equal to 1",
    ]


def test_a_cycle_is_printed(tmp_path: Path) -> None:
    path = write(
        tmp_path, one="task: a\ninclude: two.yaml\n", two="x: 1\ninclude: [three.yaml]\n", three="include: one.yaml"
    )
    assert messages(path) == [
        "D/three.yaml:1: include: found a cycle: D/one.yaml -> D/two.yaml -> D/three.yaml -> D/one.yaml; expected files "
        "that do not include one another"
    ]
    assert messages(write(tmp_path, self="include: self.yaml\n")) == [
        "D/self.yaml:1: include: found a cycle: D/self.yaml -> D/self.yaml; expected files that do not include one another"
    ]


def test_a_file_may_be_included_by_two_ways(tmp_path: Path) -> None:
    left, right = "include: base.yaml\nnormalize: tokens\n", "include: base.yaml\ngroup: other\n"
    task = load_task(
        write(tmp_path, child="task: c\ninclude: [left.yaml, right.yaml]\n", left=left, right=right, base=BASE)
    )
    assert (task.normalize, task.group) == ("tokens", "things")


@pytest.mark.parametrize(
    ("include", "message"),
    [
        ("none.yaml", "D/child.yaml:2: include: found 'none.yaml'; expected an existing file. Names are relative to the file that includes them"),
        ("[base.yaml, 7]", "D/child.yaml:2: include.1: found 7; expected a file name, or a list of them"),
        ("{a: b}", "D/child.yaml:2: include: found {'a': 'b'}; expected a file name, or a list of them"),
        ("list.yaml", "D/list.yaml:1: document: found list; expected a map of settings"),
    ],
)  # fmt: skip
def test_an_include_that_is_no_file_of_settings_is_an_error(tmp_path: Path, include: str, message: str) -> None:
    path = write(tmp_path, child=f"task: c\ninclude: {include}\n", base=BASE, list="[1, 2]\n")
    assert message in messages(path)


def test_files_that_begin_with_an_underscore_are_no_tasks(tmp_path: Path) -> None:
    write(tmp_path / "tasks", _base=BASE, child="task: child\ninclude: _base.yaml\n")
    found = task_files(tmp_path)
    assert "child" in found
    assert not any(name.split("/")[-1].startswith("_") for name in found)


def test_a_file_without_include_is_read_as_it_is(tmp_path: Path) -> None:
    document = read_with_includes(write(tmp_path, base=BASE))
    assert document.data["group"] == "things"
    assert document.where(("metadata", "notes")) == f"{tmp_path / 'base.yaml'}:9"


def test_an_include_that_no_file_can_be_named_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_text("include: " + "a" * 5_000 + ".yaml\n")
    with pytest.raises(SpecError, match="expected an existing file"):
        load_task(path)
