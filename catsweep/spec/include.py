"""`include` in task files: a file takes the settings of others as defaults."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from catsweep.errors import Problem, SpecError
from catsweep.spec.paths import is_file, resolved
from catsweep.spec.yaml import MAX_NODES, Document, KeyPath, read_yaml

MAX_FILES = 100
"""Files that one file may include, those that they include counted as often as they are read."""


def read_with_includes(path: Path) -> Document:
    """A YAML file merged with what it includes.

    Maps are merged (but not two of different `kind`), all else is replaced; the file itself wins, then the first of
    the files that it includes. Lines and files of the document are those where each value stands. Raises SpecError: a file
    that cannot be read, a cycle, an `include` that is no file name, too many files or settings.
    """
    return _read(path, (), [])


def _read(path: Path, chain: tuple[Path, ...], read: list[int]) -> Document:
    """chain: the files that include this one. read: the number of settings of each file that was read before."""
    document = read_yaml(path)
    read.append(len(document.lines))
    if len(read) > MAX_FILES + 1 or sum(read) > MAX_NODES:
        expected = f"at most {MAX_FILES} included files, with {MAX_NODES:,} settings in all"
        raise SpecError([document.problem((), found="more by `include`", expected=expected)])
    if not isinstance(document.data, dict) or "include" not in document.data:
        return document
    names = document.data.pop("include")
    for base in _bases(document, names, (*chain, path), read):
        taken = set(_merge_below(document.data, base.data, ()))
        for inner, line in base.lines.items():
            if any(inner[:length] in taken for length in range(1, len(inner) + 1)):
                document.lines[inner] = line
                document.files[inner] = base.file_of(inner)
    return document


def _bases(document: Document, names: Any, chain: tuple[Path, ...], read: list[int]) -> list[Document]:
    listed = names if isinstance(names, list) else [names]
    bases = []
    problems: list[Problem] = []
    for index, name in enumerate(listed):
        keys: KeyPath = ("include", index) if isinstance(names, list) else ("include",)
        if not isinstance(name, str):
            problems.append(document.problem(keys, found=repr(name), expected="a file name, or a list of them"))
            continue
        file = document.path.parent / name
        seen = [known.resolve() for known in chain]
        if (place := resolved(file)) in seen:
            cycle = [*chain[seen.index(place) :], file]
            found = f"a cycle: {' -> '.join(str(part) for part in cycle)}"
            expected = "files that do not include one another"
            problems.append(document.problem(keys, found=found, expected=expected))
            continue
        try:
            if not is_file(file):
                hint = "Names are relative to the file that includes them"
                raise SpecError([document.problem(keys, found=repr(name), expected="an existing file", hint=hint)])
            base = _read(file, chain, read)
            if not isinstance(base.data, dict):
                raise SpecError([base.problem((), found=type(base.data).__name__, expected="a map of settings")])
            bases.append(base)
        except SpecError as error:
            problems += error.problems
    if problems:
        raise SpecError(problems)
    return bases


def _merge_below(mine: dict[str, Any], theirs: dict[str, Any], at: KeyPath) -> Iterator[KeyPath]:
    """Add to `mine`, the map at a path of the document, what it lacks and `theirs` has; yields the paths that were added."""
    for key, value in theirs.items():
        if key not in mine:
            mine[key] = value
            yield (*at, key)
        elif isinstance(mine[key], dict) and isinstance(value, dict) and mine[key].get("kind") == value.get("kind"):
            yield from _merge_below(mine[key], value, (*at, key))
