"""The error bound: why a row that the filter drops cannot be in the answer.

The filter scores rows in float32; larger is nearer.  For a query q and a row x let s(d) = (zero - d) * scale be the
score that a distance d deserves (`zero` and `scale` belong to the query, scale > 0):

    metric    score in real arithmetic       zero     scale      scaled query q~   scaled row x~    h
    cosine    x.q / (|x||q|)                 1        1          q / |q|           x / |x|          0
    ip        t r x.q                        0        t r        r q               t x              0
    l2        t t (x.q - |x|^2 / 2)          |q|^2    t t / 2    t q               t x              |x~|^2 / 2

so that s(d) = q~.x~ - h.  t (per epoch) and r (per query) are powers of two that keep |x~| and |q~| at most 1, so
scaling is exact for all but what underflows.  In l2 one t serves both.

1. One score.  q~ and x~ are rounded to float32: every component carries one factor (1 + u), u = 2^-24, and, under
   cosine, where it is divided by a float64 norm, less than one more.  A float32 dot product of d terms, in any order,
   with or without fused additions, multiplies each term by at most d factors (1 + u) (Higham, Accuracy and
   Stability of Numerical Algorithms, section 3.1).  Hence, with gamma(n) = n u / (1 - n u) and by Cauchy-Schwarz,

       |computed q~.x~ - exact q~.x~|  <=  gamma(d + 4) |q~||x~| + TINY d

   TINY = 2^-120 pays for components and products that underflow, also where the library flushes them to zero.
   Adding the bias (below) rounds once more: at most 2 u (|q~||x~| + h) with the rounding of h.  Altogether

       error(x)  =  gamma(d + 8) Q |x~|  +  8 u h  +  TINY d,      Q = the largest |q~|

2. Upper bounds.  bias(x) = error(x) - h, so a computed score plus its bias is at least s(true distance), and at
   most that + 2 error(x).

3. What the state proves.  A row whose *stored* distance is at most D has a true distance of at most D plus half a
   unit in the last place of float32, plus the error of the float64 evaluation, which is at most (d + 8) 2^-52 M with
   M = the largest distance that could arise ((|q| + |x|)^2 for l2).  So its upper bound is at least

       proven(D)  =  s(D) - ROUNDING (|s(D)| + |D| scale) - margin

   ROUNDING = 2^-22 covers the half unit and the conversion of proven(D) itself to float32; margin covers the float64
   evaluation and stored distances below float32's normal range.  A row below proven(k-th stored distance) is out, and
   so is one below proven(floor), where `floor` is any distance that the k-th neighbour is known not to exceed.

4. What candidates prove.  If a candidate's upper bound is b, s(its distance) >= b - 2 error.  A row whose upper bound
   lies below b - slack, slack = 2 max error + 2 margin + what rounds, is farther by more than a unit in the last place
   of the stored distance, so that its stored distance is larger too, not equal.  Where k rows (kept or
   candidates) are proven to reach a score, a row that does not is out, ties included.

5. Scores of 8-bit integers.  With centres c of the queries and m of the rows, any vectors, and scales a and b of
   query and row,

       q~ - c = a q8 + r_q,    x~ - m = b x8 + r_x
       q~.x~ = q~.m + c.(x~ - m) + a b q8.x8 + r_q.(b x8) + (q~ - c).r_x

   The sum q8.x8 is exact in 32 bits.  The two last terms are what the score leaves out; with R the largest |r_q|, P
   the largest |q~ - c| and S the row's |x~ - m|, they are by Cauchy-Schwarz at most

       R (S + |r_x|)  +  P |r_x|

   from the residuals as they are, not as they might be.  v = x~ - m, its rounding and the two norms are computed in
   float32: v is off by u S, r_x by at most 3 u S in all, and a norm of d terms by a factor gamma(d + 4) / 2; likewise
   for queries.  Converting the sum, two scales, the dot products with the centres and adding it all up are at most
   gamma(d + 8) relative to each part.  So, with S and |r_x| as computed, R and P likewise,

       gamma(d + 16) ((P + R) (S + |r_x|) + |c| S + |m| (Q + P))

   pays for all of that, the bias included: the 3 u S and 3 u P meet factors P and S, and d + 16 leaves room for them.
   Squares may underflow: LOST sqrt(d) is added to each of the norms.
   What is rounded to 8 bits was rounded to float32 before, so this comes on top of gamma(d + 8) Q |x~| in step 1.  A
   row that passes is scored again in float32, and only that score, with its own error, is kept: steps 2 to 4 know
   nothing of the 8 bits.  (Where the float32 rows are float16 rows as stored, which need no rounding, the score is
   scaled afterwards: one rounding of the factor and one of the product, of the d + 8.)

6. Scores of float16 on tensor cores.  Queries q~, and rows that float16 does not hold as they are, are rounded to
   float16; x16 and q16 with |q~ - q16| at most R, from the residuals as they are, and, a row's largest component being
   at most 1,

       |x~ - x16|  <=  r  =  H |x~| + 2^-25 sqrt(d),    H = 2^-11 + 2^-22    (2^-25: half a unit below 2^-14)

   where rows are rounded, by way of float32; r = 0 where float16 (or an 8-bit integer) is what is stored.  Products of
   float16 are exact in float32.  Tensor cores add several of them at once, in a fixed-point sum that is aligned to the
   largest and *truncated*, with as few as 24 bits (Fasi, Higham, Mikaitis, Pranesh: Numerical behavior of NVIDIA
   tensor cores, PeerJ Computer Science 7:e330, 2021).  A sum of n + 1 terms then loses less than (n + 1) 2^-23 of its
   largest, n >= 4, and d / n of them follow each other; normalising loses a bit at most.  V = 2^-21 for each of d terms
   is more than twice that, and `gpuknn doctor --full` measures what is used of it:

       error(x)  =  Q r  +  R (|x~| + r)  +  d V / (1 - d V) (Q + R) (|x~| + r)

   with d + 8 for d, to pay for scaling the sum by the row's factor, rounded, and for the bias.  It takes the place of
   gamma(d + 8) Q |x~| in step 1.

All of it is evaluated in float64 and rounded outwards to float32.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from gpuknn.engine.metric import Metric

U = 2.0**-24
TINY = 2.0**-120
LOST = 2.0**-62
"""Components of which float32 cannot hold the square any more are no larger."""
TENSOR_CORE = 2.0**-21
"""V of step 6."""
HALF = 2.0**-11 + 2.0**-22
"""H of step 6."""
ROUNDING = 2.0**-22
"""Relative distance within which stored distances may be equal; also covers one conversion to float32."""


def gamma(n: int, unit: float = U) -> float:
    """Relative error of n roundings of a relative error `unit`, in float32 by default (Higham, section 3.1)."""
    if n * unit >= 0.5:
        raise ValueError(f"{n} dimensions are too many for a float32 bound")
    return n * unit / (1.0 - n * unit)


@dataclass(frozen=True)
class Filter:
    """The filter's scale and proven error for one epoch of m rows and nq queries."""

    query_factor: np.ndarray
    """(nq,) float64: queries are scaled by it."""
    row_factor: np.ndarray
    """(m,) float64: rows are scaled by it."""
    to_score: np.ndarray
    """(nq, 3) float64: zero, scale and margin of each query."""
    slack: np.ndarray
    """(nq,) float32: an upper bound less this is proven."""
    bias: np.ndarray
    """(m,) float32: added to a row's scores, makes them upper bounds."""
    error: np.ndarray
    """(m,) float32: the proven error of a row's score."""


