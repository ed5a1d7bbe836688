"""Cascade-aware training on one GPU: the step, the loss over a large vocabulary, and trials packed into one process.

    python benchmarks/gpu.py                      benchmarks/results/gpu.json, with the card's name; some ten minutes
    python benchmarks/gpu.py --device cpu --small  the same code on small shapes, to try it; writes nothing

Needs torch, transformers, and of catsweep its sources with pydantic: no Ray, no MLflow. Where liger-kernel is installed, its
fused linear cross-entropy is measured too. Wall-clock seconds up to the end of the device's work, in pairs; memory is the peak
that torch's allocator counts above what was there before.
"""

from __future__ import annotations

import argparse
import copy
import functools
import importlib.util
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.nn import functional
from transformers import AutoModelForCausalLM, LlamaConfig

HERE = Path(__file__).parent
sys.path += [str(HERE / "speed"), str(HERE.parent)]

from measure import Row, paired, row, write  # noqa: E402

from catsweep.losses import build_chunked_loss, build_loss  # noqa: E402
from catsweep.models import TargetLogits  # noqa: E402
from catsweep.spec.training import CatXentLoss, LossSpec, XentLoss  # noqa: E402
from catsweep.tensors import Batch, Head, HeadInputs, LossInputs, TeacherSignal  # noqa: E402

CAT, XENT = CatXentLoss(), XentLoss()
CHUNKED_ABOVE = 2**24
"""As catsweep.train.CHUNKED_ABOVE, which this file could import only with pyarrow."""


@dataclass(frozen=True)
class StepCase:
    """Shapes of one training step. small, large: width, layers, heads."""

    what: str
    small: tuple[int, int, int]
    large: tuple[int, int, int]
    prompt: int
    target: int
    batch_size: int
    vocabulary: int = 32_000


@dataclass(frozen=True)
class LossCase:
    """Target tokens, width of the hidden states, vocabulary."""

    num_tokens: int
    width: int
    vocabulary: int


@dataclass(frozen=True)
class PackCase:
    """Trials of one model (width, layers, heads), all at once. tokens: of an example, half of them targets."""

    what: str
    shape: tuple[int, int, int]
    vocabulary: int
    batch_size: int
    tokens: int
    num_trials: tuple[int, ...]


STEPS = [
    StepCase("decoder 12 M / 50 M, 160/8 tokens", (256, 4, 4), (512, 8, 8), 160, 8, 64),
    StepCase("decoder 0.2 B / 1.3 B, 512/32 tokens", (1024, 12, 16), (2048, 24, 16), 512, 32, 16),
    StepCase("decoder 0.2 B / 1.3 B, all targets, 8/512 tokens", (1024, 12, 16), (2048, 24, 16), 8, 512, 16),
]
LOSSES = [LossCase(4_096, 256, 128_000), LossCase(8_192, 2_048, 128_000)]
PACKS = [
    PackCase("22 k weights", (32, 2, 2), 48, 32, 24, (4, 16, 64)),
    PackCase("12 M weights", (256, 4, 4), 32_000, 8, 168, (4, 16)),
]
SMALL_STEPS = [StepCase("decoder, small", (32, 2, 2), (64, 2, 2), 12, 4, 4, 200)]
SMALL_LOSSES = [LossCase(64, 32, 1_000)]
SMALL_PACKS = [PackCase("small", (32, 2, 2), 48, 8, 12, (2, 3))]


def llama(shape: tuple[int, int, int], vocabulary: int) -> LlamaConfig:
    """A decoder with tied embeddings."""
    width, layers, heads = shape
    return LlamaConfig(
        vocab_size=vocabulary, hidden_size=width, intermediate_size=4 * width, num_hidden_layers=layers,
        num_attention_heads=heads, tie_word_embeddings=True, pad_token_id=0, eos_token_id=1, bos_token_id=None,
    )  # fmt: skip


def make_model(shape: tuple[int, int, int], vocabulary: int, device: torch.device) -> Any:
    """A model of random weights."""
    with device:
        return AutoModelForCausalLM.from_config(llama(shape, vocabulary), dtype=torch.float32)


def make_signal(target_ids_N: Tensor) -> TeacherSignal:
    """A large model that has seven of ten targets right."""
    rank_N = (torch.rand(len(target_ids_N), device=target_ids_N.device) < 0.3).long()
    return TeacherSignal(rank_N, -rank_N.float())


