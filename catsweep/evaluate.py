"""One generation or scoring pass an example gives the row from which every curve, rule and metric is computed later.

Decoding is greedy; log-probabilities are the model's own, without any processor (PAPER: answers and confidence).
"""

from __future__ import annotations

import time
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList, PreTrainedTokenizerBase

from catsweep.cascade.latency import BatchSeconds
from catsweep.cascade.metrics import Metric
from catsweep.data import TaskData, TokenSplit, sequence_batch
from catsweep.models import Architecture, TargetLogits
from catsweep.records import rows_schema
from catsweep.spec.task import TaskSpec
from catsweep.tensors import to_device

FloatArray = NDArray[np.float32]


@dataclass(frozen=True)
class Answer:
    """A model's answer to one example. The three lists have an entry for each output token."""

    output: str
    num_prompt_tokens: int
    token_logprobs: FloatArray
    token_entropies: FloatArray
    token_margins: FloatArray
    choice_logprobs: FloatArray = field(default_factory=lambda: np.empty(0, np.float32))
    choice_num_tokens: NDArray[np.int32] = field(default_factory=lambda: np.empty(0, np.int32))


@torch.no_grad()
def evaluate(
    module: TargetLogits,
    tokenizer: PreTrainedTokenizerBase,
    data: TaskData,
    split: str,
    task: TaskSpec,
    metrics: dict[str, Metric],
    *,
    architecture: Architecture,
    batch_size: int,
    indices: NDArray[np.int64] | None = None,
    timings: list[BatchSeconds] | None = None,
) -> pa.Table:
    """Rows (see records.ROW_FIELDS) of a split, in its order, or of its examples `indices` only.

    timings: gets what each batch took, from its token ids to the answers in this process's memory.
    """
    training = module.training
    module.eval()
    tokens, texts = data.tokens(split), data.texts(split)
    chosen = np.arange(len(tokens)) if indices is None else indices
    answer_batch: Callable[[NDArray[np.int64]], list[Answer]]
    if task.output_type == "generate_until":
        new_tokens = task.generation_kwargs.max_gen_toks
        lengths = tokens.prompts.lengths[chosen]

        def answer_batch(batch: NDArray[np.int64]) -> list[Answer]:
            return generate(
                module,
                tokenizer,
                tokens,
                batch,
                architecture=architecture,
                max_new_tokens=new_tokens,
                until=task.generation_kwargs.until,
            )
    else:
        choices_a_row = np.diff(tokens.choice_offsets)
        batch_size = max(1, batch_size // max(1, int(choices_a_row.max(initial=1))))
        lengths = tokens.prompts.lengths[chosen]
        choice_texts = texts["choices"].to_pylist()

        def answer_batch(batch: NDArray[np.int64]) -> list[Answer]:
            outputs = [choice_texts[index] for index in batch]
            return score_choices(
                module, tokenizer, tokens, batch, outputs, architecture=architecture, normalize=task.normalize
            )

    by_length = chosen[np.argsort(lengths, kind="stable")]
    answers: dict[int, Answer] = {}
    for start in range(0, len(by_length), batch_size):
        batch = by_length[start : start + batch_size]
        started_at = time.perf_counter()
        answered = answer_batch(batch)  # on a GPU, too, answers are there when this returns
        if timings is not None:
            timings.append(_timed(answered, time.perf_counter() - started_at))
        answers |= dict(zip(batch.tolist(), answered, strict=True))
    module.train(training)
    ordered = [answers[index] for index in chosen.tolist()]
    return answer_table(ordered, texts.take(pa.array(chosen)), split, metrics)


def _timed(answers: Sequence[Answer], seconds: float) -> BatchSeconds:
    prompts = sum(answer.num_prompt_tokens for answer in answers)
    outputs = sum(int(answer.choice_num_tokens.sum()) or len(answer.token_logprobs) for answer in answers)
    return BatchSeconds(len(answers), prompts, outputs, seconds)


def answer_table(answers: Sequence[Answer], texts: pa.Table, split: str, metrics: dict[str, Metric]) -> pa.Table:
    """The rows of answers to the examples of `texts`."""
    references = texts["references"].to_pylist()
    keys = texts["key"].to_pylist() if "key" in texts.column_names else [None] * len(answers)
    columns: dict[str, object] = {
        "id": texts["id"],
        "group": texts["group"],
        "split": [split] * len(answers),
        "output": [answer.output for answer in answers],
        "num_prompt_tokens": [answer.num_prompt_tokens for answer in answers],
        "num_output_tokens": [len(answer.token_logprobs) for answer in answers],
    }
    for name in ("token_logprobs", "token_entropies", "token_margins", "choice_logprobs", "choice_num_tokens"):
        columns[name] = [getattr(answer, name) for answer in answers]
    for name, metric in metrics.items():
        columns[f"statistics/{name}"] = [
            metric.statistics(answer.output, accepted, key)
            for answer, accepted, key in zip(answers, references, keys, strict=True)
        ]
    return pa.table(columns, schema=rows_schema(list(metrics)))


class _Recorder(LogitsProcessor):  # type: ignore[misc]
    """Notes log-probability, entropy and margin of the most probable token at every step of generation."""

    def __init__(self) -> None:
        self.steps: list[Tensor] = []

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        self.steps.append(token_statistics(scores.float()))
        return scores


def token_statistics(logits_NV: Tensor, ids_N: Tensor | None = None) -> Tensor:
    """(N, 3): log-probability of a token (of the most probable one where ids_N is None), entropy in nats, and the
    probability of the first minus the second most probable token."""
    logprobs_NV = logits_NV.log_softmax(1)
    top_N2 = logprobs_NV.topk(2, dim=1).values
    chosen_N = top_N2[:, 0] if ids_N is None else logprobs_NV.gather(1, ids_N[:, None]).squeeze(1)
    # p log p is 0 where p is 0, also where a model masks tokens with -inf
    entropy_N = -(logprobs_NV.exp() * logprobs_NV.clamp(min=-1e4)).sum(1)
    margin_N = top_N2[:, 0].exp() - top_N2[:, 1].exp()
    return torch.stack([chosen_N, entropy_N, margin_N], dim=1)


def generate(
    module: TargetLogits,
    tokenizer: PreTrainedTokenizerBase,
    data: TokenSplit,
    indices: NDArray[np.int64],
    *,
    architecture: Architecture,
    max_new_tokens: int,
    until: Sequence[str] = (),
) -> list[Answer]:
    """Greedy answers to a batch of prompts, with the statistics of every output token, the end token included.

    until: texts that end an answer. The output is what stands before the first of them; its tokens are those that had
    to be generated to see it.
    """
    model = module.model
    device = model.device
    prompts = [data.prompts[index] for index in indices]
    longest = max(len(prompt) for prompt in prompts)
    input_ids = torch.full((len(prompts), longest), tokenizer.pad_token_id)
    mask = torch.zeros_like(input_ids)
    for row, prompt in enumerate(prompts):  # a decoder continues at the right end, so it is padded on the left
        where = slice(longest - len(prompt), longest) if architecture == "decoder" else slice(0, len(prompt))
        input_ids[row, where] = torch.from_numpy(np.asarray(prompt, dtype=np.int64))
        mask[row, where] = 1
    start_id = getattr(model.config, "decoder_start_token_id", None)
    config = GenerationConfig(
        do_sample=False,
        num_beams=1,
        max_new_tokens=max_new_tokens,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        decoder_start_token_id=start_id,
    )
    model.generation_config = config  # a checkpoint's own may add processors or beams
    recorder = _Recorder()
    sequences = module.generate(
        input_ids=input_ids.to(device),
        attention_mask=mask.to(device),
        generation_config=config,
        logits_processor=LogitsProcessorList([recorder]),
    )
    new_BT = sequences[:, longest:] if architecture == "decoder" else sequences[:, 1:]
    statistics = torch.stack(recorder.steps, dim=1).cpu().numpy()
    ended = (new_BT == tokenizer.eos_token_id).cpu().numpy()
    lengths = np.where(ended.any(1), ended.argmax(1) + 1, new_BT.shape[1])
    tokens = [row[:length].tolist() for row, length in zip(new_BT, lengths, strict=True)]
    ends = [cut_output(tokenizer, ids, until) for ids in tokens]
    return [
        Answer(output.strip(), len(prompt), *answer_columns(statistics[row, :num_tokens]))
        for row, ((output, num_tokens), prompt) in enumerate(zip(ends, prompts, strict=True))
    ]


def cut_output(tokenizer: PreTrainedTokenizerBase, ids: list[int], until: Sequence[str]) -> tuple[str, int]:
    """The text of output tokens before the first text of `until`, and how many tokens it takes to see that text."""

    def decode(num_tokens: int) -> str:
        # The clean-up that many checkpoints ask for would turn "do n't ." into "don't.": metrics want what was written.
        text: str = tokenizer.decode(ids[:num_tokens], skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return text

    text = decode(len(ids))
    places = [text.find(stop) for stop in until if stop in text]
    if not places:
        return text, len(ids)
    needed = bisect_left(range(len(ids)), True, key=lambda n: any(stop in decode(n) for stop in until))
    return text[: min(places)], needed


@torch.no_grad()
def score_choices(
    module: TargetLogits,
    tokenizer: PreTrainedTokenizerBase,
    data: TokenSplit,
    indices: NDArray[np.int64],
    choice_texts: list[list[str]],
    *,
    architecture: Architecture,
    normalize: str,
) -> list[Answer]:
    """The choice with the highest summed log-likelihood (normalize "tokens": mean over its tokens) for each example.

    Of equal choices the first is taken.
    """
    ranges = [np.arange(data.choice_offsets[index], data.choice_offsets[index + 1]) for index in indices]
    prompts = [data.prompts[index] for index, choices in zip(indices, ranges, strict=True) for _ in choices]
    choices = [data.choices[choice] for choice in np.concatenate(ranges)]
    by_choice = _choice_statistics(module, tokenizer, prompts, choices, architecture)
    answers = []
    first = 0
    for index, texts, own in zip(indices, choice_texts, ranges, strict=True):
        mine = by_choice[first : first + len(own)]
        first += len(own)
        sums = np.array([part[:, 0].sum() for part in mine], dtype=np.float32)
        counts = np.array([len(part) for part in mine], dtype=np.int32)
        picked = int(np.argmax(sums / counts if normalize == "tokens" else sums))
        answers.append(Answer(texts[picked], len(data.prompts[index]), *answer_columns(mine[picked]), sums, counts))
    return answers


def _choice_statistics(
    module: TargetLogits,
    tokenizer: PreTrainedTokenizerBase,
    prompts: list[NDArray[np.int32]],
    choices: list[NDArray[np.int32]],
    architecture: Architecture,
) -> list[FloatArray]:
    """`token_statistics` of each choice's tokens behind its prompt.

    A model never reads the last token of a choice. So choices of one prompt that are alike up to there, such as all
    that have one token, are one sequence for it and are read once.
    """
    sequences: dict[tuple[bytes, bytes], int] = {}
    sequence_of = [
        sequences.setdefault((prompt.tobytes(), choice[:-1].tobytes()), len(sequences))
        for prompt, choice in zip(prompts, choices, strict=True)
    ]
    first = [sequence_of.index(sequence) for sequence in range(len(sequences))]
    lengths = np.array([len(choice) for choice in choices])
    starts = np.concatenate([[0], np.cumsum(lengths[first])])
    batch = sequence_batch(
        [prompts[index] for index in first],
        [choices[index] for index in first],
        architecture=architecture,
        pad_id=int(tokenizer.pad_token_id),
        start_id=getattr(module.model.config, "decoder_start_token_id", None),
    )
    places_N = np.concatenate([starts[s] + np.arange(length) for s, length in zip(sequence_of, lengths, strict=True)])
    ids_N = np.concatenate(choices).astype(np.int64)
    statistics = np.empty((len(ids_N), 3), np.float32)
    device = module.model.device
    for part, logits_NV in module.in_parts(to_device(batch, device)):
        (here,) = np.nonzero((places_N >= part.start) & (places_N < part.stop))
        rows, ids = (torch.from_numpy(values[here]).to(device) for values in (places_N - part.start, ids_N))
        statistics[here] = token_statistics(logits_NV[rows], ids).cpu().numpy()
    return np.split(statistics, np.cumsum(lengths)[:-1])


def answer_columns(statistics: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
    """The three columns of `token_statistics`, as an Answer takes them."""
    return statistics[:, 0].copy(), statistics[:, 1].copy(), statistics[:, 2].copy()
