"""Several trials of a stratum trained at once on stacked weights, beside each on its own: `python benchmarks/speed/packed.py`.

A prototype: nothing in catsweep trains this way. Trials of search_spaces/study.yaml's shape (its small model, cat_xent, batches
of 32 examples with some 23 tokens each) differ in learning rate and in seed, so in start weights and batches. Solo is the loop
of catsweep.train. Two packs:

    stacked   a llama's forward pass written over a leading axis of trials: one bmm for each matrix of all trials
    vmap      torch.func.functional_call of transformers' own model, mapped over the trials, with eager attention

Both keep all trials' weights, gradients and moments in one tensor each. `same batches` is a pack of one seed's learning rates:
tokens, masks and the large model's signal are taken once. CPU seconds of one thread for a step of one trial.

K  trials of a pack     P  weights of a trial      T  tokens of a trial's batch, in R rows of W tokens
N  target tokens of all trials, behind one another           D, V  width and vocabulary
"""

from __future__ import annotations

import argparse
import copy
import math
import statistics
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from measure import Row, paired, row, write
from torch import Tensor
from torch.func import functional_call, vmap
from torch.nn import functional

from catsweep.data import Tokens, TokenSplit, ranges
from catsweep.losses.build import small_opinion, token_terms, token_weights
from catsweep.models import TargetLogits, build_model
from catsweep.packing import _fill, pack_rows
from catsweep.spec.load import load_sweep
from catsweep.spec.model import CharTokenizer
from catsweep.spec.training import CatXentLoss, TrainingSpec
from catsweep.tensors import LossInputs, TeacherSignal
from catsweep.tokenization import make_tokenizer
from catsweep.train import TrainingData, learning_rate, readable, train
from catsweep.workers import current_workers

RATES = (5e-3, 1e-2, 1.5e-2, 2.5e-2)
LETTERS = "abcdefghijklmnopqrstuvwxyzäöüßéèáíóú =:,.-'"
STUDY = Path(__file__).parents[2] / "search_spaces" / "study.yaml"


@dataclass(frozen=True)
class Trial:
    """What tells the trials of a pack apart. model: as its seed made it."""

    seed: int
    spec: TrainingSpec
    model: TargetLogits


def make_data(num: int = 4_000) -> tuple[TrainingData, Any]:
    """Random examples of the study's lengths (mean of 13 + 11 tokens, standard deviation 5) with a random signal, right on
    seven of ten targets; and a tokeniser."""
    tokenizer = make_tokenizer(CharTokenizer(), [LETTERS])
    draw = np.random.default_rng(0)

    def lists(mean: float) -> Tokens:
        sizes = np.maximum(2, np.round(draw.normal(mean, 3.5, num))).astype(np.int64)
        return Tokens(draw.integers(3, len(tokenizer), sizes.sum()).astype(np.int32), np.cumsum([0, *sizes]))

    empty = Tokens(np.empty(0, np.int32), np.zeros(1, np.int64))
    split = TokenSplit(lists(13), lists(11), empty, np.zeros(num + 1, np.int64))
    rank = torch.from_numpy((draw.random(len(split.targets.ids)) < 0.3).astype(np.uint8))
    return TrainingData(split, TeacherSignal(rank, -rank.float()), "decoder", 0, None), tokenizer


def make_trials(data: TrainingData, tokenizer: Any, num: int, *, steps: int, same: bool) -> list[Trial]:
    """Trials with the study's learning rates. same: of one seed; else each has its own."""
    small = load_sweep(STUDY).spec.small
    spec = TrainingSpec(steps=steps, batch_size=32, warmup_share=0.1, loss=CatXentLoss())
    trials = []
    for number in range(num):
        seed = 0 if same else number
        module = TargetLogits(build_model(small, tokenizer, seed=seed))
        assert module.choose_path(data.batch(np.arange(4)))
        trials.append(Trial(seed, spec.model_copy(update={"learning_rate": RATES[number % len(RATES)]}), module))
    return trials


