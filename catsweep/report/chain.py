"""Chains of three or more models as a small table: each system's quality at given costs."""

from __future__ import annotations

from dataclasses import dataclass

from rich.table import Table

from catsweep.comparing import excludes_zero
from catsweep.report.tables import interval, number, percent
from catsweep.spec.base import Json


@dataclass(frozen=True)
class ChainRow:
    """One stratum of a task at one cost. cells: quality (cost) of each system, in the order of `systems`; a system that
    cannot keep the cost has a dash. difference: the chain minus the best pair, with its interval. differs: whether that
    excludes 0."""

    task: str
    stratum: str
    share: str
    systems: list[str]
    cells: list[str]
    difference: str
    differs: bool


def chain_rows(results: list[Json]) -> list[ChainRow]:
    """The rows of all tasks whose sweep has further models: first metric, every stratum, every cost."""
    rows = []
    for result in results:
        metric: Json = next(iter(result["metrics"].values()))
        for stratum, entry in metric["strata"].items():
            chain = entry.get("chain")
            for against in chain["against_best_pair"] if chain else []:
                points = [point for point in chain["points"] if point["share"] == against["share"]]
                cells = [
                    f"{number(point['quality'], metric['scale'])} ({percent(point['cost_share'])})"
                    if point["quality"] is not None
                    else number(None, 1.0)
                    for point in points
                ]
                bounds = against["lower"], against["upper"]
                difference = interval(against["value"], *bounds, metric["scale"], sign=True)
                systems = [point["system"] for point in points]
                share = percent(against["share"])
                differs = len(against["pairs"]) > 1 and bool(excludes_zero(*bounds))
                rows.append(ChainRow(result["task"], stratum, share, systems, cells, difference, differs))
    return rows


CHAIN_NOTE = (
    "Chains: quality on test of each chain of models (and its FLOPs, as a share of L alone's, whatever the sweep's cost models: "
    "models between S and L have no price), at thresholds that are best on calibration within the cost; mean over seeds. "
    "chain − pair: the chain of all models minus the pair that is best on calibration."
)


def render_chains(rows: list[ChainRow]) -> Table:
    """The rows for a terminal: the chain of all models, every pair, and the difference to the best one."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    systems = [name for name in rows[0].systems if " -> " in name]
    for name in ("task\n stratum", "FLOPs", *systems, "chain − pair"):
        table.add_column(name, justify="left" if "task" in name else "right", overflow="fold")
    for row in rows:
        by_name = dict(zip(row.systems, row.cells, strict=True))
        style = "bold" if row.differs else ""
        cells = [by_name.get(name, "") for name in systems]
        table.add_row(f"{row.task}\n {row.stratum}", row.share, *cells, row.difference, style=style)
    return table
