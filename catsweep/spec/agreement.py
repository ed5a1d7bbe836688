"""What one part of a sweep asks of another: losses of the large model's distribution, filters of injected noise, objectives
of the cascade, clients of nearly everything."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from catsweep.errors import Problem
from catsweep.spec.cascade import uses_cost
from catsweep.spec.dimensions import examples, parse_space
from catsweep.spec.federated import FederatedSpec
from catsweep.spec.filters import NOISE_FILTERS
from catsweep.spec.mixture import MixtureEntry
from catsweep.spec.search import evaluation_steps
from catsweep.spec.sweep import SweepSpec
from catsweep.spec.yaml import Document, KeyPath


def agreement_problems(document: Document) -> list[Problem]:
    """Settings that are valid alone but not together, each at the line of the one that asks."""
    return [*objective_problems(document), *divergence_problems(document), *noise_problems(document)]


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


def objective_problems(document: Document) -> list[Problem]:
    """A first deferral rule or cost model that the search's objective cannot use."""
    cascade, search = document.data.get("cascade"), document.data.get("search")
    if not isinstance(cascade, dict):
        return []
    rules, costs = (value if isinstance(value, list) else [] for value in map(cascade.get, ("deferral", "costs")))
    problems = []
    if rules[:1] == ["learned"]:
        expected = "a rule that needs no fit: objectives use the first, and the learned rule is fitted on calibration"
        place: KeyPath = ("cascade", "deferral", 0)
        hint = "Put another rule before it, for example mean"
        problems.append(document.problem(place, found="learned as the first rule", expected=expected, hint=hint))
    metric = search.get("metric") if isinstance(search, dict) else None
    if costs[:1] in (["latency"], [{"kind": "latency"}]) and uses_cost(metric):
        expected = "flops or price: the objective of search.metric uses the first, and measured seconds are noise to it"
        hint = "Put another cost model before it, for example flops"
        place = ("cascade", "costs", 0)
        problems.append(document.problem(place, found="latency as the first cost model", expected=expected, hint=hint))
    return problems


def federated_problems(document: Document, spec: SweepSpec) -> list[Problem]:
    """Where a valid sweep trains on clients: evaluations that fall between two rounds, and what clients do not go with."""
    places: dict[KeyPath, FederatedSpec] = {}
    for value, origin in examples(
        parse_space({"federated": spec.training.to_json()["federated"], **spec.search.space})
    ):
        if value["federated"] is not None:
            space = "federated" in spec.search.space
            place: KeyPath = ("search", "space", *origin[("federated",)]) if space else ("training", "federated")
            places[place] = FederatedSpec.model_validate(value["federated"])
    problems = []
    for place, federated in places.items():
        steps = evaluation_steps(spec.search.scheduler, spec.training.steps)
        if any(step % federated.local_steps for step in steps):
            found = f"evaluations after steps {', '.join(map(str, steps))} with local_steps {federated.local_steps}"
            expected = "every evaluation behind a whole round"
            hint = "Choose search.scheduler.grace_period as a multiple of local_steps"
            problems.append(document.problem((*place, "local_steps"), found=found, expected=expected, hint=hint))
        if any(isinstance(entry, MixtureEntry) for entry in spec.tasks):
            problems.append(document.problem(place, found="clients with a mixture", expected="tasks alone"))
        if spec.chain:
            problems.append(document.problem(place, found="clients with a chain", expected="no further models"))
        finetune = spec.large.finetune
        if finetune is not None and finetune.holdout is None:
            found = "clients with large.finetune.cross_fit or unseen_signal"
            expected = (
                "holdout: a client makes its signal with the model that answers, which must not have seen its data"
            )
            problems.append(document.problem(place, found=found, expected=expected))
        if spec.resources.num_workers > 1:
            found = f"clients with resources.num_workers {spec.resources.num_workers}"
            problems.append(
                document.problem(place, found=found, expected="num_workers: 1: the clients share its place")
            )
    return problems


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
