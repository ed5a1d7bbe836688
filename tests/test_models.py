"""Models: the fast path against the model's own logits, tokenisers, pairs, and shapes for FLOPs."""

from __future__ import annotations

import io
import itertools
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sentencepiece
import torch
from tokenizers import processors
from transformers import AutoTokenizer

from catsweep.batches import sequence_batch
from catsweep.errors import ModelError
from catsweep.models import (
    TRUSTED_VARIABLE,
    Architecture,
    TargetLogits,
    architecture_of,
    build_model,
    check_pair,
    load_config,
    load_tokenizer,
    model_key,
)
from catsweep.shapes import model_shape
from catsweep.spec.model import BpeTokenizer, ByteTokenizer, CharTokenizer, PretrainedModel, ScratchModel
from catsweep.tensors import Batch
from catsweep.tokenization import make_tokenizer, tokenizer_key

TEXTS = ["hello world", "naïve café 🙂", "  two  spaces\nand a line"]
SMALL = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
}
T5 = {"model_type": "t5", "d_model": 32, "d_ff": 64, "num_layers": 2, "num_heads": 2, "d_kv": 16}
BART = {"d_model": 32, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2, "decoder_attention_heads": 2,
        "encoder_ffn_dim": 48, "decoder_ffn_dim": 48}  # fmt: skip

# model config -> whether hidden state times head are the model's own logits
FAST = [
    ({"model_type": "llama", **SMALL}, True),
    ({"model_type": "llama", **SMALL, "tie_word_embeddings": True}, True),
    ({"model_type": "gpt2", "n_embd": 32, "n_layer": 2, "n_head": 2}, True),
    ({"model_type": "gemma2", **SMALL, "head_dim": 16, "final_logit_softcapping": 30.0}, False),
    ({"model_type": "cohere", **SMALL, "logit_scale": 0.25}, False),
    ({"model_type": "granite", **SMALL, "logits_scaling": 4.0}, False),
    ({**T5, "tie_word_embeddings": True}, True),
    ({**T5, "tie_word_embeddings": False}, True),
    ({"model_type": "bart", **BART}, True),
]


def make(config: dict[str, Any]) -> tuple[TargetLogits, Architecture]:
    spec = ScratchModel(config=config, tokenizer=ByteTokenizer())
    model = build_model(spec, make_tokenizer(ByteTokenizer(), []), seed=0)
    return TargetLogits(model), architecture_of(model.config)


def some_batch(architecture: Architecture) -> Batch:
    generator = np.random.default_rng(0)
    prompts = [generator.integers(3, 200, size).astype(np.int32) for size in (5, 2, 7)]
    targets = [generator.integers(3, 200, size).astype(np.int32) for size in (3, 4, 1)]
    return sequence_batch(prompts, targets, architecture=architecture, pad_id=0, start_id=0)


@pytest.mark.parametrize(
    ("config", "fast"), FAST, ids=lambda value: value.get("model_type") if isinstance(value, dict) else None
)
def test_the_fast_path_is_taken_exactly_where_it_gives_the_models_own_logits(
    config: dict[str, Any], fast: bool
) -> None:
    module, architecture = make(config)
    batch = some_batch(architecture)
    before = module.model.get_output_embeddings().weight.clone()
    assert module.choose_path(batch) is fast
    assert torch.equal(module.model.get_output_embeddings().weight, before)
    with torch.no_grad():
        chosen = module(batch)
        decoder = {} if batch.decoder_input_ids_BT is None else {"decoder_input_ids": batch.decoder_input_ids_BT}
        own = module.model(input_ids=batch.input_ids_BS, attention_mask=batch.attention_mask_BS, **decoder).logits
    assert torch.allclose(chosen, own.flatten(0, 1)[batch.target_places_N], atol=1e-5)
    assert chosen.shape == (8, len(make_tokenizer(ByteTokenizer(), [])))


