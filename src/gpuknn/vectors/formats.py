"""The formats in which vectors are written: their names, and which one a suffix tells."""

import numpy as np

from gpuknn.vectors import fbin, vecs

HDF5 = (".h5", ".hdf5", ".jld2")
PARQUET = (".parquet", ".pq")
ONE_TYPE = {suffix[1:]: np.dtype(kind).name for suffix, kind in (fbin.COMPONENTS | vecs.COMPONENTS).items()}
"""Formats that hold one type of components; their names are their suffixes."""
SUFFIXES = {
    **dict.fromkeys(HDF5, "h5"),
    ".zarr": "zarr",
    ".npy": "npy",
    **{f".{name}": name for name in ONE_TYPE},
    **dict.fromkeys(PARQUET, "parquet"),
}
