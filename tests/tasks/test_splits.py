from __future__ import annotations

import subprocess
import sys
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from catsweep.errors import DataError
from catsweep.tasks.groups import Groups, components, group_rows, hash_key
from catsweep.tasks.splits import SPLITS, Rows, cap, cut, evaluation_size


def keys(num_rows: int, rows_per_key: int = 1) -> list[str]:
    return [f"key{index // rows_per_key}" for index in range(num_rows)]


def grouped(keys_of_split: dict[str, list[str]]) -> Groups:
    return group_rows({split: [(key,) for key in rows] for split, rows in keys_of_split.items()})


def positions_of(keys_of_split: dict[str, list[str]]) -> dict[str, list[tuple[str, int]]]:
    """Split -> the given split and the index of each of its rows."""
    rows = cut(grouped(keys_of_split), "toy").rows
    return {split: [(part.given, int(index)) for index in part.indices] for split, part in rows.items()}


@pytest.mark.parametrize(
    ("num_rows", "expected"),
    [(150, 50), (500, 50), (509, 50), (510, 51), (1_923, 192), (10_000, 1_000), (10_001, 1_000), (1_000_000, 1_000)],
)
def test_a_cut_split_has_a_thousand_rows_of_a_large_train_and_else_a_tenth_but_at_least_fifty(
    num_rows: int, expected: int
) -> None:
    assert evaluation_size(num_rows) == expected


def test_all_three_splits_are_cut_from_one_pool() -> None:
    positions = positions_of({"train": keys(2_000)})
    assert {split: len(rows) for split, rows in positions.items()} == {
        "train": 1_400, "validation": 200, "calibration": 200, "test": 200,
    }  # fmt: skip
    assert sorted(row for rows in positions.values() for row in rows) == [("train", index) for index in range(2_000)]


def test_given_splits_are_kept_and_the_others_are_cut_from_train() -> None:
    groups = {"train": keys(20_000), "test": [f"other{index}" for index in range(30)]}
    positions = positions_of(groups)
    assert {split: len(rows) for split, rows in positions.items()} == {
        "train": 18_000, "validation": 1_000, "calibration": 1_000, "test": 30,
    }  # fmt: skip
    assert {given for given, _ in positions["test"]} == {"test"}
    assert {given for given, _ in positions["validation"] + positions["calibration"]} == {"train"}


def test_a_row_whose_key_stands_in_a_higher_given_split_is_dropped() -> None:
    validation = [*keys(10), "shared", "shared"]
    groups = {"train": keys(300), "validation": validation, "test": ["shared", "key0", "key299"]}
    result = cut(grouped(groups), "toy")
    assert result.num_dropped == {"train": 11, "validation": 3, "test": 0}  # key0 to key9 and key299; key0, 2 x shared
    assert positions_of(groups)["validation"] == [("validation", index) for index in range(1, 10)]
    assert len(result.rows["train"]) == 300 - 11 - 50


@settings(max_examples=20, deadline=None)
@given(
    st.lists(st.integers(0, 400), min_size=600, max_size=700),
    st.lists(st.integers(0, 500), max_size=40),
    st.lists(st.integers(0, 500), max_size=40),
)
def test_no_key_lies_in_two_splits(train: list[int], validation: list[int], test: list[int]) -> None:
    given_splits = {"train": train, "validation": validation, "test": test}
    groups = {split: [str(key) for key in rows] for split, rows in given_splits.items() if rows}
    try:
        positions = positions_of(groups)
    except DataError:
        return  # all of validation may stand in test
    found = {split: {groups[given][index] for given, index in rows} for split, rows in positions.items()}
    assert set(found) == set(SPLITS)
    assert all(found.values())
    for one, other in combinations(SPLITS, 2):
        assert not found[one] & found[other]


def test_a_group_larger_than_a_split_stays_in_train() -> None:
    groups = ["giant"] * 300 + keys(700)
    positions = positions_of({"train": groups})
    assert [len(positions[split]) for split in SPLITS] == [700, 100, 100, 100]
    assert {("train", index) for index in range(300)} <= set(positions["train"])


def test_rows_that_were_picked_by_hash_are_spread_evenly_over_the_splits() -> None:
    picked_first = sorted((f"word{index}" for index in range(20_000)), key=hash_key)[:4_000]
    positions = positions_of({"train": picked_first})
    for split in SPLITS:
        early = sum(index < 2_000 for _, index in positions[split]) / len(positions[split])
        assert 0.45 < early < 0.55, split


def test_a_cap_keeps_a_subset_and_the_same_groups_first() -> None:
    key_of_row = keys(1_000, rows_per_key=4)
    groups, whole = grouped({"train": key_of_row}), Rows("train", np.arange(1_000))
    small, large = (cap(whole, groups, size).indices.tolist() for size in (40, 100))
    assert (len(small), len(large)) == (40, 100)
    assert set(small) < set(large)
    assert small == sorted(small)
    kept_keys = {key_of_row[index] for index in small}
    assert kept_keys == set(sorted(set(key_of_row), key=lambda key: hash_key(key, b"split"))[:10])
    assert cap(whole, groups, None) is cap(whole, groups, 5_000) is whole


