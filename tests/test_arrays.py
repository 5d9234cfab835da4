"""Rows of whatever a program holds give the answer of the plain array, and nothing is read whole that need not be."""

import io
import re
import subprocess
import sys
import textwrap
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier
from typing import Any

import dask
import dask.array as da
import distributed
import h5py
import numpy as np
import pyarrow as pa
import pytest
import threadpoolctl
import zarr
from zarr.storage import MemoryStore, ZipStore

import gpuknn
from gpuknn.engine.cpu import device as cpu
from gpuknn.engine.device import Search
from gpuknn.engine.metric import Metric
from gpuknn.errors import InputError
from gpuknn.vectors import as_vectors
from gpuknn.vectors.raw import RawVectors
from tests import oracle

N, D = 300, 24
TYPES = ("float16", "float32", "float64", "uint8", "int8", "uint64", "bool")
Hold = Callable[[np.ndarray, Path], Any]


class Producer:
    """Speaks DLPack and nothing else, as a library of tensors does."""

    def __init__(self, array: np.ndarray, place: int = 1, fault: str | None = None, **attributes: Any) -> None:
        self._array, self._place, self._fault = array, place, fault
        vars(self).update(attributes)

    def __dlpack_device__(self) -> tuple[int, int]:
        return self._place, 0

    def __dlpack__(self, **options: Any) -> Any:
        if self._fault:
            raise BufferError(self._fault)
        return self._array.__dlpack__(**options)


class Arraylike:
    def __init__(self, array: np.ndarray) -> None:
        self._array = array

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
        return self._array


def strided(rows: np.ndarray) -> np.ndarray:
    wide = np.zeros((2 * N, 3 * D), rows.dtype)
    wide[::2, ::3] = rows
    return wide[::2, ::3]


def read_only(rows: np.ndarray) -> np.ndarray:
    rows = rows.copy()
    rows.flags.writeable = False
    return rows


def unaligned(rows: np.ndarray) -> np.ndarray:
    records = np.zeros(N, [("pad", "u1"), ("emb", rows.dtype, D)])
    records["emb"] = rows
    return records["emb"]


def memmap(rows: np.ndarray, folder: Path) -> np.ndarray:
    np.save(folder / "rows.npy", rows)
    return np.load(folder / "rows.npy", mmap_mode="r")


def h5(rows: np.ndarray, folder: Path, mode: str = "r", **options: Any) -> h5py.Dataset:
    file = h5py.File(folder / "rows.h5", "w")
    made = file.create_dataset("emb", data=rows, **options)
    if mode == "w":
        return made
    file.close()
    return h5py.File(folder / "rows.h5", mode)["emb"]


def h5_replaced(rows: np.ndarray, folder: Path) -> h5py.Dataset:
    """Open under a name that now is another file's."""
    held = h5(rows, folder)
    (folder / "rows.h5").rename(folder / "old.h5")
    with h5py.File(folder / "rows.h5", "w") as other:
        other["emb"] = np.ones_like(rows)
    return held


def h5_core(rows: np.ndarray, folder: Path, **options: Any) -> h5py.Dataset:
    return h5py.File(folder / "no.h5", "w", driver="core", **options).create_dataset("emb", data=rows)


def h5_bytes(rows: np.ndarray) -> h5py.Dataset:
    return h5py.File(io.BytesIO(), "w").create_dataset("emb", data=rows, chunks=(37, 5))


def zarr_in(store: Any, rows: np.ndarray, **options: Any) -> zarr.Array:
    made = zarr.create_array(store, data=rows, **{"chunks": (37, D), **options})
    assert isinstance(made, zarr.Array)
    return made


def zarr_zip(rows: np.ndarray, folder: Path) -> zarr.Array:
    zarr_in(writing := ZipStore(folder / "rows.zip", mode="w"), rows, config={"write_empty_chunks": True})
    writing.close()
    return zarr.open_array(ZipStore(folder / "rows.zip", mode="r"))


def zarr_group(store: Any, rows: np.ndarray) -> zarr.Group:
    group = zarr.create_group(store)
    group.create_array("emb", data=rows, chunks=(37, 7))
    group.create_array("ranks", data=np.arange(N))
    return group


def lists(rows: np.ndarray, value: Any = None) -> Any:
    return pa.array(list(rows), pa.list_(value or pa.from_numpy_dtype(rows.dtype)))


def fixed(rows: np.ndarray) -> Any:
    return pa.FixedSizeListArray.from_arrays(pa.array(rows.reshape(-1)), D)


