from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from catsweep.errors import DataError
from catsweep.spec.source import FilesSource
from catsweep.tasks.files import read_files


def source(form: str, path: Path | dict[str, Path]) -> FilesSource:
    train = {name: str(file) for name, file in path.items()} if isinstance(path, dict) else str(path)
    return FilesSource.model_validate({"format": form, "train": train})


def written(folder: Path, data: str | bytes, name: str = "rows") -> Path:
    path = folder / name
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return path


@pytest.mark.parametrize(
    ("form", "text"),
    [
        ("jsonl", '\ufeff{"a": "x, \\"y\\"", "b": "1"}\r\n\r\n{"a": "two\\nlines", "b": "ß"}'),
        ("csv", '\ufeffa,b\r\n"x, ""y""",1\r\n"two\nlines",ß\r\n'),
    ],
)
def test_quotes_breaks_and_byte_order_marks_are_read(tmp_path: Path, form: str, text: str) -> None:
    expected = [{"a": 'x, "y"', "b": "1"}, {"a": "two\nlines", "b": "ß"}]
    assert list(read_files(source(form, written(tmp_path, text)), "train")) == expected


def test_tsv_knows_no_quotes(tmp_path: Path) -> None:
    path = written(tmp_path, 'a\tb\n"x\ty "z"\n')
    assert list(read_files(source("tsv", path), "train")) == [{"a": '"x', "b": 'y "z"'}]


def test_parquet_keeps_types_and_the_first_rows_can_be_read_alone(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [{"label": index, "answers": ["a", "b"]} for index in range(2_500)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "rows.parquet")
    assert list(read_files(source("parquet", tmp_path / "rows.parquet"), "train")) == rows
    assert list(read_files(source("parquet", tmp_path / "rows.parquet"), "train", 3)) == rows[:3]


def test_aligned_text_is_cut_at_line_feeds_only(tmp_path: Path) -> None:
    files = {
        "de": written(tmp_path, "ein\u2028s\r\nzwei\x0c\n", "de"),
        "en": written(tmp_path, "one\ntwo", "en"),
    }
    expected = [{"de": "ein\u2028s", "en": "one"}, {"de": "zwei\x0c", "en": "two"}]
    assert list(read_files(source("text", files), "train")) == expected


@pytest.mark.parametrize(
    ("form", "data", "expected"),
    [
        ("jsonl", '{"a": 1}\n{"a": }', ":2: found broken JSON (Expecting value: line 1 column 7 (char 6)); expected one "
         "object a line"),
        ("jsonl", '{"a": 1}\n\n[1]', ":3: found list; expected an object of column: value"),
        ("csv", "a,b\n1,2\n3\n", ":3: found 1 values; expected 2: a, b"),
        ("csv", 'a,b\n1,"2\n', ":2: found broken CSV (unexpected end of data); expected RFC 4180"),
        ("csv", "a,a\n1,2\n", ":1: found the header ['a', 'a']; expected a different name for every column"),
        ("tsv", "a\tb\n1\t2\t3\n", ":2: found 3 values; expected 2: a, b"),
        ("csv", "a;b\n1;2\n", ":1: found one column 'a;b'; expected columns between ',': write the file so"),
        ("csv", "a\tb\n1\t2\n", ":1: found one column 'a\\tb'; expected columns between ',': set `format: tsv`"),
        ("csv", "a\n1\n".encode("utf-16"), ":1: found invalid start byte at byte 0; expected UTF-8: convert it with "
         "`iconv -f utf-16 -t utf-8`, for example"),
        ("tsv", "a,b\n1,2\n", ":1: found one column 'a,b'; expected columns between '\\t': set `format: csv`"),
        ("jsonl", b'{"a": 1}\n{"a": "\xff"}', ":2: found invalid start byte at byte 7; expected UTF-8: convert it with "
         "`iconv -f latin1 -t utf-8`, for example"),
    ],
)  # fmt: skip
def test_errors_name_the_file_and_the_line(tmp_path: Path, form: str, data: str | bytes, expected: str) -> None:
    path = written(tmp_path, data)
    with pytest.raises(DataError) as error:
        list(read_files(source(form, path), "train"))
    assert str(error.value) == f"{path}{expected}"


def test_aligned_files_of_different_length_are_refused_with_the_counts(tmp_path: Path) -> None:
    files = {"de": written(tmp_path, "eins\nzwei\n", "de"), "en": written(tmp_path, "one\n", "en")}
    with pytest.raises(DataError) as error:
        list(read_files(source("text", files), "train"))
    assert str(error.value) == (
        f"found aligned files of different length: {files['de']} 2, {files['en']} 1 lines; expected the same number "
        "in each"
    )


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    for form in ("jsonl", "parquet"):
        with pytest.raises(DataError) as error:
            list(read_files(source(form, tmp_path / "none"), "train"))
        assert str(error.value) == (
            f"{tmp_path / 'none'}: No such file or directory; expected a readable {form} file for split train. File "
            "names in a task's YAML are relative to that YAML"
        )


def test_a_file_that_is_not_parquet_is_named(tmp_path: Path) -> None:
    path = written(tmp_path, "a,b\n1,2\n")
    with pytest.raises(DataError, match=f"^{path}: found no readable Parquet .*; expected a Parquet file$"):
        list(read_files(source("parquet", path), "train"))
