"""Matrices of booleans as sketches."""

import pickle
from pathlib import Path

import h5py
import numpy as np
import pytest
import zarr

import gpuknn
from gpuknn.errors import InputError
from gpuknn.vectors import open_vectors
from gpuknn.vectors.bits import unpack_bits


def write(path: Path, bits: np.ndarray) -> Path:
    if path.suffix == ".npy":
        np.save(path, bits)
    elif path.suffix == ".zarr":
        zarr.create_array(str(path), data=bits, chunks=(20, bits.shape[1]), compressors=None)
    else:
        with h5py.File(path, "w") as file:
            file.create_dataset("train", data=bits, **({"compression": "gzip"} if path.name == "gzip.h5" else {}))
    return path


@pytest.mark.parametrize("width", [1, 64, 100, 256])
@pytest.mark.parametrize("name", ["a.npy", "a.h5", "gzip.h5", "a.zarr"])
def test_booleans_are_sketches(name: str, width: int, tmp_path: Path) -> None:
    bits = np.random.default_rng(0).random((70, width)) < 0.5
    vectors = pickle.loads(pickle.dumps(open_vectors(write(tmp_path / name, bits))))
    assert (vectors.shape, vectors.dtype, vectors.bits) == ((70, -(-width // 64)), np.uint64, width)
    rows = vectors[10:60]
    assert np.array_equal(unpack_bits(rows, width), bits[10:60])
    assert np.array_equal(vectors.absolute()[10:60], rows)
    differ = (bits[:5, None] != bits[None]).sum(axis=2)
    found = gpuknn.exact_knn(vectors, vectors[:5], k=70, metric="hamming")
    assert np.array_equal(found.dists, np.sort(differ, axis=1))


def test_a_byte_that_is_no_boolean(tmp_path: Path) -> None:
    path = write(tmp_path / "a.npy", np.ones((70, 10), bool))
    content = bytearray(path.read_bytes())
    content[-15] = 3
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"row 68 \(counted from 0\) holds 3, which is no boolean"):
        open_vectors(path)[:]
