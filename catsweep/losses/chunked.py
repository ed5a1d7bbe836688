"""Losses from hidden states and the output head, without all logits in memory: some rows of logits at once.

Source: [ours]; to form the gradient in the forward pass is the idea of Liger's fused linear cross-entropy (arXiv 2410.10989).
The plain path, catsweep.losses.build, is the reference: values and gradients are the same but for rounding.

The logits of a chunk are made, judged by the filter, turned into their own gradient, and multiplied into the gradients of the
hidden states and of the head. The backward pass computes nothing again. A filter that compares tokens (shuffled,
excess_loss) has to see all of them before the first gradient: then, and only then, the logits are made twice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from catsweep.filters.build import asks_for_rank, compares_tokens
from catsweep.filters.opinions import SmallOpinion
from catsweep.filters.top_k import target_rank
from catsweep.first_choice import first_choice
from catsweep.losses.build import active_filter, asks_initial, output, small_opinion, token_terms, token_weights
from catsweep.losses.sparse import SparseTarget, sparse_target
from catsweep.spec.training import LossSpec
from catsweep.tensors import Head, HeadInputs, LossInputs, LossOutput

ChunkedLoss = Callable[[HeadInputs], LossOutput]
CHUNK_LOGITS = 2**24
"""Logits in memory at once: 64 MiB in float32."""


def build_chunked_loss(spec: LossSpec, *, chunk_logits: int = CHUNK_LOGITS) -> ChunkedLoss:
    """The loss of a spec as `build_loss` gives it, from a head. chunk_logits: see CHUNK_LOGITS; at least one row's.

    Beside one chunk, the gradients of the hidden states and, where it is trained, of the head are kept until the backward
    pass, which may run once.
    """

    def loss(inputs: HeadInputs) -> LossOutput:
        hidden_ND, weight_VD = inputs.head.hidden_ND, inputs.head.weight_VD
        with torch.no_grad():
            chunks = _Chunks(spec, inputs, chunk_logits)
            asked = active_filter(spec, inputs)
            given_N = None
            if asked is not None and compares_tokens(asked):
                given_N = token_weights(spec, inputs, _joined([chunks.judge(rows) for rows in chunks]))
            gradient = HeadGradient.zeros(inputs.head)
            sums, alphas, opinions = zip(*(chunks.form(rows, gradient, given_N) for rows in chunks), strict=True)
            total = torch.stack(sums).sum()
        loss_sum = _WithGradient.apply(hidden_ND, weight_VD, total, gradient)  # type: ignore[no-untyped-call]
        return output(loss_sum, spec, inputs, torch.cat(alphas), _joined(opinions))

    return loss


@dataclass
class HeadGradient:
    """The gradient by hidden states and by the head's weights, in float32 or more; None of what is not trained."""

    hidden_ND: Tensor | None
    weight_VD: Tensor | None

    @classmethod
    def zeros(cls, head: Head) -> HeadGradient:
        hidden_ND, weight_VD = head.hidden_ND, head.weight_VD
        full = full_precision(weight_VD.dtype)
        return cls(
            torch.zeros_like(hidden_ND) if hidden_ND.requires_grad else None,
            torch.zeros_like(weight_VD, dtype=full) if weight_VD.requires_grad else None,
        )

    def add(self, logits_CV: Tensor, head: Head, places_C: slice | Tensor) -> None:
        """Add what flows from the gradient of some rows' logits. places_C: which of the N rows these are."""
        hidden_CD = head.hidden_ND[places_C]
        logits_CV = logits_CV.to(hidden_CD.dtype)
        if self.hidden_ND is not None:
            self.hidden_ND[places_C] = logits_CV @ head.weight_VD
        if self.weight_VD is None:
            return
        if self.weight_VD.dtype == hidden_CD.dtype:
            self.weight_VD.addmm_(logits_CV.T, hidden_CD)
        else:
            self.weight_VD += logits_CV.T @ hidden_CD


