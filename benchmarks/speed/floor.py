"""How much of what the processor could do each pass reaches: `python benchmarks/speed/floor.py`.

One thread. Beside each case, what this machine does: GFLOP/s of a matrix product of such shapes, and GB/s of a pass over memory
that no cache holds. Of the case: FLOPs as torch's own counter sees them in our pass (products, and attention over pairs that may
see each other, nothing else), and the bytes that have to come from memory: weights once a pass, their gradients and AdamW's
moments once a step, logits twice. The floor is the longer of both times; the ratio is floor / ours.
"""

from __future__ import annotations

import functools
import itertools
import statistics
import time
from collections.abc import Callable
from typing import Any

import choices as choices_part
import generation as generation_part
import large_pass as large_part
import numpy as np
import step as step_part
import torch
from measure import Row, write
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM

from catsweep.models import TargetLogits
from catsweep.spec.training import CatXentLoss, TrainingSpec
from catsweep.teacher import teacher_pass
from catsweep.train import BatchLoss, _step, make_optimizer
from catsweep.workers import current_workers

REPEATS = 9
MUCH = torch.ones(2**28)


def median_seconds(call: Callable[[], object], repeats: int = REPEATS) -> float:
    """CPU seconds of a call, after one that does not count."""
    call()
    taken = []
    for _ in range(repeats):
        start = time.process_time()
        call()
        taken.append(time.process_time() - start)
    return statistics.median(taken)


def _attention(query: Any, key: Any, value: Any, *rest: Any, **names: Any) -> int:
    """A token sees itself and those before it: half of the pairs where queries and keys are the same tokens."""
    return sdpa_flop_count(query, key, value) // (2 if query[2] == key[2] > 1 else 1)


def _attention_backward(gradient: Any, query: Any, key: Any, value: Any, *rest: Any, **names: Any) -> int:
    return sdpa_backward_flop_count(gradient, query, key, value) // (2 if query[2] == key[2] > 1 else 1)


ON_CPU = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward,
}
"""torch's counter knows the GPU's kernels only."""


def flops(call: Callable[[], object]) -> int:
    """Of products and attention within a call."""
    counter = FlopCounterMode(display=False, custom_mapping=ON_CPU)
    with counter:
        call()
    return int(counter.get_total_flops())


def rates() -> tuple[float, float]:
    """FLOP/s of a product of 1,344 tokens with a matrix of 256 x 1,024; bytes/s of a sum over 1 GiB."""
    left, right, out = torch.randn(1344, 256), torch.randn(256, 1024), torch.empty(1344, 1024)
    product = median_seconds(lambda: [torch.mm(left, right, out=out) for _ in range(20)]) / 20
    return 2 * 1344 * 256 * 1024 / product, MUCH.numel() * 4 / median_seconds(MUCH.sum, repeats=3)


def num_bytes(module: TargetLogits) -> int:
    """Of a model's weights, without input embeddings of their own, of which a pass reads some rows."""
    model = module.model
    embedded, head = model.get_input_embeddings().weight, model.get_output_embeddings().weight
    weights = [one for one in model.parameters() if one is not embedded or one is head]
    return sum(one.numel() * one.element_size() for one in weights)


def num_passes(call: Callable[[], object], module: TargetLogits) -> int:
    """How often a call runs the model, without the passes in which a first call tries what serves it."""
    call()
    seen: list[int] = []
    with module.model.base_model.register_forward_hook(lambda *_: seen.append(1)):
        call()
    return len(seen)


def steps() -> list[tuple[str, Callable[[], object], int]]:
    """Our step of each case of step.py. Bytes: weights twice, gradients twice, both moments and weights read and written."""
    found = []
    for name, (config, _, prompt, target, batch_size, _, _) in step_part.CASES.items():
        torch.manual_seed(0)
        auto = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
        data = step_part.make_data(config, prompt, target, batch_size)
        spec = TrainingSpec(steps=100_000, batch_size=batch_size, learning_rate=1e-4, loss=CatXentLoss())
        module = TargetLogits(auto.from_config(config))
        module.choose_path(data.batch(np.arange(4)))
        module.train()
        call = functools.partial(
            _next_step, BatchLoss(spec, module, module, None), make_optimizer(module, spec), data.packed_for(module),
            data.order(batch_size, 0), itertools.count(1),
        )  # fmt: skip
        found.append((f"a step, {name}", call, 10 * num_bytes(module)))
    return found


