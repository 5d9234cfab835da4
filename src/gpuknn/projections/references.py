"""Which rows of a database are references for sketches."""

import numpy as np

from gpuknn.engine.projecting import POOL
from gpuknn.errors import InputError, option, whole_number
from gpuknn.projections.model import SketchModel
from gpuknn.vectors import Vectors
from gpuknn.vectors.converted import Converted

TRIES = 20
"""Rows drawn, for each one that is wanted, before there are said to be too few that differ."""


def draw_references(vectors: Vectors, bits: int, seed: int) -> SketchModel:
    """As many different rows as there are bits, of unit length, drawn from all.

    RandomState's numbers are the same in all versions of NumPy (NEP 19).  A row that is drawn again, or equal to one
    that was, is passed over: two equal references would make a bit that is always 0.  Raises InputError if there are
    too few rows that differ.
    """
    n, d = vectors.shape
    rows = Converted.of(vectors, range(n), np.dtype(np.float32), True, None, False)
    found = np.empty((bits, d), np.float32)
    known: dict[bytes, int] = {}
    for number in np.random.RandomState(seed).randint(0, n, TRIES * bits, np.int64).tolist():
        row = found[len(known) : len(known) + 1]
        rows.read(number, row)
        known.setdefault(row.tobytes(), number)
        if len(known) == bits:
            return SketchModel(found)
    raise InputError(
        f"{vectors.where}: {TRIES * bits:,} rows drawn were only {len(known):,} different ones; "
        f"{option('hamming', bits)} needs {bits:,}"
    )


def check_bits(bits: int) -> int:
    """The same; raises InputError if they make no whole words."""
    if whole_number("hamming", bits) % POOL:
        raise InputError(f"{option('hamming', bits)}: must be a multiple of {POOL}, the bits of a word")
    return bits
