"""The quality that `cost_at_quality {gap: g}` asks for on a task: fixed once its baseline has been searched.

It is S + g (L - S): S the best quality on validation that a small model of the baseline's search has alone, L that of the
large model. Until then nobody knows it, so the baseline goes first, guided by audc; its trials are judged by the objective
afterwards, from their rows. The anchor stays on storage, <sweep>/anchors/<task>.json: a search that goes on, or is extended,
never moves it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from catsweep.cache import is_complete
from catsweep.cascade.cost import ModelShape
from catsweep.cascade.curve import Curve
from catsweep.cascade.metrics import metric_of
from catsweep.cascade.rows import make_cascade, objective_value
from catsweep.errors import StorageError
from catsweep.records import SECOND_OBJECTIVE, TrialRecord, read_json, read_rows, write_json, write_record
from catsweep.spec.cascade import objective_cost
from catsweep.spec.mixture import MixtureSpec
from catsweep.spec.search import BASELINE, AudcObjective, CostAtQualityObjective, ObjectiveSpec
from catsweep.spec.sweep import SweepSpec
from catsweep.spec.task import TaskSpec


@dataclass(frozen=True)
class Anchor:
    """Qualities on validation in the metric's own unit. trial_id: whose small model quality_small is."""

    task: str
    trial_id: str
    quality_small: float
    quality_large: float

    def resolve(self, objectives: Sequence[ObjectiveSpec]) -> list[ObjectiveSpec]:
        """The objectives with a quality in place of a gap."""
        return [self._resolved(objective) for objective in objectives]

    def _resolved(self, objective: ObjectiveSpec) -> ObjectiveSpec:
        if not isinstance(objective, CostAtQualityObjective) or objective.gap is None:
            return objective
        return CostAtQualityObjective(
            quality=self.quality_small + objective.gap * (self.quality_large - self.quality_small)
        )


def guides(objectives: Sequence[ObjectiveSpec]) -> list[ObjectiveSpec]:
    """What the baseline is searched by before its gap is known: audc in place of it, once."""
    found: list[ObjectiveSpec] = []
    for objective in objectives:
        guide = AudcObjective() if isinstance(objective, CostAtQualityObjective) and objective.gap else objective
        if guide not in found:
            found.append(guide)
    return found


def read_anchor(folder: Path, task: str) -> Anchor | None:
    """The anchor of a task of the sweep in `folder`, or None where it has not been fixed."""
    path = folder / "anchors" / f"{task}.json"
    return Anchor(**read_json(path)) if path.exists() else None


def fix_anchor(folder: Path, task: TaskSpec | MixtureSpec, records: Sequence[TrialRecord], spec: SweepSpec) -> Anchor:
    """Judge the baseline's trials and keep the anchor, in this order, so that a kill between the two changes nothing.

    records: of the baseline's trials. Raises StorageError where none of them finished, or rows are missing.
    """
    finished = [record for record in records if record.status == "finished"]
    if not finished:
        raise StorageError(
            f"{task.task}: no {BASELINE} trial finished, so that the gap of search.metric starts nowhere; expected one or "
            "more. See its errors, or give a quality in place of the gap"
        )
    curves = {record.trial_id: _curve(folder, task, record, spec) for record in finished}
    best = max(finished, key=lambda record: (curves[record.trial_id].quality_small, -record.number))
    curve = curves[best.trial_id]
    anchor = Anchor(task.task, best.trial_id, curve.quality_small, curve.quality_large)
    for record in records:
        write_record(folder / record.trial_id, _judged(record, curves.get(record.trial_id), anchor, spec))
    write_json(folder / "anchors" / f"{task.task}.json", asdict(anchor))
    return anchor


def _judged(record: TrialRecord, curve: Curve | None, anchor: Anchor, spec: SweepSpec) -> TrialRecord:
    """The record with the values of the objectives. One that did not finish has no rows and, as before, cannot win: its
    value, of another objective, goes."""
    if curve is None:
        return replace(record, objective=None)
    first, *second = [objective_value(objective, curve) for objective in anchor.resolve(spec.search.objectives)]
    metrics = record.metrics | dict(zip([SECOND_OBJECTIVE], second, strict=False))
    return replace(record, objective=first, metrics=metrics)


def _curve(folder: Path, task: TaskSpec | MixtureSpec, record: TrialRecord, spec: SweepSpec) -> Curve:
    """The validation curve of a finished trial."""
    assert not isinstance(task, MixtureSpec), "space.check_search refuses a gap with a mixture"
    answers = read_json(folder / "prepared" / f"{task.task}.json")["keys"]["answers"]
    answers_folder = folder.parent / "cache" / "answers" / answers
    is_complete(answers_folder, hashes=False)  # which brings it from an object store: another node has made it
    large = read_rows(answers_folder / "rows.parquet", "validation")
    small = read_rows(folder / record.trial_id / "rows.parquet", "validation")
    shapes = ModelShape.from_dict(record.small_shape), ModelShape.from_dict(record.large_shape)
    cascade = make_cascade(
        small,
        large,
        metric_of(task.metric_list[0]),
        small_shape=shapes[0],
        large_shape=shapes[1],
        costs=[objective_cost(spec.cascade)],
    )
    return cascade.curve(spec.cascade.deferral[0])
