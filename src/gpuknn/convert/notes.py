"""What a Zarr store or HDF5 file says of how it was written, and whether its rows are still those that were written."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import google_crc32c
import h5py
import numpy as np

from gpuknn.convert.target import BLOCK_BYTES
from gpuknn.errors import InputError
from gpuknn.vectors import Vectors, open_vectors
from gpuknn.vectors.location import is_url


def read_notes(path: str) -> dict[str, Any]:
    """What `Target.finish` was given; raises InputError where there is nothing of the kind."""
    try:
        if is_url(path) or Path(path).is_dir():
            import zarr

            from gpuknn.vectors.zarr import store_of

            found: Any = zarr.open_array(store_of(path), mode="r").attrs["gpuknn"]
        else:
            with h5py.File(path, "r", locking=False) as file:
                found = json.loads(file.attrs["gpuknn"])
        if all(isinstance(crc, str) for crc in found["crc32c"]) and int(found["piece_rows"]) > 0:
            return dict(found)
        raise ValueError("other things")
    except Exception as error:  # of damaged files the libraries raise what they like
        raise InputError(f"{path}: holds no checksums of gpuknn convert; name its source, too, to compare") from error


def first_damage(path: str, checked: Callable[[int], None]) -> tuple[Vectors, range | None]:
    """The rows at `path`, and the first piece of them that is not what was written; None where all are.

    `checked` is told how many rows have been read.
    """
    notes = read_notes(path)
    vectors = open_vectors(path, notes.get("key") or None)
    size, checksums = notes["piece_rows"], notes["crc32c"]
    if len(checksums) != -(-len(vectors) // size):
        raise InputError(f"{path}: holds {len(vectors):,} rows, and checksums of another number")
    step = max(1, BLOCK_BYTES // (vectors.nbytes // len(vectors)))
    for number, expected in enumerate(checksums):
        piece, checksum = range(number * size, min((number + 1) * size, len(vectors))), 0
        for first in piece[::step]:
            block = vectors[first : min(first + step, piece.stop)]
            checksum = google_crc32c.extend(checksum, block.reshape(-1).view(np.uint8))
        if f"{checksum:08x}" != expected:
            return vectors, piece
        checked(piece.stop)
    return vectors, None
