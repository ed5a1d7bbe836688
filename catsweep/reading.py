"""A model that reads on behind what it has read, from its cache of keys and values, and which models can be read so.

Prompts are padded on the right. Without a mask a causal model never sees what stands behind a token, so the pass over
prompts needs none; a later pass has a mask that hides the padding, and what stood in the cache before a prompt joined it, and
positions that count on from each prompt's end.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import DynamicCache, EncoderDecoderCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer
from transformers.modeling_outputs import BaseModelOutput

from catsweep.models import TargetLogits, architecture_of

ROOM = 64
"""Tokens for which a cache makes room at once when it is full."""
_DYNAMIC_POSITIONS = ("dynamic", "longrope")
"""Kinds of rotary positions that turn all keys anew when a text gets longer, which a cache does not."""


class Gaps:
    """Rows that leave a batch of which `num_rows` stay: of the last rows those that stay take the places of those that go before
    them.

    stays: (B,) whether each row does. device: that of the tensors which are closed.
    """

    def __init__(self, stays: NDArray[np.bool_], device: torch.device) -> None:
        self.num_rows = int(stays.sum())
        self._here = np.flatnonzero(~stays[: self.num_rows]), self.num_rows + np.flatnonzero(stays[self.num_rows :])
        self._there = tuple(torch.from_numpy(rows).to(device) for rows in self._here)

    def close(self, values: Tensor) -> Tensor:
        """What is left of values (B, ...), a view of them: they are changed."""
        places_G, rows_G = self._there
        values[places_G] = values[rows_G]
        return values[: self.num_rows]

    def close_array(self, values: NDArray[Any]) -> NDArray[Any]:
        """The same of an array of numpy."""
        places_G, rows_G = self._here
        values[places_G] = values[rows_G]
        return values[: self.num_rows]


class GrowingLayer(DynamicLayer):  # type: ignore[misc]
    """Keys and values of one layer with room for more: a new token is written behind them, and they are not copied."""

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Room for as many rows as these have."""
        self.rooms = [states[..., :0, :] for states in (key_states, value_states)]
        self.keys, self.values = self.rooms
        self.device, self.dtype = key_states.device, key_states.dtype
        self.is_initialized = True

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """All keys and values, the new ones (B, heads, T, width) last."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        num_rows, start = len(self.keys), self.keys.shape[-2]
        end = start + key_states.shape[-2]
        self._make_room(end)
        self.rooms[0][:num_rows, ..., start:end, :] = key_states
        self.rooms[1][:num_rows, ..., start:end, :] = value_states
        self._see(num_rows, end)
        return self.keys, self.values

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep these rows, in this order; a row may be taken more than once."""
        if self.is_initialized:
            self.rooms = [room.index_select(0, indices) for room in self.rooms]
            self._see(len(indices), self.keys.shape[-2])

    def close(self, gaps: Gaps) -> None:
        """Let rows leave; those that keep their places are not copied."""
        if self.is_initialized:
            self.keys, self.values = gaps.close(self.keys), gaps.close(self.values)

    def drop(self, num_columns: int) -> None:
        """Forget the first tokens of all rows."""
        if self.is_initialized:
            for room, states in zip(self.rooms, (self.keys, self.values), strict=True):
                room[: len(states), ..., : states.shape[-2] - num_columns, :] = states[..., num_columns:, :].clone()
            self._see(len(self.keys), self.keys.shape[-2] - num_columns)

    def join(self, other: GrowingLayer, end: int, capacity: int) -> None:
        """Add the rows of another layer, of `capacity` at most that there will be at once: what they have read ends at column
        `end`. What stands before it, other rows' numbers or zeros, is for a mask to hide."""
        if not other.is_initialized:
            return
        if not self.is_initialized:
            self.lazy_initialization(*(states.new_empty(0, *states.shape[1:]) for states in (other.keys, other.values)))
        num_rows, start = len(self.keys), end - other.keys.shape[-2]
        self._make_room(end, capacity)
        for room, states in zip(self.rooms, (other.keys, other.values), strict=True):
            room[num_rows : num_rows + len(states), ..., start:end, :] = states
        self._see(num_rows + len(other.keys), end)

    def _make_room(self, length: int, num_rows: int = 0) -> None:
        num_rows = max(num_rows, len(self.rooms[0]))
        if num_rows > len(self.rooms[0]) or length > self.rooms[0].shape[-2]:
            states = self.keys, self.values
            columns = (length // ROOM + 1) * ROOM
            # Zeros: what a mask hides is multiplied by nothing, which leaves numbers that are not finite what they are.
            self.rooms = [one.new_zeros(num_rows, *one.shape[1:-2], columns, one.shape[-1]) for one in states]
            for room, old in zip(self.rooms, states, strict=True):
                room[: len(old), ..., : old.shape[-2], :] = old

    def _see(self, num_rows: int, length: int) -> None:
        self.keys, self.values = (room[:num_rows, ..., :length, :] for room in self.rooms)


def new_cache(model: PreTrainedModel) -> DynamicCache | EncoderDecoderCache:
    """An empty cache that grows in place."""

    def growing() -> DynamicCache:
        cache = DynamicCache()
        cache.layer_class_to_replicate = GrowingLayer
        return cache

    return EncoderDecoderCache(growing(), growing()) if model.config.is_encoder_decoder else growing()


def can_read_on(module: TargetLogits) -> bool:
    """Whether a model may be tried with a cache: whole on this rank, every layer sees all tokens before it, and masks and
    positions can be given to it. Whether it then gives its own numbers is for a comparison to say."""
    model = module.model
    parameters = inspect.signature(model.forward).parameters
    named = {"cache", "past_key_values"} & set(parameters)
    if module.sharded or not named or any(type(layer) is not DynamicLayer for layer in _layers(model)):
        return False
    if architecture_of(model.config) == "encoder_decoder":
        return True
    settings = str(getattr(model.config, "rope_parameters", None) or getattr(model.config, "rope_scaling", None))
    takes_masks = getattr(model.config, "_attn_implementation", None) in ("sdpa", "eager")
    trusted = model.dtype == torch.float32 or bool(getattr(model, "_supports_attention_backend", False))
    known = not any(f"'{kind}'" in settings for kind in _DYNAMIC_POSITIONS)
    known &= "local" not in str(
        getattr(model.config, "attention_types", None)
    )  # GPT-Neo's windows count hidden columns
    return takes_masks and trusted and known and "position_ids" in parameters


def _layers(model: PreTrainedModel) -> list[Any]:
    layers: list[Any] = DynamicCache(config=model.config).layers
    return layers


class Reading:
    """A batch of texts that a model reads piece by piece; its cache holds what it has read."""

    def __init__(self, module: TargetLogits) -> None:
        self.module = module
        self.cache = new_cache(module.model)
        parameters = inspect.signature(module.model.forward).parameters
        self.settings: dict[str, Any] = {
            "cache" if "cache" in parameters else "past_key_values": self.cache,
            "use_cache": True,
        }
        self.keeps = "logits_to_keep" in parameters
        self.ids = "input_ids"

    def encode(self, input_ids_BS: Tensor, mask_BS: Tensor) -> None:
        """Let an encoder-decoder's encoder read the prompts."""
        encoded = self.module.model.get_encoder()(input_ids=input_ids_BS, attention_mask=mask_BS)
        hidden_BSD = encoded.last_hidden_state
        self.settings |= {"encoder_outputs": BaseModelOutput(last_hidden_state=hidden_BSD), "attention_mask": mask_BS}
        self.ids = "decoder_input_ids"

    def read(
        self,
        ids_BT: Tensor,
        rows_N: Tensor | None = None,
        columns_N: Tensor | None = None,
        **inputs: Tensor | None,
    ) -> Tensor:
        """What is behind some of these tokens, as TargetLogits.head_in_parts takes it: rows_N and columns_N are their
        places; None: the last column of every row. inputs: a decoder's mask and positions."""
        model = self.module.model
        arguments = {self.ids: ids_BT, **inputs, **self.settings}
        if self.module.fast:
            if model.config.is_encoder_decoder:
                with self.module.head_inputs() as seen:
                    model(**arguments)
                hidden_BTD = seen[0]
            else:
                hidden_BTD = model.base_model(**arguments).last_hidden_state
            return hidden_BTD[:, -1] if columns_N is None else hidden_BTD[rows_N, columns_N]
        width = ids_BT.shape[1]
        first = width - 1 if columns_N is None else int(columns_N.min())
        keep = {"logits_to_keep": width - first} if self.keeps else {}
        logits_BTV = model(**arguments, **keep).logits
        missing = width - logits_BTV.shape[1]
        found = logits_BTV[:, -1] if columns_N is None else logits_BTV[rows_N, columns_N - missing]
        return found.float()  # type: ignore[no-any-return]

    def select(self, rows: Tensor) -> None:
        """Go on with these rows, in this order; a row may be taken more than once."""
        self.cache.batch_select_indices(rows)
        self._change_encoded(lambda values: values.index_select(0, rows))

    def join(self, other: Reading, end: int, capacity: int) -> None:
        """Go on with the rows of another decoder's reading behind these; see GrowingLayer.join."""
        if not self.cache.layers:
            self.cache.layers = [GrowingLayer() for _ in other.cache.layers]
        for layer, joining in zip(self.cache.layers, other.cache.layers, strict=True):
            layer.join(joining, end, capacity)

    def drop(self, num_columns: int) -> None:
        """Forget the first tokens of all rows."""
        for layer in self.cache.layers:
            layer.drop(num_columns)

    def close(self, gaps: Gaps) -> None:
        """Let rows leave."""
        caches = [self.cache]
        if isinstance(self.cache, EncoderDecoderCache):
            caches = [self.cache.self_attention_cache, self.cache.cross_attention_cache]
        for layer in (layer for cache in caches for layer in cache.layers):
            layer.close(gaps)
        self._change_encoded(gaps.close)

    def _change_encoded(self, change: Callable[[Tensor], Tensor]) -> None:
        if "encoder_outputs" in self.settings:
            hidden_BSD = change(self.settings["encoder_outputs"].last_hidden_state)
            self.settings["encoder_outputs"] = BaseModelOutput(last_hidden_state=hidden_BSD)
            self.settings["attention_mask"] = change(self.settings["attention_mask"])


def agrees(found: NDArray[np.float32], plain: NDArray[np.float32], module: TargetLogits) -> bool:
    """Whether log-probabilities are the same up to the rounding of the model's numbers, against how much they differ from
    token to token: in a model that was not trained all are nearly alike."""
    tolerance = 1e-4 if module.model.dtype == torch.float32 else 3e-2
    allowed = tolerance * float(np.ptp(plain)) + 1e-6 * float(np.abs(plain).max())
    return bool(np.abs(found - plain).max() <= allowed)


def padded(rows: Sequence[NDArray[np.int32]], pad_id: int) -> Tensor:
    """Token ids (B, S) int64, padded on the right."""
    ids = np.full((len(rows), max(map(len, rows))), pad_id)
    for index, row in enumerate(rows):
        ids[index, : len(row)] = row
    return torch.from_numpy(ids)


def hidden_as_minus(seen: Tensor, dtype: torch.dtype) -> Tensor:
    """(B, 1, T, S), what is added to attention's scores: 0 where seen (B, T, S) is true, else the dtype's lowest number."""
    return torch.zeros(seen.shape, dtype=dtype, device=seen.device).masked_fill_(~seen, torch.finfo(dtype).min)[:, None]