def tensors(rows: np.ndarray) -> Any:
    kind = pa.fixed_shape_tensor(pa.from_numpy_dtype(rows.dtype), (D,))
    return pa.ExtensionArray.from_storage(kind, fixed(rows))


def torch_tensor(rows: np.ndarray) -> Any:
    return pytest.importorskip("torch").from_numpy(rows.copy())


def jax_array(rows: np.ndarray) -> Any:
    jax = pytest.importorskip("jax")
    with jax.enable_x64(True):
        return jax.numpy.asarray(rows)


def polars_frame(rows: np.ndarray) -> Any:
    return pytest.importorskip("polars").from_numpy(rows)


def polars_arrays(rows: np.ndarray) -> Any:
    return pytest.importorskip("polars").Series(rows)


def pandas_frame(rows: np.ndarray) -> Any:
    return pytest.importorskip("pandas").DataFrame(rows)


def pandas_column(rows: np.ndarray) -> Any:
    return pytest.importorskip("pandas").DataFrame({"emb": list(rows)})["emb"]


ALL, NUMBERS, FLOATS = TYPES, TYPES[:-1], ("float32", "float64")
HELD: dict[str, tuple[Hold, Sequence[str]]] = {
    "numpy C": (lambda x, p: x, ALL),
    "numpy F": (lambda x, p: np.asfortranarray(x), ALL),
    "numpy strided": (lambda x, p: strided(x), ALL),
    "numpy backwards": (lambda x, p: x[::-1, ::-1].copy()[::-1, ::-1], ALL),
    "numpy read-only": (lambda x, p: read_only(x), ALL),
    "numpy big-endian": (lambda x, p: x.astype(x.dtype.newbyteorder(">")), NUMBERS),
    "numpy unaligned": (lambda x, p: unaligned(x), ALL),
    "numpy memmap": (memmap, ALL),
    "numpy matrix": (lambda x, p: x.view(np.matrix), ALL),
    "numpy masked": (lambda x, p: np.ma.masked_array(x), ALL),
    "lists": (lambda x, p: x.tolist(), ("float64", "bool")),
    "tuples": (lambda x, p: tuple(map(tuple, x.tolist())), ("float64", "bool")),
    "list of arrays": (lambda x, p: list(x), ALL),
    "list of int16": (lambda x, p: list(x.astype(np.int16)), ("uint8", "int8")),
    "list of ints": (lambda x, p: x.tolist(), ("uint8", "int8")),
    "__array__": (lambda x, p: Arraylike(x), ALL),
    "pandas frame": (lambda x, p: pandas_frame(x), ALL),
    "pandas column": (lambda x, p: pandas_column(x), ALL),
    "polars frame": (lambda x, p: polars_frame(x), ("float32", "float64", "uint8", "int8", "uint64", "bool")),
    "polars column": (lambda x, p: polars_arrays(x), ("float32", "float64", "uint8", "int8", "uint64", "bool")),
    "h5py": (h5, ALL),
    "h5py big-endian": (lambda x, p: h5(x.astype(x.dtype.newbyteorder(">")), p), NUMBERS),
    "h5py chunks": (lambda x, p: h5(x, p, chunks=(37, 7)), ALL),
    "h5py gzip": (lambda x, p: h5(x, p, chunks=(37, D), compression="gzip"), ALL),
    "h5py just written": (lambda x, p: h5(x, p, "w"), ALL),
    "h5py gzip just written": (lambda x, p: h5(x, p, "w", chunks=(37, D), compression="gzip"), ALL),
    "h5py r+": (lambda x, p: h5(x, p, "r+"), ALL),
    "h5py replaced": (h5_replaced, ALL),
    "h5py core": (lambda x, p: h5_core(x, p, backing_store=False), ALL),
    "h5py core backed": (lambda x, p: h5_core(x, p, backing_store=True), ALL),
    "h5py bytes": (lambda x, p: h5_bytes(x), ALL),
    "zarr folder": (lambda x, p: zarr_in(str(p / "a.zarr"), x, config={"write_empty_chunks": True}), ALL),
    "zarr folder raw": (lambda x, p: zarr_in(str(p / "a.zarr"), x, compressors=None), NUMBERS),
    "zarr memory": (lambda x, p: zarr_in(MemoryStore(), x), ALL),
    "zarr memory 2": (lambda x, p: zarr_in(MemoryStore(), x, zarr_format=2), ALL),
    "zarr memory shards": (lambda x, p: zarr_in(MemoryStore(), x, chunks=(20, 8), shards=(60, 24)), ALL),
    "zarr zip": (zarr_zip, ALL),
    "zarr group": (lambda x, p: zarr_group(str(p / "g.zarr"), x), ALL),
    "zarr group in memory": (lambda x, p: zarr_group(MemoryStore(), x), ALL),
    "dask": (lambda x, p: da.from_array(x, chunks=(37, D)), ALL),
    "dask columns": (lambda x, p: da.from_array(x, chunks=((100, 0, 1, 199), 7)), ALL),
    "dask big-endian": (lambda x, p: da.from_array(x.astype(x.dtype.newbyteorder(">")), chunks=(37, D)), NUMBERS),
    "arrow lists": (lambda x, p: lists(x), ALL),
    "arrow large lists": (lambda x, p: lists(x).cast(pa.large_list(pa.from_numpy_dtype(x.dtype))), ALL),
    "arrow fixed": (lambda x, p: fixed(x), ALL),
    "arrow fixed slice": (lambda x, p: fixed(np.vstack([x[:2], x, x[:1]]))[2:-1], ALL),
    "arrow tensors": (lambda x, p: tensors(x), NUMBERS),
    "arrow pieces": (lambda x, p: pa.chunked_array([fixed(x[:1]), fixed(x[:0]), fixed(x[1:200]), fixed(x[200:])]), ALL),
    "arrow pieces of tensors": (lambda x, p: pa.chunked_array([tensors(x[:7]), tensors(x[7:])]), NUMBERS),
    "arrow table": (lambda x, p: pa.table({"id": np.arange(N), "emb": lists(x)}), ALL),
    "arrow batch": (lambda x, p: pa.record_batch({"emb": fixed(x)}), ALL),
    "dlpack": (lambda x, p: Producer(x), ALL),
    "dlpack strided": (lambda x, p: Producer(strided(x)), ALL),
    "torch": (lambda x, p: torch_tensor(x), ALL),
    "torch columns": (lambda x, p: torch_tensor(x.T).T, ALL),
    "jax": (lambda x, p: jax_array(x), ALL),
}