def make_batch(ids_BS: Tensor, prompt: int) -> Batch:
    """Examples of equal length, so that nothing is padded: the tokens behind the prompt are targets."""
    num_rows, width = ids_BS.shape
    places_BT = torch.arange(num_rows, device=ids_BS.device)[:, None] * width + torch.arange(
        prompt - 1, width - 1, device=ids_BS.device
    )
    target_ids_N = ids_BS[:, prompt:].flatten()
    mask_BS = torch.ones_like(ids_BS)
    return Batch(ids_BS, mask_BS, places_BT.flatten(), target_ids_N, teacher=make_signal(target_ids_N))


def target_logits(model: Any, batch: Batch) -> TargetLogits:
    """The model as catsweep trains it."""
    module = TargetLogits(model)
    module.choose_path(batch)
    return module


def cat_loss(module: TargetLogits, batch: Batch, spec: LossSpec) -> Tensor:
    """The sum of a batch's loss as catsweep.train.BatchLoss makes it: in chunks where there are many logits."""
    generator, head = torch.Generator(), module.plain_head
    assert head is not None
    known = (batch.target_ids_N, batch.teacher, generator)
    if len(batch.target_ids_N) * len(head.weight) <= CHUNKED_ABOVE:
        return build_loss(spec)(LossInputs(module(batch), *known)).loss_sum
    hidden_ND, weight_VD = module(batch, head=False), head.weight
    if torch.is_autocast_enabled(weight_VD.device.type):
        hidden_ND, weight_VD = hidden_ND.bfloat16(), weight_VD.bfloat16()
    return build_chunked_loss(spec)(HeadInputs(Head(hidden_ND, weight_VD), *known)).loss_sum


def measure_step(case: StepCase, device: torch.device, repeats: int) -> list[Row]:
    """Our step beside the model's own loss, and beside a script with the large model in the loop; bfloat16 autocast."""
    torch.manual_seed(0)
    start = make_model(case.small, case.vocabulary, device)
    large = make_model(case.large, case.vocabulary, device).eval()
    ids_BS = torch.randint(3, case.vocabulary, (case.batch_size, case.prompt + case.target), device=device)
    batch = make_batch(ids_BS, case.prompt)
    labels_BS = ids_BS.masked_fill(torch.arange(ids_BS.shape[1], device=device) < case.prompt, -100)
    half = functools.partial(torch.autocast, device.type, torch.bfloat16)

    def stepping(model: Any, loss_of: Callable[[], Tensor]) -> Callable[[], None]:
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)

        def step() -> None:
            with half():
                loss = loss_of()
            torch.autograd.backward(loss / len(batch.target_ids_N))
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            wait(device)

        return step

    module = target_logits(copy.deepcopy(start), batch)
    plain_model, script = copy.deepcopy(start), copy.deepcopy(start)

    def plain() -> Tensor:
        return plain_model(ids_BS, batch.attention_mask_BS, labels=labels_BS, use_cache=False).loss * len(
            batch.target_ids_N
        )  # type: ignore[no-any-return]

    def in_loop() -> Tensor:
        with torch.no_grad():
            theirs = large(ids_BS, batch.attention_mask_BS, use_cache=False).logits[:, :-1].argmax(-1)
        logits, labels = (
            script(ids_BS, batch.attention_mask_BS, use_cache=False).logits[:, :-1].float(),
            labels_BS[:, 1:],
        )
        kept = (labels != -100) & ((logits.argmax(-1) == labels) | (theirs == labels))
        return (functional.cross_entropy(logits.transpose(1, 2), labels, reduction="none") * kept).sum()

    ours = stepping(module.model, lambda: cat_loss(module, batch, CAT))
    peers = {
        "the model's own loss": stepping(plain_model, plain),
        "script with the large model in the loop": stepping(script, in_loop),
    }
    return [
        row(case.what, paired(ours, peer, repeats=repeats), peer_name=name, target="", unit="ms a step", scale=1e3)
        for name, peer in peers.items()
    ]


