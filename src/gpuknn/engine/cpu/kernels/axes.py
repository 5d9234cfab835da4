"""Eigenvectors of a covariance, by operations in one order: LAPACK's depend on the processor and its threads."""

import numpy as np
from numba import f8, i8

from gpuknn.engine.cpu.kernels.kernel import kernel
from gpuknn.engine.cpu.kernels.sums import _sum_of_terms

SMALL = 2.0**-48
"""Rows that are shorter by this factor than the longest are rounding, and left alone."""


@kernel(f8[:, ::1], i8[:, ::1])
def turn_pairs(matrix: np.ndarray, leaves: np.ndarray) -> bool:
    """Turn each pair of rows of a matrix (d, d) until it is orthogonal; whether any had to be.

    Repeated until none had to be, this makes eigenvalues times eigenvectors of a symmetric matrix without negative
    eigenvalues: of A = Q L Q' the rows of L Q', in no order (Hestenes' method: Golub and Van Loan, Matrix Computations,
    4th edition, section 8.6.3).  The longest row left comes first each time, which saves most of the sweeps (de Rijk,
    SIAM Journal on Scientific and Statistical Computing 10, 1989).
    """
    d = len(matrix)
    stack, norms = np.empty(64), np.empty(d)
    for i in range(d):
        norms[i] = _sum_of_terms(False, matrix[i], matrix[i], leaves, stack)
    least, turned = norms.max() * (SMALL * SMALL), False
    for p in range(d - 1):
        longest = p + np.argmax(norms[p:])
        norms[p], norms[longest] = norms[longest], norms[p]
        for i in range(d):
            matrix[p, i], matrix[longest, i] = matrix[longest, i], matrix[p, i]
        for q in range(p + 1, d):
            x, y = matrix[p], matrix[q]
            product = _sum_of_terms(False, x, y, leaves, stack)
            if norms[q] <= least or not product * product > norms[p] * norms[q] * 2.0**-104:
                continue
            turned = True
            ratio = (norms[q] - norms[p]) / (2.0 * product)
            tangent = (1.0 if ratio >= 0 else -1.0) / (abs(ratio) + np.sqrt(1.0 + ratio * ratio))
            cosine = 1.0 / np.sqrt(1.0 + tangent * tangent)
            sine = cosine * tangent
            for i in range(d):
                old = x[i]
                x[i] = cosine * old - sine * y[i]
                y[i] = sine * old + cosine * y[i]
            norms[p] -= tangent * product
            norms[q] += tangent * product
    return turned
