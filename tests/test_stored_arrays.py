"""Rows of open datasets of h5py, of Zarr arrays and of Dask arrays: what is read of them, when, and what is refused."""

import subprocess
import sys
import textwrap
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import dask
import dask.array as da
import distributed
import h5py
import numpy as np
import pytest
import zarr
from zarr.storage import MemoryStore

import gpuknn
from gpuknn.errors import InputError
from gpuknn.vectors import as_vectors
from gpuknn.vectors.raw import RawVectors
from tests.test_arrays import D, N, h5, numbers


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


@pytest.mark.slow
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


def test_a_zarr_array_is_read_as_it_was_opened(tmp_path: Path) -> None:
    """Somebody else appends to it meanwhile."""
    written = zarr.create_array(tmp_path / "a.zarr", shape=(4, 2), chunks=(2, 2), dtype="f4")
    written[:] = 10 + np.arange(8).reshape(4, 2)
    opened = zarr.open_array(tmp_path / "a.zarr", mode="r")
    written.append(np.full((2, 2), 0.1, "f4"))
    assert gpuknn.exact_knn(opened, [[0.0, 0.0]], k=1, metric="l2").ids.tolist() == [[0]]
    assert gpuknn.exact_knn(written, [[0.0, 0.0]], k=1, metric="l2").ids.tolist() == [[4]]
