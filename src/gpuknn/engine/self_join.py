"""Rows as their own queries, where each is to stand first in its own answer (as in the challenges' `allknn`)."""

import numpy as np

from gpuknn.engine.metric import Metric, summation_leaves
from gpuknn.engine.neighbors import Neighbors


def put_self_first(found: Neighbors, rows: np.ndarray, first_id: int, metric: Metric) -> Neighbors:
    """Answers (m, k) in which row i, of id first_id + i, stands before its k - 1 other neighbours `found`.

    A row's distance to itself is 0, and -|x|^2 under inner product; `rows` (m, d) are read for that only.
    """
    dists = np.zeros(len(rows))
    if metric is Metric.IP:
        from gpuknn.engine.cpu import kernels as cpu_kernels

        cpu_kernels.squared_norms(rows, summation_leaves(rows.shape[1]), dists)
        dists = 0.0 - dists
    ids = np.arange(first_id, first_id + len(rows))
    own = dists.astype(found.dists.dtype)
    return Neighbors(np.column_stack([ids, found.ids]), np.column_stack([own, found.dists]))
