"""Inference cost in FLOPs, from token counts and the shape of a model alone (docs/curves.md).

A multiplication with a weight costs 2 FLOPs a token and parameter. Attention: a token that attends to t keys costs
2 t A for its scores and 2 t A for its mix of values, A = heads * width of a head, in each layer. Hence a layer costs

    causal, tokens 1..T, token t attends to t keys       sum_t 4 t A = 2 A T (T + 1)
    bidirectional over P tokens                          4 A P P
    cross-attention of N tokens to P keys                4 A N P

Softmax, norms, activations and embedding look-ups are free, and so is the difference between full and sliding-window
attention: the numbers describe the task and the config, not an implementation.

    decoder            2 P_decoder (P + N) + 2 P_head N + 2 A L (P + N)(P + N + 1)
    encoder-decoder    2 P_encoder P + 4 A_encoder L_encoder P P + 2 P_cross P
                       + 2 P_decoder N + 2 P_head N + 2 A L N (N + 1) + 4 A L N P
    choices c          the prompt once (its keys are shared), then every choice: N is the sum of the n_c, and token j of
                       a choice attends to P + j keys (decoder), or to j keys and across to P (encoder-decoder)
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from catsweep.cascade.ragged import FloatArray, Ragged


@dataclass(frozen=True)
class ModelShape:
    """The numbers of a model that its FLOPs follow from. All are counts; a tied head counts where it multiplies.

    decoder_parameters: weights that every decoder token is multiplied with, over all decoder layers: query, key, value
        and output projections of self-attention, query and output projections of cross-attention, feed-forward (of a
        mixture only the experts that one token visits). Norms and biases may be counted: they do not matter. Without
        embeddings, head and cross-attention's keys and values. For a decoder-only model this is P_body.
    head_parameters: hidden width * vocabulary, tied or not.
    num_decoder_layers: layers with self-attention (in an encoder-decoder each also has cross-attention).
    decoder_attention_width: query heads * width of a head, in decoder self-attention and cross-attention.
    encoder_parameters, num_encoder_layers, encoder_attention_width: the same of the encoder; 0 for a decoder.
    cross_key_value_parameters: cross-attention's key and value projections over all decoder layers; each prompt token
        passes them once. 0 for a decoder.
    Raises ValueError for a negative count, or an encoder in a decoder-only model.
    """

    architecture: Literal["decoder", "encoder_decoder"]
    decoder_parameters: int
    head_parameters: int
    num_decoder_layers: int
    decoder_attention_width: int
    encoder_parameters: int = 0
    cross_key_value_parameters: int = 0
    num_encoder_layers: int = 0
    encoder_attention_width: int = 0

    def __post_init__(self) -> None:
        if self.architecture not in ("decoder", "encoder_decoder"):
            raise ValueError(f"architecture is {self.architecture!r}; expected decoder or encoder_decoder")
        counts = {name: count for name, count in asdict(self).items() if name != "architecture"}
        if min(counts.values()) < 0:
            raise ValueError(f"counts of a model's shape are never negative: {counts}")
        only_encoder = ("encoder_parameters", "cross_key_value_parameters", "num_encoder_layers")
        if self.architecture == "decoder" and any(counts[name] for name in only_encoder):
            raise ValueError(f"a decoder-only model has no encoder: {counts}")

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON data."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> ModelShape:
        """The inverse of `to_dict`."""
        return cls(**values)


def forward_flops(
    shape: ModelShape,
    num_prompt_tokens: ArrayLike,
    num_output_tokens: ArrayLike,
    num_choice_tokens: Ragged | NDArray[Any] | None = None,
) -> FloatArray:
    """(n,) float64 FLOPs of answering each query once: the formulas of this module's docstring.

    num_prompt_tokens, num_output_tokens: (n,) tokens of prompt (P) and answer with its end token (N).
    num_choice_tokens: tokens of each choice, one row a query, exact; or (n,) their sum a query, which is costed as one
        long choice (its attention is counted a little too high). A query with choice tokens is costed by these in place
        of its output tokens; one without (an empty row, or 0) as generated text.
    """
    prompt = np.asarray(num_prompt_tokens, dtype=np.float64)
    output, own_keys = _output_and_own_keys(np.asarray(num_output_tokens, dtype=np.float64), num_choice_tokens)
    flops: FloatArray = 2.0 * (shape.decoder_parameters + shape.head_parameters) * output
    attention = 4.0 * shape.decoder_attention_width * shape.num_decoder_layers
    # output * prompt: every answer token attends to the whole prompt, through the cache or across.
    flops = flops + attention * (own_keys + output * prompt)
    if shape.architecture == "decoder":
        return flops + 2.0 * shape.decoder_parameters * prompt + attention * prompt * (prompt + 1) / 2
    encoder_attention = 4.0 * shape.encoder_attention_width * shape.num_encoder_layers
    once = 2.0 * (shape.encoder_parameters + shape.cross_key_value_parameters)
    return flops + once * prompt + encoder_attention * prompt * prompt


def train_flops_per_step(
    shape: ModelShape, *, batch_size: int, mean_prompt_tokens: float, mean_target_tokens: float
) -> float:
    """FLOPs of one optimiser step over batch_size examples: three forward passes (the backward pass costs two). [ours]

    Attention is that of an example of mean length; padding and recomputation are not counted.
    """
    forward = forward_flops(shape, [mean_prompt_tokens], [mean_target_tokens])
    return 3.0 * batch_size * float(forward[0])


def _output_and_own_keys(output: FloatArray, choices: Ragged | NDArray[Any] | None) -> tuple[FloatArray, FloatArray]:
    """(n,) tokens that are produced or scored, and (n,) pairs of such a token with one of the same answer up to itself."""
    own_keys: FloatArray = output * (output + 1) / 2
    if choices is None:
        return output, own_keys
    if isinstance(choices, Ragged):
        lengths = choices.values.astype(np.float64)
        tokens, pairs = choices.sum(), choices.map(lengths * (lengths + 1) / 2).sum()
    else:
        tokens = np.asarray(choices, dtype=np.float64)
        pairs = tokens * (tokens + 1) / 2
    has_choices = tokens > 0
    return np.where(has_choices, tokens, output), np.where(has_choices, pairs, own_keys)
