"""Jinja2's sandbox with bounds: a template ends soon and makes no huge text, whatever it says.

Jinja2's own sandbox keeps a template from Python's insides, but not from `{{ 10 ** 10 ** 8 }}` or from loops in loops. Here
every round of a loop, call and filter is counted, and operators and functions that make much of little are refused.
"""

from __future__ import annotations

import contextlib
import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from jinja2 import nodes
from jinja2.exceptions import SecurityError
from jinja2.sandbox import ImmutableSandboxedEnvironment

MAX_STEPS = 100_000
"""Rounds of loops, calls and filters of one rendering."""
MAX_SECONDS = 5.0
MAX_SIZE = 10_000_000
"""Characters or items that one operation may make."""
MAX_WIDTH = 10_000
_WITH_WIDTH = frozenset(
    ["center", "ljust", "rjust", "zfill", "expandtabs", "indent", "wordwrap", "batch", "slice", "to_bytes", "tojson"]
)
"""Functions and filters to which a number says how much to make."""
_WIDTHS = re.compile(r"%(\([^)]*\))?[-+ #0]*(\*|\d{5})|%(\([^)]*\))?[-+ #0]*\d*\.(\*|\d{5})|\{[^{}]*:[^{}]*(\d{5}|\{)")


class _Budget(threading.local):
    """What is left to the rendering that runs in this thread."""

    steps = 0
    deadline = 0.0
    bounded = False


_budget = _Budget()


@contextlib.contextmanager
def bounded() -> Iterator[None]:
    """Bound what is rendered within: SecurityError is raised beyond MAX_STEPS or MAX_SECONDS."""
    _budget.steps, _budget.deadline, _budget.bounded = 0, time.monotonic() + MAX_SECONDS, True
    try:
        yield
    finally:
        _budget.bounded = False


def _step() -> None:
    _budget.steps += 1
    if _budget.bounded and (_budget.steps > MAX_STEPS or time.monotonic() > _budget.deadline):
        raise SecurityError(f"more than {MAX_STEPS:,} rounds and calls, or {MAX_SECONDS:g} seconds, for one row")


def _counted(items: Iterable[Any]) -> Iterator[Any]:
    for item in items:
        _step()
        yield item


class BoundedEnvironment(ImmutableSandboxedEnvironment):
    """Jinja2's sandbox, in which every loop, call and filter is counted and sizes are bounded."""

    intercepted_binops = frozenset({"+", "*", "**", "%"})

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.filters = {name: _bounded_filter(name, function) for name, function in self.filters.items()}
        self.globals.pop("lipsum", None)
        self.filters["_counted"] = _counted
        self.filters["_joined"] = _joined

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        tree = super()._parse(source, name, filename)
        for loop in list(tree.find_all(nodes.For)):
            loop.iter = nodes.Filter(loop.iter, "_counted", [], [], None, None, lineno=loop.lineno)
        for parent in [tree, *tree.find_all(nodes.Node)]:
            _wrap_joins(parent)
        tree.set_environment(self)
        return tree

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        """An operator on two values. Raises SecurityError where it would make too much."""
        _step()
        too_large = False
        match operator:
            case "+":
                too_large = _size(left) + _size(right) > MAX_SIZE
            case "*":
                first, second = (value if isinstance(value, int) else _size(value) for value in (left, right))
                too_large = abs(first * second) > (MAX_SIZE if _size(left) or _size(right) else 10**100)
            case "**":
                too_large = not (abs(left) <= 10**6 and abs(right) <= 64)
            case "%" if isinstance(left, str):
                raise SecurityError("the operator % on a text; write `~`, or `|format`")
            case _:
                pass
        if too_large:
            raise SecurityError(f"{operator} would make a value of more than {MAX_SIZE:,} characters or items")
        return super().call_binop(context, operator, left, right)

    def call(self, context: Any, function: Any, /, *args: Any, **kwargs: Any) -> Any:
        """A call of a function or method, with bounded arguments."""
        _step()
        owner = getattr(getattr(function, "__wrapped__", function), "__self__", None)  # the sandbox wraps `format`
        _check(getattr(function, "__name__", ""), owner, [*args, *kwargs.values()])
        return super().call(context, function, *args, **kwargs)


def _wrap_joins(parent: nodes.Node) -> None:
    """Put every `a ~ b` right below a node into a check of its size."""

    def wrapped(node: Any) -> Any:
        is_join = isinstance(node, nodes.Concat)
        return nodes.Filter(node, "_joined", [], [], None, None, lineno=node.lineno) if is_join else node

    for field, value in parent.iter_fields():
        if isinstance(value, list):
            value[:] = map(wrapped, value)
        else:
            setattr(parent, field, wrapped(value))


def _joined(text: Any) -> Any:
    _step()
    if _size(text) > MAX_SIZE:
        raise SecurityError(f"~ makes a text of more than {MAX_SIZE:,} characters")
    return text


def _bounded_filter(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """A filter that is counted and whose arguments are checked; how Jinja2 passes its context stays as it was."""

    def checked(*args: Any, **kwargs: Any) -> Any:
        _step()
        _check(name, args[0] if args else None, [*args[1:], *kwargs.values()])
        return function(*args, **kwargs)

    checked.__dict__.update(getattr(function, "__dict__", {}))  # pass_environment and its like
    checked.__name__, checked.__doc__ = name, function.__doc__
    return checked


def _check(name: str, value: Any, arguments: list[Any]) -> None:
    """Raises SecurityError where a function of this name could make too much of a value: `center(10 ** 9)`, a format with
    such a width, or each letter of a long text replaced by a long text."""
    if name in _WITH_WIDTH:
        numbers = [number for number in arguments if isinstance(number, int)]
        if any(abs(number) > MAX_WIDTH for number in numbers):
            raise SecurityError(f"{name} with a number beyond {MAX_WIDTH:,}")
    if name in ("format", "format_map") and isinstance(value, str) and _WIDTHS.search(value):
        raise SecurityError(f"a format with a width of five digits or more, or one that is an argument: {value[:40]!r}")
    product = 1
    for size in map(_size, [value, *arguments]):
        product *= max(1, size)
    if product > 100 * MAX_SIZE:
        raise SecurityError(f"{name} of values that could make a thousand million characters together")


def _size(value: Any) -> int:
    return len(value) if isinstance(value, str | list | tuple | dict | bytes) else 0
