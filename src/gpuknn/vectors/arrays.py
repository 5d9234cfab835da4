"""Rows that a Python program has at hand, whatever they are kept in.

No library is imported to look at an object's type: importing gpuknn, and searching arrays of NumPy, stays quick.
"""

import os
from dataclasses import replace
from typing import Any, get_args

import numpy as np

from gpuknn.errors import check_known
from gpuknn.vectors.in_memory import array_vectors, in_memory
from gpuknn.vectors.opening import are_paths, open_vectors
from gpuknn.vectors.vectors import Vectors
from gpuknn.vectors.written import Missing

Rows = Any
"""What is taken for rows: `Vectors`, a path or URL or a list of them, or an array of any kind (`as_vectors`)."""


def as_vectors(rows: Rows, name: str, missing: Missing = "refuse", single: bool = False) -> Vectors:
    """Rows (n, d) from wherever they are; those of files and of arrays that read by the slice are not read yet.

    `name`: what messages call an array.  `missing`: what becomes of rows that nobody wrote.  `single`: whether one row
    may come alone, as (d,).  Raises InputError if it is no set of vectors.
    """
    if isinstance(rows, str | os.PathLike) or are_paths(rows):
        return open_vectors(rows, missing=missing)
    check_known("missing", missing, get_args(Missing))
    if isinstance(rows, Vectors):
        return rows
    kinds = _kinds(rows)
    if "h5py.Dataset" in kinds:
        from gpuknn.vectors.hdf5 import open_dataset

        return replace(open_dataset(rows, name, missing), missing=missing)
    if kinds & {"zarr.Array", "zarr.Group"}:
        from gpuknn.vectors.zarr_held import open_held

        return replace(open_held(rows, name, missing), missing=missing)
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
