"""Zarr as a source: what is simply rows is read past the library, the rest is decoded, each chunk once."""

import json
import pickle
import struct
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier
from typing import Any

import google_crc32c
import h5py
import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from zarr.codecs import BloscCodec, BytesCodec, ShardingCodec, TransposeCodec, ZstdCodec

from gpuknn.engine.check import check_rows
from gpuknn.engine.metric import Metric
from gpuknn.engine.scan import read_ahead
from gpuknn.errors import InputError
from gpuknn.vectors import Vectors, content_fingerprint, decoded, open_vectors, sampled
from gpuknn.vectors.decoded import DecodedVectors
from gpuknn.vectors.zarr import ZarrVectors
from gpuknn.vectors.zarr_raw import RawZarrVectors

N, D = 1100, 6
ROWS = np.random.default_rng(0).integers(1, 100, (N, D))


def write(path: Path, dtype: str = "f2", chunks: tuple[int, int] = (50, D), **options: Any) -> Path:
    array = zarr.create_array(str(path), shape=(N, D), dtype=dtype, chunks=chunks, **options)
    array[:] = ROWS.astype(dtype)
    return path


def shard_by_hand(rows: np.ndarray, inner: int, order: list[int] | None = None) -> bytes:
    """A shard as the specification describes it, of inner chunks written in some order."""
    chunks = [rows[a : a + inner].tobytes() for a in range(0, len(rows), inner)]
    order = order or list(range(len(chunks)))
    begins = {number: place * len(chunks[0]) for place, number in enumerate(order)}
    index = b"".join(struct.pack("<QQ", begins[number], len(chunk)) for number, chunk in enumerate(chunks))
    return b"".join(chunks[number] for number in order) + index + struct.pack("<I", google_crc32c.value(index))


def write_by_hand(path: Path, order: list[int] | None = None) -> Path:
    """Three shards of 500 rows; the last is padded to its full length."""
    write(path, shards=(500, D), compressors=None)
    padded = np.concatenate([ROWS, np.zeros((400, D))]).astype("f2")
    for number in range(3):
        content = shard_by_hand(padded[number * 500 : number * 500 + 500], 50, order)
        (path / f"c/{number}/0").write_bytes(content)
    return path


def assert_holds(vectors: Vectors, dtype: str = "f2") -> None:
    rows = ROWS.astype(np.dtype(dtype).newbyteorder("="))
    vectors = pickle.loads(pickle.dumps(vectors))
    assert (vectors.shape, vectors.dtype) == ((N, D), rows.dtype)
    for first, last in ((0, N), (0, 1), (N - 1, N), (499, 501), (495, 1003), (1049, 1051)):
        assert np.array_equal(vectors[first:last], rows[first:last])
    assert np.array_equal(vectors[:], zarr.open_array(vectors.path, path=vectors.key or "", mode="r")[:])


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8", "u1", "i1", "u8"])
@pytest.mark.parametrize(
    "options",
    [
        {"shards": (500, D), "config": {"write_empty_chunks": True}},
        {"shards": (2000, D)},
        {"shards": (50, D)},
        {"chunk_key_encoding": {"name": "default", "separator": "."}},
        {"chunk_key_encoding": {"name": "v2", "separator": "/"}},
        {"zarr_format": 2},
        {"chunks": (3000, D)},
    ],
    ids=str,
)
def test_uncompressed_rows_are_read_past_the_library(options: dict[str, Any], dtype: str, tmp_path: Path) -> None:
    vectors = open_vectors(write(tmp_path / "a.zarr", dtype, **options | {"compressors": None}))
    assert isinstance(vectors, RawZarrVectors)
    assert_holds(vectors, dtype)