@dataclass(frozen=True)
class Quantised:
    """What rounding to 8 bits left of an epoch's scaled rows and of the scaled queries (step 5)."""

    query_residual: float
    """The largest |r_q|."""
    query_spread: float
    """The largest |q~ - c|."""
    query_centre: float
    """|c|."""
    centre: float
    """|m|."""
    spread: np.ndarray
    """(m,) float32: |x~ - m|."""
    residual: np.ndarray
    """(m,) float32: |r_x|."""

    def error(self, d: int, query: float, rows: np.ndarray) -> np.ndarray:
        """(m,) float64: the proven errors for rows of norms |x~|, (m,), where the largest |q~| is `query`."""
        lost = LOST * d**0.5
        spread, residual = self.spread.astype(np.float64) + lost, self.residual.astype(np.float64) + lost
        query_spread, query_residual = self.query_spread + lost, self.query_residual + lost
        left_out = query_residual * (spread + residual) + query_spread * residual
        sums = (query_spread + query_residual) * (spread + residual)
        offsets = self.query_centre * spread + self.centre * (query + query_spread)
        error: np.ndarray = left_out + gamma(d + 16) * (sums + offsets) + float32_error(d, query, rows)
        return error


@dataclass(frozen=True)
class Halved:
    """What rounding to float16 left of the scaled queries, and whether it left anything of the rows (step 6)."""

    query_residual: float
    """The largest |q~ - q16|."""
    rows_are_rounded: bool

    def error(self, d: int, query: float, rows: np.ndarray) -> np.ndarray:
        """(m,) float64: the proven errors for rows of norms |x~|, (m,), where the largest |q~| is `query`."""
        left = HALF * rows + 2.0**-25 * d**0.5 if self.rows_are_rounded else np.zeros_like(rows)
        rounded = rows + left
        sums = gamma(d + 8, TENSOR_CORE) * (query + self.query_residual) * rounded
        error: np.ndarray = query * left + self.query_residual * rounded + sums
        return error