def numbers(dtype: str, n: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    if dtype == "bool":
        return rng.random((n, D)) < 0.5
    if dtype == "uint64":
        return rng.integers(0, 2**64, (n, D), np.uint64)
    if dtype in ("uint8", "int8"):
        info = np.iinfo(dtype)
        return rng.integers(info.min, info.max + 1, (n, D)).astype(dtype)
    return rng.standard_normal((n, D)).astype(dtype)


def metric_of(dtype: str) -> str:
    return "hamming" if dtype in ("uint64", "bool") else "cosine"


@pytest.mark.parametrize(("kind", "dtype"), [(kind, dtype) for kind, (_, types) in HELD.items() for dtype in types])
def test_every_kind_gives_the_answer_of_the_plain_array(kind: str, dtype: str, tmp_path: Path) -> None:
    rows, asked = numbers(dtype, N), numbers(dtype, 5, seed=1)
    plain = (np.packbits(x, axis=1, bitorder="little") for x in (rows, asked)) if dtype == "bool" else (rows, asked)
    x, q = (np.pad(each, ((0, 0), (0, -each.shape[1] % 8))) if dtype == "bool" else each for each in plain)
    x, q = (np.ascontiguousarray(each).view(np.uint64) if dtype == "bool" else each for each in (x, q))
    ids, dists = oracle.knn(x, q, 7, metric_of(dtype), "float32")
    held = HELD[kind][0](rows, tmp_path)
    found = gpuknn.exact_knn(held, asked, k=7, metric=metric_of(dtype))
    assert np.array_equal(found.ids, ids)
    assert found.dists.tobytes() == dists.tobytes()
    itself = gpuknn.exact_knn(held, k=2, metric=metric_of(dtype))
    assert itself.dists.tobytes() == gpuknn.exact_knn(rows, k=2, metric=metric_of(dtype)).dists.tobytes()


@pytest.mark.parametrize("kind", [kind for kind, (_, types) in HELD.items() if "float64" in types])
def test_any_rows_of_it_can_be_read(kind: str, tmp_path: Path) -> None:
    rows = numbers("float64", N)
    held = as_vectors(HELD[kind][0](rows, tmp_path), "rows")
    assert held.shape == rows.shape
    assert held.dtype == rows.dtype
    for first, end in ((0, N), (36, 38), (N - 1, N), (0, 1), (99, 202), (5, 5)):
        assert np.array_equal(held[first:end], rows[first:end])


IN_FILES = {"h5py", "h5py just written", "h5py r+", "zarr folder", "zarr folder raw", "zarr group"}
"""What another process can open by its name."""


@pytest.mark.parametrize("kind", [kind for kind, (_, types) in HELD.items() if "bool" in types])
def test_what_no_worker_could_open_says_so(kind: str, tmp_path: Path) -> None:
    for dtype in ("float64", "bool"):
        folder = tmp_path / dtype
        folder.mkdir()
        held = HELD[kind][0](numbers(dtype, N), folder)
        assert as_vectors(held, "rows").in_files == (kind in IN_FILES)


SINGLE: dict[str, Callable[[np.ndarray], Any]] = {
    "numpy": lambda x: x,
    "list": lambda x: x.tolist(),
    "tuple": lambda x: tuple(x.tolist()),
    "dlpack": Producer,
    "dask": lambda x: da.from_array(x, chunks=5),
    "arrow": pa.array,
    "arrow pieces": lambda x: pa.chunked_array([x[:3], x[3:]]),
    "__array__": Arraylike,
    "pandas": lambda x: pytest.importorskip("pandas").Series(x),
    "torch": torch_tensor,
}


@pytest.mark.parametrize("kind", SINGLE)
@pytest.mark.parametrize("dtype", ["float64", "bool"])
def test_a_single_query_may_come_alone_and_a_single_row_may_not(kind: str, dtype: str) -> None:
    rows, metric = numbers(dtype, N), metric_of(dtype)
    held = SINGLE[kind](rows[7])
    found, expected = (gpuknn.exact_knn(rows, q, k=3, metric=metric) for q in (held, rows[7:8]))
    assert found == expected
    with pytest.raises(InputError, match=r"database: has 1 dimension\(s\)"):
        gpuknn.exact_knn(held, rows, k=1, metric=metric)


class Recorded:
    """An array that tells which slices of it were read."""

    def __init__(self, array: Any) -> None:
        self.array, self.seen = array, list[range]()
        self.shape, self.dtype, self.ndim = array.shape, array.dtype, 2

    def __getitem__(self, rows: Any) -> np.ndarray:
        first = rows[0] if isinstance(rows, tuple) else rows
        self.seen.append(range(*first.indices(len(self.array))))
        return np.asarray(self.array[rows])


def test_dask_computes_a_band_at_a_time_and_once_in_each_pass() -> None:
    recorded = Recorded(numbers("float32", 3000))
    rows = da.from_array(recorded, chunks=(500, D), asarray=False, fancy=False, meta=np.empty((0, 0), "f4"))
    recorded.seen.clear()
    vectors = as_vectors(rows, "rows")
    assert not recorded.seen
    with ThreadPoolExecutor(2) as pool:  # finer than the bands, by two threads
        list(pool.map(lambda first: vectors[first : first + 30], range(0, 3000, 30)))
    assert sorted(seen.start for seen in recorded.seen) == list(range(0, 3000, 500))
    assert max(map(len, recorded.seen)) <= 500


def test_dask_of_another_client_of_threads_or_of_none() -> None:
    rows = numbers("float32", N)
    held, expected = da.from_array(rows, chunks=(37, D)), gpuknn.exact_knn(rows, k=3)
    with dask.config.set(scheduler="synchronous"):
        assert gpuknn.exact_knn(held, k=3) == expected
    options = {"dashboard_address": ":0", "processes": False, "n_workers": 1, "threads_per_worker": 2}
    with distributed.Client(**options) as client:
        assert gpuknn.exact_knn(held, k=3) == expected
        assert client.submit(int, 3).result() == 3


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda x: x[x[:, 0] > 0], r"call rows\.compute_chunk_sizes\(\)"),
        (lambda x: x.map_blocks(lambda b: b.astype("f8"), dtype="f4"), r"computed as \(\d+, 24\) float64"),
        (lambda x: x.map_blocks(lambda b: b[:1], dtype="f4", chunks=x.chunks), "computed as"),
        (lambda x: x.map_blocks(lambda b: 1 // 0, dtype="f4"), "rows 0 to .* could not be computed .*zero"),
        (lambda x: da.ma.masked_greater(x, 1), "masked"),
        (lambda x: x.astype("i8"), r"rows\.astype\(np\.float32\)"),
        (lambda x: x[:, 0], "1 dimension"),
    ],
)
def test_dask_arrays_that_are_no_rows(make: Callable[[Any], Any], said: str) -> None:
    rows = numbers("float32", N)
    with pytest.raises(InputError, match=f"database: .*{said}"):
        gpuknn.exact_knn(make(da.from_array(rows, chunks=(37, D))), rows[:1], k=1)


