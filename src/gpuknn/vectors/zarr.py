"""Vectors in Zarr arrays, v2 and v3."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import zarr

from gpuknn.errors import InputError
from gpuknn.vectors.source import Vectors, check_layout, choose_key


@dataclass(frozen=True)
class ZarrVectors(Vectors):
    """Rows decoded by zarr-python."""

    def read(self, first: int, out: np.ndarray) -> None:
        """Fill `out` from the chunks that hold the rows."""
        try:
            array = zarr.open_array(self.path, path=self.key or "", mode="r")
            out[...] = array[first : first + len(out)]
        except Exception as error:  # codecs raise what they like
            raise InputError(f"{self.where}: rows {first} to {first + len(out)} cannot be read ({error})") from error


def open_zarr(path: Path, key: str | None) -> ZarrVectors:
    """Open a Zarr array, or an array of a Zarr group; raises InputError where there is none that fits."""
    try:
        node = zarr.open(str(path), mode="r")
        if isinstance(node, zarr.Group):
            if key is None:
                key = choose_key({name: (a.shape, a.dtype) for name, a in node.arrays()}, path)
            if key not in node:
                raise InputError(f"{path}: has no array {key!r}")
            node = node[key]
        elif key is not None:
            raise InputError(f"{path}: is one array, not a group; leave out the key {key!r}")
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"{path}: is not a Zarr array or group ({error})") from error
    if not isinstance(node, zarr.Array):
        raise InputError(f"{path}:{key}: is a group, not an array")
    where = f"{path}:{key}" if key else str(path)
    dtype = np.dtype(node.dtype)
    check_layout(node.shape, dtype, where)
    if node.nchunks_initialized < node.nchunks:
        missing = node.nchunks - node.nchunks_initialized
        raise InputError(f"{where}: {missing} of {node.nchunks} chunks are missing; copy or write the store again")
    return ZarrVectors(str(path), key, (node.shape[0], node.shape[1]), dtype.newbyteorder("="))
