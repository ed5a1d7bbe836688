"""Wrong training targets on purpose."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from catsweep.spec.base import Spec


class LabelNoise(Spec):
    """Wrong targets on purpose, in the training data alone: validation, calibration and test stay clean. docs/noise.md says
    which targets are replaced by what.

    How much of a filter's gain is noise removed? The injected targets are known, so that filters can drop exactly them
    (`drop_injected`) or leave them alone (`clean_only`).
    """

    rate: float = Field(
        description="Share that is replaced: of the labels, or of the tokens of generated targets, end tokens apart",
        ge=0,
        lt=1,
    )
    kind: Literal["uniform", "confusable"] = Field(
        "uniform",
        description="uniform: by any other choice, or by a token as frequent as it is in the training targets; confusable: by "
        "the choice with the most similar text, or by a token that stands behind the same one elsewhere",
    )
    seed: int = Field(0, description="Seed of the draws; all trials share it", ge=0)
    clean_large: bool = Field(
        False, description="The large model trains on clean targets; its signal is still about the noisy ones"
    )
