import argparse
import os
import pickle
from copy import copy
from pathlib import Path
from typing import Any, get_args

import h5py
import numpy as np
import pytest
import zarr

import gpuknn
from gpuknn.cli.options import add_missing
from gpuknn.errors import InputError, RunError
from gpuknn.vectors import ArrayVectors, Vectors, content_fingerprint, open_vectors, sampled
from gpuknn.vectors.hdf5 import Hdf5Vectors
from gpuknn.vectors.raw import RawVectors
from gpuknn.vectors.written import Missing


def rows_of(dtype: str) -> np.ndarray:
    rng = np.random.default_rng(0)
    return rng.integers(0, 100, (1000, 6)).astype(dtype)


def write(path: Path, rows: np.ndarray, **options: object) -> Path:
    if path.suffix == ".npy":
        np.save(path, rows)
    elif path.suffix == ".zarr":
        array = zarr.create_array(str(path), shape=rows.shape, dtype=rows.dtype, chunks=(300, 6), **options)  # type: ignore[arg-type]
        array[:] = rows
    else:
        with h5py.File(path, "w", userblock_size=512) as file:
            file.create_dataset("emb", data=rows, **options)
    return path


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "uint8", "int8", "uint64"])
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("a.h5", {}),
        ("chunked.h5", {"chunks": (64, 6)}),
        ("gzip.h5", {"compression": "gzip"}),
        ("a.npy", {}),
        ("v2.zarr", {"zarr_format": 2}),
        ("v3.zarr", {"zarr_format": 3}),
    ],
)
def test_formats_and_types(name: str, options: dict[str, object], dtype: str, tmp_path: Path) -> None:
    rows = rows_of(dtype)
    vectors = pickle.loads(pickle.dumps(open_vectors(write(tmp_path / name, rows, **options))))
    assert (vectors.shape, vectors.dtype) == (rows.shape, rows.dtype)
    for first, last in ((0, 1000), (0, 1), (999, 1000), (250, 777)):
        assert np.array_equal(vectors[first:last], rows[first:last])
    out = np.empty((10, 6), dtype)
    vectors.read(5, out)
    assert np.array_equal(out, rows[5:15])


@pytest.mark.parametrize("name", ["a.npy", "gzip.h5", "a.zarr"])
def test_rows_are_a_sequence(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = rows_of("float32")
    vectors = open_vectors(write(tmp_path / name, rows, **({"compression": "gzip"} if name == "gzip.h5" else {})))
    assert np.array_equal(np.asarray(vectors), rows)
    assert np.asarray(vectors, np.float64).dtype == np.float64
    assert np.array_equal(np.array(vectors) + vectors, 2 * rows)
    for number in (0, 3, -1, -1000, np.int64(7), np.array(5)):
        assert np.array_equal(vectors[number], rows[number])
        assert vectors[number].shape == (6,)
    for length in (1, 7 * rows[0].nbytes, rows.nbytes):  # of what is read at once
        monkeypatch.setattr("gpuknn.vectors.vectors.ITERATED_BYTES", length)
        assert np.array_equal(list(vectors), rows)


@pytest.mark.parametrize("wrong", [[1, 2], (1, 2), np.array([1, 2]), np.arange(1000) > 3, 1.0, "emb", None, True, ...])
def test_other_indices_are_refused(wrong: Any) -> None:
    with pytest.raises(InputError, match=r"^rows: rows are read by a number or a slice, .* np\.asarray\(rows\)$"):
        ArrayVectors.of(rows_of("float32"), "rows")[wrong]


@pytest.mark.parametrize("number", [1000, -1001])
def test_a_row_that_is_not_there(number: int) -> None:
    with pytest.raises(IndexError, match=f"rows: there is no row {number}, there are 1000 rows"):
        ArrayVectors.of(rows_of("float32"), "rows")[number]


def test_all_rows_are_never_had_without_a_copy() -> None:
    with pytest.raises(ValueError, match="none without a copy"):
        np.asarray(ArrayVectors.of(rows_of("float32"), "rows"), copy=False)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (np.eye(3), "an object of type numpy.ndarray"),
        ([[1.0]], "an object of type list"),
        (None, "None"),
        (3, "an object of type int"),
        (b"a.npy", "an object of type bytes"),
    ],
)
def test_what_is_no_path_is_refused(wrong: Any, said: str) -> None:
    with pytest.raises(InputError, match=f"takes a path or a URL, and this is {said}; gpuknn.exact_knn takes arrays"):
        open_vectors(wrong)


MADE: dict[str, dict[str, Any]] = {
    "a.npy": {}, "a.h5": {}, "gzip.h5": {"compression": "gzip"}, "a.zarr": {}, "raw.zarr": {"compressors": None},
    "a.fbin": {}, "a.fvecs": {}, "a.parquet": {},
}  # fmt: skip