def _next_step(batch_loss: BatchLoss, optimizer: Any, data: Any, order: Any, numbers: Any) -> None:
    number = next(numbers)
    _step(batch_loss, optimizer, data, order.batch(number), seed=0, step=number, workers=current_workers())


def passes() -> list[tuple[str, Callable[[], object], int]]:
    """The large model's pass without a distribution. Bytes: weights and two passes over the logits a batch."""
    found = []
    for name in ("12 M decoder, all targets, 4/160 tokens", "50 M decoder, 160/8 tokens"):
        config, prompt, target, batch_size, num_batches, _ = large_part.CASES[name]
        torch.manual_seed(0)
        module = TargetLogits(AutoModelForCausalLM.from_config(config).eval())
        split = large_part.make_split(config.vocab_size, prompt, target, batch_size * num_batches)
        settings: dict[str, Any] = {"architecture": "decoder", "pad_id": 0, "start_id": None}
        module.choose_path(large_part.collate(split, np.arange(4), **settings))
        call = functools.partial(
            teacher_pass, module, split, distribution=None, vocab_size=config.vocab_size, batch_size=batch_size, seed=0,
            device=torch.device("cpu"), **settings,
        )  # fmt: skip
        logits = 2 * 4 * config.vocab_size * int(split.targets.lengths.sum())
        found.append((f"large model's pass, {name}", call, num_batches * num_bytes(module) + logits))
    return found


def answers() -> list[tuple[str, Callable[[], object], int]]:
    """Choices with long prompts, and generation of 128 rows. Bytes: weights once a pass or a step; keys and values of the rows
    that run are left out."""
    what, config, shape, batch_size, _ = choices_part.CASES[0]
    module, split = choices_part.make(config), choices_part.make_split(*shape)
    call = functools.partial(choices_part.ours, module, split, batch_size)
    found = [(f"choices, {what}", call, num_passes(call, module) * num_bytes(module))]
    for number in (0, 1):
        name, config, shape, batch_size, new_tokens, until, _ = generation_part.CASES[number]
        texts = generation_part.make_texts(*shape)
        module, tokenizer = generation_part.make(config, texts, new_tokens)
        rows = generation_part.split_of(tokenizer, texts)
        call = functools.partial(generation_part.ours, module, tokenizer, rows, batch_size, new_tokens, until)
        found.append((f"generation, {name}", call, num_passes(call, module) * num_bytes(module)))
    return found


def main() -> None:
    """Measure and write."""
    torch.set_num_threads(1)
    rows = []
    for name, call, size in [*steps(), *passes(), *answers()]:
        seconds, (a_second, bytes_a_second) = median_seconds(call), rates()
        work = statistics.median(flops(call) for _ in range(4))  # a step's batches differ in length
        by_work, by_bytes = work / a_second, size / bytes_a_second
        note = (
            f"{work / 1e9:.3g} GFLOP at {a_second / 1e9:.0f} GFLOP/s take {by_work:.3g} s, {size / 1e9:.3g} GB at "
            f"{bytes_a_second / 1e9:.1f} GB/s {by_bytes:.3g} s"
        )
        floor = max(by_work, by_bytes)
        rows.append(Row(name, seconds, floor, "s", "the floor", [floor / seconds], "none", note))
        print(name, f"{seconds:.4g} s, floor {floor:.4g} s, {floor / seconds:.2f}", note, flush=True)
    write("floor", rows, "python benchmarks/speed/floor.py")


if __name__ == "__main__":
    main()
