"""What the gain over the baseline is made of, and filters as detectors of noise, as tables of a page."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from catsweep.comparing import is_clear
from catsweep.gain_split import MEASURES, PARTS
from catsweep.report.comparison import kind_of, points_interval
from catsweep.report.lines import METRIC_LABELS, MIN_MACRO_TASKS
from catsweep.report.tables import MISSING, interval, percent
from catsweep.report.verdicts import quality_kind
from catsweep.spec.base import Json
from catsweep.spec.search import BASELINE

GAIN_NOTE = (
    f"The gain of a filter over {BASELINE}, paired by seed, on test. Noise removed: of drop_injected, which drops exactly the "
    f"injected target tokens, over {BASELINE}. Easier tokens: of the same filter asked about clean tokens alone (clean_only), "
    "with all injected ones kept. Rest: the gain minus both; it holds the injected tokens that the filter leaves in, and what "
    "the two do together. Dropping a token takes it out of the loss, not out of the text before the tokens behind it. 95% "
    "intervals: of a task over test examples and seeds, of all over kinds and tasks; with fewer than "
    f"{MIN_MACRO_TASKS} tasks no claim is made."
)
DETECTOR_NOTE = (
    "Filters as detectors of the injected target tokens, means over the steps of the confirmed runs. Of the injected found: the "
    "share of them that is dropped (recall). Of the dropped injected: precision; who drops without information has the share of "
    "injected tokens there. L says them: how often an injected token, and a clean one, is L's own first choice; a filter that "
    "asks L tells the two apart only as far as these differ."
)
MEASURE_LABELS = dict(zip(MEASURES, ("audc", "S alone"), strict=True))


@dataclass(frozen=True)
class GainRow:
    """One filter's gain on one task, or over all. unit: of the numbers. cells: text and kind of each of PARTS; kind is
    `good` or `bad` where the interval excludes 0."""

    task: str
    stratum: str
    measure: str
    unit: str
    cells: list[tuple[str, str]]


def gain_rows(results: list[Json], summary: Json) -> list[GainRow]:
    """The rows over all tasks, then those of each task; none where no stratum is split."""
    rows = []
    for stratum, split in summary.get("gain_splits", {}).items():
        for measure in MEASURES:
            if split[measure]["num_tasks"] > 1:
                found = [split[measure][part] for part in PARTS]
                is_enough = split[measure]["num_tasks"] >= MIN_MACRO_TASKS
                cells = [(points_interval(item), kind_of(item) if is_enough else "") for item in found]
                task = f"all ({split[measure]['num_tasks']} tasks)"
                rows.append(GainRow(task, stratum, MEASURE_LABELS[measure], "% of the range", cells))
    for result in results:
        name, metric = next(iter(result["metrics"].items()))
        for stratum, split in metric.get("gain_splits", {}).items():
            for measure in MEASURES:
                found = [split[measure][part] for part in PARTS]
                cells = [
                    (
                        interval(item["value"], item["lower"], item["upper"], metric["scale"], sign=True),
                        quality_kind(item["value"], is_clear(item)),
                    )
                    for item in found
                ]
                label = METRIC_LABELS.get(name, name)
                rows.append(GainRow(result["task"], stratum, MEASURE_LABELS[measure], label, cells))
    return rows


def detector_rows(results: list[Json]) -> list[dict[str, str]]:
    """A row for each task and stratum with a filter; none without label noise."""
    rows = []
    for result in results:
        large: Json = result.get("label_noise", {})
        for stratum, facts in result["strata"].items():
            noise: dict[str, Any] = facts.get("noise", {})
            if noise and stratum != BASELINE:
                kept = noise.get("kept_share_injected")
                says = [percent(large.get(f"large_right_share_{name}")) for name in ("injected", "clean")]
                rows.append({
                    "task": result["task"],
                    "stratum": stratum,
                    "injected": percent(noise["injected_share"]),
                    "dropped_clean": percent(_rest(noise.get("kept_share_clean"))),
                    "found": percent(_rest(kept)),
                    "precision": percent(noise.get("noise_precision")),
                    "large": MISSING if says == [MISSING, MISSING] else " / ".join(says),
                })  # fmt: skip
    return rows


def _rest(share: float | None) -> float | None:
    return None if share is None else 1 - share