def test_a_shard_by_hand(tmp_path: Path) -> None:
    vectors = open_vectors(write_by_hand(tmp_path / "a.zarr"))
    assert isinstance(vectors, RawZarrVectors)
    assert_holds(vectors)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"shards": (500, D)},
        {"compressors": BloscCodec(cname="lz4"), "shards": (250, D)},
        {"compressors": None, "chunks": (50, 4)},
        {"compressors": None, "chunks": (50, 3), "shards": (500, D)},
        {"compressors": None, "filters": [TransposeCodec(order=(1, 0))]},
        {"compressors": None, "dtype": ">f2", "zarr_format": 2},
        {"compressors": None, "serializer": BytesCodec(endian="big")},
        {"compressors": None, "order": "F", "zarr_format": 2},
        {"zarr_format": 2},
        {
            "compressors": None,
            "chunks": (500, D),
            "serializer": ShardingCodec(chunk_shape=(50, D), codecs=[BytesCodec()], index_location="start"),
        },
        {
            "compressors": None,
            "chunks": (500, D),
            "serializer": ShardingCodec(chunk_shape=(50, D), codecs=[BytesCodec(), ZstdCodec()]),
        },
    ],
)
def test_other_layouts_are_decoded(options: dict[str, Any], tmp_path: Path) -> None:
    vectors = open_vectors(write(tmp_path / "a.zarr", **options))
    assert isinstance(vectors, ZarrVectors)
    assert_holds(vectors, options.get("dtype", "f2"))


def test_shards_in_another_order_are_decoded(tmp_path: Path) -> None:
    vectors = open_vectors(write_by_hand(tmp_path / "a.zarr", [3, 1, 2, 0, *range(4, 10)]))
    assert isinstance(vectors, ZarrVectors)
    assert_holds(vectors)


@pytest.mark.parametrize("key", ["emb", "deep/emb", "7{}7"])
def test_an_array_of_a_group(key: str, tmp_path: Path) -> None:
    group = zarr.open_group(str(tmp_path / "7{0}.zarr"), mode="w")
    group.create_array(key, data=ROWS.astype("f2"), chunks=(50, D), compressors=None)
    vectors = open_vectors(tmp_path / "7{0}.zarr", key=key)
    assert isinstance(vectors, RawZarrVectors)
    assert_holds(vectors)


@pytest.mark.parametrize(
    ("layout", "damage", "words"),
    [
        ("shards", "cut", "c/1/0: the index at its end is damaged, or the file truncated"),
        ("shards", "flip", "c/1/0: the index at its end is damaged, or the file truncated"),
        ("shards", "empty", "c/1/0: the index at its end is damaged, or the file truncated"),
        ("shards", "rows cut", "c/1/0: is shorter than its index says"),
        ("shards", "gone", "1 of 3 shards are missing"),
        ("chunks", "cut", "c/1/0: has 590 bytes of 600"),
        ("chunks", "gone", "1 of 22 chunks are missing"),
    ],
)
def test_damage_is_noticed_at_once(layout: str, damage: str, words: str, tmp_path: Path) -> None:
    path = write(tmp_path / "a.zarr", compressors=None, shards=(500, D) if layout == "shards" else None)
    file = path / "c/1/0"
    content = file.read_bytes()
    if damage == "gone":
        file.unlink()
    elif damage == "flip":
        file.write_bytes(content[:-100] + bytes([content[-100] ^ 1]) + content[-99:])
    else:
        file.write_bytes({"cut": content[:-10], "empty": b"", "rows cut": content[10:]}[damage])
    with pytest.raises(InputError, match=words):
        open_vectors(path)


