"""The signal and the answers of a large model behind a server, instead of a pass on this machine.

What the server has answered is kept in parts on storage, each written once, so that an interrupted pass asks only for the
rest. vLLM's extension `prompt_logprobs` gives the log-probability and the rank of each token of a prompt.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

from catsweep.answers import Answer, answer_columns
from catsweep.cascade.metrics import Metric
from catsweep.data import TaskData, TokenSplit
from catsweep.endpoint import Endpoint
from catsweep.errors import EndpointError
from catsweep.evaluate import answer_table
from catsweep.generation import cut_output
from catsweep.logit_rows import MAX_RANK
from catsweep.records import read_rows, write_atomic, write_rows
from catsweep.spec.sweep import DistributionSpec
from catsweep.spec.task import TaskSpec
from catsweep.teacher import SignalArrays

PART = 32
"""Examples in one part: an interruption asks again for at most these, and for what was in flight."""
LOWEST_LOGPROB = -60_000.0

IntArray = NDArray[np.int64]
Json = dict[str, Any]
Part = TypeVar("Part")


def served_signal(
    endpoint: Endpoint,
    data: TokenSplit,
    distribution: DistributionSpec | None,
    *,
    vocab_size: int,
    parts: Path,
    only: IntArray | None = None,
) -> SignalArrays:
    """The served model's opinion on every target token of `data`, as `teacher_pass` gives it; of examples not in `only`
    it stays zero.

    distribution: top_k alone; a server does not draw from a prompt's distribution. parts: folder of what was answered. A
    token as probable as the target counts as more probable (vLLM's rank), where the local pass takes the first of them.
    Raises EndpointError.
    """
    top = 0 if distribution is None else min(distribution.num_entries, vocab_size)
    num_targets = int(data.targets.offsets[-1])
    arrays: dict[str, NDArray[Any]] = {
        "rank": np.zeros(num_targets, np.uint8),
        "logprob": np.zeros(num_targets, np.float16),
        "ids": np.zeros((num_targets, top), np.uint16 if vocab_size <= 2**16 else np.uint32),
        "weights": np.zeros((num_targets, top), np.float16),
    }
    chosen = np.arange(len(data)) if only is None else only

    def ask(indices: IntArray) -> list[list[Json]]:
        return [[scoring_request(data.prompts[index], data.targets[index], top)] for index in indices]

    def save(path: Path, indices: IntArray, responses: list[list[Json]]) -> None:
        found = [
            _opinion(endpoint, response, data.prompts[index], data.targets[index], top, vocab_size)
            for index, (response,) in zip(indices, responses, strict=True)
        ]
        buffer = io.BytesIO()
        joined: dict[str, Any] = {name: np.concatenate([one[name] for one in found]) for name in found[0]}
        np.savez(buffer, **joined)
        write_atomic(path, buffer.getvalue())

    for indices, path in _in_parts(endpoint, chosen, parts, "npz", ask, save):
        where = data.target_places(indices)
        with np.load(path) as part:
            for name, array in arrays.items():
                array[where] = part[name].astype(array.dtype)
    return SignalArrays(
        arrays["rank"],
        arrays["logprob"],
        arrays["ids"] if distribution else None,
        arrays["weights"] if distribution else None,
    )


def served_rows(
    endpoint: Endpoint,
    tokenizer: PreTrainedTokenizerBase,
    data: TaskData,
    split: str,
    task: TaskSpec,
    metrics: dict[str, Metric],
    *,
    parts: Path,
) -> pa.Table:
    """Rows of a split, as `evaluate` gives them, but with entropies that are not a number: a server does not tell them.
    parts: folder of what was answered. Raises EndpointError."""
    tokens, texts = data.tokens(split), data.texts(split)
    is_generation = task.output_type == "generate_until"
    choice_texts: list[list[str]] = texts["choices"].to_pylist()

    def choices(index: int) -> list[NDArray[np.int32]]:
        return [
            tokens.choices[place] for place in range(tokens.choice_offsets[index], tokens.choice_offsets[index + 1])
        ]

    def ask(indices: IntArray) -> list[list[Json]]:
        if is_generation:
            return [[generation_request(tokens.prompts[index], task, tokenizer)] for index in indices]
        return [[scoring_request(tokens.prompts[index], choice, 2) for choice in choices(index)] for index in indices]

    def save(path: Path, indices: IntArray, responses: list[list[Json]]) -> None:
        answers = []
        for index, found in zip(indices.tolist(), responses, strict=True):
            prompt = tokens.prompts[index]
            if is_generation:
                answers.append(_generated(endpoint, found[0], len(prompt), task.generation_kwargs.until, tokenizer))
            else:
                scored = [
                    _scored(endpoint, one, prompt, choice) for one, choice in zip(found, choices(index), strict=True)
                ]
                answers.append(_picked(scored, choice_texts[index], len(prompt), task.normalize))
        write_rows(path, answer_table(answers, texts.take(pa.array(indices)), split, metrics))

    found = [read_rows(path) for _, path in _in_parts(endpoint, np.arange(len(tokens)), parts, "parquet", ask, save)]
    return pa.concat_tables(found) if found else answer_table([], texts, split, metrics)


def _in_parts(
    endpoint: Endpoint,
    chosen: IntArray,
    folder: Path,
    suffix: str,
    ask: Callable[[IntArray], list[list[Json]]],
    save: Callable[[Path, IntArray, list[list[Json]]], None],
) -> Iterator[tuple[IntArray, Path]]:
    """The parts of some examples with their files, asking for those that are missing.

    ask: the requests of each example. save: writes the file of a part from the answers to them.
    """
    parts = [
        (chosen[start : start + PART], folder / f"{start // PART:06d}.{suffix}")
        for start in range(0, len(chosen), PART)
    ]
    missing = [(indices, path) for indices, path in parts if not path.exists()]
    answers = endpoint.map(body for indices, _ in missing for bodies in ask(indices) for body in bodies)
    for indices, path in missing:
        save(path, indices, [[next(answers) for _ in bodies] for bodies in ask(indices)])
    yield from parts


def scoring_request(prompt: Sequence[int] | NDArray[np.int32], target: NDArray[np.int32], top: int) -> Json:
    """Asks for the log-probability and the rank of each target token, and for the `top` most probable tokens there."""
    ids = [*map(int, prompt), *map(int, target)]
    return {"prompt": ids, "max_tokens": 1, "temperature": 0, "prompt_logprobs": top}


def generation_request(prompt: NDArray[np.int32], task: TaskSpec, tokenizer: PreTrainedTokenizerBase) -> Json:
    """Asks for a greedy answer with raw log-probabilities. What a server may take from a checkpoint's own defaults is
    written out."""
    body: Json = {
        "prompt": [*map(int, prompt)],
        "max_tokens": task.generation_kwargs.max_gen_toks,
        "temperature": 0,
        "top_p": 1,
        "presence_penalty": 0,
        "frequency_penalty": 0,
        "repetition_penalty": 1,
        "logprobs": 2,
        "return_tokens_as_token_ids": True,
        "stop_token_ids": [int(tokenizer.eos_token_id)],
    }
    until = task.generation_kwargs.until
    return {**body, "stop": list(until)} if until else body


@dataclass(frozen=True)
class _Place:
    """What a server says of one token of a prompt. rank: 0 where no token is as probable. every: all tokens that it tells
    there as (log-probability, id), the most probable one first."""

    rank: int
    logprob: float
    every: list[tuple[float, int]]


def _places(endpoint: Endpoint, response: Json, prompt: NDArray[np.int32], target: NDArray[np.int32]) -> list[_Place]:
    """What a response says of each target token. Raises EndpointError where it does not."""
    try:
        entries = response["choices"][0]["prompt_logprobs"]
        if len(entries) != len(prompt) + len(target):
            raise ValueError
        places = []
        for entry, token in zip(entries[len(prompt) :], target.tolist(), strict=True):
            own = entry[str(token)]
            every = sorted(((float(value["logprob"]), int(one)) for one, value in entry.items()), key=lambda x: -x[0])
            places.append(_Place(int(own["rank"]) - 1, float(own["logprob"]), every))
        return places
    except (KeyError, IndexError, TypeError, ValueError):
        raise EndpointError(
            f"{endpoint.url} gave no log-probability and rank for each token of a prompt; expected vLLM's `prompt_logprobs` "
            f"for the token ids that were sent. Serve {endpoint.spec.model} with vLLM and the tokeniser of the small model"
        ) from None


def _opinion(
    endpoint: Endpoint, response: Json, prompt: NDArray[np.int32], target: NDArray[np.int32], top: int, vocab_size: int
) -> dict[str, NDArray[Any]]:
    """The signal of one example's target tokens."""
    places = _places(endpoint, response, prompt, target)
    kept = [[one for one in place.every if one[1] < vocab_size][:top] for place in places]
    if any(len(row) < top for row in kept):
        raise EndpointError(
            f"{endpoint.url} gave fewer than {top} tokens at a place; expected distribution.num_entries of them. Start the "
            f"server with --max-logprobs {top}, or lower num_entries"
        )
    ids = np.array([[token for _, token in row] for row in kept], np.uint32)
    logprobs = np.array([[value for value, _ in row] for row in kept], np.float64)
    return {
        "rank": np.array([min(MAX_RANK, place.rank) for place in places], np.uint8),
        "logprob": np.array([max(LOWEST_LOGPROB, place.logprob) for place in places], np.float16),
        "ids": ids.reshape(len(kept), top),
        "weights": np.exp(logprobs).reshape(len(kept), top).astype(np.float16),
    }


def _scored(
    endpoint: Endpoint, response: Json, prompt: NDArray[np.int32], choice: NDArray[np.int32]
) -> NDArray[np.float32]:
    """(N, 3) of a choice's tokens, as evaluate.token_statistics, without entropies."""
    places = _places(endpoint, response, prompt, choice)
    rows = [(place.logprob, np.nan, _margin([value for value, _ in place.every])) for place in places]
    return np.array(rows, np.float32).reshape(len(choice), 3)


def _picked(scored: list[NDArray[np.float32]], texts: list[str], num_prompt_tokens: int, normalize: str) -> Answer:
    sums = np.array([part[:, 0].sum() for part in scored], np.float32)
    counts = np.array([len(part) for part in scored], np.int32)
    best = int(np.argmax(sums / counts if normalize == "tokens" else sums))
    return Answer(texts[best], num_prompt_tokens, *answer_columns(scored[best]), sums, counts)


def _generated(
    endpoint: Endpoint, response: Json, num_prompt_tokens: int, until: Sequence[str], tokenizer: PreTrainedTokenizerBase
) -> Answer:
    try:
        found = response["choices"][0]["logprobs"]
        ids = [int(token.removeprefix("token_id:")) for token in found["tokens"]]
        margins = [_margin(list(entry.values())) for entry in found["top_logprobs"]]
        rows = [(float(value), np.nan, margin) for value, margin in zip(found["token_logprobs"], margins, strict=True)]
        statistics = np.array(rows, np.float32).reshape(len(ids), 3)
    except (KeyError, IndexError, TypeError, ValueError, AttributeError):
        raise EndpointError(
            f"{endpoint.url} gave no log-probabilities of an answer's token ids; expected vLLM's "
            "`return_tokens_as_token_ids` with `logprobs`. Serve the model with vLLM"
        ) from None
    output, num_tokens = cut_output(tokenizer, ids, until)
    return Answer(output.strip(), num_prompt_tokens, *answer_columns(statistics[:num_tokens]))


def _margin(logprobs: Sequence[float]) -> float:
    """The probability of the first minus that of the second token."""
    first, second = sorted(map(float, logprobs), reverse=True)[:2]
    return float(np.exp(first) - np.exp(second))
