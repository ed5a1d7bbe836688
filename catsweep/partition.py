"""Which client of federated training holds which training example."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import assert_never

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from catsweep.errors import DataError
from catsweep.spec.federated import DirichletPartition, FederatedSpec, GroupPartition, IidPartition

IntArray = NDArray[np.int64]


def partition(texts: pa.Table, spec: FederatedSpec, task: str) -> list[IntArray]:
    """The places of each client's examples, ascending; every example lies on exactly one client.

    texts: the columns id, group, references and choices of the training examples (see data.TEXTS). Raises DataError
    where a client would have none: its weights would count nothing in the average.
    """
    match spec.partition:
        case IidPartition():
            clients = _by_hash(texts["id"].to_pylist(), spec.clients)
        case GroupPartition():
            clients = _by_hash(texts["group"].to_pylist(), spec.clients)
        case DirichletPartition() as skewed:
            classes = target_classes(texts, skewed.num_buckets)
            order = np.argsort([_share(f"order:{name}") for name in texts["id"].to_pylist()], kind="stable")
            clients = np.empty(len(classes), dtype=np.int64)
            clients[order] = dirichlet(classes[order], spec.clients, skewed.alpha, skewed.seed)
        case _:
            assert_never(spec.partition)
    parts = [np.flatnonzero(clients == number) for number in range(spec.clients)]
    empty = [str(number) for number, places in enumerate(parts) if not len(places)]
    if empty:
        raise DataError(
            f"task {task}: of {spec.clients} clients, number {', '.join(empty)} would have none of the "
            f"{texts.num_rows} training examples ({len(set(texts['group'].to_pylist()))} groups) under partition "
            f"{spec.partition.kind}; expected at least one each. Lower training.federated.clients, or take another partition"
        )
    return parts


def target_classes(texts: pa.Table, num_buckets: int) -> IntArray:
    """The class of each example's target, int64 (n,): the right choice where all examples have the same choices, else
    its place among the choices; of generated targets the bucket of the first character."""
    targets = [references[0] for references in texts["references"].to_pylist()]
    choices = texts["choices"].to_pylist()
    if not choices or not choices[0]:
        return np.array([int(_share(target[:1]) * num_buckets) for target in targets], dtype=np.int64)
    if all(options == choices[0] for options in choices):
        names = sorted(set(choices[0]))
        return np.array([names.index(target) for target in targets], dtype=np.int64)
    return np.array([options.index(target) for options, target in zip(choices, targets, strict=True)], dtype=np.int64)


def dirichlet(classes: IntArray, num_clients: int, alpha: float, seed: int) -> IntArray:
    """The client of each example, int64 (n,), sizes equal to one example.

    Each client's shares of the classes are drawn from Dirichlet(alpha * shares of all examples), and its examples
    without replacement by these shares among the classes that still have some (arXiv 1909.06335, section 3.1).
    classes: int64 (n,).
    """
    generator = np.random.default_rng(seed)
    values, counts = np.unique(classes, return_counts=True)
    waiting = {value: list(np.flatnonzero(classes == value)) for value in values.tolist()}
    left = counts.astype(np.int64)
    clients = np.empty(len(classes), dtype=np.int64)
    for number in range(num_clients):
        shares = generator.dirichlet(alpha * counts / counts.sum())
        wanted = len(classes) * (number + 1) // num_clients - len(classes) * number // num_clients
        while wanted:
            odds = np.where(left > 0, shares, 0.0)
            if odds.sum() == 0:  # the client's classes are used up: it draws shares of those that are left
                odds[left > 0] = generator.dirichlet(alpha * left[left > 0] / left.sum())
                shares = odds
            taken = np.minimum(generator.multinomial(wanted, odds / odds.sum()), left)
            for index, num in enumerate(taken.tolist()):
                pool = waiting[int(values[index])]
                clients[pool[:num]] = number
                del pool[:num]
            left, wanted = left - taken, wanted - int(taken.sum())
    return clients


def _by_hash(keys: Sequence[str], num_clients: int) -> IntArray:
    return np.array([int(_share(f"client:{key}") * num_clients) for key in keys], dtype=np.int64)


def _share(key: str) -> float:
    """A number in [0, 1) that follows from the key alone."""
    return int.from_bytes(hashlib.blake2b(key.encode(), digest_size=6).digest(), "big") / 2**48
