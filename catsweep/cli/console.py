"""Where the command line prints: results to standard output, progress and errors to standard error."""

from __future__ import annotations

from collections.abc import Collection

from rich.console import Console
from rich.measure import Measurement
from rich.table import Table

from catsweep.redact import redact

output = Console()
errors = Console(stderr=True)


def tell(text: str) -> None:
    """Print a line as it is."""
    output.print(text, markup=False, highlight=False, soft_wrap=True)


def complain(text: str) -> None:
    """Print what is wrong."""
    errors.print(text, style="red", markup=False, highlight=False, soft_wrap=True)


def warn(text: str) -> None:
    """Print a problem that stops nothing."""
    errors.print(f"warning: {redact(text)}", style="yellow", markup=False, highlight=False, soft_wrap=True)


def plural(number: int, noun: str) -> str:
    """`1 task`, `2 tasks`."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def print_results(table: Table) -> None:
    """Print a table of results: on a terminal as wide as this is, in a pipe as wide as its texts, so that no name is folded."""
    if output.is_terminal:
        output.print(table)
        return
    width = Measurement.get(output, output.options.update(width=10_000), table).maximum
    Console(file=output.file, width=width).print(table)


def print_table(columns: list[str], rows: list[list[str]], *, numbers: Collection[str] = ()) -> None:
    """Print a table of which nothing is cut: on a terminal texts wrap and numbers do not; in a pipe a row is a line.

    numbers: the columns that stand right.
    """
    if output.is_terminal:
        table = Table()
        for index, column in enumerate(columns):
            right = column in numbers
            width = max(len(text) for text in [column, *(row[index] for row in rows)]) if right else None
            table.add_column(column, justify="right" if right else "left", overflow="fold", min_width=width)
        for row in rows:
            table.add_row(*row)
        output.print(table, markup=False, highlight=False)
        return
    widths = [max(map(len, texts)) for texts in zip(columns, *rows, strict=True)]
    for row in [columns, *rows]:
        texts = [
            text.rjust(width) if column in numbers else text.ljust(width)
            for column, text, width in zip(columns, row, widths, strict=True)
        ]
        output.print("  ".join(texts).rstrip(), markup=False, highlight=False, soft_wrap=True)