def measure_loss(case: LossCase, device: torch.device, repeats: int) -> list[Row]:
    """Loss and gradients from hidden states and head, in bfloat16: seconds and peak memory of every path."""
    torch.manual_seed(0)
    dtype = torch.bfloat16
    hidden_ND = torch.randn(case.num_tokens, case.width, device=device, dtype=dtype, requires_grad=True)
    weight_VD = (0.02 * torch.randn(case.vocabulary, case.width, device=device, dtype=dtype)).requires_grad_()
    target_ids_N = torch.randint(0, case.vocabulary, (case.num_tokens,), device=device)
    signal = make_signal(target_ids_N)
    known = (target_ids_N, signal, torch.Generator())

    def chunked(spec: LossSpec) -> Tensor:
        return build_chunked_loss(spec)(HeadInputs(Head(hidden_ND, weight_VD), *known)).loss_sum

    def whole(spec: LossSpec) -> Tensor:
        return build_loss(spec)(LossInputs((hidden_ND @ weight_VD.T).float(), *known)).loss_sum

    def run(loss_of: Callable[[], Tensor]) -> Callable[[], None]:
        def call() -> None:
            hidden_ND.grad = weight_VD.grad = None
            torch.autograd.backward(loss_of())
            wait(device)

        return call

    pairs = {
        ("cat_xent", "the plain loss on all logits"): (lambda: chunked(CAT), lambda: whole(CAT)),
        ("xent", "the plain loss on all logits"): (lambda: chunked(XENT), lambda: whole(XENT)),
        **{("cat_xent", f"{name} (xent)"): (lambda: chunked(CAT), peer) for name, peer in fused_peers(
            hidden_ND, weight_VD, target_ids_N)},
    }  # fmt: skip
    rows = []
    for (loss, name), (mine, theirs) in pairs.items():
        what = f"{loss}, {case.num_tokens} targets, width {case.width}, V = {case.vocabulary}"
        seconds = paired(run(mine), run(theirs), repeats=repeats)
        rows.append(row(f"{what}: loss and gradients", seconds, peer_name=name, target="", unit="ms", scale=1e3))
        if device.type == "cuda":
            mib = []
            for path in (mine, theirs):
                hidden_ND.grad = weight_VD.grad = None
                mib.append([peak_bytes(run(path)) / 2**20])
            rows.append(row(f"{what}: peak memory", (mib[0], mib[1]), peer_name=name, target="", unit="MiB"))
    return rows


def fused_peers(
    hidden_ND: Tensor, weight_VD: Tensor, target_ids_N: Tensor
) -> Iterator[tuple[str, Callable[[], Tensor]]]:
    """Other people's fused linear cross-entropies that this machine has. They give no alpha: their loss is xent."""
    if hasattr(functional, "linear_cross_entropy"):
        yield (
            "torch.nn.functional.linear_cross_entropy",
            lambda: functional.linear_cross_entropy(hidden_ND, weight_VD, target_ids_N, reduction="sum"),
        )
    if importlib.util.find_spec("liger_kernel") and hidden_ND.is_cuda:
        from liger_kernel.transformers import LigerFusedLinearCrossEntropyLoss

        liger = LigerFusedLinearCrossEntropyLoss(reduction="sum")
        yield "Liger's fused linear cross-entropy", lambda: liger(weight_VD, hidden_ND, target_ids_N)


class Pack:
    """K trials of one shape, each weight of all of them a leaf (K, ...), with one AdamW."""

    def __init__(self, models: list[Any], ids_KBS: Tensor, prompt: int) -> None:
        self.base = models[0].base_model
        self.base.set_attn_implementation("eager")
        self.leaves = {
            name: torch.stack([dict(model.named_parameters())[name].detach() for model in models]).requires_grad_()
            for name, _ in models[0].named_parameters()
        }
        self.ids_KBS, self.prompt = ids_KBS, prompt
        self.target_ids_N = ids_KBS[:, :, prompt:].flatten()
        width = ids_KBS.shape[2]
        self.mask_11SS = torch.full((width, width), -torch.inf, device=ids_KBS.device).triu(1)[None, None]
        self.optimizer = torch.optim.AdamW(self.leaves.values(), lr=1e-3, fused=True)

    def loss(self, signal: TeacherSignal) -> Tensor:
        """The sum of all trials' losses. The weights of one have no part in another's, so neither have the gradients."""
        body = {name.removeprefix("model."): leaf for name, leaf in self.leaves.items() if name != "lm_head.weight"}

        def hidden(weights: dict[str, Tensor], ids_BS: Tensor) -> Tensor:
            mask = self.mask_11SS.expand(len(ids_BS), -1, -1, -1)
            positions = torch.arange(ids_BS.shape[1], device=ids_BS.device)[None]
            settings = {"input_ids": ids_BS, "attention_mask": mask, "position_ids": positions, "use_cache": False}
            return functional_call(self.base, weights, (), settings).last_hidden_state  # type: ignore[no-any-return]

        hidden_KBSD = vmap(hidden)(body, self.ids_KBS)[:, :, self.prompt - 1 : -1]
        head_KVD = self.leaves.get("lm_head.weight", self.leaves["model.embed_tokens.weight"])
        logits_KMV = torch.bmm(hidden_KBSD.flatten(1, 2), head_KVD.mT)
        inputs = LossInputs(logits_KMV.flatten(0, 1), self.target_ids_N, signal, torch.Generator())
        return build_loss(CAT)(inputs).loss_sum

    def step(self, signal: TeacherSignal) -> None:
        """One step of all trials."""
        torch.autograd.backward(self.loss(signal))
        self.optimizer.step()
        self.optimizer.zero_grad()