def train_solo(trial: Trial, data: TrainingData) -> TargetLogits:
    """The trial as catsweep trains it. Returns the trained model; the trial's own stays as it is."""
    module = copy.deepcopy(trial.model)
    train(
        module, data.packed_for(module), trial.spec, seed=trial.seed, workers=current_workers(), evaluate_at=[],
        on_evaluation=lambda step: None,
    )  # fmt: skip
    return module


class Stack:
    """K models of one shape: all their weights in one tensor, all gradients in another; each weight of the K models is a
    leaf (K, ...) that looks into both. Each trial is a row, and has a fused AdamW of its own."""

    def __init__(self, trials: Sequence[Trial]) -> None:
        self.trials = trials
        models = [trial.model.model for trial in trials]
        self.config = models[0].config
        self.shapes = {name: value.shape for name, value in models[0].named_parameters()}
        rows = [torch.cat([value.detach().reshape(-1) for value in model.parameters()]) for model in models]
        self.flat_KP = torch.stack(rows)
        self.grad_KP = torch.zeros_like(self.flat_KP)
        self.leaves = dict(self._leaves())
        rows = []
        for number in range(len(trials)):
            row = self.flat_KP[number].requires_grad_()
            row.grad = self.grad_KP[number]
            rows.append({"params": [row]})
        self.optimizer = torch.optim.AdamW(rows, weight_decay=trials[0].spec.weight_decay, fused=True)

    def _leaves(self) -> Iterator[tuple[str, Tensor]]:
        start = 0
        for name, shape in self.shapes.items():
            part = slice(start, start + shape.numel())
            leaf = self.flat_KP[:, part].view(-1, *shape).detach().requires_grad_()
            leaf.grad = self.grad_KP[:, part].view(-1, *shape)
            yield name, leaf
            start += shape.numel()

    def weights(self, number: int) -> dict[str, Tensor]:
        """Those of one trial."""
        return {name: leaf[number].detach() for name, leaf in self.leaves.items()}

    def update(self, counts_K: Tensor, step: int) -> Tensor:
        """Scale each trial's gradient, clip it and step; returns the norms. counts_K: tokens that a trial's sum is divided
        by. As catsweep.train._step does it for one trial."""
        spec = self.trials[0].spec
        self.grad_KP /= counts_K[:, None]
        norms_K = torch.linalg.vector_norm(self.grad_KP, dim=1)
        self.grad_KP *= ((spec.max_grad_norm or math.inf) / (norms_K + 1e-6)).clamp(max=1.0)[:, None]
        for trial, group in zip(self.trials, self.optimizer.param_groups, strict=True):
            group["lr"] = learning_rate(trial.spec, step)
        self.optimizer.step()
        self.grad_KP.zero_()
        return norms_K


@dataclass(frozen=True)
class PackedBatch:
    """The micro-batches of all trials. A leading axis of K is 1 where they are the same.

    places_KM: of each trial's targets among its T tokens, filled up with 0 to the longest trial's. is_target_KM: which are some.
    mask_KRWW: what is added to attention scores. teacher and target ids: of the N = K * M targets that are some.
    """

    ids_KT: Tensor
    positions_KT: Tensor
    mask_KRWW: Tensor
    places_KM: Tensor
    is_target_KM: Tensor
    target_ids_N: Tensor
    teacher: TeacherSignal
    owner_N: Tensor


