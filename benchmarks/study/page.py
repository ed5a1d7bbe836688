"""docs/results.md and its pictures, redrawn from the packed rows in docs/results/ alone: `make results`.

    python benchmarks/study/page.py                     redraw; needs no sweep on storage
    python benchmarks/study/page.py --pack study        first pack a finished sweep of CATSWEEP_HOME into docs/results/study
    python benchmarks/study/page.py --cache /tmp/kept   keep the numbers there until the packed rows change

Only what stands between `<!-- begin NAME -->` and `<!-- end NAME -->` is written; all other text of the page is a person's.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path

import figures
import text
from measures import CAT, RULE, RULE_STRATA, RULES, Numbers, compared, flags, load_stats, read_numbers

from catsweep.compact import FILES, pack
from catsweep.records import storage_root
from catsweep.report.figures import to_png
from catsweep.spec.search import BASELINE

DOCS = Path(__file__).parents[2] / "docs"
STUDY = "study"
DOTS_PER_INCH = 100
BLOCKS = (
    "primary", "limits", "losses", "to-xent", "to-dist", "kinds", "kinds-dist", "kind-halves", "saved", "control",
    "sensitivity", "rates", "rules", "ablations", "setup", "tasks",
)  # fmt: skip
"""What is generated, by the names of its marks on the page."""


def pack_sweep(root: Path, name: str, docs: Path) -> None:
    """The packed rows of a finished sweep: all deferral rules of two losses of the study, else the rule mean."""
    rules = RULES if name == STUDY else (RULE,)
    pack(root, name, docs / "results" / name, rules=lambda stratum: rules if stratum in RULE_STRATA else (RULE,))
    sizes = [(docs / "results" / name / f"{file}.parquet").stat().st_size for file in FILES]
    print(f"{docs / 'results' / name}: {sum(sizes) / 1e6:.2f} MB ({', '.join(f'{size / 1e6:.2f}' for size in sizes)})")


def packed(docs: Path) -> list[str]:
    """The sweeps that have packed rows, the study first."""
    names = [folder.name for folder in (docs / "results").iterdir() if (folder / f"{FILES[0]}.parquet").exists()]
    return sorted(names, key=lambda name: (name != STUDY, list(text.TITLES).index(name) if name in text.TITLES else 99))


def redraw(docs: Path, cache: Path | None) -> None:
    """Write the pictures, docs/results/study/tasks.md and the generated blocks of docs/results.md."""
    found = {
        name: read_numbers(docs / "results" / name, cache=cache, with_rules=name == STUDY) for name in packed(docs)
    }
    if STUDY not in found:
        sys.exit(f"found no {docs / 'results' / STUDY}; expected packed rows. Run `make study` first")
    study = found.pop(STUDY)
    blocks = study_blocks(study, docs)
    blocks["ablations"] = text.ablations(found)
    draw(study, docs / "results" / STUDY)
    (docs / "results" / STUDY / "tasks.md").write_text(text.every_task(study), encoding="utf-8")
    page = docs / "results.md"
    page.write_text(filled(page.read_text(encoding="utf-8"), blocks), encoding="utf-8")


def study_blocks(study: Numbers, docs: Path) -> dict[str, str]:
    """The generated blocks by name."""
    flagged = flags(study, load_stats(docs / "task_stats.json"))
    return {
        "primary": text.primary(study),
        "limits": text.limits(study),
        "losses": text.losses(study),
        "setup": text.setup(study),
        "to-xent": text.reference_table(study, BASELINE, ("A1", "A2")) + "\n\n" + text.halves(study),
        "to-dist": text.reference_table(study, text.DISTILLATION),
        "kinds": text.kinds(study, BASELINE),
        "kinds-dist": text.kinds(study, text.DISTILLATION),
        "kind-halves": text.kind_halves(study),
        "saved": text.saved(study),
        "control": text.control(study),
        "sensitivity": text.sensitivity(study, flagged),
        "rates": text.rates(study),
        "rules": text.rules(study),
        "tasks": text.tasks(study, flagged),
    }


def draw(study: Numbers, folder: Path) -> None:
    """The four pictures."""
    macro = compared(study, "audc", BASELINE)["macro"]
    drawn = {
        "forest": figures.kinds_forest(study, macro, BASELINE),
        "curves": figures.kind_curves(study, [BASELINE, text.DISTILLATION, CAT]),
        "rates": figures.rate_figure(study),
        "gap": figures.gap_figure(study),
    }
    for name, figure in drawn.items():
        (folder / f"{name}.png").write_bytes(to_png(figure, DOTS_PER_INCH))


def filled(page: str, blocks: dict[str, str]) -> str:
    """The page with each block between its two marks. Raises SystemExit where marks and blocks do not match."""
    marks = set(re.findall(r"<!-- begin ([\w-]+) -->", page))
    if marks != set(blocks):
        sys.exit(f"the page has marks for {sorted(marks)}; expected {sorted(blocks)}. Add or remove the marks")
    for name, block in blocks.items():
        pattern = rf"(<!-- begin {name} -->\n).*?(<!-- end {name} -->)"
        page, count = re.subn(
            pattern, lambda found, block=block: f"{found[1]}{block}\n{found[2]}", page, flags=re.DOTALL
        )
        if count != 1:
            sys.exit(f"the page has {count} pairs of marks `begin {name}` and `end {name}`; expected one")
    return page


def main(arguments: Sequence[str] | None = None) -> None:
    """Pack what is asked for, then redraw."""
    parser = argparse.ArgumentParser(description="Redraw docs/results.md from docs/results/")
    parser.add_argument("--pack", nargs="*", default=[], metavar="SWEEP", help="finished sweeps to pack first")
    parser.add_argument("--out", help="root of the sweeps; default CATSWEEP_HOME, else ~/catsweep")
    parser.add_argument("--docs", type=Path, default=DOCS, help="the folder of results.md")
    parser.add_argument("--cache", type=Path, help="where numbers are kept until the packed rows change")
    chosen = parser.parse_args(arguments)
    for name in chosen.pack:
        pack_sweep(storage_root(chosen.out), name, chosen.docs)
    redraw(chosen.docs, chosen.cache)


if __name__ == "__main__":
    main()
