"""Token ids of more than 16 bits on storage."""

from __future__ import annotations

import numpy as np
import pytest

from catsweep.wide_ids import join_ids, split_ids


@pytest.mark.parametrize(("vocabulary", "bytes_a_token"), [(128_000, 26), (2**18, 28), (2**20, 32)])
def test_ids_are_split_and_joined_exactly_in_fewer_bytes(vocabulary: int, bytes_a_token: int) -> None:
    ids = np.random.default_rng(0).integers(0, vocabulary, (500, 12)).astype(np.uint32)
    ids[0, :2] = 0, vocabulary - 1
    low, high = split_ids(ids)
    assert (low.nbytes + high.nbytes) / len(ids) == bytes_a_token
    assert join_ids(low, high).tolist() == ids.tolist()


def test_one_entry_by_hand() -> None:
    low, high = split_ids(np.array([[0x2_0003]], dtype=np.uint32))
    assert low.tolist() == [[3]]
    assert high.tolist() == [[[0], [128]]]  # bit 16 is not set; bit 17 is, of the first of eight entries


def test_ids_that_are_all_small_and_no_ids_at_all_come_back() -> None:
    for ids in (np.array([[1, 2], [3, 4]], dtype=np.uint32), np.zeros((0, 12), dtype=np.uint32)):
        assert join_ids(*split_ids(ids)).tolist() == ids.tolist()