@pytest.mark.parametrize("missing", get_args(Missing))
@pytest.mark.parametrize("name", MADE)
@pytest.mark.parametrize("dtype", ["float32", "bool"])
def test_rows_know_how_they_were_opened(dtype: str, name: str, missing: Missing, tmp_path: Path) -> None:
    if dtype == "bool" and name in ("a.fbin", "a.fvecs", "a.parquet"):
        pytest.skip("holds no booleans")
    path = tmp_path / name
    if path.suffix in (".fbin", ".fvecs", ".parquet"):
        gpuknn.convert(write(tmp_path / "from.npy", rows_of("float32")), path)
    else:
        write(path, rows_of("float32") > 50 if dtype == "bool" else rows_of("float32"), **MADE[name])
    vectors = open_vectors(path, missing=missing)
    expected = open_vectors(path)[:]
    for same in (vectors, vectors.absolute(), copy(vectors), pickle.loads(pickle.dumps(vectors))):
        assert same.missing == missing
        assert np.array_equal(same[:], expected)


def test_the_command_line_knows_what_may_become_of_missing_rows() -> None:
    add_missing(parser := argparse.ArgumentParser())
    action = next(each for each in parser._actions if each.dest == "missing")
    assert action.choices == get_args(Missing)


def test_contiguous_files_are_read_past_the_library_and_others_are_not(tmp_path: Path) -> None:
    rows = rows_of("float16")
    assert isinstance(open_vectors(write(tmp_path / "a.h5", rows)), RawVectors)
    assert isinstance(open_vectors(write(tmp_path / "a.npy", rows)), RawVectors)
    assert isinstance(open_vectors(write(tmp_path / "b.h5", rows, chunks=(10, 6))), Hdf5Vectors)
    assert isinstance(open_vectors(write(tmp_path / "c.h5", rows.astype(">f2"))), Hdf5Vectors)
    assert np.array_equal(open_vectors(tmp_path / "c.h5")[:], rows)


def test_keys(tmp_path: Path) -> None:
    rows = rows_of("float32")
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["train"], file["deep/queries"], file["neighbors"] = rows, rows[:5], rows[:5, 0]
    assert open_vectors(tmp_path / "a.h5").key == "train"
    assert open_vectors(tmp_path / "a.h5", key="deep/queries").shape == (5, 6)
    assert open_vectors(f"{tmp_path}/a.h5:deep/queries").key == "deep/queries"
    group = zarr.open_group(str(tmp_path / "g.zarr"), mode="w")
    group.create_array("emb", data=rows)
    assert np.array_equal(open_vectors(tmp_path / "g.zarr")[:], rows)
    assert open_vectors(f"{tmp_path}/g.zarr:emb").key == "emb"
    (tmp_path / "a.h5:train").write_bytes((tmp_path / "a.h5").read_bytes())  # a name is taken as it stands if it is one
    assert open_vectors(f"{tmp_path}/a.h5:train").path.endswith("a.h5:train")
    with pytest.raises(InputError, match=r"none.h5: there is no such file"):
        open_vectors(f"{tmp_path}/none.h5:emb")


def broken(kind: str, folder: Path) -> tuple[Path, str | None]:
    rows, path = rows_of("float32"), folder / "a.h5"
    key = None
    if kind == "there is no such file":
        return folder / "nothing.h5", None
    if kind == "is not HDF5, .npy, Parquet or Zarr":
        path.write_text("hello")
    elif kind == "is not a readable Zarr array or group":
        return folder, None
    elif kind == "damaged or truncated HDF5":
        write(path, rows)
        path.write_bytes(path.read_bytes()[:-2000])
    elif kind == "not a readable .npy file":
        path = folder / "a.npy"
        path.write_bytes(b"\x93NUMPY\x01\x00garbage")
    elif kind == "the file is truncated":
        path = write(folder / "a.npy", rows)
        path.write_bytes(path.read_bytes()[:-100])
    elif kind == "has no array 'nope'":
        write(path, rows)
        key = "nope"
    elif kind == "holds several arrays of vectors":
        with h5py.File(path, "w") as file:
            file["train"], file["test"] = rows, rows
    elif kind == "holds no array of vectors":
        with h5py.File(path, "w") as file:
            file["a"], file["b"] = rows[0], rows[1]
    elif kind == "vectors are two-dimensional":
        with h5py.File(path, "w") as file:
            file["a"] = rows[0]
    elif kind == "vectors are float16":
        with h5py.File(path, "w") as file:
            file["a"] = [["some", "words"]]
    elif kind == "is empty":
        write(path, rows[:0])
    elif kind == "is in column order":
        path = write(folder / "a.npy", np.asfortranarray(rows))
    elif kind == "is big-endian":
        path = write(folder / "a.npy", rows.astype(">f4"))
    elif kind == "holds one array without a name":
        path, key = write(folder / "a.npy", rows), "emb"
    elif kind == "another file":
        write(folder / "b.h5", rows)
        with h5py.File(path, "w") as file:
            file["emb"] = h5py.ExternalLink("b.h5", "emb")
        key = "emb"
    return path, key


