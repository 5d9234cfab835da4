"""Rows of whatever a program holds give the answer of the plain array, and leave BLAS and its libraries alone."""

import io
import subprocess
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier
from typing import Any

import dask.array as da
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


def every_kind() -> list[Any]:
    """Each kind with each type; three types of each kind, by turns, are quick enough for every day."""
    return [
        pytest.param(kind, dtype, marks=() if (i + j) % len(types) < 3 else pytest.mark.slow)
        for i, (kind, (_, types)) in enumerate(HELD.items())
        for j, dtype in enumerate(types)
    ]


@pytest.mark.parametrize(("kind", "dtype"), every_kind())
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


BECOME_FLOATS = ("list of int16", "list of ints")


@pytest.mark.parametrize(
    "kind", [kind for kind, (_, types) in HELD.items() if "int8" in types and kind not in BECOME_FLOATS]
)
def test_bytes_of_every_kind_are_sketches_under_hamming(kind: str, tmp_path: Path) -> None:
    dtype = ("uint8", "int8")[list(HELD).index(kind) % 2]
    rows, asked = numbers(dtype, N), numbers(dtype, 5, seed=1)
    ids, dists = oracle.knn(rows.view(np.uint64), asked.view(np.uint64), 7, "hamming", "float32")
    held = HELD[kind][0](rows, tmp_path)
    found = gpuknn.exact_knn(held, asked, k=7, metric="hamming")
    assert np.array_equal(found.ids, ids)
    assert found.dists.tobytes() == dists.tobytes()
    others = gpuknn.exact_knn(rows, held, k=7, metric="hamming")
    assert others == gpuknn.exact_knn(rows, rows, k=7, metric="hamming")


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


def test_a_frame_whose_labels_are_odd() -> None:
    pandas = pytest.importorskip("pandas")
    rows = numbers("float32", N)
    held = pandas.DataFrame(rows, columns=["same"] * D, index=np.arange(N)[::-1] + 0.5)
    assert np.array_equal(as_vectors(held, "rows")[:], rows)
    with pytest.raises(InputError, match="is empty"):
        as_vectors(held[:0], "rows")


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
