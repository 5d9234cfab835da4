"""Gold standards of formats that keep no distances."""

import numpy as np

from gpuknn.exact.neighbors import Neighbors


def without_distances(ids: np.ndarray) -> Neighbors:
    """Neighbours of which only ids (nq, k) are known; their distances are NaN."""
    return Neighbors(ids.astype(np.int64), np.full(ids.shape, np.nan, np.float32))


def has_distances(neighbors: Neighbors) -> bool:
    """Whether distances are known."""
    return not bool(np.isnan(neighbors.dists).all())
