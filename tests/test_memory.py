"""What reading takes of the memory: it enters the plan, and large pieces are decoded a band at a time."""

import re
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from threading import Barrier, Lock
from typing import Any

import h5py
import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from zarr.codecs import GzipCodec, ZstdCodec

from gpuknn.bench import reading
from gpuknn.engine.check import CHECKED_VALUES, check_rows
from gpuknn.engine.cpu.device import CpuDevice
from gpuknn.engine.metric import Metric
from gpuknn.engine.scan import read_ahead
from gpuknn.errors import InputError
from gpuknn.jobs.exact.job import Job
from gpuknn.jobs.exact.plan import PROCESS_BYTES, check_threads, queries_at_once, worker_bytes
from gpuknn.vectors import ArrayVectors, Vectors, content_fingerprint, decoded, fingerprint, open_vectors, stream
from gpuknn.vectors import zarr as zarr_vectors
from gpuknn.vectors.bits import PackedBits
from gpuknn.vectors.decoded import DecodedVectors
from gpuknn.vectors.hdf5 import Hdf5Vectors
from gpuknn.vectors.stream import Streams
from tests.test_zarr_vectors import Sevens

MIB, GIB = 2**20, 2**30
DEVICE = CpuDevice(2)


class OneBand(DecodedVectors):
    """All rows in one piece, of which the library makes a second copy; there is nothing to be read."""

    def band(self, row: int) -> range:
        return range(len(self))

    def decoding_bytes(self, readers: int) -> int:
        return self.nbytes

    def decode(self, rows: range, out: np.ndarray) -> None:
        raise AssertionError("nothing is decoded before the plan")


def job_on(database: Vectors) -> Job:
    queries = ArrayVectors.of(np.ones((100, database.shape[1]), "f4"), "queries")
    return Job(database, queries, 10, Metric.L2, "float32")


def named_gib(job: Job, memory: int = MIB, workers: int = 1) -> float:
    """What a refusal says that is needed."""
    with pytest.raises(InputError) as refused:
        queries_at_once(job, memory, workers, DEVICE, PROCESS_BYTES)
    found = re.search(r"need at least ([\d.]+) GiB", str(refused.value))
    assert found, refused.value
    return float(found[1])


@pytest.mark.parametrize("workers", [1, 3])
def test_what_a_band_takes_is_needed_by_each_worker(workers: int) -> None:
    rows = 2**20
    large = OneBand("big.h5", "emb", (rows, 256), np.dtype("f4"))
    small = ArrayVectors("small", None, large.shape, large.dtype, np.empty(0))
    need = named_gib(job_on(large), workers=workers)
    assert need - named_gib(job_on(small), workers=workers) == pytest.approx(2 * workers, abs=0.011)
    assert 1 <= queries_at_once(job_on(large), int(need * GIB), workers, DEVICE, PROCESS_BYTES) <= 100
    assert named_gib(job_on(large), int((need - 0.011) * GIB), workers) == need
    with pytest.raises(InputError) as refused:
        queries_at_once(job_on(large), GIB, 1, DEVICE, PROCESS_BYTES)
    words = "2.00 GiB of it each to decode big.h5:emb; give more, or write that file anew with smaller pieces"
    assert words in str(refused.value)
    assert "\n" not in str(refused.value)


def test_queries_in_one_piece_count_too() -> None:
    small = job_on(ArrayVectors("small", None, (1000, 256), np.dtype("f4"), np.empty(0)))
    queries = OneBand("queries.h5", "emb", (2**20, 256), np.dtype("f4"))
    assert named_gib(replace(small, queries=queries)) - named_gib(small) == pytest.approx(2, abs=0.011)


