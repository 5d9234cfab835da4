"""Rows that a Python program has at hand, whatever they are kept in.

No library is imported to look at an object's type: importing gpuknn, and searching arrays of NumPy, stays quick.
"""

import os
from pathlib import Path
from typing import Any

import numpy as np

from gpuknn.errors import check_known
from gpuknn.vectors.in_memory import array_vectors, in_memory
from gpuknn.vectors.opening import open_vectors
from gpuknn.vectors.vectors import Vectors
from gpuknn.vectors.written import Missing

Rows = Any
"""What is taken for rows: `Vectors`, a path or URL, or an array of any kind (`as_vectors`)."""


def as_vectors(rows: Rows, name: str, missing: Missing = "refuse", single: bool = False) -> Vectors:
    """Rows (n, d) from wherever they are; those of files and of arrays that read by the slice are not read yet.

    `name`: what messages call an array.  `missing`: what becomes of rows that nobody wrote.  `single`: whether one row
    may come alone, as (d,).  Raises InputError if it is no set of vectors.
    """
    check_known("missing", missing, ("refuse", "zeros"))
    if isinstance(rows, Vectors):
        return rows
    if isinstance(rows, str | os.PathLike):
        return open_vectors(Path(rows) if isinstance(rows, os.PathLike) else rows, missing=missing)
    kinds = _kinds(rows)
    if "h5py.Dataset" in kinds:
        from gpuknn.vectors.hdf5 import open_dataset

        return open_dataset(rows, name, missing)
    if kinds & {"zarr.Array", "zarr.Group"}:
        from gpuknn.vectors.zarr import open_held

        return open_held(rows, name, missing)
    if "dask.Array" in kinds:
        from gpuknn.vectors.dask_rows import dask_vectors

        return dask_vectors(rows[np.newaxis] if single and rows.ndim == 1 else rows, name)
    if kinds & {"pyarrow.Array", "pyarrow.ChunkedArray", "pyarrow.Table", "pyarrow.RecordBatch"}:
        from gpuknn.vectors.arrow import arrow_vectors

        return arrow_vectors(rows, name, single)
    return array_vectors(in_memory(rows, kinds, name), name, single)


def _kinds(rows: Rows) -> set[str]:
    """The object's classes, each by the name of its library and its own."""
    return {f"{each.__module__.partition('.')[0]}.{each.__name__}" for each in type(rows).__mro__}