def test_a_contiguous_dataset_is_read_past_the_library_and_others_through_the_open_one(tmp_path: Path) -> None:
    rows = numbers("float32", N)
    assert isinstance(as_vectors(h5(rows, tmp_path), "rows"), RawVectors)
    held = as_vectors(h5(rows, tmp_path, chunks=(10, D)), "rows")
    (tmp_path / "rows.h5").unlink()
    assert np.array_equal(held[:], rows)


@pytest.mark.parametrize("options", [{}, {"chunks": (64, D)}])
def test_a_file_that_the_program_has_open_can_be_opened_by_its_name(options: dict[str, Any], tmp_path: Path) -> None:
    """HDF5 refuses a second opening whose locks differ; and what was written is not in the file yet."""
    rows = numbers("float32", N)
    for mode in ("w", "r", "r+"):
        held = h5(rows, tmp_path, mode, **options)
        assert gpuknn.exact_knn(tmp_path / "rows.h5", k=2) == gpuknn.exact_knn(rows, k=2)
        held.file.close()


def test_two_gigabytes_are_never_in_memory_at_once(tmp_path: Path) -> None:
    """A smaller database here: the process takes less than it and what NumPy, Numba and h5py take together."""
    n, d = 100_000, 768
    with h5py.File(tmp_path / "rows.h5", "w") as file:
        for name, options in {"contiguous": {}, "gzip": {"chunks": (1000, d), "compression": "gzip"}}.items():
            place = file.create_dataset(name, (n, d), "f4", **options)
            for first in range(0, n, 10_000):
                place[first : first + 10_000] = np.arange(10_000 * d).reshape(-1, d) % (first + 13)
    code = """
        import resource, sys, h5py, numpy as np, gpuknn
        from gpuknn.engine.cpu import device
        device.EPOCH_VALUES = 2**22
        peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
        small = np.random.default_rng(0).random((2**15, 768), np.float32)
        gpuknn.exact_knn(small, small[:10], k=10, metric="l2", threads=2)
        before = peak()
        with h5py.File(sys.argv[1]) as file:
            gpuknn.exact_knn(file[sys.argv[2]], small[:10], k=10, metric="l2", threads=2)
        print(peak() - before)
    """
    for name in ("contiguous", "gzip"):
        command = [sys.executable, "-c", textwrap.dedent(code), str(tmp_path / "rows.h5"), name]
        grown = int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
        assert grown < 100, f"{name}: {grown} MiB more for 293 MiB of rows"


