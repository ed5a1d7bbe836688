"""Writes the list of all shipped tasks (docs/tasks.md) from their files: `make docs`.

Sizes and baselines of tasks from packages are taken from a file that `catsweep ls --stats --json` wrote, since reading
all packages takes minutes.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from itertools import groupby
from pathlib import Path
from typing import Any

from catsweep.spec.load import load_task, task_files
from catsweep.spec.source import FilesSource, HubPart, HubSource, PackageSource, SacrebleuSource, SplitsSource
from catsweep.spec.task import TaskSpec

Stats = dict[str, dict[str, Any]]
"""Task -> its row of `catsweep ls --stats --json`."""

INTRO = """\
# Tasks

Written from the task files by `make docs`; a test keeps it up to date. A sweep lists tasks by name, pattern
(`flan2021/*`), tag or kind: `catsweep ls --tasks`. How to write one: [add-a-task.md](add-a-task.md).

Rows of hub datasets are those of the public copy (what `expect.num_rows` holds it to), before catsweep cuts what is not
given; rows of packages are those of the four splits. A baseline is the quality of the most frequent answer, or of the
prompt copied as the answer, in the first metric; it is known where all rows could be read.

| status | meaning |
|---|---|
| run | real rows have gone through preparing, training and curves in this project |
| real_rows | real rows have been read, cut and rendered in this project; no model was trained on them |
| public_columns | made-up rows with the public copy's columns and labels go through the whole path in a test; no real row was |
| likely | as public_columns; where the data lie is likely, but was not seen |
| local_files | as public_columns; no copy can be loaded: the notes in the task file say where to get it and where to put it |
"""


def tasks_page(stats: Stats) -> str:
    """The whole page as Markdown."""
    tasks = [load_task(path) for _, path in sorted(task_files().items())]
    sections = [f"{INTRO}\n{len(tasks)} tasks.\n"]
    for suite, members in groupby(tasks, key=lambda task: task.task.split("/")[0]):
        sections += [f"## {suite}\n", *_table(list(members), stats), ""]
    return "\n".join(sections)


def read_stats(path: Path | None) -> Stats:
    """What `catsweep ls --stats offline --json` wrote, by task; empty where no file is named."""
    rows = json.loads(path.read_text(encoding="utf-8")) if path is not None else []
    return {row["task"]: row for row in rows}


def _table(tasks: list[TaskSpec], stats: Stats) -> Iterable[str]:
    yield "| task | kind | source | rows | metrics | baseline | status |"
    yield "|---|---|---|---|---|---|---|"
    for task in tasks:
        facts = stats.get(task.task, {})
        metrics = ", ".join(metric.metric for metric in task.metric_list)
        rows = facts.get("num_rows") or _public_rows(task)
        sizes = ", ".join(f"{split} {size:,}" for split, size in rows.items()) or "not known"
        baseline = f"{facts['baseline']} {facts['baseline_quality']:.3g}" if facts else ""
        cells = [task.task, task.group, _source(task), sizes, metrics, baseline, task.metadata.status or ""]
        yield f"| {' | '.join(cells)} |"


def _source(task: TaskSpec) -> str:
    source = task.source
    if isinstance(source, SplitsSource):
        parts = {name: getattr(source, name) for name in ("train", "validation", "test")}
        return "; ".join(f"{name}: {_place(part)}" for name, part in parts.items() if part is not None)
    return _place(source)


def _place(source: HubSource | HubPart | FilesSource | PackageSource | SacrebleuSource) -> str:
    match source:
        case HubSource() | HubPart():
            config = f" [{source.dataset_name}]" if source.dataset_name else ""
            revision = f" at {source.revision[:20]}" if source.revision else ""
            return f"{source.dataset_path}{config}{revision}"
        case SacrebleuSource():
            return f"sacrebleu {source.test_set} {source.langpair}"
        case PackageSource():
            return f"packages {', '.join(source.reader.packages)}"
        case _:
            return f"{source.format} files"


def _public_rows(task: TaskSpec) -> dict[str, int]:
    source = task.source
    parts = [source.train, source.validation, source.test] if isinstance(source, SplitsSource) else [source]
    hub = [part for part in parts if isinstance(part, HubSource | HubPart)]
    return {split: size for part in hub for split, size in part.expect.num_rows.items()}


if __name__ == "__main__":
    sys.stdout.write(tasks_page(read_stats(Path(sys.argv[1]) if len(sys.argv) > 1 else None)))