def packed_batch(data: TrainingData, indices: Sequence[np.ndarray], num_trials: int) -> PackedBatch:
    """The examples `indices` of each trial, several to a row, with as many rows of one width for all trials. One list of
    indices: all trials have the same."""
    tokens = data.tokens
    texts = [[np.concatenate([tokens.prompts[i], tokens.targets[i][:-1]]) for i in own] for own in indices]
    lengths = [[len(text) for text in own] for own in texts]
    num_rows = len(pack_rows(lengths[0]) or lengths[0])
    fills = [_fill(own, sorted(range(len(own)), key=lambda i: -own[i]), num_rows) for own in lengths]
    width = max(longest for _, longest in fills)
    ids = np.full((len(indices), num_rows, width), data.pad_id, dtype=np.int64)
    positions, example = np.zeros_like(ids), np.full_like(ids, -1)
    first = [np.empty(len(own), dtype=np.int64) for own in indices]
    for trial, (rows, _) in enumerate(fills):
        for number, members in enumerate(rows):
            start = 0
            for index in members:
                end = start + len(texts[trial][index])
                ids[trial, number, start:end] = texts[trial][index]
                positions[trial, number, start:end] = np.arange(end - start)
                example[trial, number, start:end] = index
                first[trial][index] = number * width + start + len(tokens.prompts[indices[trial][index]]) - 1
                start = end
    example_KRW = torch.from_numpy(example)
    seen_KRWW = (example_KRW[..., :, None] == example_KRW[..., None, :]).tril()
    mask_KRWW = torch.zeros(seen_KRWW.shape).masked_fill_(~seen_KRWW, -torch.inf)
    places = [torch.from_numpy(ranges(f, tokens.targets.lengths[own])) for f, own in zip(first, indices, strict=True)]
    flat = torch.from_numpy(np.concatenate([tokens.target_places(own) for own in indices]))
    target_ids = torch.from_numpy(np.concatenate([tokens.targets[i] for own in indices for i in own]).astype(np.int64))
    assert data.teacher is not None
    rank_N, logprob_N = data.teacher.rank_N[flat].long(), data.teacher.logprob_N[flat].float()
    owner = torch.repeat_interleave(torch.arange(len(indices)), torch.tensor([len(own) for own in places]))
    if len(indices) < num_trials:
        owner = torch.arange(num_trials).repeat_interleave(len(flat))
        target_ids, rank_N, logprob_N = (value.repeat(num_trials) for value in (target_ids, rank_N, logprob_N))
    places_KM = torch.nn.utils.rnn.pad_sequence(places, batch_first=True, padding_value=-1)
    return PackedBatch(
        torch.from_numpy(ids).flatten(1), torch.from_numpy(positions).flatten(1), mask_KRWW, places_KM.clamp(min=0),
        places_KM >= 0, target_ids, TeacherSignal(rank_N, logprob_N), owner,
    )  # fmt: skip


Forward = Callable[[Stack, PackedBatch], Tensor]
"""Weights and batch -> hidden states (K, T, D) that the head sees."""