@pytest.mark.parametrize(("most_logits", "num_parts"), [(1, 8), (3 * 259, 3), (10**6, 1)], ids=["one", "three", "all"])
@pytest.mark.parametrize(
    "config", [config for config, _ in FAST], ids=lambda value: f"{value['model_type']}-{len(value)}"
)
def test_logits_in_parts_are_those_of_the_whole_batch(
    monkeypatch: pytest.MonkeyPatch, config: dict[str, Any], most_logits: int, num_parts: int
) -> None:
    monkeypatch.setattr("catsweep.models.MAX_LOGITS", most_logits)
    module, architecture = make(config)
    batch = some_batch(architecture)
    module.choose_path(batch)
    with torch.no_grad():
        whole = module(batch)
    parts = [(part, logits_PV.clone()) for part, logits_PV in module.in_parts(batch)]
    assert len(parts) == num_parts
    largest = max(1.0, whole.abs().max().item())
    assert torch.allclose(torch.cat([logits for _, logits in parts]), whole, atol=1e-6 * largest)
    assert [index for part, _ in parts for index in range(part.start, part.stop)] == list(range(8))


def test_choosing_a_path_never_computes_all_logits_of_long_prompts() -> None:
    module, architecture = make({"model_type": "llama", **SMALL})
    prompts = [np.arange(3, 203, dtype=np.int32), np.arange(3, 103, dtype=np.int32)]
    targets = [np.array([5, 6, 7], np.int32), np.array([8], np.int32)]
    seen = []
    module.model.get_output_embeddings().register_forward_hook(lambda *call: seen.append(call[2].numel() // 259))
    assert module.choose_path(sequence_batch(prompts, targets, architecture=architecture, pad_id=0, start_id=None))
    assert max(seen) <= 2 * 16


@pytest.mark.parametrize(
    "spec", [ByteTokenizer(), CharTokenizer(), BpeTokenizer(vocab_size=320)], ids=lambda spec: spec.kind
)
def test_tokenisers_give_the_text_back(spec: Any) -> None:
    tokenizer = make_tokenizer(spec, TEXTS)
    assert (tokenizer.pad_token_id, tokenizer.eos_token_id, tokenizer.unk_token_id) == (0, 1, 2)
    for text in TEXTS:
        assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


def test_a_character_that_was_not_seen_is_unknown() -> None:
    tokenizer = make_tokenizer(CharTokenizer(), ["ab"])
    assert tokenizer("abz")["input_ids"] == [3, 4, 2]


def test_the_tokenisers_key_follows_its_vocabulary() -> None:
    first = tokenizer_key(make_tokenizer(CharTokenizer(), ["ab"]))
    assert first == tokenizer_key(make_tokenizer(CharTokenizer(), ["ba"]))
    assert first != tokenizer_key(make_tokenizer(CharTokenizer(), ["abc"]))


def test_a_pair_with_different_tokenisers_is_refused() -> None:
    small, large = make_tokenizer(CharTokenizer(), ["abc"]), make_tokenizer(CharTokenizer(), ["abd"])
    config = load_config(ScratchModel(config={"model_type": "llama", **SMALL}), small)
    with pytest.raises(ModelError, match="1 of the small one's with another id, for example 'c'"):
        check_pair(small, large, config, config)


def test_a_pair_with_one_vocabulary_that_reads_texts_differently_is_refused() -> None:
    small, large = make_tokenizer(ByteTokenizer(), []), make_tokenizer(ByteTokenizer(), [])
    config = load_config(ScratchModel(config={"model_type": "llama", **SMALL}), small)
    check_pair(small, large, config, config)
    large.backend_tokenizer.post_processor = processors.TemplateProcessing("<unk> $A", special_tokens=[("<unk>", 2)])
    with pytest.raises(ModelError, match="token 0 is 'I' for the small model and '<unk>' for"):
        check_pair(small, large, config, config)


def test_a_tokeniser_without_a_padding_token_pads_with_its_end_token(tmp_path: Path) -> None:
    tokenizer = make_tokenizer(ByteTokenizer(), [])
    tokenizer.pad_token = None
    tokenizer.save_pretrained(tmp_path)
    model = build_model(
        ScratchModel(config={"model_type": "llama", **SMALL}), make_tokenizer(ByteTokenizer(), []), seed=0
    )
    model.save_pretrained(tmp_path)
    loaded = load_tokenizer(PretrainedModel(pretrained=str(tmp_path)), [])
    assert (loaded.pad_token_id, loaded.eos_token_id) == (1, 1)


def test_a_t5_tokeniser_that_comes_as_spiece_model_alone_is_read_and_kept(tmp_path: Path) -> None:
    texts = [" ".join(pair) for pair in itertools.permutations(["the", "cat", "sat", "walking", "rivers", "flow"], 4)]
    written = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(texts), model_writer=written, vocab_size=26, pad_id=0, eos_id=1, unk_id=2, bos_id=-1, minloglevel=2
    )  # fmt: skip
    (tmp_path / "spiece.model").write_bytes(written.getvalue())
    (tmp_path / "config.json").write_text(json.dumps({**T5, "vocab_size": 126}))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "T5Tokenizer", "eos_token": "</s>"}))
    tokenizer = load_tokenizer(PretrainedModel(pretrained=str(tmp_path)), [])
    ids = tokenizer("the cat walking")["input_ids"]
    plain = sentencepiece.SentencePieceProcessor(model_proto=written.getvalue())
    assert ids == [*plain.encode("the cat walking"), 1]
    assert tokenizer.decode(ids, skip_special_tokens=True) == "the cat walking"
    tokenizer.save_pretrained(tmp_path / "kept")
    again = AutoTokenizer.from_pretrained(tmp_path / "kept")
    assert again("the cat walking")["input_ids"] == ids
    assert tokenizer_key(again) == tokenizer_key(tokenizer)


