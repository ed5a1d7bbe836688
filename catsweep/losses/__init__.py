"""Losses: one file a paper or idea, each a pure function of tensors."""

from catsweep.losses.build import Loss, build_loss

__all__ = ["Loss", "build_loss"]
