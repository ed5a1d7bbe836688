"""Batches of a generation: prompts join them, rows that ended leave them, and all others write one token at a time."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from catsweep.models import TargetLogits, position_limit
from catsweep.reading import Gaps, Reading, hidden_as_minus, padded

Ids = NDArray[np.int32]
PROMPT_TOKENS, PROMPT_TOKENS_ON_GPU = 2048, 32_768
"""Prompts that join are read in parts of much the same length, of so many tokens or an eighth of all of them: a pass over few
tokens takes longer for each. [ours]"""
LEFT_OVER = 1 / 8
"""Columns that no row sees any more are dropped once they are this share of all. [ours]"""


def parts_by_length(lengths: NDArray[np.int64], num_tokens: int) -> list[slice]:
    """The parts, of some num_tokens each, in which prompts of such lengths, which never ascend, are read."""
    room = max(num_tokens, len(lengths) * int(lengths[0]) // 8)
    parts = list[slice]()
    while not parts or parts[-1].stop < len(lengths):
        start = parts[-1].stop if parts else 0
        parts.append(slice(start, min(len(lengths), start + max(1, room // max(1, int(lengths[start]))))))
    return parts


class DecoderBatch:
    """Rows of a cache whose columns all of them write at once: a prompt that joins ends, or its padding does, where the others'
    next tokens begin.

    lengths: of all prompts that will come. Those that come together stand in descending order of lengths, and the first of them
    is no longer than any before it.
    """

    def __init__(
        self, module: TargetLogits, lengths: NDArray[np.int64], capacity: int, max_new_tokens: int, pad_id: int
    ) -> None:
        self.module, self.capacity, self.pad_id = module, capacity, pad_id
        self.reading = Reading(module)
        device = module.model.device
        self.num_columns = 0
        self.starts = np.zeros(0, dtype=np.int64)
        """The first column that each row sees."""
        self.positions_B1 = torch.empty(0, 1, dtype=torch.int64, device=device)
        self.hidden: Tensor | None = None  # (B, 1, 1, columns), what is added to scores; none where every row sees all
        if len(lengths) > capacity or lengths.min() < lengths.max():
            most = int((lengths.max() + max_new_tokens) / (1 - LEFT_OVER)) + 2
            self.most = min(most, position_limit(module.model.config) or most)
            aligned = 16 * math.ceil(self.most / 16)  # fused attention copies a mask of another stride between rows
            self.hidden = torch.zeros(capacity, 1, 1, aligned, dtype=module.model.dtype, device=device)

    def join(self, prompts: Sequence[Ids]) -> Tensor:
        """What is behind prompts, which are read and join the batch."""
        if not len(self.starts):
            self._drop(self.num_columns)
            self.num_columns = len(prompts[0])
        # Where logits come from the model itself, those between the shortest and the longest end of a part are all made.
        num_tokens = PROMPT_TOKENS_ON_GPU if self.positions_B1.is_cuda and self.module.fast else PROMPT_TOKENS
        parts = parts_by_length(np.array([len(prompt) for prompt in prompts]), num_tokens)
        found = [self._join_part(padded(prompts[part], self.pad_id), prompts[part]) for part in parts]
        return found[0] if len(found) == 1 else torch.cat(found)

    def _join_part(self, prompts_BS: Tensor, prompts: Sequence[Ids]) -> Tensor:
        device = self.positions_B1.device
        lengths_B = torch.tensor([len(prompt) for prompt in prompts], device=device)
        reading = Reading(self.module)
        found = reading.read(prompts_BS.to(device), torch.arange(len(prompts), device=device), lengths_B - 1)
        self.reading.join(reading, self.num_columns, self.capacity)
        start, rows = self.num_columns - prompts_BS.shape[1], slice(len(self.starts), len(self.starts) + len(prompts))
        self.starts = np.concatenate([self.starts, np.full(len(prompts), start)])
        self.positions_B1 = torch.cat([self.positions_B1, lengths_B[:, None]])
        if self.hidden is not None:
            column = torch.arange(self.hidden.shape[-1], device=device)
            own_B1L = (column >= start) & (column < start + lengths_B[:, None, None])
            self.hidden[rows] = hidden_as_minus(own_B1L | (column >= self.num_columns), self.hidden.dtype)
        return found

    def next(self, ids_B: Tensor) -> Tensor:
        """What is behind one more token of each row."""
        unseen = int(self.starts.min())
        if unseen > LEFT_OVER * self.num_columns or (self.hidden is not None and self.num_columns == self.most):
            self._drop(unseen)
        self.num_columns += 1
        inputs = {}
        if self.hidden is not None:
            mask = self.hidden[: len(ids_B), ..., : self.num_columns]
            inputs = {"attention_mask": mask, "position_ids": self.positions_B1}
        whole = self.reading.read(ids_B[:, None], **inputs)
        self.positions_B1 = self.positions_B1 + 1
        return whole

    def _drop(self, num_columns: int) -> None:
        self.reading.drop(num_columns)
        self.starts -= num_columns
        self.num_columns -= num_columns
        if self.hidden is not None and num_columns:
            self.hidden = torch.cat(
                [self.hidden[..., num_columns:], torch.zeros_like(self.hidden[..., :num_columns])], -1
            )

    def close(self, gaps: Gaps) -> None:
        """Let rows leave."""
        self.reading.close(gaps)
        self.positions_B1 = gaps.close(self.positions_B1)
        self.starts = gaps.close_array(self.starts)
        if self.hidden is not None:
            gaps.close(self.hidden)


class EncoderDecoderBatch:
    """Prompts that the encoder reads once, all together; every answer begins with the decoder's start token."""

    def __init__(self, module: TargetLogits, pad_id: int) -> None:
        self.reading, self.pad_id = Reading(module), pad_id
        self.device, self.start_id = module.model.device, module.model.config.decoder_start_token_id

    def join(self, prompts: Sequence[Ids]) -> Tensor:
        """What is behind the start tokens."""
        prompts_BS = padded(prompts, self.pad_id).to(self.device)
        lengths_B = torch.tensor([len(prompt) for prompt in prompts], device=self.device)
        column_S = torch.arange(prompts_BS.shape[1], device=self.device)
        self.reading.encode(prompts_BS, (column_S < lengths_B[:, None]).long())
        return self.next(torch.full_like(lengths_B, self.start_id))

    def next(self, ids_B: Tensor) -> Tensor:
        """What is behind one more token of each row."""
        return self.reading.read(ids_B[:, None])

    def close(self, gaps: Gaps) -> None:
        """Let rows leave."""
        self.reading.close(gaps)
