"""The order in which queries are deferred: most uncertain first, ties by a hash of the id.

The hash depends on the id alone, never on the other rows or on their order, so the same table in another order gives
the same curve.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b
from typing import Any

import numpy as np
from numpy.typing import NDArray

Ids = Sequence[str] | NDArray[np.str_] | NDArray[np.uint64]
"""Ids of rows, or their hashes from `hash_ids` where several curves share the rows."""

_LONGEST_HASHED_DIRECTLY = 64
_CODES_IN_TABLE = 1 << 8
_CHUNK_ROWS = 1 << 14
_SIGN_BIT = np.uint64(1 << 63)
_ALL_BUT_SIGN = np.int64((1 << 63) - 1)


def hash_ids(ids: Ids, *, seed: int = 0) -> NDArray[np.uint64]:
    """(n,) 64-bit hash of each id; hashes pass through. Not cryptographic; equal on every machine and version."""
    if isinstance(ids, np.ndarray) and ids.dtype == np.uint64:
        return ids.astype(np.uint64, copy=False)
    text = _short_ids(ids)
    codes = text.view(np.uint32).reshape(len(text), -1)
    mixed = np.full(len(text), seed, dtype=np.uint64)
    # Scrambles of a few codes are looked up: what is in reach of one position is computed once, not for every row.
    table = np.arange(_CODES_IN_TABLE, dtype=np.uint64)
    for start in range(0, len(text), _CHUNK_ROWS):
        part = codes[start : start + _CHUNK_ROWS]
        for position in range(codes.shape[1]):
            code = part[:, position]
            place = np.uint64((position + 1) << 32)
            if code.max(initial=0) < _CODES_IN_TABLE:
                added = _scrambled(table, place).take(code, mode="clip")
            else:
                added = _scrambled(code.astype(np.uint64), place)
            mixed[start : start + _CHUNK_ROWS] += added
    return _scramble(mixed)


def deferral_order(uncertainty: NDArray[np.float64], ids: Ids) -> NDArray[np.int64]:
    """(n,) positions of the rows, most uncertain first, ties by rising hash of the id. Uncertainties must be numbers.

    Only ids inside a tie are hashed.
    """
    order = _falling_order(uncertainty)
    tied = _beside_an_equal(uncertainty[order])
    if not len(tied):
        return order
    rows = np.sort(order[tied])  # equal hashes stay in the order of the table
    keys = ids[rows] if isinstance(ids, np.ndarray) else [ids[row] for row in rows]
    rows = rows[_rising_order((hash_ids(keys) ^ _SIGN_BIT).view(np.int64))]
    order[tied] = rows[_falling_order(uncertainty[rows])]
    return order


def _falling_order(values: NDArray[np.float64]) -> NDArray[np.int64]:
    """(n,) positions of numbers, largest first; equal ones stay in their order."""
    bits = (0.0 - values).view(np.int64)  # 0 - x, not -x: there is one zero
    return _rising_order(bits ^ ((bits >> np.int64(63)) & _ALL_BUT_SIGN))


def _rising_order(keys: NDArray[np.int64]) -> NDArray[np.int64]:
    """(n,) positions of whole numbers, smallest first; equal ones stay in their order: a stable argsort.

    Sorting numbers is four times as fast as an argsort on common processors, so the low bits of each key make room for its
    position. Keys that only those bits tell apart are sorted once more.
    """
    low_bits = np.int64((1 << max(1, (len(keys) - 1).bit_length())) - 1)
    packed = (keys & ~low_bits) | np.arange(len(keys))
    packed.sort()
    order: NDArray[np.int64] = packed & low_bits
    packed ^= order
    alike = _beside_an_equal(packed)
    if len(alike):
        positions = order[alike]
        ordered = keys[positions]
        if (ordered[:-1] > ordered[1:]).any():
            order[alike] = positions[np.argsort(ordered, kind="stable")]
    return order


def _beside_an_equal(ordered: NDArray[Any]) -> NDArray[np.int64]:
    """Where a value of an ordered array stands that occurs more than once."""
    equal_to_next = ordered[:-1] == ordered[1:]
    if not equal_to_next.any():
        return np.empty(0, dtype=np.int64)
    return np.flatnonzero(np.append(equal_to_next, False) | np.append(False, equal_to_next))


def _scrambled(codes: NDArray[np.uint64], place: np.uint64) -> NDArray[np.uint64]:
    """What characters add to a hash. Padding (code 0) adds nothing, so the hash does not depend on the longest id of the
    table."""
    return np.where(codes == 0, np.uint64(0), _scramble(codes + place))


def _scramble(value: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The finaliser of splitmix64: every input bit reaches every output bit. Arithmetic wraps at 2**64."""
    value = value + np.uint64(0x9E3779B97F4A7C15)
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return value ^ (value >> np.uint64(31))


def _short_ids(ids: Ids) -> NDArray[np.str_]:
    """Ids as a fixed-width array; a long id is replaced by its digest, so that one of them does not widen all rows."""
    if isinstance(ids, np.ndarray) and ids.dtype.kind == "U" and ids.dtype.itemsize <= 4 * _LONGEST_HASHED_DIRECTLY:
        return np.ascontiguousarray(ids, dtype=np.str_)
    texts = [str(text) for text in ids]
    if max(map(len, texts), default=0) > _LONGEST_HASHED_DIRECTLY:
        texts = [text if len(text) <= _LONGEST_HASHED_DIRECTLY else _digest(text) for text in texts]
    return np.array(texts, dtype=np.str_)


def _digest(text: str) -> str:
    return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=32).hexdigest()
