"""The numbers of one confirmed run, worked out again from the definitions by plain loops.

    python benchmarks/reference/reference.py ROOT SWEEP TRIAL_ID     # prints JSON

Imports nothing of catsweep: numpy, torch and pyarrow (to read parquet) alone, and transformers for one thing, the logits
that the saved weights give. Every formula stands here a second time, written from the definitions and for clarity, not
for speed: O(n^2) curves, examples one at a time and without padding, FLOPs as sums over tokens, layers and keys.

It covers a single task with accuracy or exact match, the deferral rule mean, FLOPs as the cost, and the losses xent,
cat_xent/either, dist and cat_dist/either, these two from the stored entries of the large model's distribution.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM

COST_SHARES = (0.25, 0.5, 0.75)


def reference(root: Path, sweep: str, trial_id: str) -> dict[str, Any]:
    """All numbers of a confirm run, whose weights lie in its folder."""
    folder = root / sweep / trial_id
    spec = json.loads((folder / "spec.json").read_text())
    task = spec["task"]
    if "source" not in task or spec["deferral"] != "mean":
        raise SystemExit(
            f"{trial_id} is of a mixture, or has the deferral rule {spec['deferral']}; expected one task, mean"
        )
    prepared = json.loads((root / sweep / "prepared" / f"{task['task']}.json").read_text())
    keys, cache = prepared["keys"], root / "cache"
    small = load_model(folder / "model")
    large = load_config(cache / "large" / keys["large"] if keys["large"] else Path(spec["large"]["pretrained"]))
    shapes = shape_of(small.config), shape_of(large)
    answers = pq.read_table(cache / "answers" / keys["answers"] / "rows.parquet").to_pylist()
    rows = pq.read_table(folder / "rows.parquet").to_pylist()
    data = cache / "data" / keys["data"]
    curves = {split: curve(split, rows, answers, data, task, shapes) for split in ("calibration", "test")}
    return {
        "first_batch": first_batch(small, spec, data, cache / "signal" / keys["signal"]),
        "curve": curves["test"],
        **numbers(curves["test"]),
        "operating": {f"cost<={share}": operate(curves["calibration"], curves["test"], share) for share in COST_SHARES},
    }


# ---------------------------------------------------------------- losses


def load_model(folder: Path) -> Any:
    """The trained small model in evaluation mode: the only thing that transformers is asked for."""
    encoder_decoder = AutoConfig.from_pretrained(folder).is_encoder_decoder
    auto = AutoModelForSeq2SeqLM if encoder_decoder else AutoModelForCausalLM
    return auto.from_pretrained(folder, dtype=torch.float32).eval()


def load_config(folder: Path) -> Any:
    return AutoConfig.from_pretrained(folder)


def token_lists(data: Path, name: str) -> tuple[np.ndarray, np.ndarray]:
    return np.load(data / f"train.{name}.ids.npy"), np.load(data / f"train.{name}.offsets.npy")


@torch.no_grad()
def first_batch(model: Any, spec: dict[str, Any], data: Path, signal: Path) -> dict[str, Any]:
    """Losses of the first batch under the weights as they are: sums over its target tokens divided by their number.

    The first batch: the first batch_size entries of NumPy's permutation of the training examples, seeded with
    [seed, 0]. alpha of a token is 1 unless both models get it wrong: L's half is the stored rank.
    """
    prompts, prompt_ends = token_lists(data, "prompts")
    targets, target_ends = token_lists(data, "targets")
    rank = np.load(signal / "rank.npy")
    entries = {
        name: np.load(signal / f"{name}.npy") for name in ("ids", "weights") if (signal / f"{name}.npy").exists()
    }
    if (signal / "ids_low.npy").exists():
        # Ids of a vocabulary above 65,536 tokens: 16 bits, and planes of further bits, eight entries a byte.
        entries["ids"] = np.load(signal / "ids_low.npy").astype(np.int64)
        for plane, packed in enumerate(np.load(signal / "ids_high.npy").swapaxes(0, 1)):
            bits = np.unpackbits(packed, axis=1)[:, : entries["ids"].shape[1]]
            entries["ids"] += bits.astype(np.int64) * 2 ** (16 + plane)
    weight = spec["training"]["loss"].get("weight", 0.5)
    order = np.random.default_rng([spec["seed"], 0]).permutation(len(prompt_ends) - 1)
    totals = {"xent": 0.0, "dist": 0.0, "cat_xent": 0.0, "cat_dist": 0.0}
    alphas: list[int] = []
    for example in order[: spec["training"]["batch_size"]]:
        prompt = prompts[prompt_ends[example] : prompt_ends[example + 1]].tolist()
        first, last = target_ends[example], target_ends[example + 1]
        target = targets[first:last].tolist()
        for place, logits in enumerate(target_logits(model, prompt, target)):
            log_p = (logits - np.logaddexp.reduce(logits)).astype(np.float64)
            position = first + place
            alpha = int(logits.argmax() == target[place] or rank[position] == 0)
            hard = -log_p[target[place]]
            totals["xent"] += hard
            totals["cat_xent"] += alpha * hard
            alphas.append(alpha)
            if "ids" in entries:
                ids = entries["ids"][position].astype(int)
                shares = (
                    entries["weights"][position].astype(float) if "weights" in entries else [1 / len(ids)] * len(ids)
                )
                soft = -sum(share * log_p[token] for share, token in zip(shares, ids, strict=True))
                mixed = weight * hard + (1 - weight) * soft
                totals["dist"] += mixed
                totals["cat_dist"] += alpha * mixed
    kept = [name for name in totals if "ids" in entries or not name.endswith("dist")]
    return {"alpha": alphas, **{name: totals[name] / len(alphas) for name in kept}}


def target_logits(model: Any, prompt: list[int], target: list[int]) -> np.ndarray:
    """(N, V) float64 logits that predict each target token."""
    if model.config.is_encoder_decoder:
        begin = [model.config.decoder_start_token_id, *target[:-1]]
        out = model(input_ids=torch.tensor([prompt]), decoder_input_ids=torch.tensor([begin])).logits[0]
    else:
        out = model(input_ids=torch.tensor([prompt + target[:-1]])).logits[0, len(prompt) - 1 :]
    return out.double().numpy()


# ---------------------------------------------------------------- cost


def shape_of(config: Any) -> dict[str, Any]:
    """Weights that a token is multiplied with, counted on a model without memory: all but embeddings and the head."""
    auto = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
    with torch.device("meta"):
        model = auto.from_config(config)
    head = model.get_output_embeddings().weight
    tables = {id(part.weight) for part in model.modules() if isinstance(part, torch.nn.Embedding)} | {id(head)}
    counts = {"encoder": 0, "decoder": 0, "cross_key_value": 0}
    for name, weight in model.named_parameters():
        if id(weight) in tables:
            continue
        is_cross = any(f".EncDecAttention.{part}." in name for part in "kv")
        counts["encoder" if name.startswith("encoder.") else "cross_key_value" if is_cross else "decoder"] += (
            weight.numel()
        )
    heads, width = config.num_attention_heads, getattr(config, "d_kv", None) or getattr(config, "head_dim", None)
    return {
        **counts,
        "head": head.numel(),
        "attention": heads * (width or config.hidden_size // heads),
        "decoder_layers": getattr(config, "num_decoder_layers", None) or config.num_hidden_layers,
        "encoder_layers": config.num_layers if config.is_encoder_decoder else 0,
        "is_pair": bool(config.is_encoder_decoder),
    }


def query_flops(shape: dict[str, Any], row: dict[str, Any]) -> float:
    """FLOPs of one answer: 2 a weight and token; 4 * attention width a layer, token and key that it attends to (2 for its
    score, 2 for its value). Choices: the prompt once, then the tokens of all of them, each choice on its own."""
    prompt = row["num_prompt_tokens"]
    answers = row["choice_num_tokens"] or [row["num_output_tokens"]]
    total, in_decoder, in_encoder = 0.0, 0, 0
    if shape["is_pair"]:
        total += 2 * (shape["encoder"] + shape["cross_key_value"]) * prompt
        in_encoder = prompt * prompt
    else:
        total += 2 * shape["decoder"] * prompt
        in_decoder = sum(range(1, prompt + 1))
    for length in answers:
        total += 2 * (shape["decoder"] + shape["head"]) * length
        for token in range(1, length + 1):
            in_decoder += prompt + token  # the prompt's keys, in the cache or across, and its own answer's so far
    attention = 4 * shape["attention"]
    return float(total + attention * (shape["decoder_layers"] * in_decoder + shape["encoder_layers"] * in_encoder))


# ---------------------------------------------------------------- curve


def curve(
    split: str, rows: list[Any], answers: list[Any], data: Path, task: dict[str, Any], shapes: tuple[Any, Any]
) -> dict[str, Any]:
    """Quality and cost after deferring the k = 0..n most uncertain queries; means over the queries, point by point."""
    metric = task["metric_list"][0]["metric"]
    if metric not in ("accuracy", "exact_match"):
        raise SystemExit(f"the first metric is {metric}; expected accuracy or exact_match")
    texts = {text["id"]: text["references"] for text in pq.read_table(data / f"{split}.parquet").to_pylist()}
    large = {row["id"]: row for row in answers if row["split"] == split}
    small = [row for row in rows if row["split"] == split]
    small.sort(key=lambda row: (-uncertainty(row), id_hash(row["id"])))
    n = len(small)

    def right(row: dict[str, Any]) -> float:
        return float(row["output"].strip() in [text.strip() for text in texts[row["id"]]])

    small_right, large_right = [right(row) for row in small], [right(large[row["id"]]) for row in small]
    small_cost = [query_flops(shapes[0], row) for row in small]
    large_cost = [query_flops(shapes[1], large[row["id"]]) for row in small]
    values = [uncertainty(row) for row in small]
    return {
        "uncertainty": values,
        "ids": [row["id"] for row in small],
        "quality": [(sum(large_right[:k]) + sum(small_right[k:])) / n for k in range(n + 1)],
        "cost_flops": [(sum(small_cost) + sum(large_cost[:k])) / n for k in range(n + 1)],
        "is_threshold": [k in (0, n) or values[k - 1] != values[k] for k in range(n + 1)],
        "cost_large": sum(large_cost) / n,
    }


def uncertainty(row: dict[str, Any]) -> float:
    """-(1/N) sum_i log p_S of S's own answer: the picked choice, or the generated tokens with their end token."""
    return -sum(row["token_logprobs"]) / len(row["token_logprobs"])


