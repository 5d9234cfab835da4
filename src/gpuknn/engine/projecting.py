"""What projections are made of: rows of unit length, exact sums over them, coordinates, and sketches.

The bytes are the same on all devices, however the rows are cut, for one of two reasons: a sum is exact, so that no
order of additions matters, or what float32 cannot decide is decided in float64, in the documented order (`metric.py`).

Rows of unit length
-------------------
A row x becomes x^, whose components are multiples of 2^-24:

    float16   as Julia's `normalize!` divides a vector of float16 (LinearAlgebra, generic_norm2), and so as the files of
              the SISAP challenges were made: n = float16(sqrt(sum of float16(x_i^2))), and
              x^_i = float16(x_i float16(1 / n)).  If that sum is not from 2^-8 to 64, the row is multiplied by a power
              of two first, which brings its length to 0.5 to 1.
    others    x_i (2^24 / |x|), rounded to whole numbers, / 2^24: as fine as float32 is just below 1

Rows that cosine refuses are refused.  A component of x^ is at most 1.01.  |x^| < 1.75: squares below 2^-25 vanish, and
of at most 2^18 components (MOST_DIMENSIONS) these are less than twice the rest; of the usual hundreds, |x^| < 1.01.

Exact sums
----------
float64 holds every multiple of 2^-g below 2^(53 - g), so sums of such multiples are exact in any order, with or without
fused multiplications and additions, as long as no partial sum leaves that range.

    coordinates   c.x^ for an axis c, |c| < 1.001, of multiples of 2^-28: terms are multiples of 2^-52, and by
                  Cauchy-Schwarz each partial sum is below |c||x^| < 2.  Then one subtraction (c.mean) in float64 and
                  one rounding to float32.
    moments       v = x^ - shift, |v_i| < 2.1, of multiples of 2^-24.  Terms of sum v v' are multiples of 2^-48, so
                  partial sums must stay below 32.  By Cauchy-Schwarz they do if those of the diagonal do, which only
                  grow.  They are looked at, and a block whose diagonal reaches 32 is halved.

Sketches
--------
Bit i is 1 if a row is nearer to reference i than to another one.  Products with the row, scaled to unit length and
rounded to float32, are off by at most `bound.float32_error`.  If two of them differ by more than twice that, and what
the float64 evaluation and its rounding to float32 may add, the bit is sure.  (That rounding is at most 2^-24 of
1 + |x||r|, before the row is scaled by 1 / |x|; rows that are divided in their own type have |x| > 0.7.)  The others,
one in a thousand, are evaluated in float64: x.r > x.s from the values as stored, or
float32(1 - x.r) < float32(1 - x.s).
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np

from gpuknn.engine.bound import TINY, float32_error

GRID = 2.0**24
"""Components of rows of unit length are multiples of 1 / GRID."""
AXES_GRID = 2.0**28
"""Components of axes are multiples of 1 / AXES_GRID."""
MOST = 32.0
"""What sums of products of centred components must stay below."""
PLAIN = 2.0**-8, 64.0
"""Float16 rows are divided as they are if their sum of squares is at least the one and below the other."""
POOL = 64
"""References that are compared in a circle, each with the next: a word of a sketch."""


@dataclass(frozen=True, eq=False)
class Axes:
    """Directions that rows are projected on."""

    components: np.ndarray
    """(D, d) float64, multiples of 1 / AXES_GRID, each of unit length."""
    offset: np.ndarray
    """(D,) float64: the coordinates of the mean."""


@dataclass(frozen=True, eq=False)
class References:
    """Vectors that rows are compared with, POOL by POOL."""

    vectors: np.ndarray
    """(bits, d) float32, in the order of the bits."""
    single: bool = False
    """Whether distances are compared as float32 holds them."""

    @cached_property
    def sure(self) -> float:
        """Scores of rows of unit length that differ by more tell which reference is nearer."""
        d, longest = self.vectors.shape[1], np.linalg.norm(self.vectors.astype(np.float64), axis=1).max()
        error = float(float32_error(d, 1.0, np.array([longest]))[0]) + TINY * d
        evaluated = (d + 8) * 2.0**-52 * max(1.0, longest) + (2.0**-24 if self.single else 0.0) * (2 + longest)
        return float(np.float32(2 * (error + evaluated) * (1 + 2.0**-20)))


Check = Callable[[np.ndarray], None]
"""Raises an error if the squared lengths (m,) of a block's rows are none that cosine takes."""


class Block(Protocol):
    """Some rows, where a device computes.  What they are made into raises what the caller's `Check` raises."""

    def coordinates(self, axes: Axes) -> np.ndarray:
        """(m, D) float32: those of the rows of unit length."""

    def sketches(self, references: References) -> np.ndarray:
        """(m, bits / 64) uint64.

        Bit i of word w tells whether the row is nearer to reference 64 w + i than to the next of that word's 64, of
        which the first is next to the last.
        """

    def moments(self, shift: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
        """Of parts of the rows, v = x^ - shift: the sums of v, (d,), and of v v', (d, d), float64 and exact.

        `shift` (d,): multiples of 1 / GRID, none beyond 1.
        """


def halves_of(rows: int) -> list[slice]:
    """The halves of a block whose sums would not be exact."""
    return [slice(0, rows // 2), slice(rows // 2, rows)]
