"""What a distance is: the four metrics, which data they take, and the order in which sums are made.

The definition of a right answer
--------------------------------
Distances are evaluated in float64 from the values as stored, row x and query q:

    cosine   1 - x.q / sqrt(|x|^2 |q|^2)     one product, one square root, one division, one subtraction
    ip       -x.q
    l2       |x - q|^2                       differences are rounded, then squared, then summed
    hamming  the number of differing bits of two sketches of uint64 words (booleans and bytes are read as such)

A distance is stored as float32 (rounded once, to nearest) or float64, zero always as +0.0.  The answer to a
query is its k rows of lowest (stored distance, id), in that order: of equal stored distances the lowest id wins.

The order of the sums
---------------------
A product of two float32 (or float16, uint8, int8) values is exact in float64; only its sum may round, so every
device adds in one order.  It is the order of NumPy's own pairwise summation along a contiguous axis, so that
`(x * q).sum()` in NumPy gives the same bits: fewer than 8 terms are added one by one; up to 128 are added into
eight running sums, which are added in pairs, and the remaining terms after them; more are split in two, the first
part being half of the terms rounded down to a multiple of 8.  (While |x||q| < 32, dot products of float16 rows
and float16 queries are exact in any order.)
"""

from enum import StrEnum

import numpy as np

from gpuknn.errors import InputError, in_python, option

FLOAT_TYPES = ("float16", "float32", "float64", "uint8", "int8")
SKETCH_TYPES = ("uint64",)


class Metric(StrEnum):
    """How far two vectors are apart."""

    COSINE = "cosine"
    IP = "ip"
    L2 = "l2"
    HAMMING = "hamming"

    @property
    def dtypes(self) -> tuple[str, ...]:
        """The element types that this metric takes."""
        return SKETCH_TYPES if self is Metric.HAMMING else FLOAT_TYPES


ALIASES = {"sqeuclidean": Metric.L2, "dot": Metric.IP, "inner_product": Metric.IP}
"""Names that others give to the same numbers (SciPy's, and those of vector databases)."""
OTHER_NUMBERS = {
    "euclidean": (Metric.L2, "gives the squares of Euclidean distances: the same neighbours; take the roots of dists"),
    "angular": (Metric.COSINE, "gives 1 - cos, as ann-benchmarks' angular does; an angle is arccos(1 - dists)"),
}
"""Names that mean other numbers, at least to some, and ours for the same order of neighbours."""


def metric_named(name: str) -> Metric:
    """The metric of that name, or of another name for the same numbers, in capitals or not.

    Raises InputError if there is none.
    """
    written = name.lower() if isinstance(name, str) else ""
    if written in ALIASES:
        return ALIASES[written]
    if written in OTHER_NUMBERS:
        ours, difference = OTHER_NUMBERS[written]
        raise InputError(f"{option('metric', name)}: use {option('metric', ours.value)}, which {difference}")
    if written not in list(Metric):
        raise InputError(f"{option('metric', name)}: there are {', '.join(map(_with_aliases, Metric))}")
    return Metric(written)


def check_dtype(metric: Metric, dtype: np.dtype, where: str, booleans: bool = False) -> None:
    """Raise InputError if `metric` is not defined on rows of that type; `booleans`: which became sketches."""
    if dtype.name in metric.dtypes:
        return
    fits = " or ".join(option("metric", each.value) for each in Metric if dtype.name in each.dtypes)
    kind, advice = f"{dtype.name} rows", f"use {fits}" if fits else "no metric takes that type"
    if booleans:
        kind, advice = "booleans", advice + in_python(", or numbers, e.g. rows.astype(np.uint8)")
    elif metric is Metric.HAMMING:
        advice += "; it takes booleans" + in_python(", e.g. rows > 0")
        advice += ", bits packed in bytes (uint8 or int8), or sketches of uint64 words"
    raise InputError(f"{where}: {metric.value} is not defined on {kind}; {advice}")


def _with_aliases(metric: Metric) -> str:
    """Its name, and in brackets those that mean the same."""
    same = [alias for alias, meant in ALIASES.items() if meant is metric]
    return f"{metric.value} ({', '.join(same)})" if same else metric.value


def summation_leaves(d: int) -> np.ndarray:
    """The documented order of additions of d terms: (leaves, 2) int64, in order.

    Column 0 is where a leaf ends; column 1 is how many pairs of partial sums, the last two each time, are added
    after it.
    """
    ends: list[int] = []
    additions: list[int] = []

    def split(start: int, stop: int) -> None:
        n = stop - start
        if n <= 128:
            ends.append(stop)
            additions.append(0)
            return
        half = n // 2 - n // 2 % 8
        split(start, start + half)
        split(start + half, stop)
        additions[-1] += 1

    split(0, d)
    return np.array([ends, additions], np.int64).T.copy()
