import numpy as np

from catsweep.cascade.order import deferral_order, hash_ids


def test_the_hash_of_an_id_depends_on_nothing_but_the_id() -> None:
    alone = hash_ids(["row-1"])[0]
    beside_a_long_one = hash_ids(["x" * 50, "row-1", "y" * 1000])[1]
    from_an_array = hash_ids(np.array(["row-1", "å∂ƒ-🙂"]))
    assert alone == beside_a_long_one == from_an_array[0]
    assert from_an_array[1] == hash_ids(["å∂ƒ-🙂"])[0]


def test_the_hash_is_the_same_in_every_version() -> None:
    assert hash_ids(["", "a", "ab", "ba"]).tolist() == [
        16294208416658607535,
        4395750555657649714,
        13076348084145943876,
        4863415128073441705,
    ]


def test_hashes_of_like_ids_differ_and_spread_evenly() -> None:
    hashes = hash_ids([str(number) for number in range(100_000)])
    assert len(np.unique(hashes)) == 100_000
    counts = np.bincount((hashes >> np.uint64(60)).astype(np.int64), minlength=16)
    assert abs(counts / 100_000 - 1 / 16).max() < 0.004  # five standard errors
    assert not np.isin(hashes, hash_ids([str(number) for number in range(100_000)], seed=1)).any()


def test_ties_stand_in_the_order_of_the_hash_whatever_the_order_of_the_rows() -> None:
    random = np.random.default_rng(1)
    ids = np.array([f"id{number}" for number in range(500)])
    uncertainty = random.integers(0, 5, size=500).astype(np.float64)
    expected = sorted(range(500), key=lambda row: (-uncertainty[row], int(hash_ids([ids[row]])[0])))
    assert deferral_order(uncertainty, ids).tolist() == expected
    shuffled = random.permutation(500)
    again = deferral_order(uncertainty[shuffled], ids[shuffled].tolist())
    assert ids[shuffled][again].tolist() == ids[expected].tolist()


def test_hashes_may_stand_for_the_ids() -> None:
    ids = [f"id{number}" for number in range(50)]
    uncertainty = np.repeat(np.arange(5.0), 10)
    assert deferral_order(uncertainty, hash_ids(ids)).tolist() == deferral_order(uncertainty, ids).tolist()


def test_rows_without_ties_are_sorted_by_falling_uncertainty() -> None:
    assert deferral_order(np.array([0.1, 0.3, 0.2]), ["a", "b", "c"]).tolist() == [1, 2, 0]


def test_values_that_differ_in_their_last_bits_and_both_zeros_stand_as_in_a_plain_sort() -> None:
    random = np.random.default_rng(2)
    num_rows = 3_000
    close = 1.0 + random.integers(0, 40, num_rows) * 2.0**-52
    signs = random.choice([-1.0, 1.0], num_rows)
    tables = {
        "close": close * signs,
        "zeros": np.where(random.random(num_rows) < 0.5, 0.0 * signs, random.normal(size=num_rows)),
        "wide": signs * 10.0 ** random.integers(-300, 300, num_rows),
    }
    ids = [f"id{number}" for number in range(num_rows)]
    hashes = hash_ids(ids)
    for name, uncertainty in tables.items():
        expected = sorted(range(num_rows), key=lambda row: (-uncertainty[row], int(hashes[row])))
        assert deferral_order(uncertainty, ids).tolist() == expected, name
