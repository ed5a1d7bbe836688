"""Losses from a head, chunk by chunk, against the plain losses of all logits: values, what is logged, and gradients."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, get_args

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from catsweep.losses import build_chunked_loss, build_loss
from catsweep.spec.filters import (
    CleanOnlyFilter,
    DropInjectedFilter,
    ExcessLossFilter,
    FilterSpec,
    NamedQuadrants,
    QuadrantsFilter,
    ShuffledFilter,
    SoftFilter,
    ThresholdFilter,
    TopKFilter,
)
from catsweep.spec.training import (
    CatDistLoss,
    CatXentLoss,
    DistLoss,
    GatekeeperLoss,
    LabelSmoothingLoss,
    LossSpec,
    XentLoss,
)
from catsweep.tensors import Head, HeadInputs, LossInputs, LossOutput, TeacherSignal

N, V, D = 60, 37, 6
FILTERS: list[FilterSpec] = [
    NamedQuadrants(),
    NamedQuadrants(kind="learnable"),
    QuadrantsFilter(keep=["neither", "both"]),
    ShuffledFilter(),
    TopKFilter(k=4),
    ThresholdFilter(t=0.1),
    SoftFilter(),
    ExcessLossFilter(keep=0.4),
    DropInjectedFilter(),
    CleanOnlyFilter(),
    CleanOnlyFilter(filter=TopKFilter(k=4)),
    CleanOnlyFilter(filter=ShuffledFilter()),
    CleanOnlyFilter(filter=ExcessLossFilter(keep=0.4)),
]
LOSSES: list[LossSpec] = [
    XentLoss(),
    DistLoss(weight=0.3),
    DistLoss(weight=0.3, divergence="reverse_kl"),
    DistLoss(weight=0.3, divergence="jsd", jsd_beta=0.2),
    LabelSmoothingLoss(smoothing=0.2),
    GatekeeperLoss(alpha=0.3, pretrain_share=1 / 3),
    *(CatXentLoss(filter=asked) for asked in FILTERS),
    *(CatXentLoss(filter=asked, judge="initial") for asked in FILTERS),
    *(CatDistLoss(filter=asked, weight=0.3) for asked in FILTERS),
    CatDistLoss(filter=ExcessLossFilter(keep=0.4), divergence="jsd"),
    CatDistLoss(filter_warmup_share=1 / 3),
]


def head_inputs(dtype: torch.dtype, *, step: int = 2) -> HeadInputs:
    generator = torch.Generator().manual_seed(0)

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)

    head = Head(2 * random(N, D).requires_grad_(), random(V, D).requires_grad_())
    initial = Head(head.hidden_ND.detach() + random(N, D), head.weight_VD.detach() + 0.5 * random(V, D))
    first = (head.hidden_ND @ head.weight_VD.T).argmax(1)
    targets = torch.where(
        torch.rand(N, generator=generator) < 0.5, first, torch.randint(0, V, (N,), generator=generator)
    )
    weights = random(N, V).softmax(1)
    top = weights.topk(5, dim=1)
    signal = TeacherSignal(
        torch.randint(0, 3, (N,), generator=generator), random(N).abs().neg().float(), top.indices, top.values.float()
    )
    drawn = torch.Generator().manual_seed(7)
    injected = torch.rand(N, generator=generator) < 0.2
    hidden_ND = head.hidden_ND.detach().requires_grad_()
    return HeadInputs(Head(hidden_ND, head.weight_VD), targets, signal, drawn, step, 3, initial, injected)


def plain(spec: LossSpec, inputs: HeadInputs) -> LossOutput:
    """The reference: all logits, and torch's own gradient."""

    def logits(head: Head) -> Tensor:
        return head.hidden_ND @ head.weight_VD.T

    assert inputs.initial is not None
    whole = LossInputs(
        logits(inputs.head), inputs.target_ids_N, inputs.teacher, inputs.generator, inputs.step, inputs.num_steps,
        logits(inputs.initial), inputs.injected_N,
    )  # fmt: skip
    return build_loss(spec)(whole)


def gradients(output: LossOutput, inputs: HeadInputs) -> tuple[Tensor, ...]:
    return torch.autograd.grad(output.loss_sum, [inputs.head.hidden_ND, inputs.head.weight_VD])


def name_of(value: Any) -> str:
    return "-".join(str(part) for part in value.to_json().values()) if hasattr(value, "to_json") else str(value)


def test_every_kind_of_loss_and_filter_is_compared() -> None:
    assert {type(loss) for loss in LOSSES} == set(get_args(get_args(LossSpec)[0]))
    assert {type(asked) for asked in FILTERS} == set(get_args(get_args(FilterSpec)[0]))