@pytest.mark.parametrize(
    "kind",
    [
        "there is no such file",
        "is not HDF5, .npy, Parquet or Zarr",
        "is not a readable Zarr array or group",
        "damaged or truncated HDF5",
        "not a readable .npy file",
        "the file is truncated",
        "has no array 'nope'",
        "holds several arrays of vectors",
        "holds no array of vectors",
        "vectors are two-dimensional",
        "vectors are float16",
        "is empty",
        "is in column order",
        "is big-endian",
        "holds one array without a name",
        "another file",
    ],
)
def test_what_is_wrong_is_said(kind: str, tmp_path: Path) -> None:
    path, key = broken(kind, tmp_path)
    with pytest.raises(InputError, match=kind):
        open_vectors(path, key=key)


def test_pickles_are_never_loaded(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.array([[{}]], dtype=object), allow_pickle=True)
    with pytest.raises(InputError, match="vectors are"):
        open_vectors(tmp_path / "a.npy")


def test_a_file_that_shrinks_while_it_is_read(tmp_path: Path) -> None:
    path = write(tmp_path / "a.npy", rows_of("float32"))
    vectors = open_vectors(path)
    path.write_bytes(path.read_bytes()[: 128 + 24 * 500])
    with pytest.raises(InputError, match="ends at row 500 of 1000"):
        vectors[400:600]


def test_fingerprints_tell_content_and_change(tmp_path: Path) -> None:
    rows = rows_of("float16")
    a, b = (open_vectors(write(tmp_path / name, rows)) for name in ("a.h5", "b.npy"))
    assert content_fingerprint(a) == content_fingerprint(b) == content_fingerprint(ArrayVectors.of(rows, "rows"))
    before = sampled(a).identity
    assert before == sampled(open_vectors(tmp_path / "a.h5")).identity
    changed = rows.copy()
    changed[-1, -1] += 1
    assert content_fingerprint(ArrayVectors.of(changed, "rows")) != content_fingerprint(a)
    write(tmp_path / "a.h5", rows)
    assert sampled(open_vectors(tmp_path / "a.h5")).identity != before


def test_files_that_change_while_they_are_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A job of rows that never were would be begun, and would stand in the way of the right one."""
    vectors = open_vectors(write(tmp_path / "a.npy", rows_of("float16")))

    def seen(vectors: Vectors) -> str:
        found = content_fingerprint(vectors)
        with open(tmp_path / "a.npy", "r+b") as file:
            file.seek(-2, os.SEEK_END)
            file.write(b"00")
        return found

    monkeypatch.setattr("gpuknn.vectors.fingerprint.content_fingerprint", seen)
    with pytest.raises(RunError, match=r"a\.npy: was changed while it was looked at; the same call looks again"):
        sampled(vectors)


def test_two_arrays_of_one_file_are_told_apart(tmp_path: Path) -> None:
    rows = rows_of("float16")
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["raw"], file["fixed"] = rows, rows
    raw, fixed = (open_vectors(tmp_path / "a.h5", key=key) for key in ("raw", "fixed"))
    assert sampled(raw).identity != sampled(fixed).identity


def test_a_missing_chunk_is_noticed(tmp_path: Path) -> None:
    path = write(tmp_path / "a.zarr", rows_of("float32"))
    (path / "c/1/0").unlink()
    with pytest.raises(InputError, match="1 of 4 chunks are missing"):
        open_vectors(path)


def test_sharded_arrays(tmp_path: Path) -> None:
    rows = rows_of("float16")
    array = zarr.create_array(str(tmp_path / "a.zarr"), shape=rows.shape, dtype="f2", chunks=(50, 6), shards=(500, 6))
    array[:] = rows
    assert np.array_equal(open_vectors(tmp_path / "a.zarr")[:], rows)


def test_components_of_fewer_bits_go_through_the_library(tmp_path: Path) -> None:
    short = h5py.h5t.NATIVE_INT8.copy()
    short.set_precision(4)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        space = h5py.h5s.create_simple((3, 2))
        dataset = h5py.Dataset(h5py.h5d.create(file.id, b"emb", short, space))
        dataset[...] = np.array([[-1, 2], [3, -4], [5, 6]], np.int8)
        dataset.id.write(h5py.h5s.ALL, h5py.h5s.ALL, np.array([[-1, 2], [3, -4], [5, 6]], np.int8))
    assert open_vectors(tmp_path / "a.h5")[:].tolist() == [[-1, 2], [3, -4], [5, 6]]
