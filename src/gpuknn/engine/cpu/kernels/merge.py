"""Two answers made one."""

import numpy as np
from numba import i8, types

from gpuknn.engine.cpu.kernels.kernel import ROWS, STORED, kernel

IDS = types.Array(i8, 2, "C", readonly=True)


@kernel(IDS, ROWS, IDS, ROWS, i8[:, ::1], types.Array(STORED, 2, "C"))
def merge_two(
    ids: np.ndarray,
    dists: np.ndarray,
    later_ids: np.ndarray,
    later_dists: np.ndarray,
    out_ids: np.ndarray,
    out_dists: np.ndarray,
) -> None:
    """Fill out_ids and out_dists (nq, k) with the k nearest of both; of equal distances those of `ids` come first."""
    for i in range(len(out_ids)):
        a = b = 0
        for j in range(out_ids.shape[1]):
            if b == later_ids.shape[1] or (a < ids.shape[1] and dists[i, a] <= later_dists[i, b]):
                out_ids[i, j], out_dists[i, j] = ids[i, a], dists[i, a]
                a += 1
            else:
                out_ids[i, j], out_dists[i, j] = later_ids[i, b], later_dists[i, b]
                b += 1
