"""The cross-fitted signal of the large model: each fold's part of it, and all parts put together.

    cache/folds/<key of weights>/   a fold's model, deleted once it has given its parts of the signal
    cache/folds/<key of part>/      the signal of one fold's targets, deleted once the whole signal stands

An interruption costs at most the steps since a fold model's last checkpoint: a fold whose parts stand is not trained
again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from catsweep import storage
from catsweep.cache import building, held, is_complete
from catsweep.data import TokenSplit
from catsweep.folds import Folds
from catsweep.large import LargeModel, held_together, settle
from catsweep.spec.base import digest
from catsweep.spec.model import FinetuneSpec
from catsweep.spec.sweep import DistributionSpec
from catsweep.teacher import SignalArrays, read_arrays
from catsweep.train import MixedData
from catsweep.workers import Workers, barrier, first_rank_says


@dataclass(frozen=True)
class Folded:
    """A task, or a member of a mixture, whose training targets get a cross-fitted signal in a folder of the cache.

    trained: the same examples as the fold models train on them; other targets than those of `tokens` where label noise is
    kept from the large model.
    """

    tokens: TokenSplit
    trained: TokenSplit
    folds: Folds
    signal: Path

    def part(self, fold: int) -> Path:
        """Where the signal of one fold's targets lies until the whole stands."""
        return self.signal.parent.parent / "folds" / digest(["signal", self.signal.name, fold])


def cross_fit(
    unit: Sequence[Folded],
    make_model: Callable[[], LargeModel],
    finetune: FinetuneSpec,
    *,
    large: str,
    rates: Sequence[float] | None,
    distribution: DistributionSpec | None,
    batch_size: int,
    workers: Workers,
) -> None:
    """Make the signals of a task (or of all members of a mixture) that are missing.

    The model of each fold is trained as the large model is, on the examples of the other folds, and looks at the targets
    of its own. large: key of the large model that answers, from which those of its fold models follow. rates: the
    members' shares in a batch of a mixture. Every rank calls this.
    """
    if first_rank_says(all(is_complete(task.signal) for task in unit), workers):
        return
    num_folds = len(unit[0].folds)
    for fold in range(num_folds):
        if first_rank_says(all(is_complete(task.signal) or is_complete(task.part(fold)) for task in unit), workers):
            continue
        weights = unit[0].part(fold).with_name(digest(["weights", large, num_folds, fold]))
        # Held while it is in use: another sweep's signal may come from the same fold model.
        with held_together(weights.with_name(f"{weights.name}.use"), workers):
            done = all(is_complete(task.signal) or is_complete(task.part(fold)) for task in unit)
            if not first_rank_says(done, workers):
                model = make_model()
                parts = tuple(model.training_data(task.trained, task.folds.trained(fold)) for task in unit)
                data = parts[0] if rates is None else MixedData(parts, tuple(rates))
                model.finetune_once(data, finetune, weights)
                for task in unit:
                    judged = task.folds.judged(fold)
                    model.make_signal(task.tokens, distribution, task.part(fold), weights, batch_size, only=judged)
            if workers.rank == 0:
                storage.delete(weights)
            barrier(workers)
    for task in unit:
        if workers.rank == 0:
            with held(task.signal.with_name(f"{task.signal.name}.join")):
                _join(task, distribution)
        settle(task.signal, workers)


def _join(task: Folded, distribution: DistributionSpec | None) -> None:
    """Put the parts of a signal together, and delete them."""
    parts = [task.part(fold) for fold in range(len(task.folds))]
    if not is_complete(task.signal):
        whole: dict[str, np.ndarray] = {}
        for fold, part in enumerate(parts):
            places = task.tokens.target_places(task.folds.judged(fold))
            for name, array in vars(read_arrays(part)).items():
                if array is not None:
                    empty = np.zeros((len(task.tokens.targets.ids), *array.shape[1:]), array.dtype)
                    whole.setdefault(name, empty)[places] = array
        with building(task.signal, distribution=distribution.to_json() if distribution else None) as temporary:
            SignalArrays(**whole).save(temporary)
    for part in parts:
        storage.delete(part)