def partly_written(file: h5py.File, **options: Any) -> h5py.Dataset:
    made = file.create_dataset("emb", (N, D), "f4", **options)
    made[37 : 2 * 37] = numbers("float32", 37)
    return made


def holed(folder: Path) -> h5py.Dataset:
    """All of its room is there, and some of it was never written."""
    with h5py.File(folder / "rows.h5", "w") as file:
        place = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        place.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
        place.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
        space = h5py.h5s.create_simple((1000, 1000))
        h5py.Dataset(h5py.h5d.create(file.id, b"emb", h5py.h5t.IEEE_F32LE, space, place))[:50] = 1
    return h5py.File(folder / "rows.h5")["emb"]


def zarr_gaps(**options: Any) -> zarr.Array:
    made = zarr.create_array(MemoryStore(), name="deep/emb", shape=(N, D), dtype="f4", chunks=(20, D), **options)
    made[20:60] = numbers("float32", 40)
    return made


UNWRITTEN: dict[str, tuple[Callable[[Path], Any], str]] = {
    "h5py chunks": (
        lambda p: partly_written(h5py.File(p / "a.h5", "w"), chunks=(37, D)),
        r"8 of 9 chunks were never written, first of rows 0 to 36",
    ),
    "h5py core": (
        lambda p: partly_written(h5py.File("a.h5", "w", driver="core", backing_store=False), chunks=(37, D)),
        r"8 of 9 chunks were never written, first of rows 0 to 36",
    ),
    "h5py never": (lambda p: h5py.File(p / "a.h5", "w").create_dataset("emb", (N, D), "f4"), "none of its 300 rows"),
    "zarr memory": (lambda p: zarr_gaps(), "13 of 15 chunks are missing, first of rows 0 to 19"),
    "zarr memory shards": (
        lambda p: zarr_gaps(shards=(60, D)),
        "4 of 5 shards and 1 of 3 chunks in the others are missing, first of rows 0 to 19",
    ),
}


