"""Losses: one file a paper or idea, each a pure function of tensors."""

from catsweep.losses.build import Loss, build_loss
from catsweep.losses.chunked import ChunkedLoss, build_chunked_loss

__all__ = ["ChunkedLoss", "Loss", "build_chunked_loss", "build_loss"]
