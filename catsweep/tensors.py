"""The tensors that travel between data, models, losses and filters, and the legend of their axes.

B  rows of a micro-batch: examples, or several examples packed into each
S  tokens of the model's input (decoder: prompt and target; encoder-decoder: prompt), padded
T  tokens of the decoder's input of an encoder-decoder, padded
N  target tokens of a micro-batch, all examples behind one another, no padding
C  some of the N target tokens, whose logits are in memory at once
D  width of the hidden states that the output head sees
H  bits of a token id above the lowest 16
J  bytes that hold one bit of each of K entries
K  entries of the large model's sparse distribution at a target token
V  vocabulary (width of the logits)
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any

import torch
from torch import Tensor

from catsweep.wide_ids import join_ids


@dataclass(frozen=True)
class TeacherSignal:
    """What the large model thinks of each target token.

    rank_N: int64 in [0, 255], number of tokens that are more probable than the target (0: right; clipped).
    logprob_N: float32, log-probability of the target (natural log).
    ids_NK, weights_NK: sparse distribution for dist losses, int64 and float32, or None. Weights of a row sum to at
    most 1; sum_k weights * f(ids) estimates the mean of f under the large model.
    high_NHJ: of a signal on storage alone, the bits of ids_NK above the lowest 16 (see catsweep.wide_ids), where it has some.
    A signal on storage has the types of its files; `take` gives those above.
    """

    rank_N: Tensor
    logprob_N: Tensor
    ids_NK: Tensor | None = None
    weights_NK: Tensor | None = None
    high_NHJ: Tensor | None = None

    def take(self, places_N: Tensor) -> TeacherSignal:
        """That of some target tokens of a signal on storage, as a loss reads it."""
        ids_NK = None if self.ids_NK is None else self.ids_NK[places_N]
        if ids_NK is not None and self.high_NHJ is not None:
            ids_NK = torch.from_numpy(join_ids(ids_NK.numpy(), self.high_NHJ[places_N].numpy()))
        return TeacherSignal(
            rank_N=self.rank_N[places_N].long(),
            logprob_N=self.logprob_N[places_N].float(),
            ids_NK=None if ids_NK is None else ids_NK.long(),
            weights_NK=None if self.weights_NK is None else self.weights_NK[places_N].float(),
        )

    def part(self, rows: slice) -> TeacherSignal:
        """That of some target tokens."""
        ids_CK = None if self.ids_NK is None else self.ids_NK[rows]
        weights_CK = None if self.weights_NK is None else self.weights_NK[rows]
        return TeacherSignal(self.rank_N[rows], self.logprob_N[rows], ids_CK, weights_CK)


@dataclass(frozen=True)
class Batch:
    """A micro-batch of training examples.

    input_ids_BS, attention_mask_BS: int64. decoder_input_ids_BT: int64, encoder-decoder only.
    target_places_N: int64, for each target token (target_ids_N, int64) the position whose logits predict it, counted through
    all rows: of BS for a decoder, of BT for an encoder-decoder.
    injected_N: bool, which target tokens label noise has replaced, where there is noise.
    position_ids_BS: int64, where a row packs several examples (see catsweep.packing): positions begin at 0 again with each,
    and there is no attention mask, since each token attends to those of its own example.
    """

    input_ids_BS: Tensor
    attention_mask_BS: Tensor | None
    target_places_N: Tensor
    target_ids_N: Tensor
    decoder_input_ids_BT: Tensor | None = None
    teacher: TeacherSignal | None = None
    injected_N: Tensor | None = None
    position_ids_BS: Tensor | None = None


class _OfAStep:
    """step: 1 to num_steps."""

    step: int
    num_steps: int

    def is_in_first(self, share: float) -> bool:
        """Whether this is one of the first steps that make up this share of all, rounded to a whole number."""
        return self.step <= round(share * self.num_steps)


@dataclass(frozen=True)
class LossInputs(_OfAStep):
    """What a loss sees: logits_NV (with gradient), target_ids_N, and the large model's signal where the loss needs it.

    generator: source of randomness of filters that draw, seeded by trial and step. step: 1 to num_steps.
    initial_logits_NV: of the small model as it was before its first step, where the loss asks for them.
    injected_N: bool, which target tokens label noise has replaced, where there is noise.
    """

    logits_NV: Tensor
    target_ids_N: Tensor
    teacher: TeacherSignal | None
    generator: torch.Generator
    step: int = 1
    num_steps: int = 1
    initial_logits_NV: Tensor | None = None
    injected_N: Tensor | None = None


@dataclass(frozen=True)
class Head:
    """Logits that are not computed yet: hidden_ND @ weight_VD.T."""

    hidden_ND: Tensor
    weight_VD: Tensor


@dataclass(frozen=True)
class HeadInputs(_OfAStep):
    """LossInputs whose logits are made piece by piece. initial: the head that gives initial_logits_NV."""

    head: Head
    target_ids_N: Tensor
    teacher: TeacherSignal | None
    generator: torch.Generator
    step: int = 1
    num_steps: int = 1
    initial: Head | None = None
    injected_N: Tensor | None = None

    def part(self, rows: slice, logits_CV: Tensor) -> LossInputs:
        """What a loss sees of some target tokens, with their logits; without the initial model's."""
        teacher = None if self.teacher is None else self.teacher.part(rows)
        injected_C = None if self.injected_N is None else self.injected_N[rows]
        return LossInputs(
            logits_CV,
            self.target_ids_N[rows],
            teacher,
            self.generator,
            self.step,
            self.num_steps,
            injected_N=injected_C,
        )


@dataclass(frozen=True)
class LossOutput:
    """Sums over a micro-batch, so that micro-batches and ranks add up.

    loss_sum: scalar with gradient. num_target, num_kept: target tokens, and the sum of their weights (scalars).
    sums: further detached scalars: those with a slash in their name are divided by num_target for the log, such as the four
    quadrants; those of injected tokens are read by filters.injected.detection.
    """

    loss_sum: Tensor
    num_target: Tensor
    num_kept: Tensor
    sums: dict[str, Tensor] = field(default_factory=dict)


def to_device(value: Any, device: torch.device) -> Any:
    """A copy of a dataclass of tensors (or of a tensor, or None) on a device."""
    if isinstance(value, Tensor):
        return value.to(device, non_blocking=True)
    if hasattr(value, "__dataclass_fields__"):
        moved = {item.name: to_device(getattr(value, item.name), device) for item in fields(value)}
        return type(value)(**moved)
    return value