@pytest.mark.parametrize("kind", UNWRITTEN)
def test_nothing_that_nobody_wrote_is_searched(kind: str, tmp_path: Path) -> None:
    make, said = UNWRITTEN[kind]
    held, asked = make(tmp_path), numbers("float32", 2)
    with pytest.raises(InputError, match=said):
        gpuknn.exact_knn(held, asked, k=1)
    found = gpuknn.exact_knn(held, asked, k=N, metric="l2", missing="zeros")
    assert found == gpuknn.exact_knn(held[:], asked, k=N, metric="l2")


@pytest.mark.usefixtures("holes")
def test_a_hole_in_an_open_file_is_no_rows(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="the file has a hole at row"):
        gpuknn.exact_knn(holed(tmp_path), np.ones((1, 1000), "f4"), k=1)


def closed(folder: Path) -> h5py.Dataset:
    with h5py.File(folder / "a.h5", "w") as file:
        return file.create_dataset("emb", data=np.ones((3, 3)))


def masked(rows: np.ndarray) -> Any:
    return np.ma.masked_greater(rows, 1)


class Sparse:
    nnz = 3

    def toarray(self) -> np.ndarray:
        raise AssertionError


ONES = np.ones((4, 3))
REFUSED: dict[str, tuple[Callable[[Path], Any], str]] = {
    "None": (lambda p: None, r"is None; rows are taken from arrays of NumPy"),
    "dict": (lambda p: {"a": ONES}, "is an object of type dict; rows are taken"),
    "generator": (lambda p: iter(ONES), "is an object of type .*; rows are taken"),
    "number": (lambda p: 3.5, "is an object of type float"),
    "ragged": (lambda p: [[1.0, 2], [3.0]], "row 1 .* has 1 components, row 0 has 2 components"),
    "half flat": (lambda p: [[1.0, 2], 3.0], "row 1 .* has none"),
    "ragged deeper": (lambda p: [[[1.0], [2, 3]]], "does not hold rows of numbers"),
    "text": (lambda p: ["a", "b"], "holds str"),
    "texts": (lambda p: [["1", "2"]], "holds str"),
    "nothing in it": (lambda p: [[1.0, None]], "holds object, .* must be numbers"),
    "empty": (lambda p: [], "1 dimension"),
    "huge": (lambda p: [[2**60, 1]], r"beyond 2\^53"),
    "masked": (lambda p: masked(np.arange(6.0).reshape(2, 3)), "has masked entries"),
    "masked in a list": (lambda p: [masked(np.arange(3.0))], "has masked entries"),
    "objects": (lambda p: np.array([[1, None]]), r"holds object, .* np\.stack"),
    "int64": (lambda p: ONES.astype(int), r"holds int64, .* rows\.astype\(np\.float32\)"),
    "complex": (lambda p: ONES * 1j, "holds complex128"),
    "dates": (lambda p: np.zeros((2, 2), "M8[s]"), r"holds datetime64\[s\]"),
    "records": (lambda p: np.zeros(3, [("emb", "f4", 3)]), "take the field"),
    "three dimensions": (lambda p: np.ones((2, 2, 2)), r"has 3 dimension\(s\)"),
    "scalar": (lambda p: np.float64(3), r"has 0 dimension\(s\)"),
    "sparse": (lambda p: Sparse(), r"dense; use rows\.toarray\(\)"),
    "h5py file": (lambda p: h5py.File(p / "a.h5", "w"), r'name one of its arrays, e\.g\. rows\["emb"\]'),
    "h5py group": (lambda p: h5py.File(p / "a.h5", "w").create_group("g"), "name one of its arrays"),
    "h5py closed": (closed, "has been closed"),
    "h5py text": (lambda p: h5py.File(p / "a.h5", "w").create_dataset("a", data=["x"]), "holds object"),
    "h5py empty": (lambda p: h5py.File(p / "a.h5", "w").create_dataset("a", data=h5py.Empty("f4")), "0 dimension"),
    "zarr ints": (lambda p: zarr_in(MemoryStore(), numbers("uint8", N).astype("i4")), "holds int32"),
    "zarr groups": (lambda p: zarr.create_group(MemoryStore()), "holds no array of vectors"),
    "zarr several": (
        lambda p: [g := zarr.create_group(MemoryStore()), *(g.create_array(x, data=ONES) for x in "ab")][0],
        "several arrays",
    ),
    "arrow null row": (lambda p: pa.array([[1.0, 2.0], None]), "row 1 .* has 0 components"),
    "arrow null": (lambda p: pa.chunked_array([[[1.0, 2.0]], [[1.0, None]]]), "row 1 .* null"),
    "arrow ragged": (lambda p: pa.array([[1.0, 2.0], [1.0]]), "row 1 .* has 1 components"),
    "arrow text": (lambda p: pa.array(["a"]), "holds string; vectors are lists of numbers"),
    "arrow lists of lists": (lambda p: pa.array([[[1.0]]]), "holds list<.*>; vectors are"),
    "arrow no rows": (lambda p: pa.array([], pa.list_(pa.float32(), 3)), "is empty"),
    "arrow no vectors": (lambda p: pa.table({"a": [1.0]}), "1 dimension"),
    "arrow several": (
        lambda p: pa.table({"a": [[1.0]], "b": [[1.0]]}),
        r'several arrays .*; take the column out of the table, e\.g\. rows\["emb"\]',
    ),
    "arrow matrices": (
        lambda p: pa.ExtensionArray.from_storage(
            pa.fixed_shape_tensor(pa.float64(), (2, 2)),
            pa.FixedSizeListArray.from_arrays(pa.array(ONES[:2, :2].ravel()), 4),
        ),
        r"a tensor of the shape \(2, 2\)",
    ),
    "dlpack fault": (lambda p: Producer(ONES, fault="no way"), r"cannot be read \(no way\); use an array of NumPy"),
    "dlpack gradient": (lambda p: Producer(ONES, fault="x", requires_grad=True), r"rows\.detach\(\)"),
    "dlpack bfloat16": (
        lambda p: Producer(ONES, fault="x", dtype="torch.bfloat16"),
        r"NumPy has no bfloat16; .*float\(\)",
    ),
    "dlpack sparse": (lambda p: Producer(ONES, fault="x", layout="torch.sparse_coo"), r"rows\.to_dense\(\)"),
    "dlpack negative": (lambda p: Producer(ONES, is_neg=lambda: True), r"rows\.resolve_neg\(\)"),
    "dlpack elsewhere": (lambda p: Producer(ONES, place=8), r"lies on a device; copy it .* rows\.cpu\(\)"),
}


