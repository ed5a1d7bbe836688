"""Federated training: how the training examples lie on clients, and how often these meet."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from catsweep.spec.base import Spec


class IidPartition(Spec):
    """Each example lies on a client by a stable hash of its id."""

    kind: Literal["iid"] = "iid"


class GroupPartition(Spec):
    """Each group of examples lies on one client, by a stable hash of the group's key: no group in two clients."""

    kind: Literal["by_group"] = "by_group"


class DirichletPartition(Spec):
    """Clients of equal size with classes of targets in different shares: each client's are drawn from a Dirichlet
    distribution around those of all examples (arXiv 1909.06335). The classes are the choices; of generated targets,
    buckets of the first character [ours]."""

    kind: Literal["dirichlet"] = "dirichlet"
    alpha: float = Field(description="Concentration: near 0 a client has one class, large is close to iid", gt=0)
    num_buckets: int = Field(10, description="Classes that first characters of generated targets fall into", ge=2)
    seed: int = Field(0, description="Seed of the draws; all trials share it", ge=0)


PartitionSpec = Annotated[IidPartition | GroupPartition | DirichletPartition, Field(discriminator="kind")]


class FederatedSpec(Spec):
    """Federated averaging (arXiv 1602.05629) of the small model: in each round every client takes `local_steps` steps of
    `batch_size` examples from the shared weights on its own data, with a fresh optimiser; the shared weights are then the
    mean of the clients', weighted by their numbers of target tokens. rounds * local_steps is `steps`."""

    clients: int = Field(description="Clients; every one takes part in every round", ge=1, le=1024)
    rounds: int = Field(description="Times that the clients' weights are averaged", ge=1)
    local_steps: int = Field(description="Optimiser steps of each client in a round", ge=1)
    # No default: an option of a space that left it out would lack the path that tells strata apart.
    partition: PartitionSpec = Field(description="Which training examples lie on which client")
