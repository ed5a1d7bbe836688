"""Tokenisers that are made here, and what a tokeniser does to a text as a key."""

from __future__ import annotations

from collections.abc import Iterable
from typing import assert_never

import tokenizers
from tokenizers import decoders, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from catsweep.spec.base import digest
from catsweep.spec.model import BpeTokenizer, ByteTokenizer, CharTokenizer, TokenizerSpec

SPECIAL_TOKENS = ["<pad>", "<eos>", "<unk>"]


def make_tokenizer(spec: TokenizerSpec, texts: Iterable[str]) -> PreTrainedTokenizerFast:
    """A tokeniser from scratch: <pad> 0, <eos> 1, <unk> 2, then the others in a stable order."""
    match spec:
        case CharTokenizer():
            characters: set[str] = set()
            for text in texts:
                characters.update(text)
            vocab = {token: index for index, token in enumerate([*SPECIAL_TOKENS, *sorted(characters)])}
            backend = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocab, unk_token="<unk>"))
            backend.pre_tokenizer = pre_tokenizers.Split(tokenizers.Regex(r"[\s\S]"), "isolated")
            backend.decoder = decoders.Fuse()
        case ByteTokenizer() | BpeTokenizer():
            alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
            vocab = {token: index for index, token in enumerate([*SPECIAL_TOKENS, *alphabet])}
            backend = tokenizers.Tokenizer(tokenizers.models.BPE(vocab=vocab, merges=[], unk_token="<unk>"))
            backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
            backend.decoder = decoders.ByteLevel()
            if isinstance(spec, BpeTokenizer):
                trainer = trainers.BpeTrainer(
                    vocab_size=spec.vocab_size,
                    special_tokens=SPECIAL_TOKENS,
                    initial_alphabet=alphabet,
                    show_progress=False,
                )
                backend.train_from_iterator(texts, trainer)
        case _:
            assert_never(spec)
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token="<pad>",
        eos_token="<eos>",
        unk_token="<unk>",
        clean_up_tokenization_spaces=False,
    )


def tokenizer_key(tokenizer: PreTrainedTokenizerBase) -> str:
    """A key of everything that a tokeniser does to a text."""
    special = {"pad": tokenizer.pad_token_id, "eos": tokenizer.eos_token_id, "bos": tokenizer.bos_token_id}
    backend = tokenizer.backend_tokenizer.to_str() if tokenizer.is_fast else sorted(tokenizer.get_vocab().items())
    return digest([special, backend])
