"""The order in which queries are deferred: most uncertain first, ties by a hash of the id.

The hash depends on the id alone, never on the other rows or on their order, so the same table in another order gives
the same curve.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

Ids = Sequence[str] | NDArray[np.str_] | NDArray[np.uint64]
"""Ids of rows, or their hashes from `hash_ids` where several curves share the rows."""

_LONGEST_HASHED_DIRECTLY = 64


def hash_ids(ids: Ids, *, seed: int = 0) -> NDArray[np.uint64]:
    """(n,) 64-bit hash of each id; hashes pass through. Not cryptographic; equal on every machine and version."""
    if isinstance(ids, np.ndarray) and ids.dtype == np.uint64:
        return ids.astype(np.uint64, copy=False)
    text = _short_ids(ids)
    codes = text.view(np.uint32).reshape(len(text), -1)
    mixed = np.full(len(text), seed, dtype=np.uint64)
    for position in range(codes.shape[1]):
        code = codes[:, position].astype(np.uint64)
        # Padding (code 0) adds nothing, so the hash does not depend on the longest id of the table.
        mixed += np.where(code == 0, np.uint64(0), _scramble(code + np.uint64((position + 1) << 32)))
    return _scramble(mixed)


def deferral_order(uncertainty: NDArray[np.float64], ids: Ids) -> NDArray[np.int64]:
    """(n,) positions of the rows, most uncertain first, ties by rising hash of the id.

    Only rows inside a tie are sorted twice: a stable sort of everything by two keys costs four times as much.
    """
    order = np.argsort(-uncertainty)
    falling = uncertainty[order]
    equal_to_next = falling[:-1] == falling[1:]
    if not equal_to_next.any():
        return order
    tied = np.flatnonzero(np.append(equal_to_next, False) | np.append(False, equal_to_next))
    rows = np.sort(order[tied])  # equal hashes stay in the order of the table
    keys = ids[rows] if isinstance(ids, np.ndarray) else [ids[row] for row in rows]
    order[tied] = rows[np.lexsort((hash_ids(keys), -uncertainty[rows]))]  # the last key is sorted by first
    return order


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
