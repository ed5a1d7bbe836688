"""Which examples a step sees, and its learning rate: functions of the step alone."""

from __future__ import annotations

import numpy as np

from catsweep.spec.training import TrainingSpec
from catsweep.train import BatchOrder, learning_rate


def test_every_epoch_sees_every_example_once_in_another_order() -> None:
    order = BatchOrder(10, 4, seed=0)
    seen = np.concatenate([order.batch(step) for step in range(5)])
    assert sorted(seen[:10].tolist()) == sorted(seen[10:].tolist()) == list(range(10))
    assert seen[:10].tolist() != seen[10:].tolist()
    assert BatchOrder(10, 4, seed=0).batch(3).tolist() == order.batch(3).tolist()


def test_the_learning_rate_rises_then_falls_to_nearly_zero() -> None:
    training = TrainingSpec(steps=10, learning_rate=1.0, warmup_share=0.2)
    assert [round(learning_rate(training, step), 4) for step in range(1, 11)] == [
        0.5,
        1.0,
        1.0,
        0.875,
        0.75,
        0.625,
        0.5,
        0.375,
        0.25,
        0.125,
    ]
    constant = training.model_copy(update={"schedule": "constant"})
    assert learning_rate(constant, 10) == 1.0