def id_hash(text: str) -> int:
    """Queries that tie stand in the order of this hash: characters with their places, each through splitmix64's
    finaliser, summed, and through it again. Ids of more than 64 characters: of their BLAKE2b digest."""
    wrap = 2**64 - 1

    def scramble(value: int) -> int:
        value = (value + 0x9E3779B97F4A7C15) & wrap
        value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & wrap
        value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & wrap
        return value ^ (value >> 31)

    if len(text) > 64:
        text = hashlib.blake2b(text.encode(), digest_size=32).hexdigest()
    places = enumerate(text, start=1)
    return scramble(sum(scramble((ord(character) + (place << 32)) & wrap) for place, character in places) & wrap)


def numbers(points: dict[str, Any]) -> dict[str, Any]:
    """audc by the trapezoid; apgr and cpt against the gap from S alone to L alone, None where L is not better."""
    quality = points["quality"]
    n = len(quality) - 1
    area = sum((quality[k] + quality[k + 1]) / 2 for k in range(n)) / n
    gap = quality[-1] - quality[0]
    reached = {
        x: [
            k / n for k in range(n + 1) if points["is_threshold"][k] and quality[k] - quality[0] >= x / 100 * gap - 1e-9
        ]
        for x in (20, 50, 80)
    }
    return {
        "audc": area,
        "apgr": (area - quality[0]) / gap if gap > 0 else None,
        "cpt": {str(x): found[0] if gap > 0 and found else None for x, found in reached.items()},
    }


def operate(calibration: dict[str, Any], test: dict[str, Any], share: float) -> dict[str, float] | None:
    """The threshold with the best quality on calibration within a share of L's cost there, and what it gives on test."""
    best, limit = None, share * calibration["cost_large"] * (1 + 1e-12)
    for k, quality in enumerate(calibration["quality"]):
        affordable = calibration["is_threshold"][k] and calibration["cost_flops"][k] <= limit
        if affordable and (best is None or quality > calibration["quality"][best]):
            best = k
    if best is None:
        return None
    threshold = math.inf if best == 0 else calibration["uncertainty"][best - 1]
    if best == len(calibration["quality"]) - 1:
        threshold = -math.inf
    deferred = sum(value >= threshold for value in test["uncertainty"])
    n = len(test["uncertainty"])
    cost_share = test["cost_flops"][deferred] / test["cost_large"]
    return {"deferral_rate": deferred / n, "quality": test["quality"][deferred], "cost_share": cost_share}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("root", type=Path)
    parser.add_argument("sweep")
    parser.add_argument("trial_id", help="confirm/<task>/<stratum>/<number>-seed<s>")
    options = parser.parse_args()
    print(json.dumps(reference(options.root, options.sweep, options.trial_id)))
