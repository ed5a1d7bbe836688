"""Models and tokenisers: from a checkpoint or from a config, checked as a pair, with logits at target positions only."""

from __future__ import annotations

import hashlib
import inspect
import itertools
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from catsweep.errors import ModelError
from catsweep.spec.base import digest
from catsweep.spec.model import (
    AnyModel,
    ByteTokenizer,
    LargePretrained,
    PretrainedModel,
)
from catsweep.spec.yaml import did_you_mean
from catsweep.tensors import Batch, to_device
from catsweep.tokenization import make_tokenizer

Architecture = Literal["decoder", "encoder_decoder"]
TRUSTED_VARIABLE = "CATSWEEP_TRUST_REMOTE_CODE"
"""Repositories whose own code may run, with commas between; `--trust-remote-code` sets it for a run and its workers."""
PROBE = "In 1969, two people walked on the Moon:\n  'How far is it?'"
"""A text that tokenisers with one vocabulary may still read differently: a first token, digits, spaces, capitals."""
PART_LOGITS, PART_ROWS = 2**23, 256
"""Logits that the head gives at once where no gradient is needed, or its rows where these are more: fewer rows would read the
head's weights too often. [ours]"""
MAX_LOGITS = 2**26
"""At most so many in any case, and on a GPU: 256 MiB in float32."""


def model_key(spec: AnyModel) -> str:
    """A key that changes with the model: its spec and, for a local checkpoint, its files."""
    stored = spec.to_json()
    if isinstance(spec, LargePretrained) and spec.endpoint is not None:
        stored["endpoint"] = spec.endpoint.identity()
    facts: dict[str, object] = {"spec": stored}
    if isinstance(spec, PretrainedModel) and Path(spec.pretrained).is_dir():
        facts["files"] = [_fingerprint(path) for path in sorted(Path(spec.pretrained).iterdir()) if path.is_file()]
    return digest(facts)


def _fingerprint(path: Path) -> list[object]:
    """Small files by content; large ones by size and time, since hashing gigabytes for each command would be slow."""
    status = path.stat()
    if status.st_size > 64 * 2**20:
        return [path.name, status.st_size, status.st_mtime_ns]
    return [path.name, hashlib.sha256(path.read_bytes()).hexdigest()]


def load_config(spec: AnyModel, tokenizer: PreTrainedTokenizerBase | None = None) -> Any:
    """The transformers config of a model. A config from scratch takes its special tokens and width from `tokenizer`."""
    if isinstance(spec, PretrainedModel):
        return _from_hub(AutoConfig, spec)
    fields = dict(spec.config)
    model_type = fields.pop("model_type", None)
    try:
        default = AutoConfig.for_model(str(model_type))
    except ValueError as error:
        raise ModelError(
            f"config.model_type: found {model_type!r}; expected a model type of transformers such as llama or t5 ({error})"
        ) from None
    known = set(default.to_dict()) | set(default.attribute_map)
    for name in fields:
        if name not in known:
            raise ModelError(
                f"config.{name}: not a field of a {model_type} config; expected one of {', '.join(sorted(known))}. "
                f"{did_you_mean(name, known)}"
            )
    if tokenizer is not None:
        fields = {"vocab_size": len(tokenizer), **fields}
        fields |= {"pad_token_id": tokenizer.pad_token_id, "eos_token_id": tokenizer.eos_token_id, "bos_token_id": None}
        if default.is_encoder_decoder:
            fields["decoder_start_token_id"] = tokenizer.pad_token_id
    try:
        return AutoConfig.for_model(str(model_type), **fields)
    except Exception as error:  # transformers checks fields in classes of many kinds, each with its own exceptions
        reason = str(error.__cause__ or error).strip().removesuffix(".") or type(error).__name__
        shown = ", ".join(f"{name}: {value}" for name, value in spec.config.items())[:300]
        raise ModelError(
            f"config: found {{{shown}}}, which transformers refuses ({reason}); expected fields of {model_type} that fit "
            "together"
        ) from None


def architecture_of(config: Any) -> Architecture:
    """Whether a transformers config is a decoder or an encoder-decoder."""
    return "encoder_decoder" if config.is_encoder_decoder else "decoder"


def build_model(
    spec: AnyModel, tokenizer: PreTrainedTokenizerBase, *, seed: int, folder: Path | None = None
) -> PreTrainedModel:
    """The model of a spec, in eval mode on the CPU.

    seed: of the weights from scratch. folder: where trained weights of this very model lie; they replace the spec's.
    Raises ModelError: unknown names, no safetensors, a vocabulary smaller than the tokeniser's.
    """
    config = load_config(spec, tokenizer)
    auto = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
    dtype = getattr(torch, spec.dtype)
    if folder is not None:
        trusted = isinstance(spec, PretrainedModel) and is_trusted(spec.pretrained)
        model = auto.from_pretrained(folder, dtype=dtype, use_safetensors=True, trust_remote_code=trusted)
    elif isinstance(spec, PretrainedModel):
        model = _from_hub(auto, spec, dtype=dtype, use_safetensors=True)
    else:
        torch.manual_seed(seed)
        model = auto.from_config(config, dtype=dtype)
    width = model.get_output_embeddings().weight.shape[0]
    if width < len(tokenizer):
        raise ModelError(
            f"the model has {width} logits, its tokeniser {len(tokenizer)} tokens; expected at least as many logits"
        )
    model.eval()
    return model


