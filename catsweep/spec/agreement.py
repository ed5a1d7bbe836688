"""What one part of a sweep asks of another: losses of the large model's distribution, filters of injected noise."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from catsweep.errors import Problem
from catsweep.spec.filters import NOISE_FILTERS
from catsweep.spec.yaml import Document, KeyPath


def agreement_problems(document: Document) -> list[Problem]:
    """Settings that are valid alone but not together, each at the line of the one that asks."""
    return [*divergence_problems(document), *noise_problems(document)]


def divergence_problems(document: Document) -> list[Problem]:
    """Divergences that tokens drawn from the large model's distribution cannot give."""
    distribution = document.data.get("distribution")
    kind = distribution.get("kind", "sampled") if isinstance(distribution, dict) else "sampled"
    if kind == "top_k":
        return []
    return [
        document.problem(
            keys,
            found=f"divergence {value} with distribution.kind {kind}",
            expected="`distribution: {kind: top_k}`: drawn tokens say nothing of the probabilities of the others. "
            "num_entries at the vocabulary's size makes it exact",
        )
        for keys, value in _loss_values(document)
        if value in ("reverse_kl", "jsd") and "divergence" in keys
    ]


def noise_problems(document: Document) -> list[Problem]:
    """Filters that ask which targets are injected where none is, and a clean large model that is not trained here."""
    data, large = document.data.get("data"), document.data.get("large")
    noise = data.get("label_noise") if isinstance(data, dict) else None
    if not isinstance(noise, dict):
        return [
            document.problem(
                keys,
                found=f"filter {value} without data.label_noise",
                expected="`data: {label_noise: {rate: ...}}`: the filter asks which training targets are injected",
            )
            for keys, value in _loss_values(document)
            if value in NOISE_FILTERS and "filter" in keys
        ]
    if noise.get("clean_large") in (True, "true") and isinstance(large, dict) and not large.get("finetune"):
        return [
            document.problem(
                ("data", "label_noise", "clean_large"),
                found="clean_large with a large model that is used as it is",
                expected="a large model with `finetune`, or no clean_large: it sees no training target either way",
            )
        ]
    return []


def _loss_values(document: Document) -> Iterator[tuple[KeyPath, Any]]:
    """Every plain value of the losses of `training` and of the search space, with its path."""
    for prefix in (("training", "loss"), ("search", "space", "loss")):
        value: Any = document.data
        for key in prefix:
            value = value.get(key) if isinstance(value, dict) else None
        yield from _leaves(value, prefix)


def _leaves(value: Any, keys: KeyPath) -> Iterator[tuple[KeyPath, Any]]:
    if isinstance(value, dict | list):
        for key, child in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _leaves(child, (*keys, key))
    else:
        yield keys, value
