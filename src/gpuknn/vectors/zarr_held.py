"""Zarr arrays that a Python program has open, in whatever store."""

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import zarr
from zarr.storage import LocalStore

from gpuknn.errors import InputError, in_our_words
from gpuknn.vectors.bits import PackedBits
from gpuknn.vectors.vectors import Vectors, choose_key
from gpuknn.vectors.written import Missing
from gpuknn.vectors.zarr import ZarrVectors, check_gaps, checked_dtype, open_zarr


def open_held(node: zarr.Array | zarr.Group, name: str, missing: Missing) -> Vectors:
    """Take the rows of an array, or of the only array of a group, that the program has open.

    In a folder they are read as `open_zarr` reads them, if it still holds the array as it was opened; from other stores
    (memory, ZIP, an object store with its own credentials) through the array.  `name`: what messages call them.  Raises
    InputError as `open_zarr` does.
    """
    place = node.store_path
    if isinstance(place.store, LocalStore) and _is_as_stored(node, name):
        return open_zarr(Path(place.store.root, place.path), None, missing)
    with in_our_words(f"{name}: is not a readable Zarr array or group"):
        key, array = place.path or None, node
        if isinstance(array, zarr.Group):
            key = choose_key({found: (a.shape, np.dtype(a.dtype)) for found, a in array.arrays()}, name)
            array = array[key]
        if not isinstance(array, zarr.Array):
            raise InputError(f"{name}: {key} is a group, not an array")
        where = f"{name}:{key}" if key else name
        dtype = checked_dtype(array, where)
        check_gaps(array, where, array.store_path, missing)
    (n, d), chunk_rows = array.shape, array.chunks[0]
    rows = HeldZarr(name, key, (n, d), dtype, chunk_rows, array=array)
    return PackedBits.of(rows) if array.dtype == np.bool_ else rows


@dataclass(frozen=True)
class HeldZarr(ZarrVectors):
    """Rows of an array that the program has open, in whatever store."""

    array: zarr.Array = field(kw_only=True, repr=False)
    in_files = False

    @cached_property
    def _array(self) -> zarr.Array:
        return self.array


def _is_as_stored(node: zarr.Array | zarr.Group, name: str) -> bool:
    """Whether the folder still describes what the program has open; somebody else may have appended to it since."""
    if isinstance(node, zarr.Group):
        return True
    place = node.store_path
    with in_our_words(f"{name}: is no longer a readable Zarr array"):
        return bool(zarr.open_array(place.store, path=place.path, mode="r").metadata == node.metadata)