def frame(library: str, **columns: Any) -> Any:
    return pytest.importorskip(library).DataFrame(columns)


def nullable() -> Any:
    pandas = pytest.importorskip("pandas")
    return pandas.DataFrame({"a": pandas.array([1.5, None], "Float32"), "b": [True, False]})


VECTORS, WIDE = {"id": [7, 8], "emb": [[1.0, 2.0], [3.0, 4.0]]}, {"x": [1.0, 3.0], "y": [2.0, 4.0]}
FRAMES: dict[str, tuple[Callable[[], Any], str]] = {
    "ids and pandas vectors": (lambda: frame("pandas", **VECTORS), "rows['emb']"),
    "ids and polars vectors": (lambda: frame("polars", **VECTORS), "rows['emb']"),
    "pandas vectors": (lambda: frame("pandas", **VECTORS)[["emb"]], "rows['emb']"),
    "polars vectors": (lambda: frame("polars", **VECTORS)[["emb"]], "rows['emb']"),
    "polars arrays": (lambda: frame("polars", emb=np.array([[1.0, 2.0], [3.0, 4.0]])), "rows['emb']"),
    "pandas ids": (lambda: frame("pandas", id=[7, 8], **WIDE), "rows.drop(columns=['id'])"),
    "polars ids": (lambda: frame("polars", ids=[7, 8], **WIDE), "rows.drop(['ids'])"),
    "pandas text": (lambda: frame("pandas", text=["a", "b"], id=[7, 8], **WIDE), "rows.drop(columns=['text', 'id'])"),
    "polars text": (lambda: frame("polars", **WIDE, text=["a", "b"]), "rows.drop(['text'])"),
    "pandas whole numbers": (lambda: frame("pandas", x=[1, 3], y=[2, 4]), "rows.to_numpy(np.float32)"),
    "polars whole numbers": (lambda: frame("polars", x=[1, 3], y=[2, 4]), "np.asarray(rows, np.float32)"),
    "pandas mixed": (lambda: frame("pandas", x=[True, False], y=[2.5, 4]), "rows.to_numpy(np.float32)"),
    "pandas nullable": (nullable, "rows.to_numpy(np.float32)"),
}


