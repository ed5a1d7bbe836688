"""One training step: the Hugging Face Trainer's, a plain script with the large model in the loop, and ours.

    python benchmarks/speed/step.py

The same small model, batch and data. Ours reads the large model's signal from arrays, as a trial does, makes logits at target
positions only, and writes the quadrants' shares. The Trainer's step is `Trainer.training_step` on a batch padded as a collator
pads it, then clipping and AdamW as its loop does them. CPU seconds of one thread; each of a pair runs some steps.
"""

from __future__ import annotations

import copy
import tempfile
import time
from itertools import count, islice
from typing import Any

import numpy as np
import torch
from measure import Row, paired, row, write
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    LlamaConfig,
    T5Config,
    Trainer,
    TrainingArguments,
)

from catsweep.data import Tokens, TokenSplit
from catsweep.models import TargetLogits
from catsweep.spec.training import CatXentLoss, TrainingSpec
from catsweep.tensors import TeacherSignal
from catsweep.train import BatchLoss, TrainingData, _step, make_optimizer
from catsweep.workers import current_workers

PLAIN, LOOP = "Trainer's plain step", "script with the large model in the loop"


def llama(width: int, layers: int, vocabulary: int, heads: int) -> LlamaConfig:
    """A decoder with tied embeddings."""
    return LlamaConfig(
        vocab_size=vocabulary, hidden_size=width, intermediate_size=4 * width, num_hidden_layers=layers,
        num_attention_heads=heads, tie_word_embeddings=True, pad_token_id=0, eos_token_id=1, bos_token_id=None,
    )  # fmt: skip


def t5(width: int, layers: int, heads: int) -> T5Config:
    """An encoder-decoder."""
    return T5Config(
        vocab_size=32_000, d_model=width, d_ff=4 * width, num_layers=layers, num_heads=heads, d_kv=width // heads,
        decoder_start_token_id=0, dropout_rate=0.0,
    )  # fmt: skip


# name: small, large, prompt and target tokens, batch, steps of one timing, least ratios to the two peers
CASES: dict[str, tuple[Any, Any, int, int, int, int, tuple[str, str]]] = {
    "decoder 12 M / 50 M, 160/8 tokens": (
        llama(256, 4, 32_000, 4), llama(512, 8, 32_000, 8), 160, 8, 8, 1, ("at least 2.8", "at least 5.5")),
    "encoder-decoder 11 M / 54 M, 160/8 tokens": (
        t5(256, 2, 4), t5(576, 6, 8), 160, 8, 8, 1, ("at least 0.97", "at least 3")),
    "decoder 12 M / 50 M, all targets, 4/160 tokens": (
        llama(256, 4, 32_000, 4), llama(512, 8, 32_000, 8), 4, 160, 4, 1, ("at least 0.97", "")),
    "the study's decoders 22 k / 85 k, 12/10 tokens": (
        llama(32, 2, 48, 2), llama(64, 2, 48, 4), 12, 10, 32, 20, ("", "")),
}  # fmt: skip


def make_data(config: Any, prompt: int, target: int, batch_size: int) -> TrainingData:
    """Random tokens; lengths vary by a fifth. The signal is random too: seven of ten targets right."""
    draw = np.random.default_rng(0)
    num = 4 * batch_size

    def lists(mean: int) -> Tokens:
        sizes = draw.integers(max(1, int(0.8 * mean)), int(1.2 * mean) + 1, num)
        return Tokens(draw.integers(3, config.vocab_size, sizes.sum()).astype(np.int32), np.cumsum([0, *sizes]))

    split = TokenSplit(
        lists(prompt), lists(target), Tokens(np.empty(0, np.int32), np.zeros(1, np.int64)), np.zeros(num + 1, np.int64)
    )
    rank = torch.from_numpy((draw.random(len(split.targets.ids)) < 0.3).astype(np.uint8))
    signal = TeacherSignal(rank, -rank.float())
    is_pair = config.is_encoder_decoder
    return TrainingData(split, signal, "encoder_decoder" if is_pair else "decoder", 0, 0 if is_pair else None)


