"""Functions and statements of Python's standard library, from the sources that this Python has."""

from __future__ import annotations

import ast
import itertools
import sysconfig
import warnings
from collections.abc import Iterator
from pathlib import Path

from catsweep.errors import DataError
from catsweep.spec.package import PythonFunctions, PythonStatements
from catsweep.tasks.packages.pools import Pool, first_by_hash

LEFT_OUT = {"site-packages", "test", "tests", "idle_test", "lib2to3", "__pycache__"}
"""Folders: other packages, tests, and what recent versions of Python no longer have."""

Function = ast.FunctionDef | ast.AsyncFunctionDef


def python_functions(reader: PythonFunctions) -> Pool:
    """Functions with a docstring, in the order of the sources. A summary or body that stands a second time, in whatever
    module, is left out, so that no text lies in two splits."""
    pool: Pool = []
    seen: set[str] = set()
    for module, lines, tree in modules():
        for function in functions(tree):
            summary = (ast.get_docstring(function) or "").split("\n")[0].strip()
            rest = function.body[1:]
            if not summary or not rest or len(summary) > reader.max_characters:
                continue
            body = _one_line(" ".join(lines[rest[0].lineno - 1 : function.end_lineno]))
            signature = _one_line(f"def {function.name}({ast.unparse(function.args)})")
            texts = {f"summary {summary.casefold()}", f"body {body}"}
            if texts & seen:
                continue
            seen |= texts
            arguments = [*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs]
            pool.append({
                "id": f"{module}:{function.lineno}",
                "name": function.name,
                "signature": signature[: reader.max_characters],
                "summary": summary,
                "body": body[: reader.max_characters],
                "num_arguments": str(sum(argument.arg not in ("self", "cls") for argument in arguments)),
                "module": module,
                "group": module,
            })  # fmt: skip
    return pool


def python_statements(reader: PythonStatements) -> Pool:
    """Pairs of neighbouring statements in a function, in hash order; each pair of texts and kind once."""
    pool: Pool = []
    seen: set[tuple[str, str]] = set()
    for module, lines, tree in modules():
        for function in functions(tree):
            for before, statement in _neighbours(function):
                kind = _kind(statement)
                previous = lines[(before.end_lineno or before.lineno) - 1].strip()
                if kind and 0 < len(previous) <= reader.max_characters and (previous, kind) not in seen:
                    seen.add((previous, kind))
                    key = f"{module}:{statement.lineno}:{statement.col_offset}"
                    pool.append({"id": key, "previous": previous, "next": kind, "module": module, "group": module})
    return first_by_hash(pool, reader.max_rows, lambda row: str(row["id"]))


def modules() -> Iterator[tuple[str, list[str], ast.Module]]:
    """Name, lines and tree of every module of the standard library, by name. Raises DataError without sources."""
    root = Path(sysconfig.get_path("stdlib"))
    paths = [path for path in sorted(root.rglob("*.py")) if not LEFT_OUT & set(path.relative_to(root).parts)]
    if not paths:
        raise DataError(f"{root}: found no sources of Python's standard library; expected its .py files")
    for path in paths:
        try:
            source = path.read_text(encoding="utf-8")
            with warnings.catch_warnings(action="ignore"):  # of invalid escapes in old sources
                tree = ast.parse(source)
        except (SyntaxError, UnicodeDecodeError):
            continue  # a template, or a source in another encoding
        name = ".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__")
        yield name, source.split("\n"), tree


def functions(tree: ast.AST) -> Iterator[Function]:
    """Every function and method, the inner ones too."""
    return (node for node in ast.walk(tree) if isinstance(node, Function))


def _neighbours(function: Function) -> Iterator[tuple[ast.stmt, ast.stmt]]:
    """Pairs of statements that follow one another in the function's own body, without its docstring."""
    body = function.body[1:] if ast.get_docstring(function, clean=False) is not None else function.body
    return itertools.pairwise(body)


def _kind(statement: ast.stmt) -> str:
    """The kind of a statement; empty for rare ones."""
    match statement:
        case ast.Assign() | ast.AnnAssign() | ast.AugAssign():
            return "assignment"
        case ast.Expr(value=ast.Call()):
            return "call"
        case ast.For():
            return "for"
        case ast.If():
            return "if"
        case ast.Raise():
            return "raise"
        case ast.Return():
            return "return"
        case ast.Try():
            return "try"
        case ast.With():
            return "with"
        case _:
            return ""


def _one_line(text: str) -> str:
    return " ".join(text.split())