@pytest.mark.parametrize("file", ["c/1/0", "zarr.json"])
@given(junk=st.binary(max_size=200), at=st.floats(0, 1))
@settings(max_examples=100, deadline=None)
def test_any_damage_is_an_input_error_or_does_not_matter(
    file: str, junk: bytes, at: float, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.getbasetemp() / "damaged.zarr"
    if not path.exists():
        write(path, shards=(500, D), compressors=None)
    whole = (path / file).read_bytes()
    start = int(at * len(whole))
    try:
        (path / file).write_bytes(whole[:start] + junk + whole[start + len(junk) :])
        try:
            found = open_vectors(path)
            assert found[:].nbytes == found.nbytes
        except InputError:
            pass
    finally:
        (path / file).write_bytes(whole)


@pytest.mark.parametrize("raw", [True, False])
def test_damage_while_it_is_read(raw: bool, tmp_path: Path) -> None:
    path = write(tmp_path / "a.zarr", compressors=None if raw else "auto")
    vectors = open_vectors(path)
    (path / "c/3/0").write_bytes(b"short")
    words = "c/3/0: ends at row 10 of 50" if raw else "rows 150 to 200 cannot be read"
    with pytest.raises(InputError, match=words):
        vectors[160:170]
    if raw:
        (path / "c/3/0").unlink()
        with pytest.raises(InputError, match=r"rows 160 to 170 cannot be read \(.*c/3/0 is missing\)"):
            vectors[160:170]


def test_metadata_that_promise_too_much(tmp_path: Path) -> None:
    path = write(tmp_path / "a.zarr", compressors=None)
    metadata = json.loads((path / "zarr.json").read_text())
    metadata["shape"] = [2**31, D]
    (path / "zarr.json").write_text(json.dumps(metadata))
    with pytest.raises(InputError, match="of 42,949,673 chunks are missing"):
        open_vectors(path)


def compressed(kind: str, folder: Path) -> DecodedVectors:
    """Chunks of 70 rows."""
    path = folder / "a"
    if kind == "hdf5":
        with h5py.File(path, "w") as file:
            file.create_dataset("emb", data=ROWS.astype("f2"), chunks=(70, 4), compression="gzip")
    elif kind == "parquet":
        pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
        lists = pa.FixedSizeListArray.from_arrays(pa.array(ROWS.astype("f2").reshape(-1)), D)
        pq.write_table(pa.table({"emb": lists}), path, row_group_size=70)
    else:
        write(path, chunks=(70, 4), shards=(700, 8) if kind == "shards" else None)
    vectors = open_vectors(path)
    assert isinstance(vectors, DecodedVectors)
    return vectors


@pytest.mark.parametrize("kind", ["chunks", "shards", "hdf5", "parquet"])
@pytest.mark.parametrize("threads", [1, 4])
def test_each_chunk_is_decoded_once(kind: str, threads: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    vectors = compressed(kind, tmp_path)
    seen = np.zeros(N, int)
    decode = type(vectors).decode

    def counted(self: DecodedVectors, rows: range, out: np.ndarray) -> None:
        seen[rows.start : rows.stop] += 1
        decode(self, rows, out)

    monkeypatch.setattr(type(vectors), "decode", counted)
    runs = [range(a, min(a + 128, N)) for a in range(0, N, 128)]
    buffers = [np.empty((128, D), "f2") for _ in runs]
    read = [rows for _, rows in read_ahead(vectors, runs, buffers.__getitem__, threads)]
    assert np.array_equal(np.concatenate(read), ROWS)
    assert (seen == 1).all()
    monkeypatch.setattr("gpuknn.engine.check.CHECKED_VALUES", 20 * D)
    check_rows(vectors, Metric.COSINE, threads)
    assert (seen == 2).all()
    assert not vectors.held._bands  # what has been read whole takes no memory


class Sevens(DecodedVectors):
    """Bands of 7 rows; row i is full of i."""

    def band(self, row: int) -> range:
        return range(row - row % 7, min(row - row % 7 + 7, len(self)))

    def decoding_bytes(self, readers: int) -> int:
        return 0

    def decode(self, rows: range, out: np.ndarray) -> None:
        assert rows.start % 7 == 0
        assert rows.stop % 7 == 0 or rows.stop == len(self)
        out[...] = np.array(rows)[:, None]


@given(reads=st.lists(st.tuples(st.integers(0, 48), st.integers(1, 30)), max_size=30), threads=st.integers(1, 4))
@settings(deadline=None)
def test_any_reads_in_any_order(reads: list[tuple[int, int]], threads: int) -> None:
    vectors = Sevens("memory", None, (48, 2), np.dtype("f4"))

    def read(one: tuple[int, int]) -> np.ndarray:
        return vectors[one[0] : one[0] + one[1]]

    with ThreadPoolExecutor(threads) as pool, pytest.MonkeyPatch.context() as patch:
        patch.setattr(decoded, "HELD_BYTES", 2 * 7 * 8)
        for (first, length), rows in zip(reads, pool.map(read, reads), strict=True):
            assert rows[:, 1].tolist() == list(range(first, min(first + length, 48)))
    assert len(vectors.held._bands) <= max(2, threads)
    assert vectors.held._bands.keys() == vectors.held._left.keys()


@pytest.mark.parametrize("threads", [1, 4])
@pytest.mark.parametrize("length", [1, 3, 14])
def test_threads_far_apart_do_not_push_out_each_others_bands(
    length: int, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each thread reads a stretch of its own, a little at a time, and no more than half a band may be kept."""
    monkeypatch.setattr(decoded, "HELD_BYTES", 7 * 8 // 2)
    vectors = Sevens("memory", None, (84 * threads, 2), np.dtype("f4"))
    seen = np.zeros(len(vectors), int)
    held: list[int] = []
    together = Barrier(threads)

    def counted(self: DecodedVectors, rows: range, out: np.ndarray) -> None:
        seen[rows.start : rows.stop] += 1
        held.append(len(vectors.held._bands))
        out[...] = np.array(rows)[:, None]

    def read(start: int) -> bool:
        together.wait()
        right = True
        for first in range(start, start + 84, length):
            right &= vectors[first : first + length][:, 0].tolist() == list(range(first, first + length))
            together.wait()  # no thread gets ahead: each time all of the others have asked
        return right

    monkeypatch.setattr(Sevens, "decode", counted)
    with ThreadPoolExecutor(threads) as pool:
        assert all(pool.map(read, range(0, len(vectors), 84)))
    assert (seen == 1).all()
    assert max(held) <= threads
    assert not vectors.held._bands


def test_bands_that_nobody_reads_in_make_room(monkeypatch: pytest.MonkeyPatch) -> None:
    vectors = Sevens("memory", None, (70, 2), np.dtype("f4"))
    band = 7 * 2 * 4
    monkeypatch.setattr(decoded, "HELD_BYTES", 2 * band)
    for first in range(0, 70, 7):
        vectors[first : first + 3]
    assert list(vectors.held._bands) == [range(56, 63), range(63, 70)]
    assert [vectors.held_bytes(readers) for readers in (1, 2, 5, 99)] == [2 * band, 2 * band, 5 * band, 10 * band]


def test_the_largest_row_group_counts(tmp_path: Path) -> None:
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    lists = pa.FixedSizeListArray.from_arrays(pa.array(np.arange(40, dtype="f4")), 2)
    table = pa.table({"emb": lists})
    with pq.ParquetWriter(tmp_path / "a.parquet", table.schema) as file:
        for first, rows in ((0, 2), (2, 15), (17, 3)):
            file.write_table(table.slice(first, rows))
    vectors = open_vectors(tmp_path / "a.parquet")
    assert isinstance(vectors, DecodedVectors)
    assert vectors.band_rows == 15


def test_a_band_that_could_not_be_decoded_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise InputError("not now")

    vectors = Sevens("memory", None, (48, 2), np.dtype("f4"))
    with monkeypatch.context() as patch:
        patch.setattr(Sevens, "decode", fail)
        with pytest.raises(InputError, match="not now"):
            vectors[2:4]
    assert vectors[2:4].tolist() == [[2, 2], [3, 3]]
    with pytest.raises(IndexError):
        vectors.read(47, np.empty((2, 2), "f4"))


def test_identity_sees_every_file(tmp_path: Path) -> None:
    path = write(tmp_path / "a.zarr", shards=(500, D), compressors=None)
    vectors = open_vectors(path)
    before = sampled(vectors).identity, content_fingerprint(vectors)
    (path / "c/1/0").write_bytes((path / "c/1/0").read_bytes())
    assert content_fingerprint(vectors) == before[1]
    assert sampled(vectors).identity != before[0]