class _WithGradient(torch.autograd.Function):
    """A sum whose gradient is known already."""

    @staticmethod
    def forward(ctx: Any, hidden_ND: Tensor, weight_VD: Tensor, total: Tensor, gradient: HeadGradient) -> Tensor:
        ctx.gradient = gradient
        ctx.weight_dtype = weight_VD.dtype
        return total.clone()

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        # Handed on and forgotten, so that no one has to copy them.
        (scale,), gradient, ctx.gradient = grad_outputs, ctx.gradient, None
        if gradient is None:
            raise RuntimeError("the backward pass of a chunked loss ran twice; expected once. Compute the loss again")
        hidden_ND, weight_VD = gradient.hidden_ND, gradient.weight_VD
        if scale.device.type != "cpu" or scale.item() != 1.0:  # other devices would have to be waited for
            for tensor in (hidden_ND, weight_VD):
                if tensor is not None:
                    tensor.mul_(scale)
        return hidden_ND, None if weight_VD is None else weight_VD.to(ctx.weight_dtype), None, None


class _Chunks:
    """The rows of some inputs, chunk by chunk, in one buffer of logits."""

    def __init__(self, spec: LossSpec, inputs: HeadInputs, chunk_logits: int) -> None:
        self.spec = spec
        self.inputs = inputs
        num_tokens, num_logits = len(inputs.target_ids_N), inputs.head.weight_VD.shape[0]
        size = min(max(1, chunk_logits // num_logits), max(1, num_tokens))
        self.rows = [slice(start, min(start + size, num_tokens)) for start in range(0, max(1, num_tokens), size)]
        dtype = full_precision(inputs.head.hidden_ND.dtype)
        self.buffer_CV = inputs.head.hidden_ND.new_empty((size, num_logits), dtype=dtype)
        self.asks_initial = asks_initial(spec, inputs)
        asked = active_filter(spec, inputs)
        self.ranked = asked is not None and asks_for_rank(asked)

    def __iter__(self) -> Iterator[slice]:
        return iter(self.rows)

    def judge(self, rows: slice) -> SmallOpinion:
        """The opinion of the model that the filter asks."""
        head = self.inputs.initial if self.asks_initial else self.inputs.head
        assert head is not None
        return small_opinion(self.spec, self._logits(head, rows), self.inputs.target_ids_N[rows])

    def form(self, rows: slice, gradient: HeadGradient, given_N: Tensor | None) -> tuple[Tensor, Tensor, SmallOpinion]:
        """The loss's sum, alpha, and the opinion of the model that is trained; adds to `gradient`. given_N: alpha of all
        target tokens, where it is known."""
        judge = self.judge(rows) if self.asks_initial and given_N is None else None
        part = self.inputs.part(rows, self._logits(self.inputs.head, rows))
        target = sparse_target(self.spec, part)

        def alpha_of(now: SmallOpinion) -> Tensor:
            return token_weights(self.spec, part, judge or now) if given_N is None else given_N[rows]

        if target is None:
            total, alpha_C, now = by_autograd(self.spec, part, alpha_of)
        else:
            total, alpha_C, now = in_closed_form(part, target, alpha_of, ranked=self.ranked)
        logits_CV, places_C = drop_rows(part.logits_NV, alpha_C, rows)
        gradient.add(logits_CV, self.inputs.head, places_C)
        return total, alpha_C, now

    def _logits(self, head: Head, rows: slice) -> Tensor:
        hidden_CD, weight_VD = head.hidden_ND[rows], head.weight_VD
        logits_CV = self.buffer_CV[: len(hidden_CD)]
        if hidden_CD.dtype == logits_CV.dtype:
            return torch.mm(hidden_CD, weight_VD.T, out=logits_CV)
        return logits_CV.copy_(hidden_CD @ weight_VD.T)


def in_closed_form(
    part: LossInputs, target: SparseTarget, alpha_of: Callable[[SmallOpinion], Tensor], *, ranked: bool
) -> tuple[Tensor, Tensor, SmallOpinion]:
    """The weighted loss of some rows, alpha and the model's opinion; the logits become their gradient, in place."""
    logits_CV, ids_CK, weights_CK = part.logits_NV, target.ids_CK, target.weights_CK
    first_C = first_choice(logits_CV)
    largest_C = logits_CV.gather(1, first_C[:, None]).squeeze(1)
    entries_CK = logits_CV.gather(1, ids_CK)
    rank_C = target_rank(logits_CV, part.target_ids_N) if ranked else None
    mean_C = logits_CV.mean(1) if target.uniform else 0.0
    sum_C = logits_CV.sub_(largest_C[:, None]).exp_().sum(1)
    logsumexp_C = largest_C + sum_C.log()
    now = SmallOpinion(first_C == part.target_ids_N, entries_CK[:, 0] - logsumexp_C, rank_C)
    alpha_C = alpha_of(now)
    terms_C = (weights_CK * (logsumexp_C[:, None] - entries_CK)).sum(1)
    if target.uniform:
        terms_C = terms_C + target.uniform * (logsumexp_C - mean_C)
    scale_C1 = alpha_C.to(logits_CV.dtype)[:, None]
    logits_CV.mul_(scale_C1 * ((weights_CK.sum(1) + target.uniform) / sum_C)[:, None])
    logits_CV.scatter_add_(1, ids_CK, -scale_C1 * weights_CK)
    if target.uniform:
        logits_CV.sub_(scale_C1 * (target.uniform / logits_CV.shape[1]))
    return (alpha_C * terms_C).sum(), alpha_C, now


def by_autograd(
    spec: LossSpec, part: LossInputs, alpha_of: Callable[[SmallOpinion], Tensor]
) -> tuple[Tensor, Tensor, SmallOpinion]:
    """The same for any loss, with some more memory."""
    logits_CV = part.logits_NV
    with torch.enable_grad():
        leaf_CV = logits_CV.detach().requires_grad_()
        logsumexp_C = leaf_CV.logsumexp(1)
        now = small_opinion(spec, leaf_CV, part.target_ids_N, logsumexp_C)
        alpha_C = alpha_of(now)
        terms_C = token_terms(spec, replace(part, logits_NV=leaf_CV), logsumexp_C, now.right_N)
        total = (alpha_C * terms_C).sum()
        (gradient_CV,) = torch.autograd.grad(total, leaf_CV)
    logits_CV.copy_(gradient_CV)
    return total.detach(), alpha_C, now


def drop_rows(logits_CV: Tensor, alpha_C: Tensor, rows: slice) -> tuple[Tensor, slice | Tensor]:
    """The rows whose weight is not zero, moved together in place, and their places among all N rows.

    Their products are what a chunk costs most, so dropped tokens cost less than kept ones. Elsewhere than on a CPU all rows
    stay: to wait for the number of kept ones would take longer.
    """
    if alpha_C.device.type != "cpu":
        return logits_CV, rows
    kept = alpha_C.nonzero().flatten()
    if len(kept) == len(alpha_C):
        return logits_CV, rows
    for place, row in enumerate(kept.tolist()):
        if place != row:
            logits_CV[place] = logits_CV[row]
    return logits_CV[: len(kept)], kept + rows.start


def full_precision(dtype: torch.dtype) -> torch.dtype:
    """float32 for what is shorter, else the same."""
    return torch.promote_types(dtype, torch.float32)


def _joined(parts: Sequence[SmallOpinion]) -> SmallOpinion:
    ranks = [part.rank_N for part in parts if part.rank_N is not None]
    return SmallOpinion(
        torch.cat([part.right_N for part in parts]),
        torch.cat([part.logprob_N for part in parts]),
        torch.cat(ranks) if ranks else None,
    )
