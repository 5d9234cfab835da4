"""What a Zarr store or HDF5 file says of how it was written, and whether its rows are still those that were written."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np

from gpuknn.errors import InputError, RunError
from gpuknn.storage.location import is_folder, is_url, listing, split_key
from gpuknn.vectors.derived import BLOCK_BYTES
from gpuknn.vectors.hdf5 import open_file
from gpuknn.vectors.opening import open_vectors
from gpuknn.vectors.vectors import Vectors
from gpuknn.vectors.written import Missing


def read_notes(path: str) -> dict[str, Any]:
    """What `Target.finish` was given; raises InputError where there is nothing of the kind."""
    if is_url(path) and not listing(path):
        raise InputError(f"{path}: there is nothing of that name")
    folder = is_url(path) or is_folder(Path(path))
    try:
        if folder:
            import zarr

            from gpuknn.vectors.zarr import store_of

            found: Any = zarr.open_array(store_of(path), mode="r").attrs["gpuknn"]
        else:
            with open_file(path) as file:
                found = json.loads(file.attrs["gpuknn"])
        kinds = isinstance(found["piece_rows"], int), isinstance(found.get("key", ""), str)
        if all(kinds) and all(isinstance(crc, str) for crc in found["crc32c"]) and found["piece_rows"] > 0:
            return dict(found)
        raise ValueError("other things")
    except RunError:
        raise
    except Exception as error:  # of damaged files the libraries raise what they like
        raise InputError(f"{path}: holds no checksums of gpuknn convert; name its source, too, to compare") from error


def open_noted(name: str, missing: Missing) -> tuple[Vectors, dict[str, Any]]:
    """The rows at `name` that its notes are about, and these; raises InputError if a key in it names others."""
    place, key = split_key(name)
    path = str(place)
    notes = read_notes(path)
    noted = notes.get("key") or None
    if key not in (None, noted):
        raise InputError(f"{name}: the checksums in {path} are those of {noted or 'its only array'}; leave it out")
    vectors = open_vectors(path, key=noted, missing=missing)
    if len(notes["crc32c"]) != -(-len(vectors) // notes["piece_rows"]):
        raise InputError(f"{path}: holds {len(vectors):,} rows, and checksums of another number")
    return vectors, notes


def first_damage(vectors: Vectors, notes: dict[str, Any], checked: Callable[[int], None]) -> range | None:
    """The first piece of the rows that is not what was written; None where all are.

    `checked` is told how many rows have been read.
    """
    size, checksums = notes["piece_rows"], notes["crc32c"]
    step = max(1, BLOCK_BYTES // (vectors.nbytes // len(vectors)))
    for number, expected in enumerate(checksums):
        piece, checksum = range(number * size, min((number + 1) * size, len(vectors))), 0
        for first in piece[::step]:
            block = vectors[first : min(first + step, piece.stop)]
            checksum = google_crc32c.extend(checksum, block.reshape(-1).view(np.uint8))
        if f"{checksum:08x}" != expected:
            return piece
        checked(piece.stop)
    return None
