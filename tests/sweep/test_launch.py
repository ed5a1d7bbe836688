"""From a cluster's file or address to its job server."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from catsweep.errors import ClusterError
from catsweep.sweep.launch import choose_authentication, default_cluster, reached, read_cluster_file

RAY_UP = """\
cluster_name: demo
provider: {type: aws, region: us-west-2}
max_workers: 2
head_node_type: head
available_node_types:
  head: {resources: {CPU: 0, catsweep_head: 1}, node_config: {}}
  big: {resources: {CPU: 8, GPU: 4}, node_config: {}}
"""
RAY_CLUSTER = """\
kind: Service
---
kind: RayCluster
metadata: {name: demo, namespace: team}
spec:
  headGroupSpec: {template: {spec: {containers: [{resources: {limits: {cpu: 500m}}}]}}}
  workerGroupSpecs:
    - {replicas: 2, rayStartParams: {num-gpus: "2"}, template: {spec: {containers: [{resources: {limits: {cpu: 4}}}]}}}
"""


def write(folder: Path, text: str) -> str:
    path = folder / "REPORT.yaml"
    path.write_text(text)
    return str(path)


def test_node_types_and_pods_say_what_each_node_offers(tmp_path: Path) -> None:
    file = read_cluster_file(write(tmp_path, RAY_UP))
    assert file.nodes == [{"CPU": 0.0, "catsweep_head": 1.0}, {"CPU": 8.0, "GPU": 4.0}, {"CPU": 8.0, "GPU": 4.0}]
    assert file.tunnel(81)[1:] == ["dashboard", str(tmp_path / "REPORT.yaml"), "--port", "81"]
    file = read_cluster_file(write(tmp_path, RAY_CLUSTER))
    assert file.nodes == [{"CPU": 0.5, "GPU": 0.0}] + [{"CPU": 4.0, "GPU": 2.0}] * 2
    assert file.tunnel(81) == ["kubectl", "--namespace", "team", "port-forward", "service/catsweep-head", "81:8265"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [", "is no YAML"),
        ("name: sweep\n", "describes no cluster"),
        ("kind: RayCluster\nspec: {}\n", "headGroupSpec"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ClusterError, match=message):
        read_cluster_file(write(tmp_path, text))


def test_what_is_neither_file_nor_address_is_refused() -> None:
    with pytest.raises(ClusterError, match=r"found no such YAML file; expected a file of clusters/, or the address"):
        read_cluster_file("head:8265")


def test_an_address_is_taken_as_it_is_and_the_default_is_rays(monkeypatch: pytest.MonkeyPatch) -> None:
    with reached("https://head:8265/") as address:
        assert address == "https://head:8265"
    monkeypatch.delenv("RAY_API_SERVER_ADDRESS", raising=False)
    assert default_cluster() == "http://127.0.0.1:8265"
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", "http://head:1")
    assert default_cluster() == "http://head:1"


def test_a_tunnel_stands_as_long_as_it_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """kubectl here is a script that listens on the port that it is told to forward."""
    listen = "import socket, sys, time; s = socket.create_server(('127.0.0.1', int(sys.argv[-1].split(':')[0]))); time.sleep(60)"
    fake = tmp_path / "kubectl"
    fake.write_text(f'#!/bin/sh\nexec {sys.executable} -c "{listen}" "$@"\n')
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    with reached(write(tmp_path, RAY_CLUSTER)) as address:
        port = int(address.rpartition(":")[2])
        socket.create_connection(("127.0.0.1", port), timeout=5).close()
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(("127.0.0.1", port), timeout=5)
    fake.write_text("#!/bin/sh\necho no such service >&2\nexit 1\n")
    with (
        pytest.raises(ClusterError, match=r"did not reach the head node \(no such service\)"),
        reached(str(tmp_path / "REPORT.yaml")),
    ):
        pass
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(ClusterError, match="needs the command 'kubectl'"), reached(str(tmp_path / "REPORT.yaml")):
        pass


def test_the_token_is_sent_where_there_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_AUTH_MODE"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    choose_authentication()
    assert "RAY_AUTH_MODE" not in os.environ
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray" / "auth_token").write_text("secret")
    choose_authentication()
    assert os.environ["RAY_AUTH_MODE"] == "token"


def test_the_module_that_chooses_to_send_the_token_loads_no_ray() -> None:
    command = [sys.executable, "-c", "import sys, catsweep.sweep.launch; print('ray' in sys.modules)"]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "False\n"
