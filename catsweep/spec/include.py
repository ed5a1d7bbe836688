"""`include` in task files: a file takes the settings of others as defaults."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from catsweep.errors import Problem, SpecError
from catsweep.spec.paths import is_file
from catsweep.spec.yaml import Document, KeyPath, read_yaml


def read_with_includes(path: Path, chain: tuple[Path, ...] = ()) -> Document:
    """A YAML file merged with what it includes.

    Maps are merged (but not two of different `kind`), all else is replaced; the file itself wins, then the first of
    the files that it includes. Lines and files of the document are those where each value stands. chain: the files
    that include this one. Raises SpecError: a file that cannot be read, a cycle, an `include` that is no file name.
    """
    document = read_yaml(path)
    if not isinstance(document.data, dict) or "include" not in document.data:
        return document
    names = document.data.pop("include")
    for base in _bases(document, names, (*chain, path)):
        _merge_below(document, base, document.data, base.data, ())
    return document


def _bases(document: Document, names: Any, chain: tuple[Path, ...]) -> list[Document]:
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
        if is_file(file) and file.resolve() in seen:
            cycle = [*chain[seen.index(file.resolve()) :], file]
            found = f"a cycle: {' -> '.join(str(part) for part in cycle)}"
            expected = "files that do not include one another"
            problems.append(document.problem(keys, found=found, expected=expected))
            continue
        try:
            if not is_file(file):
                hint = "Names are relative to the file that includes them"
                raise SpecError([document.problem(keys, found=repr(name), expected="an existing file", hint=hint)])
            base = read_with_includes(file, chain)
            if not isinstance(base.data, dict):
                raise SpecError([base.problem((), found=type(base.data).__name__, expected="a map of settings")])
            bases.append(base)
        except SpecError as error:
            problems += error.problems
    if problems:
        raise SpecError(problems)
    return bases


def _merge_below(document: Document, base: Document, mine: dict[str, Any], theirs: dict[str, Any], at: KeyPath) -> None:
    """Add to `mine`, the map at a path of the document, what it lacks and `theirs` has."""
    for key, value in theirs.items():
        keys = (*at, key)
        if key not in mine:
            mine[key] = value
            for inner, line in base.lines.items():
                if inner[: len(keys)] == keys:
                    document.lines[inner] = line
                    document.files[inner] = base.file_of(inner)
        elif isinstance(mine[key], dict) and isinstance(value, dict) and mine[key].get("kind") == value.get("kind"):
            _merge_below(document, base, mine[key], value, keys)
