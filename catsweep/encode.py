"""Examples as token ids.

Prompt and target are tokenised as the model will see them: what the prompt's tokens are never depends on the answer.
White space at the end of prompt and delimiter belongs to the answer (as in lm-evaluation-harness), since most tokenisers
join a space with the word behind it. Generated targets end with the end token, in the loss and in N; choices do not.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase

from catsweep.errors import DataError
from catsweep.models import Architecture
from catsweep.spec.task import TaskSpec
from catsweep.tasks.examples import Example


def token_ids(tokenizer: PreTrainedTokenizerBase, texts: list[str], *, special: bool) -> list[list[int]]:
    """The token ids of some texts, none cut or padded. special: with the tokens that the tokeniser puts around a text."""
    if not texts:
        return []
    backend: Any = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None:  # the same ids as below, without offsets and masks: half the time
        backend.no_truncation()
        backend.no_padding()
        return [encoding.ids for encoding in backend.encode_batch_fast(texts, add_special_tokens=special)]
    encoded: list[list[int]] = tokenizer(texts, add_special_tokens=special)["input_ids"]
    return encoded


class Encoder:
    """Tokenises examples of one task for one architecture. num_cut: prompts and targets so far that were too long."""

    def __init__(
        self,
        task: TaskSpec,
        tokenizer: PreTrainedTokenizerBase,
        architecture: Architecture,
        max_prompt: int,
        max_target: int,
    ) -> None:
        self.task = task
        self.tokenizer = tokenizer
        self.decoder = architecture == "decoder"
        self.delimiter = task.target_delimiter
        self.max_prompt = max_prompt
        self.max_target = max_target
        self.end_id = tokenizer.eos_token_id  # kept: transformers looks it up by its text at every access
        self.end = [] if task.output_type == "multiple_choice" else [self.end_id]
        self.num_leading = self._count_leading()
        self.num_cut = {"prompts": 0, "targets": 0}

    def encode(self, examples: Sequence[Example]) -> tuple[list[list[int]], list[list[int]], list[list[int]]]:
        """The token ids of the prompts, of the targets, and of the choices of all examples behind one another. Raises DataError
        where there is no token of a choice."""
        texts = [self._split_prompt(example.prompt) for example in examples]
        encoded = self._encode([context for context, _ in texts], special=True)
        prompts = [self._without_end(ids) for ids in encoded] if self.decoder else encoded
        every = range(len(examples))
        of_choice = [index for index in every for _ in examples[index].choices]
        choice_texts = [text for example in examples for text in example.choices]
        choices = self._answers(texts, prompts, of_choice, choice_texts)
        for index, text, ids in zip(of_choice, choice_texts, choices, strict=True):
            if not ids:
                raise DataError(
                    f"task {self.task.task}, example {examples[index].id}: the tokeniser makes no token of the choice {text!r}; "
                    "expected at least one, whose log-probability can be compared. Write the choice in characters that it knows "
                    "(doc_to_choice), or take another tokeniser"
                )
        if of_choice:  # the target of a choice task is one of its choices
            first = np.cumsum([0, *(len(example.choices) for example in examples)])
            targets = [choices[first[index] + example.label] for index, example in enumerate(examples)]
        else:
            targets = self._answers(texts, prompts, every, [example.target for example in examples])
        self.num_cut["prompts"] += sum(len(ids) > self.max_prompt for ids in prompts)
        self.num_cut["targets"] += sum(len(ids) > self.max_target for ids in targets)
        return [self._cut_prompt(ids) for ids in prompts], [ids[: self.max_target] for ids in targets], choices

    def _split_prompt(self, prompt: str) -> tuple[str, str]:
        """What is tokenised as the prompt, and the white space behind it, which belongs to the answer."""
        if not self.decoder:
            return prompt, ""
        text = prompt + self.delimiter
        context = text.rstrip()
        return context, text[len(context) :]

    def _cut_prompt(self, ids: list[int]) -> list[int]:
        """The end of a long prompt, behind the tokens that begin every text: without its first token a model that was
        trained with one writes nonsense."""
        if len(ids) <= self.max_prompt:
            return ids
        num_leading = min(self.num_leading, self.max_prompt - 1)
        return [*ids[:num_leading], *ids[len(ids) - self.max_prompt + num_leading :]]

    def _count_leading(self) -> int:
        """How many special tokens the tokeniser puts before every text."""
        plain, whole = (self._encode(["a"], special=special)[0] for special in (False, True))
        places = [start for start in range(len(whole)) if whole[start : start + len(plain)] == plain]
        return places[0] if places else 0

    def _answers(
        self, texts: list[tuple[str, str]], prompts: list[list[int]], of: Sequence[int], answers: list[str]
    ) -> list[list[int]]:
        """The tokens of each answer to the prompt number of[i] of `texts` (see `_split_prompt`).

        A decoder's answer is what joint tokenisation puts behind the prompt's tokens, since some tokenisers treat the
        beginning of a text differently; where joint tokenisation changes the prompt's own tokens, the answer is
        tokenised alone.
        """
        alone = [texts[index][1] + answer for index, answer in zip(of, answers, strict=True)]
        if not self.decoder:
            return [[*ids, *self.end] for ids in self._encode(alone, special=False)]
        joint = [f"{texts[index][0]}{answer}" for index, answer in zip(of, alone, strict=True)]
        result: list[list[int]] = []
        changed = []
        for number, (index, whole) in enumerate(zip(of, self._encode(joint, special=True), strict=True)):
            context = prompts[index]
            if whole[: len(context)] != context:
                changed.append(number)
            result.append([*self._without_end(whole[len(context) :]), *self.end])
        for number, ids in zip(changed, self._encode([alone[n] for n in changed], special=False), strict=True):
            result[number] = [*ids, *self.end]
        return result

    def _encode(self, texts: list[str], *, special: bool) -> list[list[int]]:
        return token_ids(self.tokenizer, texts, special=special)

    def _without_end(self, ids: list[int]) -> list[int]:
        """An end token behind the prompt would tell a decoder that all is said; ours is added where it belongs."""
        return ids[:-1] if ids and ids[-1] == self.end_id else ids