def is_trusted(repository: str) -> bool:
    """Whether the user named this repository (or folder) as one whose Python code may run: `--trust-remote-code`."""
    return repository in os.environ.get(TRUSTED_VARIABLE, "").split(",")


def _from_hub(auto: Any, spec: PretrainedModel, **options: object) -> Any:
    trusted = is_trusted(spec.pretrained)
    try:
        return auto.from_pretrained(spec.pretrained, revision=spec.revision, trust_remote_code=trusted, **options)
    except (OSError, ValueError) as error:
        raise cannot_load(spec, error) from None


def cannot_load(spec: PretrainedModel, error: Exception) -> ModelError:
    """What to tell where a checkpoint cannot be loaded."""
    reason = str(error).strip().splitlines()[0]
    if "trust_remote_code" in str(error):
        return ModelError(
            f"pretrained: {spec.pretrained!r} brings Python code of its own, which would run here; expected a model "
            "that transformers knows. Read the code, and name the repository to run it: "
            f"--trust-remote-code {spec.pretrained}"
        )
    return ModelError(
        f"pretrained: cannot load {spec.pretrained!r} ({reason}); expected a hub name or a local folder with "
        "config.json and safetensors. Offline: download it once and give the folder's path"
    )


def load_tokenizer(spec: AnyModel, texts: Iterable[str]) -> PreTrainedTokenizerBase:
    """The tokeniser of a model. texts: training texts, read only where a tokeniser is made from them."""
    if isinstance(spec, PretrainedModel):
        tokenizer: PreTrainedTokenizerBase = _from_hub(AutoTokenizer, spec)
        if tokenizer.eos_token_id is None:
            raise ModelError(f"the tokeniser of {spec.pretrained!r} has no end token; expected one that ends an answer")
        if tokenizer.pad_token_id is None:
            tokenizer.pad_token = tokenizer.eos_token
        return tokenizer
    return make_tokenizer(spec.tokenizer or ByteTokenizer(), texts)


def check_pair(
    small: PreTrainedTokenizerBase, large: PreTrainedTokenizerBase, small_config: Any, large_config: Any
) -> None:
    """Raise ModelError unless both models read and write the same tokens, so that their opinions on a target token can
    be compared."""
    kinds = architecture_of(small_config), architecture_of(large_config)
    if kinds[0] != kinds[1]:
        raise ModelError(
            f"the small model is a {kinds[0]}, the large one a {kinds[1]}; expected the same architecture for both"
        )
    vocab_small, vocab_large = small.get_vocab(), large.get_vocab()
    if vocab_small != vocab_large:
        different = [token for token, index in vocab_small.items() if vocab_large.get(token) != index]
        example = f", for example {different[0]!r}" if different else ""
        raise ModelError(
            f"the tokenisers differ: {len(vocab_small)} tokens of the small model, {len(vocab_large)} of the large one, "
            f"{len(different)} of the small one's with another id{example}; expected one tokeniser for both, since the "
            "filter compares their predictions token by token. Take both models from one family"
        )
    if small.eos_token_id != large.eos_token_id:
        raise ModelError(
            f"the end tokens differ ({small.eos_token!r} and {large.eos_token!r}); expected the same for both"
        )
    read = [tokenizer.convert_ids_to_tokens(tokenizer(PROBE)["input_ids"]) for tokenizer in (small, large)]
    for place, (ours, theirs) in enumerate(itertools.zip_longest(*read)):
        if ours != theirs:
            raise ModelError(
                f"the tokenisers have one vocabulary, but read {PROBE!r} differently: token {place} is {ours!r} for the "
                f"small model and {theirs!r} for the large one; expected the same. Take both models from one family"
            )


