"""Rows and examples on storage are what was written, and take no memory while they lie there."""

from __future__ import annotations

import tracemalloc
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from catsweep.tasks import examples
from catsweep.tasks.examples import load_task_data
from catsweep.tasks.store import CHUNK_ROWS, Example, RowSpool, StoredExamples, write_examples


def some_examples(num: int) -> list[Example]:
    choices = ("a", "b\n", "ü")
    return [
        Example(f"train:{n}", f"g{n // 2}", f"prompt {n}", choices[n % 3], ("x", "y"), choices, n % 3) if n % 2
        else Example(f"train:{n}", f"g{n // 2}", f"prompt {n}", "x", ("x",))
        for n in range(num)
    ]  # fmt: skip


def test_a_spool_gives_rows_of_any_values_back_in_any_order() -> None:
    rows: list[dict[str, Any]] = [
        {"number": n, "nested": {"list": [n, None]}, "day": date(2020, 1, 1), "raw": b"\0\xff"} for n in range(50)
    ]
    spool = RowSpool(iter(rows))
    assert len(spool) == 50
    assert [spool[n] for n in reversed(range(50))] == rows[::-1]


def test_stored_examples_are_those_that_were_written(tmp_path: Path) -> None:
    rows = some_examples(2 * CHUNK_ROWS + 3)
    assert write_examples(tmp_path / "rows.arrow", iter(rows)) == len(rows)
    stored = StoredExamples(tmp_path / "rows.arrow")
    assert list(stored) == rows
    assert stored[CHUNK_ROWS] == rows[CHUNK_ROWS]
    assert stored[-1] == rows[-1]
    assert stored[5:2000:7] == rows[5:2000:7]
    assert stored.column("group") == [row.group for row in rows]


def test_a_selection_of_a_selection_keeps_order_and_texts(tmp_path: Path) -> None:
    rows = some_examples(100)
    write_examples(tmp_path / "rows.arrow", rows)
    stored = StoredExamples(tmp_path / "rows.arrow")
    odd = stored.select(np.arange(100) % 2 == 1)
    assert list(odd) == rows[1::2]
    assert list(odd.select(np.array([3, 0]))) == [rows[7], rows[1]]
    assert odd.column("id") == [row.id for row in rows[1::2]]


def test_reading_one_after_another_takes_the_memory_of_one_piece(tmp_path: Path) -> None:
    rows = [replace(row, prompt=row.prompt + "x" * 1_000) for row in some_examples(20 * CHUNK_ROWS)]
    write_examples(tmp_path / "rows.arrow", rows)
    stored = StoredExamples(tmp_path / "rows.arrow").select(np.arange(len(rows)) % 3 > 0)
    counted, usual = pa.proxy_memory_pool(pa.default_memory_pool()), pa.default_memory_pool()
    pa.set_memory_pool(counted)
    try:
        assert [row.id for row in stored] == [row.id for place, row in enumerate(rows) if place % 3]
        assert sum(len(prompt) for (prompt,) in stored.texts("prompt")) > 13_000 * 1_000
    finally:
        pa.set_memory_pool(usual)
    assert counted.max_memory() < 4_000_000  # a piece has 1.5 MB before its third is left out, all have 20 MB


def test_no_examples_can_be_stored(tmp_path: Path) -> None:
    write_examples(tmp_path / "none.arrow", [])
    assert list(StoredExamples(tmp_path / "none.arrow")) == []


def words(tmp_path: Path, num: int) -> dict[str, Any]:
    path = tmp_path / f"{num}.jsonl"
    path.write_text("".join(f'{{"question": "{n} {"word " * 100}", "answer": "a{n}"}}\n' for n in range(num)))
    return {"kind": "files", "format": "jsonl", "train": str(path)}


def test_a_second_reading_renders_nothing(tmp_path: Path, make_task: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    task = make_task(source=words(tmp_path, 300))
    first = load_task_data(task, cache=tmp_path / "cache")

    def never(*_: object, **__: object) -> None:
        raise AssertionError("rendered again")

    monkeypatch.setattr(examples, "render", never)
    again = load_task_data(task, cache=tmp_path / "cache")
    assert {split: list(rows) for split, rows in again.splits.items()} == {
        split: list(rows) for split, rows in first.splits.items()
    }
    assert again.facts == first.facts


def test_changed_rows_are_read_again(tmp_path: Path, make_task: Any) -> None:
    source = words(tmp_path, 300)
    task = make_task(source=source)
    before = load_task_data(task, cache=tmp_path / "cache")
    path = Path(source["train"])
    path.write_text(path.read_text().replace('"a7"', '"seven"'))
    after = load_task_data(task, cache=tmp_path / "cache")
    answers = [{row.target for rows in data.splits.values() for row in rows} for data in (before, after)]
    assert answers[0] - answers[1] == {"a7"}
    assert answers[1] - answers[0] == {"seven"}


def test_long_group_keys_are_kept_short(tmp_path: Path, make_task: Any) -> None:
    data = load_task_data(make_task(source=words(tmp_path, 300)), cache=tmp_path / "cache")
    groups = [group for rows in data.splits.values() for group in rows.column("group")]
    assert len(set(groups)) == 300
    assert {len(group) for group in groups} == {32}


def test_memory_grows_by_some_hundred_bytes_a_row_whatever_its_texts(tmp_path: Path, make_task: Any) -> None:
    peaks = []
    for num in (500, 1_000, 8_000):  # the first one imports and compiles
        task = make_task(source=words(tmp_path, num))
        tracemalloc.start()
        load_task_data(task, cache=tmp_path / "cache")
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    bytes_a_row = (peaks[2] - peaks[1]) / 7_000
    assert bytes_a_row < 700, f"{bytes_a_row:.0f} bytes; the texts of a row alone take 500, as Python objects 2,000"