def test_the_hash_is_the_same_in_every_process() -> None:
    code = "from catsweep.tasks.groups import hash_key; print(hash_key('Žluťoučký').hex())"
    seen = {
        subprocess.run(
            [sys.executable, "-c", code], env={"PYTHONHASHSEED": seed, "PYTHONPATH": ":".join(sys.path)},
            capture_output=True, text=True, check=True,
        ).stdout.strip()
        for seed in ("0", "1")
    }  # fmt: skip
    assert seen == {hash_key("Žluťoučký").hex()}


def test_rows_are_connected_through_other_rows_and_named_by_the_smallest_text() -> None:
    links = [["d", "c"], ["x"], ["b", "c"], ["y", "x"], ["a", "b"], ["z"]]
    assert components(links) == ["a", "x", "a", "x", "a", "z"]
    assert components([]) == []


@settings(max_examples=50, deadline=None)
@given(st.lists(st.lists(st.sampled_from("abcdefghijklm"), min_size=1, max_size=3), max_size=12))
def test_components_are_those_that_are_found_by_merging_sets(links: list[list[str]]) -> None:
    merged: list[set[str]] = []
    for texts in links:
        touched = [part for part in merged if part & set(texts)]
        merged = [part for part in merged if not part & set(texts)] + [set(texts).union(*touched)]
    assert components(links) == [min(next(part for part in merged if texts[0] in part)) for texts in links]


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.integers(0, 150), min_size=250, max_size=400),
    st.lists(st.integers(100, 250), max_size=60),
    st.sampled_from([None, 30, 90]),
)
def test_a_cut_is_that_of_lists_of_keys_sorted_by_hash(train: list[int], test: list[int], max_rows: int | None) -> None:
    keys_of_split = {split: [f"ключ{key}" for key in rows] for split, rows in {"train": train, "test": test}.items()}
    if not test:
        del keys_of_split["test"]
    groups = grouped(keys_of_split)
    try:
        division = cut(groups, "toy")
    except DataError:
        return
    in_test = set(keys_of_split.get("test", []))
    left = {index: key for index, key in enumerate(keys_of_split["train"]) if key not in in_test}
    size, expected = evaluation_size(len(left)), {}
    for split in ("test", "calibration", "validation"):
        if split in keys_of_split:
            expected[split] = list(range(len(test)))
            continue
        chosen: list[int] = []
        for key in sorted(set(left.values()), key=lambda key: hash_key(key, b"split")):
            members = [index for index in left if left[index] == key]
            chosen += members if len(chosen) + len(members) <= size else []
        expected[split] = sorted(chosen)
        left = {index: key for index, key in left.items() if index not in set(chosen)}
    expected["train"] = list(left)
    for split, rows in division.rows.items():
        assert rows.indices.tolist() == expected[split]
        of_given = keys_of_split[rows.given]
        by_hash = sorted(expected[split], key=lambda index: (hash_key(of_given[index], b"split"), index))
        assert cap(rows, groups, max_rows).indices.tolist() == sorted(by_hash[:max_rows])


def test_keys_of_groups_are_texts_as_they_came() -> None:
    groups = group_rows({"train": [("a",), ("\udc80", "Ω\n")], "test": [("Ω\n",), ("",)]})
    found = {split: [groups.key(number) for number in numbers] for split, numbers in groups.numbers.items()}
    assert found == {"train": ["a", "Ω\n"], "test": ["Ω\n", ""]}


def test_too_few_rows_are_refused_with_the_counts() -> None:
    cut(grouped({"train": keys(160), "test": ["other"]}), "toy")
    with pytest.raises(DataError) as error:
        cut(grouped({"train": keys(155), "test": keys(6)}), "toy")
    assert str(error.value) == (
        "task toy: found 149 training rows (of 155, after those that share a group key with a given split were "
        "dropped); expected at least 150: 50 each for calibration, validation and train. Give more rows, or name the "
        "splits in `source`"
    )


def test_groups_too_large_to_cut_are_refused() -> None:
    with pytest.raises(DataError) as error:
        cut(grouped({"train": keys(1_000, rows_per_key=250)}), "toy")
    assert str(error.value) == (
        "task toy: found 0 rows for test; expected 100 in whole groups, but the largest of the 4 groups left has 250 "
        "rows. Write a finer `doc_to_group`, or name the split in `source`"
    )


def test_one_split_named_twice_is_refused() -> None:
    with pytest.raises(DataError, match="found no row of validation whose group key is not in another given split"):
        cut(grouped({"train": keys(500), "validation": ["a", "b"], "test": ["a", "b"]}), "toy")
    with pytest.raises(DataError, match="task toy: found no rows in split train; expected at least one"):
        cut(grouped({"train": []}), "toy")
