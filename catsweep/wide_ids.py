"""Token ids of more than 16 bits on storage: the lowest 16 of each, and one plane for each further bit, eight entries a byte.

Of 12 entries an id takes 2 bytes, and 12 ids two bytes more for each bit: 26 bytes for a vocabulary of 128,000 tokens, 28 for
262,144, where ids of four bytes take 48, and ids of three 36. Source: [ours].
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def split_ids(ids_NK: NDArray[np.uint32]) -> tuple[NDArray[np.uint16], NDArray[np.uint8]]:
    """The lowest 16 bits, uint16 (N, K), and planes of the others, uint8 (N, number of planes, ceil(K / 8)): at least one
    plane, and as many as the largest id needs."""
    num_planes = max(1, int(ids_NK.max(initial=0)).bit_length() - 16)
    planes = [np.packbits((ids_NK >> bit) & 1, axis=1) for bit in range(16, 16 + num_planes)]
    return ids_NK.astype(np.uint16), np.stack(planes, axis=1)


def join_ids(low_NK: NDArray[np.uint16], high: NDArray[np.uint8]) -> NDArray[np.uint32]:
    """The ids that `split_ids` took apart, exactly: uint32 (N, K)."""
    ids_NK = low_NK.astype(np.uint32)
    for plane in range(high.shape[1]):
        bit_NK = np.unpackbits(high[:, plane], axis=1, count=low_NK.shape[1])
        ids_NK |= bit_NK.astype(np.uint32) << np.uint32(16 + plane)
    return ids_NK