def test_a_bfloat16_checkpoint_takes_the_fast_path_and_gives_float32_logits(tmp_path: Path) -> None:
    tokenizer = make_tokenizer(ByteTokenizer(), [])
    build_model(ScratchModel(config={"model_type": "llama", **SMALL}), tokenizer, seed=5).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    logits = {}
    for dtype in ("float32", "bfloat16"):
        module = TargetLogits(build_model(PretrainedModel(pretrained=str(tmp_path), dtype=dtype), tokenizer, seed=0))
        assert module.model.dtype == getattr(torch, dtype)
        assert module.choose_path(some_batch("decoder"))
        with torch.no_grad():
            logits[dtype] = module(some_batch("decoder"))
        assert logits[dtype].dtype == torch.float32
    assert torch.allclose(logits["bfloat16"], logits["float32"], atol=0.02)


def test_a_decoder_and_an_encoder_decoder_are_no_pair() -> None:
    tokenizer = make_tokenizer(ByteTokenizer(), [])
    decoder = load_config(ScratchModel(config={"model_type": "llama", **SMALL}), tokenizer)
    pair = load_config(ScratchModel(config=T5), tokenizer)
    with pytest.raises(ModelError, match="the small model is a decoder, the large one a encoder_decoder"):
        check_pair(tokenizer, tokenizer, decoder, pair)


def test_a_misspelt_config_field_is_an_error_with_a_hint() -> None:
    with pytest.raises(ModelError, match="Did you mean 'hidden_size'"):
        load_config(ScratchModel(config={"model_type": "llama", "hiden_size": 8}))


def test_an_unknown_model_type_is_an_error() -> None:
    with pytest.raises(ModelError, match=r"config\.model_type: found 'lama'"):
        load_config(ScratchModel(config={"model_type": "lama"}))


def test_a_missing_checkpoint_names_the_next_move(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ModelError, match="give the folder's path"):
        load_tokenizer(PretrainedModel(pretrained=str(tmp_path / "nothing")), [])