class TargetLogits(nn.Module):
    """A model that gives logits for target positions only: forward(batch) -> float32 (N, V).

    The fast path multiplies only the hidden states at target positions with the output head. Some models do more than
    that (a soft cap, a scale): `choose_path` compares and falls back to the model's own logits.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model = model
        self.fast = False
        self.sharded = False
        """Whether the ranks of a process group hold a part of the weights each (see catsweep.sharding)."""
        self.served: dict[str, bool] = {}
        """Which faster passes give this model's own numbers, once they were asked for (see catsweep.choices, .generation)."""
        self._keeps = "logits_to_keep" in inspect.signature(model.forward).parameters

    def forward(self, batch: Batch, *, head: bool = True) -> Tensor:
        """head: False, where the fast path is taken, gives the hidden states that the head would see."""
        if self.fast and not head:
            return self._hidden(batch)
        return self._head(self._hidden(batch)) if self.fast else self._own(batch)

    def generate(self, **settings: Any) -> Tensor:
        """transformers' generate; a model in shards runs on every rank until the last one has ended."""
        return self.model.generate(synced_gpus=self.sharded, **settings)  # type: ignore[no-any-return]

    @property
    def plain_head(self) -> nn.Linear | None:
        """The output head where hidden_ND @ weight_VD.T are the logits; None where there is more to it."""
        head = self.model.get_output_embeddings()
        return head if self.fast and type(head) is nn.Linear and head.bias is None else None

    @torch.no_grad()
    def in_parts(self, batch: Batch, room: Tensor | None = None) -> Iterator[tuple[slice, Tensor]]:
        """forward(batch) piece by piece: the places of some target tokens and their float32 logits, `part_rows` tokens at
        once. A part is good until the next one is asked for."""
        yield from self.head_in_parts(self(batch, head=not self.fast), room)

    @torch.no_grad()
    def head_in_parts(self, whole: Tensor, room: Tensor | None = None) -> Iterator[tuple[slice, Tensor]]:
        """The same of what stands before the head: hidden states where the fast path is taken, else float32 logits.

        room: of `room_for` as many rows or more; who asks often keeps one, since the system clears fresh memory, which takes
        a third of the head's time. [ours]
        """
        if room is None:
            room = self.room_for(len(whole))
        for start in range(0, len(whole), self.part_rows):
            part = slice(start, min(start + self.part_rows, len(whole)))
            yield part, self._head(whole[part], room) if self.fast else whole[part]

    @property
    def part_rows(self) -> int:
        """Rows of logits of a part, at least one."""
        weight = self.model.get_output_embeddings().weight
        num_logits = MAX_LOGITS if weight.is_cuda else min(MAX_LOGITS, max(PART_LOGITS, PART_ROWS * len(weight)))
        return max(1, num_logits // len(weight))

    def room_for(self, num_rows: int) -> Tensor | None:
        """Memory that takes the parts of so many rows of logits, one after another; None where the head is more than one
        product."""
        head = self.plain_head
        if head is None or self.sharded or head.weight.dtype != torch.float32:
            return None
        return head.weight.new_empty((min(num_rows, self.part_rows), len(head.weight)))

    def _own(self, batch: Batch) -> Tensor:
        """The model's own logits, of a decoder from the first column on that holds a target position of any example."""
        if batch.decoder_input_ids_BT is not None:
            return _at(batch.target_places_N, self._pair_logits(batch)).float()
        width = batch.input_ids_BS.shape[1]
        first = int((batch.target_places_N % width).min()) if self._keeps else 0
        keep = {"logits_to_keep": width - first} if self._keeps else {}
        logits_BCV = self.model(**_inputs(batch), use_cache=False, **keep).logits
        rows_N, columns_N = batch.target_places_N // width, batch.target_places_N % width - first
        return logits_BCV[rows_N, columns_N].float()  # type: ignore[no-any-return]

    def _pair_logits(self, batch: Batch) -> Tensor:
        """An encoder-decoder's logits of all positions of its decoder, BTV."""
        return self.model(  # type: ignore[no-any-return]
            input_ids=batch.input_ids_BS,
            attention_mask=batch.attention_mask_BS,
            decoder_input_ids=batch.decoder_input_ids_BT,
            use_cache=False,
        ).logits

    def _hidden(self, batch: Batch) -> Tensor:
        if batch.decoder_input_ids_BT is not None:
            return self._seen_by_head(batch)
        hidden_BSD = self.model.base_model(**_inputs(batch), use_cache=False).last_hidden_state
        return _at(batch.target_places_N, hidden_BSD)

    def _seen_by_head(self, batch: Batch) -> Tensor:
        with self.head_inputs() as seen:
            self._pair_logits(batch)
        return _at(batch.target_places_N, seen[0])

    @contextmanager
    def head_inputs(self) -> Iterator[list[Tensor]]:
        """What an encoder-decoder hands to its head within (some scale it before); the head is asked about no position."""
        seen: list[Tensor] = []

        def keep(head: nn.Module, arguments: tuple[Tensor]) -> tuple[Tensor]:
            seen.append(arguments[0])
            return (arguments[0][:, :0],)

        with self.model.get_output_embeddings().register_forward_pre_hook(keep):
            yield seen

    def _head(self, hidden_ND: Tensor, room: Tensor | None = None) -> Tensor:
        head = self.model.get_output_embeddings()
        if room is not None:
            return torch.mm(hidden_ND, head.weight.T, out=room[: len(hidden_ND)])
        return head(hidden_ND).float()  # type: ignore[no-any-return]

    @torch.no_grad()
    def choose_path(self, batch: Batch) -> bool:
        """Take the fast path where it gives the model's own logits on this batch; returns whether it does.

        The head is scaled up by a power of two for the comparison (and back, exactly), so that a soft cap shows also on
        weights that are nearly zero. Of a decoder only the last positions of each example are read: all logits of long
        prompts would take gigabytes.
        """
        batch = _excerpt(batch, num_positions=16) if batch.decoder_input_ids_BT is None else batch
        batch = to_device(batch, self.model.device)
        training = self.model.training
        self.model.eval()
        head = self.model.get_output_embeddings()
        largest = self._own(batch).abs().max().item()
        factor = 2.0 ** max(0, round(torch.tensor(100.0 / max(largest, 1e-6)).log2().item()))
        head.weight.mul_(factor)
        try:
            own, fast = self._own(batch), self._head(self._hidden(batch))
        except (AttributeError, TypeError, IndexError):
            self.fast = False
        else:
            self.fast = self._are_alike(own, fast)
        finally:
            head.weight.div_(factor)
            self.model.train(training)
        return self.fast

    @torch.no_grad()
    def reads_packed(self, padded: Batch, packed: Batch) -> bool:
        """Whether the model gives packed examples the logits that it gives each in a row of its own: it must take positions,
        and keep the examples of a row apart. Models with a recurrent state do not."""
        if padded.decoder_input_ids_BT is not None or not self.fast:
            return False
        training = self.model.training
        self.model.eval()
        try:
            own, other = (self(to_device(batch, self.model.device)) for batch in (padded, packed))
        except (TypeError, ValueError, NotImplementedError):
            return False
        finally:
            self.model.train(training)
        return self._are_alike(own, other)

    def _are_alike(self, own: Tensor, other: Tensor) -> bool:
        tolerance = 1e-4 if self.model.dtype == torch.float32 else 3e-2
        return own.shape == other.shape and bool((own - other).abs().max() <= tolerance * own.abs().max())


def _inputs(batch: Batch) -> dict[str, Tensor]:
    """A decoder's inputs. transformers sees from the positions alone that a row holds several examples."""
    if batch.position_ids_BS is not None:
        return {"input_ids": batch.input_ids_BS, "position_ids": batch.position_ids_BS}
    assert batch.attention_mask_BS is not None
    return {"input_ids": batch.input_ids_BS, "attention_mask": batch.attention_mask_BS}


def _at(places_N: Tensor, values_BSX: Tensor) -> Tensor:
    """The vectors at some positions, counted through all rows."""
    return values_BSX.flatten(0, 1).index_select(0, places_N)


def checkpoint_activations(module: TargetLogits) -> None:
    """From now on keep only the layers' inputs in training, and compute the rest again in the backward pass. Raises
    ModelError."""
    options = {"use_reentrant": False}
    try:
        if hasattr(module.model, "activation_checkpointing_enable"):  # the name in later transformers
            module.model.activation_checkpointing_enable(activation_checkpointing_kwargs=options)
        else:
            module.model.gradient_checkpointing_enable(gradient_checkpointing_kwargs=options)
    except ValueError as error:
        raise ModelError(
            f"gradient_checkpointing: {type(module.model).__name__} cannot do it ({error}); expected a model of transformers "
            "that can. Leave the switch out"
        ) from None


def _excerpt(batch: Batch, *, num_positions: int) -> Batch:
    """The last positions of each example of a decoder's padded batch, at most `num_positions`, without padding."""
    assert batch.attention_mask_BS is not None
    lengths_B = batch.attention_mask_BS.sum(1)
    width = min(num_positions, int(lengths_B.min()))
    first_B = lengths_B - width
    places_BW = first_B[:, None] + torch.arange(width, device=lengths_B.device)
    rows_N = batch.target_places_N // batch.input_ids_BS.shape[1]
    columns_N = batch.target_places_N % batch.input_ids_BS.shape[1] - first_B[rows_N]
    kept_N = columns_N >= 0
    return Batch(
        input_ids_BS=batch.input_ids_BS.gather(1, places_BW),
        attention_mask_BS=batch.attention_mask_BS.gather(1, places_BW),
        target_places_N=(rows_N * width + columns_N)[kept_N],
        target_ids_N=batch.target_ids_N[kept_N],
    )


def position_limit(config: Any) -> int | None:
    """The longest sequence of a decoder, prompt and target together; None where the config names no limit."""
    value = getattr(config, "max_position_embeddings", None) or getattr(config, "n_positions", None)
    return int(value) if value and not config.is_encoder_decoder else None
