"""Which client holds which example: by hash, by group, or with skewed classes."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from catsweep.errors import DataError
from catsweep.partition import dirichlet, partition, target_classes
from catsweep.spec.federated import FederatedSpec

COLORS = ["red", "green", "blue"]


def texts(num: int = 300, *, num_groups: int = 40, choices: list[str] | None = None) -> pa.Table:
    return pa.table(
        {
            "id": [f"train-{index}" for index in range(num)],
            "group": [f"group {index % num_groups}" for index in range(num)],
            "references": [[COLORS[index % 3]] for index in range(num)],
            "choices": [choices or [] for _ in range(num)],
        }
    )


def spec(kind: str, clients: int = 4, **fields: object) -> FederatedSpec:
    return FederatedSpec.model_validate(
        {"clients": clients, "rounds": 1, "local_steps": 1, "partition": {"kind": kind, **fields}}
    )


@pytest.mark.parametrize(
    "federated", [spec("iid"), spec("by_group"), spec("dirichlet", alpha=0.3)], ids=lambda s: s.partition.kind
)
def test_every_example_lies_on_exactly_one_client_and_the_same_one_each_time(federated: FederatedSpec) -> None:
    parts = partition(texts(), federated, "toy")
    assert sorted(np.concatenate(parts).tolist()) == list(range(300))
    assert [part.tolist() for part in parts] == [part.tolist() for part in partition(texts(), federated, "toy")]


@pytest.mark.parametrize("federated", [spec("iid"), spec("by_group")], ids=lambda s: s.partition.kind)
def test_where_an_example_lies_does_not_depend_on_the_others(federated: FederatedSpec) -> None:
    whole = partition(texts(), federated, "toy")
    fewer = partition(texts().slice(0, 200), federated, "toy")
    assert [part[part < 200].tolist() for part in whole] == [part.tolist() for part in fewer]


def test_no_group_lies_on_two_clients() -> None:
    groups = [{place % 40 for place in part.tolist()} for part in partition(texts(), spec("by_group"), "toy")]
    assert sum(len(found) for found in groups) == len(set.union(*groups)) == 40


def test_a_small_alpha_gives_each_client_few_classes_and_a_large_one_all_in_their_shares() -> None:
    classes = np.repeat(np.arange(10), 100)
    for alpha, low, high in ((1e-3, 0.8, 1.0), (1e4, 0.1, 0.2)):
        clients = dirichlet(classes, 5, alpha, seed=0)
        counts = np.array([np.bincount(classes[clients == number], minlength=10) for number in range(5)])
        assert counts.sum(1).tolist() == [200] * 5
        # The last clients take what the first have left; so the first three are looked at.
        largest = np.sort(counts[:3], axis=1)[:, -2:].sum(1) / 200 if alpha < 1 else counts[:3].max(1) / 200
        assert ((largest >= low) & (largest <= high)).all()


def test_sizes_of_skewed_clients_differ_by_one_at_most() -> None:
    clients = dirichlet(np.arange(11) % 3, 4, 0.1, seed=3)
    assert sorted(np.bincount(clients).tolist()) == [2, 3, 3, 3]
    assert dirichlet(np.arange(11) % 3, 4, 0.1, seed=4).tolist() != clients.tolist()


def test_the_class_of_a_target_is_its_choice_its_place_or_the_bucket_of_its_first_character() -> None:
    same = texts(6, choices=COLORS)
    assert target_classes(same, 10).tolist() == [2, 1, 0, 2, 1, 0]  # places among blue, green, red
    own = same.set_column(
        3, "choices", [[["red", "x"], ["x", "green"], ["blue", "y"], ["y", "red"], ["green", "z"], ["z", "blue"]]]
    )
    assert target_classes(own, 10).tolist() == [0, 1, 0, 1, 0, 1]
    generated = target_classes(texts(6), 10)
    assert generated[:3].tolist() == generated[3:].tolist()
    assert ((generated >= 0) & (generated < 10)).all()
    other = texts(6).set_column(2, "references", [[["rose"], ["gold"], ["beige"]] * 2])
    assert target_classes(other, 10).tolist() == generated.tolist()


def test_a_client_without_examples_is_an_error_that_says_what_to_do() -> None:
    with pytest.raises(
        DataError,
        match=r"task toy: of 9 clients, number .* none of the 300 training examples \(2 groups\) under partition by_group; .*Lower training\.federated\.clients",
    ):
        partition(texts(num_groups=2), spec("by_group", clients=9), "toy")
