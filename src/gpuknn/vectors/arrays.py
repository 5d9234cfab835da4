"""Rows that a Python program has at hand, whatever they are kept in."""

import os
from pathlib import Path
from typing import Any

import numpy as np

from gpuknn.vectors.opening import open_vectors
from gpuknn.vectors.vectors import ArrayVectors, Vectors
from gpuknn.vectors.written import Missing

Rows = Any
"""What is taken for rows: `Vectors`, a path or URL, or an array of any kind (`as_vectors`)."""


def as_vectors(rows: Rows, name: str, missing: Missing = "refuse") -> Vectors:
    """Rows (n, d) from wherever they are; those of files and of arrays that read by the slice are not read yet.

    `name`: what messages call an array.  `missing`: what becomes of rows that nobody wrote.  Raises InputError if it is
    no set of vectors.
    """
    if isinstance(rows, Vectors):
        return rows
    if isinstance(rows, str | os.PathLike):
        return open_vectors(Path(rows) if isinstance(rows, os.PathLike) else rows, missing=missing)
    return ArrayVectors.of(np.asarray(rows), name)