def test_the_check_of_the_rows_keeps_within_the_budget() -> None:
    band = 100 * MIB
    rows = OneBand("big.h5", "emb", (band // 1024, 256), np.dtype("f4"))
    job = job_on(rows)
    each = CHECKED_VALUES * 4 * 2
    room = PROCESS_BYTES + 2 * band
    assert [check_threads(job, room + n * each, 8) for n in (0, 1, 2, 5, 99)] == [1, 1, 2, 5, 8]


def test_the_plan_counts_a_component_as_it_is_stored() -> None:
    half, double = (job_on(ArrayVectors("x", None, (10, 256), np.dtype(t), np.empty(0))) for t in ("f2", "f8"))
    assert worker_bytes(double, 1, DEVICE) - worker_bytes(half, 1, DEVICE) == 2**25 * 2 * (8 - 2)


@pytest.fixture
def parquet(tmp_path: Path) -> Callable[..., tuple[Vectors, np.ndarray]]:
    """Writes a file of row groups and opens it; (vectors, rows)."""
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")

    def write(n: int, d: int, group: int, dtype: str = "f4", **options: Any) -> tuple[Vectors, np.ndarray]:
        rows = np.random.default_rng(0).standard_normal((n, d)).astype(dtype)
        lists = pa.FixedSizeListArray.from_arrays(pa.array(rows.reshape(-1)), d)
        path = tmp_path / f"{n}x{d}.parquet"
        pq.write_table(pa.table({"other": np.arange(n), "emb": lists}), path, row_group_size=group, **options)
        return open_vectors(path, key="emb"), rows

    return write


ARROWS_MEMORY = """
import sys
import pyarrow
from gpuknn.vectors import open_vectors
vectors = open_vectors(sys.argv[1], key="emb")
for first in range(0, len(vectors), 8000):
    vectors[first : first + 8000]
print(pyarrow.default_memory_pool().max_memory())
"""


@pytest.mark.slow
def test_a_large_row_group_is_never_in_memory(parquet: Callable[..., Any]) -> None:
    """Arrow takes less than is counted, and all that is taken is less than the row group."""
    vectors, rows = parquet(120_000, 256, 120_000, compression="none", use_dictionary=False)
    command = [sys.executable, "-c", ARROWS_MEMORY, vectors.path]
    taken = int(subprocess.run(command, capture_output=True, check=True).stdout)
    assert 2**20 < taken < vectors.decoding_bytes(1) < vectors.held_bytes(1) < rows.nbytes
    assert vectors.held_bytes(1) - vectors.decoding_bytes(1) == 2 * 2**24
    assert vectors.held_bytes(4) > stream.PASSED_BYTES


@pytest.fixture
def small_bands(monkeypatch: pytest.MonkeyPatch) -> None:
    """Row groups above 2000 bytes are large and have bands of 300 bytes."""
    for name, value in {
        "parquet.LARGE_BYTES": 2000,
        "parquet.BAND_BYTES": 300,
        "parquet_rows.BATCH_BYTES": 130,
    }.items():
        monkeypatch.setattr(f"gpuknn.vectors.{name}", value)


def counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Rows that are decoded from now on, by number."""
    from gpuknn.vectors.parquet_rows import RowGroups

    rows, lock, fill = [0], Lock(), RowGroups.fill

    def counting(self: RowGroups, out: np.ndarray) -> None:
        fill(self, out)
        with lock:
            rows[0] += len(out)

    monkeypatch.setattr(RowGroups, "fill", counting)
    return rows


@pytest.mark.usefixtures("small_bands")
@pytest.mark.parametrize("group", [1000, 333, 20])
@pytest.mark.parametrize("threads", [1, 4])
def test_each_row_is_decoded_once(
    group: int, threads: int, parquet: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    vectors, expected = parquet(1000, 6, group)
    assert vectors.band_rows == (20 if group == 20 else 12)
    rows = counted(monkeypatch)
    together = Barrier(threads)

    def read_first(_: int) -> None:
        vectors[0:1]
        together.wait()

    def read(part: range) -> np.ndarray:
        return vectors[part.start : part.stop]

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(read_first, range(threads)))  # from here on each thread is known to read
        rows[0] = 0
        for first in range(0, 1000, 100):
            edges = [first + 100 * i // threads for i in range(threads + 1)]
            parts = [range(a, b) for a, b in pairwise(edges)]
            assert np.array_equal(np.concatenate(list(pool.map(read, parts))), expected[first : first + 100])
    # What was read at first was decoded then, and again for those who read it twice.
    assert 1000 - 20 <= rows[0] <= 1000 + 20 * threads


@pytest.mark.usefixtures("small_bands")
@pytest.mark.parametrize("threads", [1, 4])
def test_the_check_and_the_scan_read_streams(
    threads: int, parquet: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    vectors, expected = parquet(1000, 6, 400)
    rows = counted(monkeypatch)
    runs = [range(a, min(a + 128, 1000)) for a in range(0, 1000, 128)]
    buffers = [np.empty((128, 6), "f4") for _ in runs]
    read = [part for _, part in read_ahead(vectors, runs, buffers.__getitem__, threads)]
    assert np.array_equal(np.concatenate(read), expected)
    # A thread that begins before the others are known may pass their bands, once each in the first run.
    assert 1000 <= rows[0] <= 1000 + (threads - 1) * 128
    monkeypatch.setattr("gpuknn.engine.check.CHECKED_VALUES", 20 * 6)
    assert check_rows(vectors, Metric.COSINE, threads) == pytest.approx((expected.astype("f8") ** 2).sum(axis=1).max())
    assert not vectors.held._bands
    assert content_fingerprint(vectors) == content_fingerprint(ArrayVectors.of(expected, "x"))


@pytest.mark.usefixtures("small_bands")
def test_a_damaged_stream_is_an_input_error_each_time(parquet: Callable[..., Any]) -> None:
    vectors, expected = parquet(3000, 6, 3000, use_dictionary=False, data_page_size=2000)
    path = Path(vectors.path)
    content = path.read_bytes()
    footer = len(content) - 8 - int.from_bytes(content[-8:-4], "little")
    path.write_bytes(content[: footer // 2] + b"\xff" * (footer - footer // 2) + content[footer:])
    for _ in range(2):
        with pytest.raises(InputError, match="cannot be read"):
            vectors[2900:2950]
    assert np.array_equal(vectors[0:5], expected[0:5])


class Counted:
    """Rows of a group, each full of its number."""

    open = 0

    def __init__(self, group: range) -> None:
        self.at, self.group = group.start, group
        Counted.open += 1

    def fill(self, out: np.ndarray) -> None:
        out[...] = np.arange(self.at, self.at + len(out))[:, None]
        self.at += len(out)
        assert self.at <= self.group.stop

    def close(self) -> None:
        Counted.open -= 1


@given(
    reads=st.lists(st.integers(0, 99), min_size=1, max_size=60),
    threads=st.integers(1, 4),
    kept=st.integers(0, 20),
)
@settings(deadline=None)
def test_streams_in_any_order(reads: list[int], threads: int, kept: int) -> None:
    """Groups of 30 rows in bands of 7; any band at any time gives its rows, and what is open and kept is bounded."""
    streams = Streams()
    Counted.open = 0

    def read(row: int) -> tuple[range, list[float]]:
        group = range(row - row % 30, min(row - row % 30 + 30, 100))
        first = row - (row - group.start) % 7
        band = range(first, min(first + 7, group.stop))
        out = np.empty((len(band), 2), "f4")
        streams.read(group, band, 7, out, lambda: Counted(group))
        return band, out[:, 1].tolist()

    with ThreadPoolExecutor(threads) as pool, pytest.MonkeyPatch.context() as patch:
        patch.setattr(stream, "PASSED_BYTES", kept * 7 * 8)
        for band, rows in pool.map(read, reads):
            assert rows == list(band)
    assert Counted.open == len(streams._streams) <= threads
    assert sum(rows.nbytes for rows in streams._passed.values()) <= kept * 7 * 8
    assert not streams._wanted


def test_a_thread_that_reads_alone_keeps_nothing_that_it_passes() -> None:
    streams, group, out = Streams(), range(70), np.empty((7, 2), "f4")
    streams.read(group, range(63, 70), 7, out, lambda: Counted(group))
    assert not streams._passed
    assert out[:, 0].tolist() == list(range(63, 70))


def test_threads_far_apart_have_streams_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "PASSED_BYTES", 0)
    streams, group, begun = Streams(), range(700), [0]

    def begin() -> Counted:
        begun[0] += 1
        return Counted(group)

    def read(first: int) -> list[float]:
        out = np.empty((7, 2), "f4")
        streams.read(group, range(first, first + 7), 7, out, begin)
        return out[:, 0].tolist()

    with ThreadPoolExecutor(1) as near, ThreadPoolExecutor(1) as far:
        for first in range(0, 70, 7):
            assert far.submit(read, 350 + first).result() == list(range(350 + first, 357 + first))
            assert near.submit(read, first).result() == list(range(first, first + 7))
    assert begun[0] == 2


@pytest.mark.parametrize(("options", "least"), [({}, 2**20), ({"data_page_size": 10**9}, 4 * 10**6)])
def test_pages_count_as_they_are(options: dict[str, int], least: int, parquet: Callable[..., Any]) -> None:
    from gpuknn.vectors.parquet_rows import page_bytes

    vectors, rows = parquet(20_000, 64, 20_000, use_dictionary=False, write_batch_size=10**8, **options)
    found = page_bytes(vectors.path, "emb", 0)
    assert least <= found <= max(2**21, 1.1 * rows.nbytes)


def test_a_chunk_without_filters_need_not_be_read_whole(tmp_path: Path) -> None:
    rows = np.random.default_rng(0).standard_normal((40_000, 64)).astype("f4")
    layouts: dict[str, dict[str, Any]] = {
        "plain": {"chunks": rows.shape},
        "gzip": {"chunks": rows.shape, "compression": "gzip", "compression_opts": 1},
        "beside": {"chunks": (40_000, 32)},
        "small": {"chunks": (5000, 64)},
    }
    with h5py.File(tmp_path / "a.h5", "w", rdcc_nbytes=2**20) as file:
        for name, layout in layouts.items():
            file.create_dataset(name, data=rows, **layout)
    bands: dict[str, int] = {}
    for name in layouts:
        vectors = open_vectors(tmp_path / "a.h5", key=name)
        assert isinstance(vectors, Hdf5Vectors)
        assert np.array_equal(vectors[5:30_000], rows[5:30_000])
        bands[name] = vectors.band_rows
    assert bands == {"plain": 2**22 // 256, "gzip": 40_000, "beside": 40_000, "small": 5000}
    gzip = open_vectors(tmp_path / "a.h5", key="gzip")
    assert gzip.held_bytes(1) == gzip.held_bytes(4) == 3 * rows.nbytes
    with h5py.File(tmp_path / "larger.h5", "w") as file:
        made = file.create_dataset(
            "emb", (10, 64), "f4", maxshape=(None, None), chunks=(4096, 1024), compression="gzip"
        )
        made[:] = 1
    assert open_vectors(tmp_path / "larger.h5").held_bytes(1) == 10 * 64 * 4 + 2 * 16 * MIB


def test_zarr_counts_the_chunks_that_are_decoded_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def opened(name: str, rows: int, chunk: int, **options: Any) -> zarr_vectors.ZarrVectors:
        shape = (rows, 2**10)
        array = zarr.create_array(str(tmp_path / name), shape=shape, chunks=(chunk, 2**10), dtype="f4", **options)
        array[:] = 1
        vectors = open_vectors(tmp_path / name)
        assert isinstance(vectors, zarr_vectors.ZarrVectors)
        return vectors

    of = {"zstd": (1024, 256, ZstdCodec()), "gzip": (1024, 256, GzipCodec(level=1)), "larger": (10, 4096, ZstdCodec())}
    zstd, gzip, larger = (opened(name, n, chunk, compressors=codec) for name, (n, chunk, codec) in of.items())
    sharded = opened("sharded", 1024, 256, shards=(512, 2**10))
    with zarr.config.set({"async.concurrency": 2}):
        assert [v.decoding_bytes(1) // MIB for v in (zstd, gzip)] == [2 * 2, 4 * 2]
        assert [v.decoding_bytes(99) // MIB for v in (zstd, gzip)] == [2 * 4, 4 * 4]  # all that there is
        assert sharded.decoding_bytes(1) // MIB == 3 * 4
        monkeypatch.setattr(zarr_vectors, "AT_ONCE", 3 * MIB)
        assert zstd.decoding_bytes(99) == 2 * 3 * MIB
        assert larger.decoding_bytes(1) // MIB == 2 * 16  # a chunk may be larger than its array


@pytest.mark.parametrize("threads", [1, 4])
def test_zarr_does_not_decode_more_at_once(threads: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = np.random.default_rng(0).integers(1, 100, (1100, 6)).astype("f2")
    zarr.create_array(str(tmp_path / "a.zarr"), data=rows, chunks=(50, 6))
    vectors = open_vectors(tmp_path / "a.zarr")
    assert isinstance(vectors, zarr_vectors.ZarrVectors)
    most = 3 * 50 * 12
    monkeypatch.setattr(zarr_vectors, "AT_ONCE", most)
    monkeypatch.setattr(zarr_vectors, "DECODING", zarr_vectors.Room(most))
    decode, lock, now, largest = zarr_vectors.ZarrVectors._decode, Lock(), [0], [0]

    def counting(self: zarr_vectors.ZarrVectors, part: range, out: np.ndarray) -> None:
        with lock:
            now[0] += out.nbytes
            largest[0] = max(largest[0], now[0])
        decode(self, part, out)
        with lock:
            now[0] -= out.nbytes

    monkeypatch.setattr(zarr_vectors.ZarrVectors, "_decode", counting)
    with ThreadPoolExecutor(threads) as pool:
        for first, found in zip(
            range(0, 800, 100), pool.map(lambda a: vectors[a : a + 300], range(0, 800, 100)), strict=True
        ):
            assert np.array_equal(found, rows[first : first + 300])
    assert 0 < largest[0] <= most


def test_a_piece_larger_than_the_room_has_it_alone() -> None:
    room = zarr_vectors.Room(10)
    with room.room_for(50):
        assert room._taken == 50
    assert room._taken == 0


def test_a_reader_does_not_hold_the_band_before(monkeypatch: pytest.MonkeyPatch) -> None:
    """Across the edge of two bands: the first is let go before the second is decoded."""
    import weakref

    vectors = Sevens("memory", None, (21, 2), np.dtype("f4"))
    monkeypatch.setattr(decoded, "HELD_BYTES", 0)
    made: list[Any] = []
    alive: list[int] = []
    decode = Sevens._decoded

    def watched(self: Sevens, band: range) -> np.ndarray:
        alive.append(sum(rows() is not None for rows in made))
        found = decode(self, band)
        made.append(weakref.ref(found))
        return found

    monkeypatch.setattr(Sevens, "_decoded", watched)
    assert vectors[5:16][:, 0].tolist() == list(range(5, 16))  # 7 to 14 as a whole, straight into the buffer
    assert vectors[3:9][:, 0].tolist() == list(range(3, 9))
    assert alive == [0, 0, 0, 0]


def test_trying_how_fast_rows_are_read_keeps_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "TRIED_BYTES", 8 * 10)
    monkeypatch.setattr(reading, "RUN_BYTES", 8 * 4)
    vectors = Sevens("memory", None, (48, 2), np.dtype("f4"))
    seen: list[range] = []
    monkeypatch.setattr(Sevens, "decode", lambda _, rows, out: seen.append(rows))
    assert reading.reading_rate(vectors) > 0
    assert seen == [range(0, 7), range(7, 14)]  # whole bands: 14 rows are timed, and 14 rows decoded
    assert not vectors.held._bands


@pytest.mark.usefixtures("small_bands")
def test_trying_leaves_no_stream_open(parquet: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "TRIED_BYTES", 24 * 100)
    vectors, _ = parquet(1000, 6, 1000)
    rows = counted(monkeypatch)
    assert reading.reading_rate(vectors) > 0
    assert rows[0] == 108  # the first bands, without what lies between samples
    assert not vectors.streams._streams


def test_a_thread_keeps_two_bands(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many there were room for: threads side by side need no more, and the plan counts no more."""
    vectors = Sevens("memory", None, (70, 2), np.dtype("f4"))
    for first in range(0, 70, 7):
        vectors[first : first + 3]
    assert list(vectors.held._bands) == [range(56, 63), range(63, 70)]
    assert [vectors.held_bytes(readers) for readers in (1, 3)] == [2 * 56, 6 * 56]


def test_samples_of_large_bands_are_decoded_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    vectors = Sevens("memory", None, (48_000, 2), np.dtype("f4"))
    threads: list[int] = []

    def pool(number: int) -> ThreadPoolExecutor:
        threads.append(number)
        return ThreadPoolExecutor(number)

    monkeypatch.setattr(fingerprint, "ThreadPoolExecutor", pool)
    expected = content_fingerprint(vectors)
    monkeypatch.setattr(fingerprint, "HELD_MOST", vectors.held_bytes(4) - 1)
    assert content_fingerprint(vectors) == expected
    assert threads == [4, 1]


def test_sketches_that_were_sampled_are_let_go(tmp_path: Path) -> None:
    """The rows of booleans that are packed, too, go with the copy that was sampled."""
    bits = np.random.default_rng(0).integers(0, 2, (50_000, 64)).astype(np.bool_)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("train", data=bits, chunks=bits.shape, compression="gzip")
    vectors = open_vectors(tmp_path / "a.h5")
    assert isinstance(vectors, PackedBits)
    content_fingerprint(vectors)
    assert isinstance(vectors.source, Hdf5Vectors)
    assert not vectors.source.held._bands


def test_convert_refuses_what_this_machine_cannot_hold(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from gpuknn.cli.main import main

    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("emb", data=np.ones((40_000, 64), "f4"), chunks=(40_000, 64), compression="gzip")
    monkeypatch.setattr("gpuknn.workers.memory.machine_memory", lambda: 25 * MIB)
    monkeypatch.setattr(Hdf5Vectors, "decode", lambda *_: pytest.fail("decoded"))
    assert main(["convert", str(tmp_path / "a.h5"), str(tmp_path / "a.npy")]) == 2
    assert "takes 0.03 GiB of memory to be decoded, this machine has 0.02 GiB" in capsys.readouterr().err
    assert [p.name for p in tmp_path.iterdir()] == ["a.h5"]
