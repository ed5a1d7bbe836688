"""Roots on an object store: a real S3 server on loopback, two nodes with a mirror each, and connections that break."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from faults import flip
from object_store import Proxy, s3_server, uri

from catsweep import storage
from catsweep.cache import building, is_complete
from catsweep.checkpoint import newest_checkpoint, save_checkpoint
from catsweep.damage import set_aside_damaged
from catsweep.errors import StorageError
from catsweep.models import TargetLogits
from catsweep.records import (
    MANIFEST,
    TrialRecord,
    append_step,
    read_json,
    read_record,
    read_records,
    read_steps,
    storage_root,
    write_json,
    write_record,
)


@pytest.fixture(scope="module")
def server() -> Iterator[int]:
    with s3_server() as port:
        yield port


class Node:
    """A machine with a mirror of its own."""

    def __init__(self, folder: Path, root: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("CATSWEEP_MIRROR", str(folder))
        self.root = storage_root(root)


@pytest.fixture
def nodes(
    server: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> tuple[Path, Path]:
    """The roots of two nodes on one store, as each sees it."""
    root = uri(server, request.node.name)
    first, second = (Node(tmp_path / name, root, monkeypatch).root for name in ("first", "second"))
    assert first != second
    return first, second


def make_record(trial_id: str, status: str = "finished") -> TrialRecord:
    return TrialRecord(
        trial_id=trial_id, task="a", stratum="xent", number=0, role="trial", seed=1, status=status,  # type: ignore[arg-type]
        parameters={}, num_steps=9, objective=0.5, metrics={}, started_at=1.0, ended_at=2.0,
    )  # fmt: skip


def test_a_root_is_a_folder_or_the_mirror_of_a_uri(
    server: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert storage_root(tmp_path / "x") == tmp_path / "x"
    assert storage_root(f"file://{tmp_path}/x") == storage_root(Path(f"file://{tmp_path}/x")) == tmp_path / "x"
    assert storage.place_of(tmp_path / "x") is None
    monkeypatch.setenv("CATSWEEP_MIRROR", str(tmp_path))
    root = storage_root(uri(server))
    assert root == storage_root(Path(uri(server)))  # as the command line gives it, with one slash
    assert root.parent == tmp_path / "catsweep-mirrors"
    place = storage.place_of(root / "sweep" / "sweep.json")
    assert place is not None
    assert (place.path, place.uri) == ("bucket/sweeps/sweep/sweep.json", uri(server))


@pytest.mark.parametrize(
    ("root", "message"),
    [
        ("s3://me:hunter2@bucket/x", "holds credentials; expected them in the environment"),
        ("s3://bucket/x?secret_key=hunter2", "holds credentials"),
        ("s3://bucket/x?endpoint=host", "found endpoint; expected options among endpoint_override"),
        ("nowhere://bucket/x", "cannot be opened"),
        ("s3://", "expected s3://BUCKET/FOLDER"),
    ],
)
def test_a_uri_that_cannot_be_a_root_is_refused_without_its_secret(root: str, message: str) -> None:
    with pytest.raises(StorageError, match=message) as caught:
        storage_root(root)
    assert "hunter2" not in str(caught.value)


def test_what_one_node_makes_another_one_finds(nodes: tuple[Path, Path]) -> None:
    here, there = nodes
    assert not is_complete(here / "cache" / "signal" / "key")
    with building(here / "cache" / "signal" / "key", made="here") as temporary:
        (temporary / "rank.npy").write_bytes(bytes(range(200)))
        (temporary / "deep").mkdir()
        (temporary / "deep" / "x").write_bytes(b"x")
    assert is_complete(there / "cache" / "signal" / "key")
    assert (there / "cache" / "signal" / "key" / "rank.npy").read_bytes() == bytes(range(200))
    assert read_json(there / "cache" / "signal" / "key" / MANIFEST)["facts"] == {"made": "here"}


def test_a_folder_is_there_once_its_manifest_is(nodes: tuple[Path, Path]) -> None:
    here, there = nodes
    folder = "cache/signal/key"
    with building(here / folder) as temporary:
        (temporary / "rank.npy").write_bytes(bytes(200))
    place = storage.place_of(here / folder / MANIFEST)
    assert place is not None
    place.filesystem.delete_file(place.path)  # as if its process had been killed before it
    assert not is_complete(there / folder)
    assert is_complete(here / folder)  # it is whole in this mirror, and is sent again
    assert is_complete(there / folder)


def test_a_damaged_object_counts_as_missing_and_is_made_again(nodes: tuple[Path, Path]) -> None:
    here, there = nodes

    def make(root: Path) -> None:
        with building(root / "cache" / "x") as temporary:
            (temporary / "rank.npy").write_bytes(bytes(range(200)))

    make(here)
    flip(here / "cache" / "x" / "rank.npy")
    storage.put(here / "cache" / "x" / "rank.npy")
    assert not is_complete(there / "cache" / "x")
    make(there)
    assert is_complete(there / "cache" / "x")
    assert is_complete(here / "cache" / "x")


def test_lines_that_were_not_sent_yet_stay_where_others_bring_the_folder(nodes: tuple[Path, Path]) -> None:
    here, there = nodes
    trial = Path("s") / "trials" / "a" / "xent" / "00000"
    (here / trial).mkdir(parents=True)
    append_step(here / trial, 1, {"train/loss": 2.0}, at=0.0)
    storage.put(here / trial / "steps.jsonl")
    append_step(here / trial, 2, {"train/loss": 1.0}, at=0.0)  # of a run that goes on, or whose process was killed
    storage.pull_sweep(here, "s")
    assert [line["step"] for line in read_steps(here / trial)] == [1, 2]
    storage.pull_sweep(there, "s")
    assert [line["step"] for line in read_steps(there / trial)] == [1]


def test_a_checkpoint_is_sent_behind_the_lines_up_to_it(nodes: tuple[Path, Path]) -> None:
    here, there = nodes
    trial = Path("s") / "trials" / "a" / "xent" / "00000"
    (here / trial).mkdir(parents=True)
    module = TargetLogits(torch.nn.Linear(2, 2))  # type: ignore[arg-type]
    append_step(here / trial, 5, {"train/loss": 2.0}, at=0.0)
    save_checkpoint(here / trial, module, None, 5)
    storage.get_folder(there / trial)
    assert [line["step"] for line in read_steps(there / trial)] == [5]
    assert newest_checkpoint(there / trial) is not None


def test_what_is_written_is_sent_and_not_what_another_process_brought_in_its_place(
    nodes: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = nodes
    write_json(here / "decision.json", {"step": 100})
    sent = storage.put_bytes

    def after_another_brought_the_older_one(path: Path, data: bytes) -> None:
        assert storage.get(path)
        sent(path, data)

    monkeypatch.setattr(storage, "put_bytes", after_another_brought_the_older_one)
    write_json(here / "decision.json", {"step": 200})
    assert json.loads(storage.read(there / "decision.json") or b"") == {"step": 200}
    assert not (there / "decision.json").exists(), "read past the mirror"
    assert storage.read(here / "nothing.json") is None


def test_a_file_that_grew_or_went_since_the_folder_was_listed_is_no_error(
    nodes: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = nodes
    for name in ("grows", "goes"):
        write_json(here / "s" / f"{name}.json", [1])
    downloaded, changed = storage._download, set[str]()

    def once_changed(path: Path, place: storage.Place, info: Any) -> None:
        if path.name not in changed:
            changed.add(path.name)
            if path.name == "grows.json":
                write_json(here / "s" / path.name, [1, 2, 3])
            else:
                storage.delete(here / "s" / path.name)
        downloaded(path, place, info)

    monkeypatch.setattr(storage, "_download", once_changed)
    storage.get_folder(there / "s")
    assert read_json(there / "s" / "grows.json") == [1, 2, 3]
    assert not (there / "s" / "goes.json").exists()


def test_a_driver_elsewhere_sees_the_records_and_only_what_it_needs(nodes: tuple[Path, Path]) -> None:
    here, there = nodes
    trial = here / "s" / "trials" / "a" / "xent" / "00000"
    trial.mkdir(parents=True)
    append_step(trial, 3, {"train/loss": 1.0}, at=0.0)
    for name in ("model", "checkpoint"):
        (trial / name).mkdir()
        (trial / name / "weights").write_bytes(bytes(1000))
        storage.put_folder(trial / name)
    write_record(trial, make_record("trials/a/xent/00000"))
    write_json(there / "s" / "trials" / "a" / "xent" / "00007" / "spec.json", {})
    storage.delete(there / "s" / "trials" / "a" / "xent" / "00007")
    (there / "s" / "old.json").parent.mkdir(parents=True, exist_ok=True)
    (there / "s" / "old.json").write_text("{}")  # of a sweep of this name that was removed from the store

    storage.pull_sweep(there, "s", exact=True)
    assert read_records(there / "s", "trials") == [make_record("trials/a/xent/00000")]
    twin = there / "s" / "trials" / "a" / "xent" / "00000"
    assert read_steps(twin) == [{"step": 3, "at": 0.0, "train/loss": 1.0}]
    assert {path.name for path in twin.iterdir()} == {"record.json", "steps.jsonl"}
    assert not (there / "s" / "old.json").exists()
    storage.get_folder(twin)
    assert (twin / "checkpoint" / "weights").stat().st_size == 1000


def test_a_newer_version_replaces_an_older_one_of_the_same_size(nodes: tuple[Path, Path]) -> None:
    here, there = nodes
    write_json(here / "s" / "x.json", {"value": 1})
    storage.pull_sweep(there, "s")
    write_json(here / "s" / "x.json", {"value": 2})
    storage.pull_sweep(there, "s")
    assert read_json(there / "s" / "x.json") == {"value": 2}
    assert storage.get(there / "s" / "x.json")
    storage.delete(here / "s" / "x.json")
    assert not storage.exists(there / "s" / "x.json")
    assert not storage.get(there / "s" / "x.json")
    assert not (there / "s" / "x.json").exists()


def test_a_damaged_record_is_set_aside_on_the_store(nodes: tuple[Path, Path]) -> None:
    here, there = nodes
    trial = "s/trials/a/xent/00000"
    write_record(here / trial, make_record("trials/a/xent/00000"))
    flip(here / trial / "record.json")
    storage.put(here / trial / "record.json")
    storage.pull_sweep(there, "s")
    assert set_aside_damaged(there / "s") == [there / trial]
    storage.pull_sweep(here, "s", exact=True)
    assert read_record(here / trial) is None
    assert (here / trial / "record.damaged-1.json").exists()


@pytest.mark.parametrize("after", [0, 300, 40_000])
def test_connections_that_are_cut_cost_time_only(
    server: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    proxy = Proxy(server, num_cuts=4, cut_after=after)
    root = Node(tmp_path / "one", uri(proxy.port, f"cut-{after}"), monkeypatch).root
    data = bytes(range(256)) * 1000
    with building(root / "cache" / "x") as temporary:
        (temporary / "rank.npy").write_bytes(data)
    proxy.num_cuts += 3
    other = Node(tmp_path / "two", uri(proxy.port, f"cut-{after}"), monkeypatch).root
    assert is_complete(other / "cache" / "x")
    assert (other / "cache" / "x" / "rank.npy").read_bytes() == data
    assert proxy.num_cut >= 4
    proxy.close()


def test_a_slow_store_is_waited_for(server: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    proxy = Proxy(server, delay_seconds=0.2)
    root = Node(tmp_path / "one", uri(proxy.port, "slow"), monkeypatch).root
    write_json(root / "s" / "x.json", {"value": 1})
    other = Node(tmp_path / "two", uri(proxy.port, "slow"), monkeypatch).root
    assert storage.get(other / "s" / "x.json")
    assert read_json(other / "s" / "x.json") == {"value": 1}
    proxy.close()


def test_a_store_that_is_gone_is_an_error_with_what_to_do(
    server: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage, "ATTEMPTS", 2)
    proxy = Proxy(server)
    proxy.refuse = True
    root = Node(tmp_path / "one", uri(proxy.port, "gone"), monkeypatch).root
    with pytest.raises(StorageError, match=r"bucket/gone/s/x\.json on s3://.* could not be written in 2 attempts"):
        write_json(root / "s" / "x.json", {"value": 1})
    proxy.refuse = False
    write_json(root / "s" / "x.json", {"value": 1})
    assert storage.exists(root / "s" / "x.json")
    proxy.close()


def test_the_mirror_of_a_sweep_that_was_removed_from_the_store_goes(nodes: tuple[Path, Path]) -> None:
    here, there = nodes
    write_json(here / "s" / "sweep.json", {})
    write_json(here / "t" / "sweep.json", {})
    storage.pull_sweep(there, "s")
    assert storage.folders(there) == ["s", "t"]
    storage.delete(here / "s")
    (here / "t" / "running.jsonl").write_text("not sent yet\n")
    storage.pull_sweep(there, "s")
    storage.pull_sweep(here, "t")
    assert not (there / "s" / "sweep.json").exists()
    assert (here / "t" / "running.jsonl").exists()
    assert storage.folders(there) == ["t"]
