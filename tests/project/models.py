"""Models of projections, made by hand."""

from pathlib import Path

import h5py
import numpy as np


def unit_rows(rng: np.random.Generator, n: int, d: int) -> np.ndarray:
    """(n, d) float32, each of unit length."""
    rows = rng.standard_normal((n, d))
    return (rows / np.linalg.norm(rows, axis=1)[:, None]).astype(np.float32)


def write_published(path: Path, references: np.ndarray, pool: np.ndarray) -> None:
    """A model as Julia's JLD2 keeps BinWalk's: `pool` (words, 64) counts references from 0 here, from 1 in the file."""
    reference = h5py.ref_dtype
    record = np.dtype([("refs", np.dtype([("matrix", reference)])), ("pool", reference)])
    with h5py.File(path, "w", userblock_size=512) as file:
        arrays = {"refs": references, "pool": pool.astype(np.int32) + 1}
        places = [file.create_dataset(f"_types/{name}", data=array) for name, array in arrays.items()]
        model = file.create_dataset("model", (), record)
        model[()] = np.array(((places[0].ref,), places[1].ref), record)
