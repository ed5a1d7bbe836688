"""What a row's source text is, as keys that tasks with other prompts share where they show the same text."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

from catsweep.spec.source import PackageSource
from catsweep.spec.task import TaskSpec
from catsweep.tasks.columns import Row
from catsweep.tasks.render import Place, prompt_values, render_group_keys
from catsweep.tasks.texts import plain_text

LONG_TEXT = 40
"""Texts of so many characters count alone: a passage that two tasks ask different things about. Shorter ones, such as a
language's name or a yes-no question's subject, count only where a prompt shows nothing else."""


def source_keys(task: TaskSpec, row: Row, place: Place) -> frozenset[bytes]:
    """Keys of a row's source text: its group keys, all that its prompt shows, and each long text in it.

    Letter case, white space and the names and order of columns do not matter.
    """
    shown = {text: plain_text(text) for value in prompt_values(task, row) for text in _texts(value)}
    found = {
        "\n".join(sorted(set(shown.values()))),
        *(plain for text, plain in shown.items() if len(text) >= LONG_TEXT),
    }
    if isinstance(task.source, PackageSource) and task.doc_to_group is None:
        found.add(f"{task.source.reader.kind}:{row['group']}")
    else:
        found.update(shown.get(key) or plain_text(key) for key in render_group_keys(task, row, place))
    return frozenset(hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=12).digest() for text in found)


def _texts(value: Any) -> Iterator[str]:
    """The texts of a column, those inside of lists and structs included."""
    match value:
        case dict():
            for child in value.values():
                yield from _texts(child)
        case list() | tuple():
            for child in value:
                yield from _texts(child)
        case None:
            return
        case _:
            yield str(value)