@pytest.mark.parametrize("kind", FRAMES)
def test_frames_are_told_what_works(kind: str) -> None:
    make, advice = FRAMES[kind]
    held = make()
    with pytest.raises(InputError, match=f"^rows: .*{re.escape(advice)}$") as caught:
        as_vectors(held, "rows")
    assert "tolist" not in str(caught.value)
    follows = as_vectors(eval(advice, {"rows": held, "np": np}), "rows")[:]
    expected: dict[str, Any] = {"pandas mixed": [[1, 2.5], [0, 4]], "pandas nullable": [[1.5, 1], [np.nan, 0]]}
    assert np.array_equal(follows, expected.get(kind, [[1, 2], [3, 4]]), equal_nan=True)


def test_a_frame_whose_labels_are_odd() -> None:
    pandas = pytest.importorskip("pandas")
    rows = numbers("float32", N)
    held = pandas.DataFrame(rows, columns=["same"] * D, index=np.arange(N)[::-1] + 0.5)
    assert np.array_equal(as_vectors(held, "rows")[:], rows)
    with pytest.raises(InputError, match="is empty"):
        as_vectors(held[:0], "rows")


@pytest.mark.parametrize("kind", REFUSED)
def test_what_is_no_rows_is_refused_in_plain_words(kind: str, tmp_path: Path) -> None:
    make, said = REFUSED[kind]
    with pytest.raises(InputError, match=said):
        gpuknn.exact_knn(make(tmp_path), np.ones((1, 3)), k=1)


def test_rows_on_a_gpu_need_cupy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gpuknn.engine.rows.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"queries: lies on a GPU, .* rows\.cpu\(\), or install CuPy, .*cupy-cuda12x"):
        gpuknn.exact_knn(ONES, Producer(ONES, place=2), k=1)
    with pytest.raises(InputError, match=r"lies on a device"):
        as_vectors(Producer(ONES, place=2), "rows")


def tensor_of(change: str) -> Any:
    torch = pytest.importorskip("torch")
    ones = torch.ones(4, 3)
    return {
        "detach": lambda: ones.requires_grad_(),
        "float": lambda: ones.bfloat16(),
        "to_dense": lambda: ones.to_sparse(),
        "resolve_neg": lambda: torch._neg_view(ones),
    }[change]()


@pytest.mark.parametrize("change", ["detach", "float", "to_dense", "resolve_neg"])
def test_what_a_tensor_has_to_be_made_before(change: str) -> None:
    tensor = tensor_of(change)
    with pytest.raises(InputError, match=rf"rows\.{change}\(\)"):
        gpuknn.exact_knn(tensor, np.ones((1, 3)), k=1)
    gpuknn.exact_knn(getattr(tensor, change)(), np.ones((1, 3)), k=1)


def test_the_type_of_an_object_is_told_without_its_library() -> None:
    code = "import numpy as np, gpuknn, sys\ngpuknn.exact_knn([[1.0, 2.0]], np.ones(2), k=1)\nprint(*sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert not {"h5py", "zarr", "dask", "pyarrow", "torch", "pandas", "cupy"} & set(out.split())


def blas_threads() -> list[int]:
    return [pool["num_threads"] for pool in threadpoolctl.threadpool_info() if pool["user_api"] == "blas"]


def test_searches_that_overlap_leave_blas_its_threads() -> None:
    """The first to begin ends first: the second must not take its one thread for what was there before."""
    search = Search(np.ones((2, 3)), 1, Metric.L2, np.dtype("float32"))
    device, ended = cpu.CpuDevice(1), Barrier(2, timeout=60)
    with threadpoolctl.threadpool_limits(2, user_api="blas"):
        before = blas_threads()
        with ThreadPoolExecutor(1) as other:
            with device.begin(search, np.dtype("float32")):
                second = other.submit(hold_search, device, search, ended)
                ended.wait()
            assert set(blas_threads()) == {1}
            ended.wait()
            second.result()
        assert blas_threads() == before


def hold_search(device: cpu.CpuDevice, search: Search, ended: Barrier) -> None:
    with device.begin(search, np.dtype("float32")):
        ended.wait()
        ended.wait()


def test_a_zarr_array_is_read_as_it_was_opened(tmp_path: Path) -> None:
    """Somebody else appends to it meanwhile."""
    written = zarr.create_array(tmp_path / "a.zarr", shape=(4, 2), chunks=(2, 2), dtype="f4")
    written[:] = 10 + np.arange(8).reshape(4, 2)
    opened = zarr.open_array(tmp_path / "a.zarr", mode="r")
    written.append(np.full((2, 2), 0.1, "f4"))
    assert gpuknn.exact_knn(opened, [[0.0, 0.0]], k=1, metric="l2").ids.tolist() == [[0]]
    assert gpuknn.exact_knn(written, [[0.0, 0.0]], k=1, metric="l2").ids.tolist() == [[4]]
