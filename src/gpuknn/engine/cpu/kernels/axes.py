"""Eigenvectors of a covariance, by operations in one order: LAPACK's depend on the processor and its threads."""

import numpy as np
from numba import f8, i8

from gpuknn.engine.cpu.kernels.kernel import kernel
from gpuknn.engine.cpu.kernels.sums import _sum_of_terms

MOST_SWEEPS = 60
"""Ten do."""


@kernel(f8[:, ::1], i8[:, ::1])
def make_orthogonal(matrix: np.ndarray, leaves: np.ndarray) -> int:
    """Turn the rows of a symmetric matrix (d, d) without negative eigenvalues into eigenvalues times eigenvectors.

    Rotations of two rows make each pair orthogonal, until all are: Hestenes' method (Golub and Van Loan, Matrix
    Computations, 4th edition, section 8.6.3).  What is left of A = Q L Q' is then L Q', the rows in no order.  Returns
    how many sweeps over all pairs that took.
    """
    d = len(matrix)
    stack, norms = np.empty(64), np.empty(d)
    for sweep in range(MOST_SWEEPS):
        for i in range(d):
            norms[i] = _sum_of_terms(False, matrix[i], matrix[i], leaves, stack)
        rotated = False
        for p in range(d - 1):
            for q in range(p + 1, d):
                x, y = matrix[p], matrix[q]
                product = _sum_of_terms(False, x, y, leaves, stack)
                if not product * product > norms[p] * norms[q] * 2.0**-104:
                    continue
                rotated = True
                turn = (norms[q] - norms[p]) / (2.0 * product)
                tangent = (1.0 if turn >= 0 else -1.0) / (abs(turn) + np.sqrt(1.0 + turn * turn))
                cosine = 1.0 / np.sqrt(1.0 + tangent * tangent)
                sine = cosine * tangent
                for i in range(d):
                    old = x[i]
                    x[i] = cosine * old - sine * y[i]
                    y[i] = sine * old + cosine * y[i]
                norms[p] -= tangent * product
                norms[q] += tangent * product
        if not rotated:
            return sweep + 1
    return MOST_SWEEPS
