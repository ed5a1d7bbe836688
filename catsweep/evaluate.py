"""One generation or scoring pass an example gives the row from which every curve, rule and metric is computed later.

Decoding is greedy; log-probabilities are the model's own, without any processor (arXiv 2406.00060).
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

from catsweep.answers import Answer
from catsweep.cascade.latency import BatchSeconds
from catsweep.cascade.metrics import Metric
from catsweep.choices import num_rows, score_choices
from catsweep.data import TaskData
from catsweep.generation import generate
from catsweep.models import Architecture, TargetLogits
from catsweep.records import rows_schema
from catsweep.spec.task import TaskSpec


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

    timings: gets what each batch of choices took, from its token ids to the answers in this process's memory, and what `generate`
    adds.
    """
    training = module.training
    module.eval()
    tokens, texts = data.tokens(split), data.texts(split)
    chosen = np.arange(len(tokens)) if indices is None else indices
    if task.output_type == "generate_until":
        answers = generate(
            module,
            tokenizer,
            tokens,
            chosen,
            architecture=architecture,
            max_new_tokens=task.generation_kwargs.max_gen_toks,
            until=task.generation_kwargs.until,
            batch_size=batch_size,
            timings=timings,
        )
    else:
        num_prompts = max(1, batch_size // num_rows(module, tokens, int(tokenizer.pad_token_id), architecture))
        choices = texts["choices"].to_pylist()
        by_length = chosen[np.argsort(tokens.prompts.lengths[chosen], kind="stable")]
        scored: dict[int, Answer] = {}
        for start in range(0, len(by_length), num_prompts):
            batch = by_length[start : start + num_prompts]
            started_at = time.perf_counter()
            outputs = [choices[index] for index in batch]
            found = score_choices(
                module, tokenizer, tokens, batch, outputs, architecture=architecture, normalize=task.normalize
            )
            if timings is not None:
                timings.append(_timed(found, time.perf_counter() - started_at))
            scored |= dict(zip(batch.tolist(), found, strict=True))
        answers = [scored[index] for index in chosen.tolist()]
    module.train(training)
    return answer_table(answers, texts.take(pa.array(chosen)), split, metrics)


def _timed(answers: Sequence[Answer], seconds: float) -> BatchSeconds:
    prompts = sum(answer.num_prompt_tokens for answer in answers)
    outputs = sum(int(answer.choice_num_tokens.sum()) for answer in answers)
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