def measure_pack(case: PackCase, num_trials: int, device: torch.device, repeats: int) -> Row:
    """A trial's step, several trials at once and the same trials one after another; float32."""
    torch.manual_seed(0)
    models = [make_model(case.shape, case.vocabulary, device) for _ in range(num_trials)]
    shape = (num_trials, case.batch_size, case.tokens)
    ids_KBS = torch.randint(3, case.vocabulary, shape, device=device)
    prompt = case.tokens // 2
    pack = Pack(copy.deepcopy(models), ids_KBS, prompt)
    signal = make_signal(pack.target_ids_N)
    parts = [
        TeacherSignal(rank_N, logprob_N)
        for rank_N, logprob_N in zip(signal.rank_N.chunk(num_trials), signal.logprob_N.chunk(num_trials), strict=True)
    ]
    alone = []
    for model, ids_BS, part in zip(models, ids_KBS, parts, strict=True):
        batch = replace(make_batch(ids_BS, prompt), teacher=part)
        module = target_logits(model, batch)
        alone.append((module, batch, torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)))
    with torch.no_grad():
        together = pack.loss(signal).item()
        one_by_one = sum(cat_loss(module, own, CAT).item() for module, own, _ in alone)
    assert abs(together - one_by_one) < 1e-3 * abs(one_by_one), (together, one_by_one)

    def packed() -> None:
        pack.step(signal)
        wait(device)

    def solo() -> None:
        for module, own, optimizer in alone:
            torch.autograd.backward(cat_loss(module, own, CAT))
            optimizer.step()
            optimizer.zero_grad()
        wait(device)

    what = f"a trial's step, {case.what}, {num_trials} at once"
    target = "at least 10x below 30 M" if num_trials == max(case.num_trials) else ""
    return row(
        what, paired(packed, solo, repeats=repeats), peer_name="the same trials one after another", target=target,
        unit="ms", scale=1e3 / num_trials,
    )  # fmt: skip


def wait(device: torch.device) -> None:
    """Until the device has done all that it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def peak_bytes(call: Callable[[], None]) -> int:
    """Of the GPU's memory, above what was there before; what the call leaves there, such as gradients, counts."""
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    call()
    return torch.cuda.max_memory_allocated() - before


@contextmanager
def timed(what: str) -> Iterator[None]:
    """Say how long a part took."""
    start = time.perf_counter()
    yield
    print(f"{what}: {time.perf_counter() - start:.0f} s", flush=True)


def main() -> None:
    """Measure all parts and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda", help="where to run")
    parser.add_argument("--small", action="store_true", help="small shapes; nothing is written")
    parser.add_argument("--repeats", type=int, default=7, help="pairs of each measurement")
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        parser.error("this machine has no GPU that torch can use; --device cpu --small tries the code without one")
    if device.type == "cpu" and not arguments.small:
        parser.error("on a CPU only --small runs; what is written are a card's figures")
    steps, losses, packs = (SMALL_STEPS, SMALL_LOSSES, SMALL_PACKS) if arguments.small else (STEPS, LOSSES, PACKS)
    rows: list[Row] = []
    with timed("steps"):
        rows += [item for case in steps for item in measure_step(case, device, arguments.repeats)]
    with timed("losses"):
        rows += [item for case in losses for item in measure_loss(case, device, arguments.repeats)]
    with timed("packs"):
        rows += [measure_pack(case, count, device, arguments.repeats) for case in packs for count in case.num_trials]
    for item in rows:
        print(
            f"{item.what} | {item.ours:.4g} | {item.peer:.4g} {item.unit} | {sorted(item.ratios)[len(item.ratios) // 2]:.3g}"
        )
    if not arguments.small:
        write("gpu", rows, "python benchmarks/gpu.py")


if __name__ == "__main__":
    main()