def test_a_local_checkpoint_loads_and_its_key_follows_its_files(tmp_path: Path) -> None:
    tokenizer = make_tokenizer(ByteTokenizer(), [])
    model = build_model(ScratchModel(config={"model_type": "llama", **SMALL}), tokenizer, seed=5)
    model.save_pretrained(tmp_path, safe_serialization=True)
    tokenizer.save_pretrained(tmp_path)
    spec = PretrainedModel(pretrained=str(tmp_path))
    again = build_model(spec, load_tokenizer(spec, []), seed=0)
    assert torch.equal(again.get_output_embeddings().weight, model.get_output_embeddings().weight)
    key = model_key(spec)
    (tmp_path / "config.json").write_text((tmp_path / "config.json").read_text() + "\n")
    assert model_key(spec) != key


def test_weights_from_scratch_follow_the_seed() -> None:
    spec, tokenizer = ScratchModel(config={"model_type": "llama", **SMALL}), make_tokenizer(ByteTokenizer(), [])
    first, same, other = (build_model(spec, tokenizer, seed=seed).get_output_embeddings().weight for seed in (1, 1, 2))
    assert torch.equal(first, same)
    assert not torch.equal(first, other)


def test_a_decoders_shape_counts_its_matrices() -> None:
    config = load_config(ScratchModel(config={"model_type": "llama", **SMALL}), make_tokenizer(ByteTokenizer(), []))
    shape = model_shape(config)
    attention = 32 * 32 + 2 * 32 * 16 + 32 * 32  # queries, keys and values of one head, output
    layer = attention + 3 * 32 * 48 + 2 * 32  # gate, up, down; two norms
    assert shape.decoder_parameters == 2 * layer + 32
    assert shape.head_parameters == 32 * 259
    assert (shape.num_decoder_layers, shape.decoder_attention_width) == (2, 32)


def test_an_encoder_decoders_shape_tells_its_parts_apart() -> None:
    shape = model_shape(load_config(ScratchModel(config=T5), make_tokenizer(ByteTokenizer(), [])))
    attention = 4 * 32 * 32
    feed_forward = 2 * 32 * 64
    assert shape.encoder_parameters == 2 * (attention + feed_forward + 2 * 32) + 32
    assert shape.cross_key_value_parameters == 2 * 2 * 32 * 32
    assert shape.decoder_parameters == 2 * (attention + 2 * 32 * 32 + feed_forward + 3 * 32) + 32
    assert (shape.num_encoder_layers, shape.num_decoder_layers) == (2, 2)
    assert shape.encoder_attention_width == shape.decoder_attention_width == 32


def test_a_config_whose_fields_do_not_fit_together_is_an_error_with_the_reason() -> None:
    spec = ScratchModel(config={"model_type": "llama", "hidden_size": 48, "num_attention_heads": 5})
    reason = "hidden size .48. is not a multiple of the number of attention heads .5."
    with pytest.raises(ModelError, match=f"num_attention_heads: 5.*{reason}"):
        load_config(spec)


def test_a_model_with_code_of_its_own_is_refused_unless_its_repository_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder whose config names a Python file beside it; the file notes that it ran."""
    folder, ran = tmp_path / "own", tmp_path / "ran"
    folder.mkdir()
    auto_map = {"AutoConfig": "own.OwnConfig"}
    (folder / "config.json").write_text(json.dumps({"model_type": "own_model", "auto_map": auto_map}))
    (folder / "own.py").write_text(
        f"from transformers import PretrainedConfig\nopen({str(ran)!r}, 'w').close()\n"
        "class OwnConfig(PretrainedConfig):\n    model_type = 'own_model'\n"
    )
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.setattr("sys.path", [*sys.path])  # transformers adds that folder
    spec = PretrainedModel(pretrained=str(folder))
    for trusted in ("", "another/repository", str(tmp_path)):
        monkeypatch.setenv(TRUSTED_VARIABLE, trusted)
        with pytest.raises(ModelError, match=rf"brings Python code of its own.*--trust-remote-code {folder}"):
            load_config(spec)
    assert not ran.exists()
    monkeypatch.setenv(TRUSTED_VARIABLE, f"another/repository,{folder}")
    assert load_config(spec).model_type == "own_model"
    assert ran.exists()