def float32_error(d: int, query: float, rows: np.ndarray) -> np.ndarray:
    """(m,) float64: the proven errors of float32 sums for rows of norms |x~|, (m,) (step 1)."""
    error: np.ndarray = gamma(d + 8) * query * rows
    return error


def filter_for(
    metric: Metric,
    d: int,
    query_norms: np.ndarray,
    row_norms: np.ndarray,
    error_of: Callable[[int, float, np.ndarray], np.ndarray] = float32_error,
) -> Filter:
    """The filter for rows and queries of the given *squared* norms, (m,) and (nq,) float64.

    `error_of` a score without h: that of float32, or of what was rounded further (`Quantised.error`, `Halved.error`).
    """
    if metric is Metric.HAMMING:
        return _hamming_filter(len(query_norms), len(row_norms))
    q, x = np.sqrt(query_norms), np.sqrt(row_norms)
    if metric is Metric.COSINE:
        row_factor, query_factor = 1.0 / x, 1.0 / q
        zero, scale = np.ones_like(q), np.ones_like(q)
        largest, h = np.full_like(q, 2.0), np.zeros_like(x)
    elif metric is Metric.IP:
        t, query_factor = power_of_two_below(np.max(x)), power_of_two_below(q)
        row_factor = np.full_like(x, t)
        zero, scale = np.zeros_like(q), t * query_factor
        largest, h = q * np.max(x), np.zeros_like(x)
    else:
        t = power_of_two_below(max(np.max(x), np.max(q)))
        row_factor, query_factor = np.full_like(x, t), np.full_like(q, t)
        zero, scale = query_norms, np.full_like(q, t * t / 2)
        largest, h = (q + np.max(x)) ** 2, (t * x) ** 2 / 2
    query = float(np.max(q * query_factor))
    error = _up(error_of(d, query, x * row_factor) + 8 * U * h + TINY * d)
    margin = ((d + 8) * 2.0**-52 * largest + 2.0**-149) * scale
    slack = 2.0 * float(np.max(error)) + 2 * margin + 4 * ROUNDING * largest * scale
    return Filter(
        query_factor=query_factor,
        row_factor=row_factor,
        to_score=np.stack([zero, scale, margin], axis=1),
        slack=_up(slack),
        bias=_up(error - h),
        error=error,
    )


def proven_score(dists: np.ndarray, to_score: np.ndarray) -> np.ndarray:
    """(nq,) float32: the score that every row at a stored distance <= dists, (nq,), reaches with its bias (step 3)."""
    zero, scale, margin = to_score.T
    score = (zero - dists) * scale
    proven: np.ndarray = score - (np.abs(score) + np.abs(dists) * scale) * ROUNDING - margin
    return proven.astype(np.float32)


def _hamming_filter(nq: int, m: int) -> Filter:
    """Scores are minus the distance, whole numbers below 2^24: exact, so equal scores are equal distances."""
    ones = np.ones(nq)
    none = np.zeros(m, np.float32)
    to_score = np.stack([np.zeros(nq), ones, np.full(nq, 0.5)], axis=1)
    return Filter(ones, np.ones(m), to_score, np.full(nq, 0.5, np.float32), none, none)


def power_of_two_below(norm: np.ndarray) -> np.ndarray:
    """The power of two that brings a norm into [0.5, 1], at most 2^400; 1 for a norm of zero.

    Beyond 2^400 squares and products of factors would overflow; such vectors stay small, and TINY pays for them.
    """
    _, exponent = np.frexp(norm)
    return np.where(norm > 0, np.ldexp(1.0, np.minimum(-exponent, 400)), 1.0)


def _up(x: np.ndarray) -> np.ndarray:
    """float32 not below the float64 x; infinite where it must be, so that everything passes."""
    with np.errstate(over="ignore"):
        return np.nextafter(x.astype(np.float32), np.float32(np.inf))
