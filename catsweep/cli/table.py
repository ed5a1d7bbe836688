"""`catsweep curves --table`: curves of results that any system made."""

from __future__ import annotations

import json
from pathlib import Path

from catsweep.cascade.table import read_table, summary_dict, table_curve
from catsweep.cli.console import errors, output
from catsweep.records import write_atomic, write_json
from catsweep.report.figures import curves_figure, stratum_styles, to_png
from catsweep.report.lines import table_lines
from catsweep.report.tables import MISSING, fact_notes


def table_command(
    path: Path,
    *,
    metric: str,
    tokenize: str | None,
    positive: str | None,
    as_json: bool,
    num_points: int | None,
    out: Path | None,
) -> None:
    """Print the curve of a table; with `out` also write <out>/<table's name>.json and .png, and say so."""
    summary = table_curve(read_table(path), metric=metric, tokenize=tokenize, positive=positive)
    data = summary_dict(summary, num_points=num_points)
    if out is not None:
        written = [out / f"{path.stem}{ending}" for ending in (".json", ".png")]
        write_json(written[0], data)
        figure = curves_figure(table_lines(summary, title=path.stem), stratum_styles(["cascade"], baseline=""))
        write_atomic(written[1], to_png(figure))
        for file in written:
            errors.print(f"wrote {file}", markup=False, highlight=False, soft_wrap=True)
    if as_json:
        output.file.write(json.dumps(data) + "\n")
        return
    interval = data["intervals"]["audc"]
    apgr = "none: the large model is not better" if data["apgr"] is None else f"{data['apgr']:.4f} (random: 0.5)"
    lines = [
        f"{data['num_rows']} rows, {metric}",
        "  ".join(f"{name} {_number(data[f'quality_{name}'])}" for name in ("small", "large", "oracle")),
        f"audc {data['audc']:.4f} [{_number(interval[0])}, {_number(interval[1])}]  apgr {apgr}",
        "deferral rate that closes part of the gap: "
        + ", ".join(f"{share}%: {'none' if rate is None else f'{rate:.3f}'}" for share, rate in data["cpt"].items()),
        *fact_notes(summary.facts),
    ]
    output.print("\n".join(lines), markup=False, highlight=False)


def _number(value: float | None) -> str:
    return MISSING if value is None else f"{value:.4f}"