def stacked_hidden(stack: Stack, batch: PackedBatch) -> Tensor:
    """A llama's hidden states, all trials at once. Scales of the norms are multiplied into the matrices behind them."""
    config, leaves, num_trials = stack.config, stack.leaves, len(stack.trials)
    heads, size = config.num_attention_heads, config.hidden_size // config.num_attention_heads
    assert config.num_key_value_heads == heads
    norm = partial(functional.rms_norm, normalized_shape=(config.hidden_size,), eps=config.rms_norm_eps)
    cos_KT11E, sin_KT11E = rotations(config, batch.positions_KT)
    embedded_KVD = leaves["model.embed_tokens.weight"]
    offsets_K1 = torch.arange(num_trials)[:, None] * embedded_KVD.shape[1]
    x_KTD = functional.embedding(batch.ids_KT + offsets_K1, embedded_KVD.flatten(0, 1))
    width = batch.mask_KRWW.shape[-1]
    mask_B1WW = batch.mask_KRWW.expand(num_trials, -1, -1, -1).reshape(-1, 1, width, width).to(x_KTD.dtype)
    for number in range(config.num_hidden_layers):
        layer = {name.split(f"layers.{number}.")[1]: leaf for name, leaf in leaves.items() if f".{number}." in name}
        scale_K1D = layer["input_layernorm.weight"][:, None]
        matrix_KOD = torch.cat([layer[f"self_attn.{one}_proj.weight"] for one in "qkv"], 1) * scale_K1D
        qkv_KT3HE = torch.bmm(norm(x_KTD), matrix_KOD.mT).view(*x_KTD.shape[:2], 3, heads, size)
        both_KT2HE = qkv_KT3HE[:, :, :2]
        turned_KT2HE = torch.addcmul(both_KT2HE * cos_KT11E, both_KT2HE.roll(size // 2, -1), sin_KT11E)
        q_BHWE, k_BHWE = turned_KT2HE.view(-1, width, 2, heads, size).permute(2, 0, 3, 1, 4)
        v_BHWE = qkv_KT3HE[:, :, 2].view(-1, width, heads, size).transpose(1, 2)
        seen_BHWE = functional.scaled_dot_product_attention(q_BHWE, k_BHWE, v_BHWE, mask_B1WW)
        seen_KTD = seen_BHWE.transpose(1, 2).reshape(x_KTD.shape)
        x_KTD = torch.baddbmm(x_KTD, seen_KTD, layer["self_attn.o_proj.weight"].mT)
        scale_K1D = layer["post_attention_layernorm.weight"][:, None]
        matrix_KOD = torch.cat([layer[f"mlp.{one}_proj.weight"] for one in ("gate", "up")], 1) * scale_K1D
        gate_KTI, up_KTI = torch.bmm(norm(x_KTD), matrix_KOD.mT).chunk(2, -1)
        x_KTD = torch.baddbmm(x_KTD, functional.silu(gate_KTI) * up_KTI, layer["mlp.down_proj.weight"].mT)
    return norm(x_KTD) * leaves["model.norm.weight"][:, None]


def rotations(config: Any, positions_KT: Tensor) -> tuple[Tensor, Tensor]:
    """Cosines and signed sines of rotary positions (K, T, 1, 1, E): x * cos + roll(x, E / 2) * sin is the turned x."""
    size = config.hidden_size // config.num_attention_heads
    frequency_E = config.rope_parameters["rope_theta"] ** (-torch.arange(0, size, 2).float() / size)
    angle_WE = torch.arange(int(positions_KT.max()) + 1)[:, None] * frequency_E.repeat(2)
    sign_E = torch.ones(size)
    sign_E[: size // 2] = -1
    return tuple(table[positions_KT][:, :, None, None] for table in (angle_WE.cos(), angle_WE.sin() * sign_E))


def mapped_hidden(stack: Stack, batch: PackedBatch) -> Tensor:
    """The same from transformers' own forward pass, mapped over the trials."""
    base = stack.trials[0].model.model.base_model
    base.set_attn_implementation("eager")
    _, num_rows, width, _ = batch.mask_KRWW.shape

    def one(weights: dict[str, Tensor], ids_T: Tensor, positions_T: Tensor, mask_RWW: Tensor) -> Tensor:
        arguments = {
            "input_ids": ids_T.view(num_rows, width), "position_ids": positions_T.view(num_rows, width),
            "attention_mask": mask_RWW[:, None], "use_cache": False,
        }  # fmt: skip
        return functional_call(base, weights, (), arguments).last_hidden_state.flatten(0, 1)

    own = 0 if len(batch.ids_KT) == len(stack.trials) else None
    values = (batch.ids_KT, batch.positions_KT, batch.mask_KRWW)
    values = values if own == 0 else tuple(value[0] for value in values)
    weights = {name.removeprefix("model."): leaf for name, leaf in stack.leaves.items() if name != "lm_head.weight"}
    return vmap(one, in_dims=(0, own, own, own))(weights, *values)


def train_packed(stack: Stack, data: TrainingData, forward: Forward, *, same: bool = False) -> list[dict[str, float]]:
    """All trials of a stack, in place. Returns each trial's metrics of the last step. same: they have one seed."""
    trials = stack.trials
    orders = [data.order(trial.spec.batch_size, trial.seed) for trial in (trials[:1] if same else trials)]
    metrics: list[dict[str, float]] = []
    for step in range(1, trials[0].spec.steps + 1):
        batch = packed_batch(data, [order.batch(step - 1) for order in orders], len(trials))
        sums_XK, names = backward(stack, batch, forward, step)
        counts_K = sums_XK[names.index("target")]
        norms_K = stack.update(counts_K, step)
        columns = torch.cat([sums_XK, norms_K[None], counts_K[None]]).T.tolist()
        keys = [*names, "grad_norm", "denominator"]
        metrics = [
            readable(dict(zip(keys, column, strict=True)), trial.spec, step)
            for trial, column in zip(trials, columns, strict=True)
        ]
    return metrics


def backward(stack: Stack, batch: PackedBatch, forward: Forward, step: int) -> tuple[Tensor, list[str]]:
    """Gradients of each trial's sum of losses into the stack, and the sums of each trial, with their names. The loss is
    catsweep's, over the tokens of all trials: no filter that compares tokens."""
    spec = stack.trials[0].spec
    hidden_KTD = forward(stack, batch)
    places_KM1 = batch.places_KM[:, :, None].expand(len(stack.trials), -1, hidden_KTD.shape[2])
    head_KVD = stack.leaves["lm_head.weight"]
    logits_KMV = torch.bmm(hidden_KTD.gather(1, places_KM1), head_KVD.mT)
    logits_NV = logits_KMV[batch.is_target_KM.expand(len(stack.trials), -1)].float()  # as TargetLogits gives them
    inputs = LossInputs(logits_NV, batch.target_ids_N, batch.teacher, torch.Generator(), step, spec.steps)
    logsumexp_N = torch.logsumexp(logits_NV, 1)
    opinion = small_opinion(spec.loss, logits_NV, batch.target_ids_N, logsumexp_N)
    alpha_N = token_weights(spec.loss, inputs, opinion)
    terms_N = alpha_N * token_terms(spec.loss, inputs, logsumexp_N, opinion.right_N)
    terms_N.sum().backward()
    large_N, small_N = batch.teacher.rank_N == 0, opinion.right_N
    values = {
        "loss": terms_N.detach(), "target": torch.ones_like(alpha_N), "kept": alpha_N, "quadrant/both": small_N & large_N,
        "quadrant/only_small": small_N & ~large_N, "quadrant/only_large": large_N & ~small_N,
        "quadrant/neither": ~small_N & ~large_N,
    }  # fmt: skip
    stacked_XN = torch.stack([value.float() for value in values.values()])
    sums_XK = torch.zeros(len(values), len(stack.trials)).index_add_(1, batch.owner_N, stacked_XN)
    return sums_XK, list(values)


def largest_difference(num_trials: int, steps: int, forward: Forward, *, same: bool) -> float:
    """The largest difference of any weight between a trial in a pack and the same trial alone, in parts of the largest
    change of that trial's weights."""
    data, tokenizer = make_data()
    trials = make_trials(data, tokenizer, num_trials, steps=steps, same=same)
    stack = Stack(trials)
    train_packed(stack, data, forward, same=same)
    found = []
    for number, trial in enumerate(trials):
        solo, start = dict(train_solo(trial, data).model.named_parameters()), dict(trial.model.model.named_parameters())
        weights = stack.weights(number)
        change = max((solo[name] - start[name]).abs().max().item() for name in weights)
        found.append(max((solo[name] - weights[name]).abs().max().item() for name in weights) / change)
    return max(found)


def measure(num_trials: int, forward: Forward, *, same: bool, steps: int, repeats: int) -> Row:
    """Milliseconds of a trial's step: in a pack, and alone. Alone at most four trials run, one after another."""
    data, tokenizer = make_data()
    trials = make_trials(data, tokenizer, num_trials, steps=steps, same=same)
    alone = [replace(trial) for trial in trials[:4]]

    def packed() -> None:
        train_packed(Stack(trials), data, forward, same=same)

    def solo() -> None:
        for trial in alone:
            train_solo(trial, data)

    ours, peer = paired(packed, solo, repeats=repeats, clock=time.process_time)
    scale = 1e3 / steps
    seconds = [value * scale / num_trials for value in ours], [value * scale / len(alone) for value in peer]
    name = "hand-stacked" if forward is stacked_hidden else "vmap, eager attention"
    what = f"a trial's step, {name}, {num_trials} at once, {'same' if same else 'own'} batches"
    note = "CPU seconds of one thread; the batches' making and the log are in"
    return row(
        what, seconds, peer_name="the same trials one after another", target="1.5 to pay on CPU", unit="ms", note=note
    )


def solo_rows(repeats: int) -> list[Row]:
    """What cheap changes would give a solo step: each is the peer, so a ratio below 1 is what it would gain."""
    data, tokenizer = make_data()
    (trial,) = make_trials(data, tokenizer, 1, steps=1, same=True)
    parameters = list(trial.model.parameters())
    for parameter in parameters:
        parameter.grad = torch.randn_like(parameter)
    flat = torch.cat([parameter.detach().reshape(-1) for parameter in parameters]).requires_grad_()
    flat.grad = torch.randn_like(flat)

    def update(own: list[Tensor], **kind: bool) -> Callable[[], None]:
        optimizer = torch.optim.AdamW(own, lr=1e-3, weight_decay=0.0, **kind)

        def run() -> None:
            for _ in range(100):
                torch._foreach_mul_([one.grad for one in own], torch.tensor(1.0))
                torch.nn.utils.clip_grad_norm_(own, 1.0)
                optimizer.step()

        return run

    base, order = trial.model.model.base_model.train(), data.order(32, 0)
    indices = order.batch(0)
    theirs, ours = data.packed_for(trial.model).batch(indices), packed_batch(data, [indices], 1)
    ids = {"input_ids": theirs.input_ids_BS, "position_ids": theirs.position_ids_BS}

    def pass_over(mask: Tensor | None) -> None:
        for _ in range(5):
            base(**ids, attention_mask=mask, use_cache=False).last_hidden_state.sum().backward()

    def against(peer: Callable[[], None], mine: Callable[[], None], what: str, name: str, scale: float) -> Row:
        seconds = paired(mine, peer, repeats=repeats, clock=time.process_time)
        return row(what, seconds, peer_name=name, target="", unit="ms", scale=scale)

    fused, what = update(parameters, fused=True), "scaling, clipping and AdamW of a solo step"
    given = partial(pass_over, ours.mask_KRWW[0][:, None])
    return [
        against(update(parameters, foreach=True), fused, what, "foreach", 10),
        against(update(parameters, foreach=False), fused, what, "one weight at a time", 10),
        against(update([flat], fused=True), fused, what, "fused, all weights in one tensor", 10),
        against(
            given, partial(pass_over, None), "transformers' passes of a solo step", "a mask that was made before", 200
        ),
    ]


def main() -> None:
    """Compare, measure and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=8, help="of each timing")
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", message="grad and param do not obey")  # a row's stride is all trials' weights
    rows = []
    for forward in (stacked_hidden, mapped_hidden):
        for same in (False, True):
            for num_trials in (1, 4, 8, 16):
                if forward is mapped_hidden and (same or num_trials in (1, 8)):
                    continue
                timing = {"steps": arguments.steps, "repeats": arguments.repeats}
                rows.append(measure(num_trials, forward, same=same, **timing))
                item = rows[-1]
                print(
                    item.what, round(item.ours, 2), round(item.peer, 2), [round(r, 2) for r in item.ratios], flush=True
                )
    rows += solo_rows(3 * arguments.repeats)
    for item in rows[-4:]:
        print(
            item.what,
            item.peer_name,
            round(item.ours, 3),
            round(item.peer, 3),
            round(statistics.median(item.ratios), 3),
        )
    difference = max(largest_difference(4, 8, forward, same=False) for forward in (stacked_hidden, mapped_hidden))
    print(f"after 8 steps weights differ from solo by at most {difference:.1e} of the largest change")
    write("packed", rows, "python benchmarks/speed/packed.py")


if __name__ == "__main__":
    main()
