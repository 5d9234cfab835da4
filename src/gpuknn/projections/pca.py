"""Principal components: the directions in which rows of unit length vary most."""

import math

import numpy as np

from gpuknn.engine.metric import summation_leaves
from gpuknn.engine.projecting import AXES_GRID, GRID
from gpuknn.errors import InputError, RunError, option
from gpuknn.projections.model import PcaModel
from gpuknn.projections.moments import ExactSums

SHIFT_ROWS = 4096
"""Rows whose mean is the shift: about any shift the model is the same, about the mean it takes the fewest steps."""
MOMENTS_VALUES = 2**21
"""Components of a block that is added up: the sums of products, components times components, are added once a block."""
MOST_SWEEPS = 200
"""Over all pairs of rows; some ten do."""
LEAST_SHARE = 1e-12
"""Of the largest variance: below it, a direction is one of rounding."""


def model_of(sums: ExactSums, wanted: int, where: str) -> PcaModel:
    """The model of `wanted` components; raises InputError if the rows do not vary in so many directions.

    An axis is the eigenvector of the covariance (divided by n - 1), rounded to multiples of 2^-28; of the two, the one
    whose component of largest magnitude, the first of equal ones, is positive, as scikit-learn chooses it.
    """
    covariance = sums.covariance()
    total = math.fsum(covariance.diagonal())
    axes = _turned(covariance, where)
    variances = np.array([math.sqrt(math.fsum(axis * axis)) for axis in axes])
    order = np.argsort(-variances, kind="stable")[:wanted]
    varied = int(np.count_nonzero(variances[order] > LEAST_SHARE * variances[order[0]]))
    if varied < wanted:
        raise InputError(
            f"{where}: its rows of unit length vary in {varied} directions only"
            + (f"; {option('pca', varied)} keeps all of it" if varied else ", there is nothing to fit")
        )
    chosen = axes[order] / variances[order, None]
    largest = np.take_along_axis(chosen, np.abs(chosen).argmax(axis=1)[:, None], axis=1)
    components = np.rint(chosen * (np.sign(largest) * AXES_GRID)) / AXES_GRID
    return PcaModel(components, sums.mean(), variances[order], total, sums.count)


def _turned(covariance: np.ndarray, where: str) -> np.ndarray:
    """(d, d): eigenvalues times eigenvectors, in no order, in place of the covariance; Ctrl-C is heard in between."""
    from gpuknn.engine.cpu import kernels  # here: it loads Numba

    leaves = summation_leaves(len(covariance))
    for _ in range(MOST_SWEEPS):
        if not kernels.turn_pairs(covariance, leaves):
            return covariance
    raise RunError(f"{where}: its covariance has no axes after {MOST_SWEEPS} sweeps; please report it")


def shift_of(some: np.ndarray) -> np.ndarray:
    """(d,) float64: the mean of some rows (m, d) of unit length, in multiples of 1 / GRID; any shift will do."""
    rounded: np.ndarray = np.rint(some.mean(axis=0) * GRID) / GRID
    return rounded


def rows_at_once(d: int) -> int:
    """Rows of a block that is added up: more would seldom have exact sums (`engine/projecting.py`)."""
    return max(1, min(MOMENTS_VALUES // d, 16 * d))


def fit_memory(d: int, threads: int) -> int:
    """Bytes of sums and products: two times those of all rows, the covariance, and each thread's, in two types."""
    return d * d * 8 * (5 + 3 * threads)
