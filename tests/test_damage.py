"""Files that were cut short, changed, or met a full disk: nobody reads them as if they were whole."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from faults import DAMAGES, cut, flip, full_disk
from synthetic import ONE_TASK, copy_sweep

from catsweep.cache import building, is_complete
from catsweep.damage import answer_folders, damaged_answers, set_aside_damaged
from catsweep.errors import StorageError, is_out_of_space
from catsweep.records import (
    append_step,
    existing_sweep,
    read_json,
    read_record,
    read_records,
    read_rows,
    read_steps,
    write_json,
    write_record,
)
from catsweep.spec.mixture import EqualSampling, MixtureSpec

TASK = "langid/nordic"


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    """The folder of a finished sweep, every record sealed."""
    folder = copy_sweep(tmp_path, ONE_TASK) / "tiny"
    for role in ("trials", "confirm"):
        for record in read_records(folder, role):  # type: ignore[arg-type]
            write_record(folder / record.trial_id, record)
    return folder


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", ["record.json", "rows.parquet"])
def test_a_damaged_run_is_refused_by_readers_and_runs_again(
    sweep: Path, name: str, damage: Callable[[Path], None]
) -> None:
    folder = sorted((sweep / "confirm" / TASK / "xent").iterdir())[0]
    assert set_aside_damaged(sweep) == []
    before = len(read_records(sweep, "confirm"))
    damage(folder / name)
    with pytest.raises(StorageError, match=rf"{name} is damaged.*`catsweep run` of its sweep"):
        read_record(folder) if name == "record.json" else read_rows(folder / name)
    assert set_aside_damaged(sweep) == [folder]
    assert (folder / "record.damaged-1.json").exists()
    assert read_record(folder) is None
    assert len(read_records(sweep, "confirm")) == before - 1
    assert set_aside_damaged(sweep) == []


def test_rows_of_a_trial_that_are_gone_or_cut_make_it_run_again(sweep: Path) -> None:
    first, second = (sweep / record.trial_id for record in read_records(sweep, "trials")[:2])
    for folder in (first, second):
        (folder / "rows.parquet").write_bytes(b"rows" * 100)
        write_record(folder, read_record(folder))  # type: ignore[arg-type]
    assert set_aside_damaged(sweep) == []
    cut(first / "rows.parquet")
    (second / "rows.parquet").unlink()
    assert set_aside_damaged(sweep) == [first, second]


def test_no_changed_bit_of_a_record_is_read_as_a_result(sweep: Path) -> None:
    record = read_records(sweep, "trials")[0]
    path = sweep / record.trial_id / "record.json"
    whole = path.read_bytes()
    for place in range(0, len(whole), 5):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << place % 7
        path.write_bytes(damaged)
        try:
            assert read_record(path.parent) == record
        except StorageError:
            continue


def test_records_without_a_seal_are_read_as_they_are(sweep: Path) -> None:
    record = read_records(sweep, "trials")[0]
    write_json(sweep / record.trial_id / "record.json", record.to_json())
    assert read_record(sweep / record.trial_id) == record
    assert set_aside_damaged(sweep) == []


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_answers_are_refused_and_found(sweep: Path, damage: Callable[[Path], None]) -> None:
    unit = existing_sweep(sweep)[1][0]
    folder = sweep.parent / "cache" / "answers" / read_json(sweep / "prepared" / f"{TASK}.json")["keys"]["answers"]
    rows = (folder / "rows.parquet").read_bytes()
    with building(folder) as temporary:
        (temporary / "rows.parquet").write_bytes(rows)
    assert damaged_answers(sweep.parent, "tiny", unit) == []
    damage(folder / "rows.parquet")
    assert damaged_answers(sweep.parent, "tiny", unit) == [folder]
    with pytest.raises(StorageError, match="damaged"):
        read_rows(folder / "rows.parquet", "test")


def test_the_answers_of_a_mixture_are_those_of_its_members(sweep: Path) -> None:
    member = existing_sweep(sweep)[1][0]
    assert not isinstance(member, MixtureSpec)
    other = member.model_copy(update={"task": "other"})  # it was not prepared
    mixture = MixtureSpec(task="mix", members=(member, other), sampling=EqualSampling(), min_task_delta=None)
    # A mixture's own keys stand for those of all its members, and name no folders.
    write_json(sweep / "prepared" / "mix.json", {"keys": {"answers": "digest", "large": None}})
    facts = {"keys": {"answers": "one"}, "chain": {"medium": {"keys": {"answers": "two"}}}}
    write_json(sweep / "prepared" / "mix" / f"{TASK}.json", facts)
    folders = [sweep.parent / "cache" / "answers" / key for key in ("one", "two")]
    with building(folders[0]) as temporary:
        (temporary / "rows.parquet").write_bytes(b"rows")
    assert damaged_answers(sweep.parent, "tiny", mixture) == folders[1:]
    assert answer_folders(sweep.parent, "tiny", f"mix/{TASK}") == folders


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_folder_of_the_cache_counts_as_missing_and_is_made_again(
    tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    def make() -> None:
        with building(tmp_path / "key") as temporary:
            (temporary / "rank.npy").write_bytes(bytes(range(200)))

    make()
    damage(tmp_path / "key" / "rank.npy")
    assert not is_complete(tmp_path / "key")
    make()
    assert is_complete(tmp_path / "key")
    damage(tmp_path / "key" / "manifest.json")
    make()
    assert is_complete(tmp_path / "key")


def test_who_makes_the_same_folder_at_the_same_time_takes_it_from_nobody(tmp_path: Path) -> None:
    """Who has seen the folder complete reads its files; no other maker may remove them, not even for a moment."""
    num_makers, num_rounds = 8, 50
    together = threading.Barrier(num_makers)

    def make(maker: int) -> None:
        for number in range(num_rounds):
            together.wait(timeout=60)
            with building(tmp_path / str(number)) as temporary:
                (temporary / "rank.npy").write_bytes(bytes([maker]) * 200)
            assert is_complete(tmp_path / str(number))
            assert len((tmp_path / str(number) / "rank.npy").read_bytes()) == 200

    with ThreadPoolExecutor(num_makers) as pool:
        list(pool.map(make, range(num_makers)))
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_dir()) == sorted(map(str, range(num_rounds)))


def test_a_full_disk_leaves_the_file_that_was_there(tmp_path: Path) -> None:
    write_json(tmp_path / "record.json", {"status": "finished"})
    with (
        full_disk(),
        pytest.raises(StorageError, match=r"record\.json could not be written: no space.*clean NAME") as caught,
    ):
        write_json(tmp_path / "record.json", {"status": "failed"})
    assert is_out_of_space(caught.value)
    assert read_json(tmp_path / "record.json") == {"status": "finished"}
    assert [path.name for path in tmp_path.iterdir()] == ["record.json"]


def test_a_full_disk_leaves_no_half_made_folder(tmp_path: Path) -> None:
    with full_disk(100), pytest.raises(OSError) as caught, building(tmp_path / "key") as temporary:  # noqa: PT011
        (temporary / "rank.npy").write_bytes(bytes(200))
    assert is_out_of_space(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_line_that_met_a_full_disk_or_was_changed_costs_itself_only(tmp_path: Path) -> None:
    for step in (1, 2, 3):
        append_step(tmp_path, step, {"train/loss": 1.0 / step}, at=0.0)
    path = tmp_path / "steps.jsonl"
    with full_disk(path.stat().st_size + 10), pytest.raises(OSError):  # noqa: PT011
        append_step(tmp_path, 4, {"train/loss": 0.25}, at=0.0)
    append_step(tmp_path, 5, {"train/loss": 0.2}, at=0.0)
    assert [line["step"] for line in read_steps(tmp_path)] == [1, 2, 3, 5]
    lines = path.read_bytes().splitlines()
    path.write_bytes(b"\n".join([lines[0].replace(b"step", b"stop"), b"7", *lines[1:]]) + b"\n")
    assert [line["step"] for line in read_steps(tmp_path)] == [2, 3, 5]


def test_a_changed_bit_in_the_middle_of_rows_never_gives_other_rows(sweep: Path) -> None:
    path = next(iter(sorted((sweep / "confirm").rglob("rows.parquet"))))
    whole = path.read_bytes()
    for place in (0.0, 0.1, 0.37, 0.62, 0.9, 0.999):
        path.write_bytes(whole)
        flip(path, place)
        with pytest.raises(StorageError, match="damaged"):
            read_rows(path)
    path.write_bytes(whole)
    assert read_rows(path).num_rows > 0