def hf_batch(data: TrainingData, indices: np.ndarray) -> dict[str, torch.Tensor]:
    """The batch as a collator for the Trainer pads it: the labels of a decoder's prompt are -100."""
    prompts, targets = (
        [torch.from_numpy(lists[i].astype(np.int64)) for i in indices]
        for lists in (data.tokens.prompts, data.tokens.targets)
    )
    pad = nn.utils.rnn.pad_sequence
    if data.architecture == "decoder":
        inputs = [torch.cat(pair) for pair in zip(prompts, targets, strict=True)]
        labels = [torch.cat([torch.full_like(p, -100), t]) for p, t in zip(prompts, targets, strict=True)]
    else:
        inputs, labels = prompts, targets
    mask = pad([torch.ones_like(x) for x in inputs], batch_first=True)
    return {
        "input_ids": pad(inputs, batch_first=True),
        "attention_mask": mask,
        "labels": pad(labels, batch_first=True, padding_value=-100),
    }


def measure(name: str) -> list[Row]:
    """Both rows of a case."""
    small_config, large_config, prompt, target, batch_size, num_steps, targets = CASES[name]
    is_pair = small_config.is_encoder_decoder
    auto = AutoModelForSeq2SeqLM if is_pair else AutoModelForCausalLM
    torch.manual_seed(0)
    start, large = auto.from_config(small_config), auto.from_config(large_config).eval()
    data = make_data(small_config, prompt, target, batch_size)
    spec = TrainingSpec(steps=100_000, batch_size=batch_size, learning_rate=1e-4, loss=CatXentLoss())
    limit = spec.max_grad_norm or 1.0

    module = TargetLogits(copy.deepcopy(start))
    module.choose_path(data.batch(np.arange(4)))
    module.train()
    packed, optimizer, order = data.packed_for(module), make_optimizer(module, spec), data.order(batch_size, 0)
    batch_loss, workers = BatchLoss(spec, module, module, None), current_workers()
    numbers = [count(1) for _ in range(3)]  # the k-th calls of a pair see the same batch

    def ours() -> None:
        for number in islice(numbers[0], num_steps):
            _step(batch_loss, optimizer, packed, order.batch(number), seed=0, step=number, workers=workers)

    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(folder, use_cpu=True, report_to="none", per_device_train_batch_size=batch_size)
        trainer = Trainer(copy.deepcopy(start), arguments)
    trainer.model.train()
    trainer.current_gradient_accumulation_steps = 1  # as its loop sets it
    plain_optimizer = torch.optim.AdamW(trainer.model.parameters(), lr=1e-4, fused=True)

    def plain() -> None:
        for number in islice(numbers[1], num_steps):
            trainer.training_step(trainer.model, hf_batch(data, order.batch(number)))
            nn.utils.clip_grad_norm_(trainer.model.parameters(), limit)
            plain_optimizer.step()
            trainer.model.zero_grad()

    script = copy.deepcopy(start).train()
    script_optimizer = torch.optim.AdamW(script.parameters(), lr=1e-4, fused=True)

    def in_loop() -> None:
        for number in islice(numbers[2], num_steps):
            batch = hf_batch(data, order.batch(number))
            labels = batch.pop("labels")
            if is_pair:
                batch["decoder_input_ids"] = script._shift_right(labels)
            with torch.no_grad():
                theirs = large(**batch).logits
            logits = script(**batch).logits
            if not is_pair:
                logits, theirs, labels = logits[:, :-1], theirs[:, :-1], labels[:, 1:]
            is_target = labels != -100
            kept = is_target & ((logits.argmax(-1) == labels) | (theirs.argmax(-1) == labels))
            losses = nn.functional.cross_entropy(logits.transpose(1, 2), labels, reduction="none")
            ((losses * kept).sum() / is_target.sum()).backward()
            nn.utils.clip_grad_norm_(script.parameters(), limit)
            script_optimizer.step()
            script_optimizer.zero_grad()

    rows = []
    for peer, peer_name, wanted in ((plain, PLAIN, targets[0]), (in_loop, LOOP, targets[1])):
        numbers[:] = [count(1) for _ in range(3)]
        seconds = paired(ours, peer, repeats=15, clock=time.process_time)
        rows.append(row(name, seconds, peer_name=peer_name, target=wanted, unit="ms a step", scale=1e3 / num_steps))
        print(
            name,
            peer_name,
            round(rows[-1].ours, 1),
            round(rows[-1].peer, 1),
            [round(x, 2) for x in rows[-1].ratios],
            flush=True,
        )
    return rows


def main() -> None:
    """Measure and write."""
    torch.set_num_threads(1)
    write("step", [item for name in CASES for item in measure(name)], "python benchmarks/speed/step.py")


if __name__ == "__main__":
    main()