@pytest.mark.parametrize("spec", LOSSES, ids=name_of)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
def test_a_loss_in_chunks_is_the_plain_loss(spec: LossSpec, dtype: torch.dtype, tolerance: float) -> None:
    for step in (1, 2):
        reference = plain(spec, head_inputs(dtype, step=step))
        expected = gradients(plain(spec, inputs := head_inputs(dtype, step=step)), inputs)
        for num_rows in (1, 7, N):
            inputs = head_inputs(dtype, step=step)
            found = build_chunked_loss(spec, chunk_logits=num_rows * V)(inputs)
            assert found.loss_sum.item() == pytest.approx(reference.loss_sum.item(), rel=tolerance, abs=tolerance)
            assert found.num_target.item() == reference.num_target.item()
            assert found.num_kept.item() == pytest.approx(reference.num_kept.item(), rel=tolerance)
            assert {name: value.item() for name, value in found.sums.items()} == pytest.approx(
                {name: value.item() for name, value in reference.sums.items()}, rel=tolerance
            )
            for one, other in zip(gradients(found, inputs), expected, strict=True):
                assert one.abs().max() > 0
                torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance * other.abs().max().item())


class _Largest(TorchDispatchMode):
    """The largest floating-point tensor that any operation gives, beside views."""

    def __init__(self) -> None:
        super().__init__()
        self.numel = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if isinstance(result, Tensor) and result.shape[-1:] == (V,):
            self.numel = max(self.numel, result.numel())
        return result


@pytest.mark.parametrize("spec", LOSSES, ids=name_of)
def test_never_are_the_logits_of_more_than_a_chunk_in_memory(spec: LossSpec) -> None:
    inputs = head_inputs(torch.float32)
    with _Largest() as plainly:
        plain(spec, inputs)
    with _Largest() as seen:
        gradients(build_chunked_loss(spec, chunk_logits=7 * V)(inputs), inputs)
    assert plainly.numel == N * V
    assert seen.numel == 7 * V


def test_a_gradient_is_scaled_by_what_comes_after_the_loss() -> None:
    inputs = head_inputs(torch.float64)
    expected = gradients(plain(XentLoss(), inputs), inputs)
    output = build_chunked_loss(XentLoss())(inputs)
    for one, other in zip(gradients(replace(output, loss_sum=-3 * output.loss_sum), inputs), expected, strict=True):
        torch.testing.assert_close(one, -3 * other)


def test_a_head_that_is_not_trained_gets_no_gradient() -> None:
    inputs = head_inputs(torch.float64)
    expected, _ = gradients(plain(CatXentLoss(), inputs), inputs)
    frozen = replace(inputs, head=Head(inputs.head.hidden_ND, inputs.head.weight_VD.detach()))
    output = build_chunked_loss(CatXentLoss())(frozen)
    torch.autograd.backward(output.loss_sum)
    assert inputs.head.hidden_ND.grad is not None
    torch.testing.assert_close(inputs.head.hidden_ND.grad, expected)
    assert inputs.head.weight_VD.grad is None


def test_a_second_backward_pass_is_refused() -> None:
    inputs = head_inputs(torch.float32)
    output = build_chunked_loss(XentLoss())(inputs)
    torch.autograd.backward(output.loss_sum, retain_graph=True)
    with pytest.raises(RuntimeError, match="ran twice; expected once"):
        torch.autograd.backward(output.loss_sum)


@pytest.mark.parametrize("spec", [CatXentLoss(), DistLoss(divergence="jsd")], ids=name_of)
def test_no_target_tokens_give_loss_zero_and_zero_gradients(spec: LossSpec) -> None:
    inputs = head_inputs(torch.float32)
    assert inputs.teacher is not None
    nothing = replace(
        inputs, head=Head(inputs.head.hidden_ND[:0], inputs.head.weight_VD), target_ids_N=inputs.target_ids_N[:0],
        teacher=inputs.teacher.part(slice(0, 0)), injected_N=None,
    )  # fmt: skip
    output = build_chunked_loss(spec)(nothing)
    torch.autograd.backward(output.loss_sum)
    assert output.loss_sum.item() == output.num_target.item() == 0
    assert inputs.head.weight_VD.grad is not None
    assert inputs.head.weight_VD.grad.abs().max() == 0


def test_in_bfloat16_the_gradients_are_those_of_the_plain_loss_but_for_its_rounding() -> None:
    inputs, exact = head_inputs(torch.bfloat16), head_inputs(torch.float64)
    found = gradients(build_chunked_loss(XentLoss(), chunk_logits=7 * V)(inputs), inputs)
    for one, other in zip(found, gradients(plain(XentLoss(), exact), exact), strict=True):
        assert one.dtype == torch.bfloat16
        assert torch.nn.functional.cosine_similarity(one.flatten().double(), other.flatten(), dim=0) > 0.999
