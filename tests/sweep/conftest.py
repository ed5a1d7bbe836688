from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from object_store import CREDENTIALS

from catsweep.sweep.cluster import Cluster


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A local Ray with two slots, started once."""
    import ray

    # Workers import the fakes by name, and this copy of the package.
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(Path(__file__).parent), os.environ.get("PYTHONPATH"))))
    os.environ.update(CREDENTIALS)  # of the S3 server that one test starts
    logs: Path = tmp_path_factory.mktemp("ray-logs")
    ray.init(
        address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR",
        namespace="catsweep",
    )  # fmt: skip
    with Cluster(logs) as connected:
        yield connected
    ray.shutdown()
