"""Rows that nobody wrote are refused, with the first of them, or read as zeros if somebody says so."""

import os
import struct
from collections.abc import Callable
from fcntl import ioctl
from pathlib import Path
from typing import Any

import google_crc32c
import h5py
import numpy as np
import pytest
import zarr
from zarr.codecs import ShardingCodec

from gpuknn.errors import InputError
from gpuknn.vectors import Vectors, open_vectors, written
from gpuknn.vectors.written import ASK, FIEMAP

N, D = 1000, 8
ROWS = np.random.default_rng(0).integers(1, 100, (N, D)).astype("f4")
WRITTEN = slice(128, 256)
"""Whole chunks of 64 rows, and of 32."""


def hdf5(path: Path, **options: object) -> Path:
    with h5py.File(path, "w") as file:
        file.create_dataset("emb", (N, D), "f4", **options)[WRITTEN] = ROWS[WRITTEN]
    return path


def low_level(path: Path, chunk: tuple[int, int] | None, early: bool, dirty: bool = True) -> Path:
    """FILL_TIME_NEVER: HDF5 gives a reader its own memory back for what it has not allocated."""
    with h5py.File(path, "w") as file:
        place = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        place.set_layout(h5py.h5d.CHUNKED if chunk else h5py.h5d.CONTIGUOUS)
        if chunk:
            place.set_chunk(chunk)
        place.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
        place.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY if early else h5py.h5d.ALLOC_TIME_INCR)
        space = h5py.h5s.create_simple((N, D))
        made = h5py.Dataset(h5py.h5d.create(file.id, b"emb", h5py.h5t.IEEE_F32LE, space, place))
        if dirty:
            made[WRITTEN] = ROWS[WRITTEN]
    return path


def resized(path: Path) -> Path:
    with h5py.File(path, "w") as file:
        made = file.create_dataset("emb", data=ROWS[:256], chunks=(64, D), maxshape=(None, D))
        made.resize((N, D))
    return path


def never(path: Path) -> Path:
    with h5py.File(path, "w", userblock_size=512) as file:
        file.create_dataset("emb", (N, D), "f4")
    return path


def zarr_chunks(path: Path, **options: object) -> Path:
    array = zarr.create_array(str(path), shape=(N, D), dtype="f4", chunks=(64, D), **options)  # type: ignore[arg-type]
    array[WRITTEN] = ROWS[WRITTEN]
    return path


FIRST = r"first of rows 0 to 63 \(counted from 0\)"
CASES: dict[str, tuple[Callable[[Path], Path], str]] = {
    "h5 chunks": (lambda p: hdf5(p / "a.h5", chunks=(64, D)), rf"14 of 16 chunks were never written, {FIRST}"),
    "h5 split chunks": (lambda p: hdf5(p / "a.h5", chunks=(64, 3)), rf"42 of 48 chunks were never written, {FIRST}"),
    "h5 gzip": (lambda p: hdf5(p / "a.h5", chunks=(64, D), compression="gzip"), rf"14 of 16 chunks .*, {FIRST}"),
    "h5 resized": (lambda p: resized(p / "a.h5"), r"12 of 16 chunks .* first of rows 256 to 319"),
    "h5 never": (lambda p: never(p / "a.h5"), "none of its 1,000 rows was ever written"),
    "h5 not filled": (lambda p: low_level(p / "a.h5", (64, D), early=False), rf"14 of 16 chunks .*, {FIRST}"),
    "h5 never, not filled": (lambda p: low_level(p / "a.h5", None, early=False, dirty=False), "none of its 1,000 rows"),
    "zarr chunks": (lambda p: zarr_chunks(p / "a.zarr"), rf"14 of 16 chunks are missing, {FIRST}"),
    "zarr 2": (lambda p: zarr_chunks(p / "a.zarr", zarr_format=2), rf"14 of 16 chunks are missing, {FIRST}"),
    "zarr shards": (
        lambda p: zarr_chunks(p / "a.zarr", shards=(512, D)),
        r"1 of 2 shards and 6 of 8 chunks in the others are missing, first of rows 0 to 63",
    ),
    "zarr in a shard": (
        lambda p: zarr_chunks(p / "a.zarr", shards=(1024, D)),
        rf"14 of 16 chunks are missing, {FIRST}",
    ),
    "zarr in a raw shard": (
        lambda p: zarr_chunks(p / "a.zarr", shards=(1024, D), compressors=None),
        rf"14 of 16 chunks are missing, {FIRST}",
    ),
}


@pytest.mark.parametrize("kind", CASES)
def test_what_nobody_wrote(kind: str, tmp_path: Path) -> None:
    make, words = CASES[kind]
    path = make(tmp_path)
    with pytest.raises(InputError, match=words) as refused:
        open_vectors(path)
    assert "--missing zeros" in str(refused.value)
    if path.suffix == ".zarr":
        assert "held only the fill value, 0, and were left out" in str(refused.value)
    junk = [np.full((N, D), 7, "f4") for _ in range(50)]  # the memory that a careless reader would show
    del junk
    rows = open_vectors(path, missing="zeros")[:]
    there = slice(0, 256) if "resized" in kind else slice(0, 0) if "never" in kind else WRITTEN
    assert np.array_equal(rows[there], ROWS[there])
    assert not np.delete(rows, np.arange(N)[there], axis=0).any()


def test_real_zeros_that_a_writer_left_out_are_told_so(tmp_path: Path) -> None:
    rows = ROWS.copy()
    rows[64:128] = 0
    zarr.create_array(str(tmp_path / "a.zarr"), data=rows, chunks=(64, D), shards=(256, D))
    with pytest.raises(InputError, match=r"1 of 16 chunks are missing, first of rows 64 to 127 .*does not tell which"):
        open_vectors(tmp_path / "a.zarr")
    assert np.array_equal(open_vectors(tmp_path / "a.zarr", missing="zeros")[:], rows)
    kept = zarr.create_array(
        str(tmp_path / "b.zarr"), shape=(N, D), dtype="f4", chunks=(64, D), config={"write_empty_chunks": True}
    )
    kept[:] = rows
    assert np.array_equal(open_vectors(tmp_path / "b.zarr")[:], rows)


@pytest.mark.parametrize("fill", [7.0, np.nan])
def test_another_fill_value_is_no_zero(fill: float, tmp_path: Path) -> None:
    zarr_chunks(tmp_path / "a.zarr", fill_value=fill)
    hdf5(tmp_path / "a.h5", chunks=(64, D), fillvalue=fill)
    for name, words in (
        ("a.zarr", r"(reads as|the fill value,) (7.0|nan)"),
        ("a.h5", r"read them as (7.0|nan), not zer"),
    ):
        for missing in ("refuse", "zeros"):
            with pytest.raises(InputError, match=words) as refused:
                open_vectors(tmp_path / name, missing=missing)
            assert "--missing zeros" not in str(refused.value)  # which would not help


def test_whole_and_inner_chunks_are_missing(tmp_path: Path) -> None:
    path = tmp_path / "a.zarr"
    array = zarr.create_array(str(path), shape=(N, D), dtype="f4", chunks=(50, D), shards=(250, D))
    array[:200] = ROWS[:200]
    array[250:500] = ROWS[250:500]
    words = r"2 of 4 shards and 1 of 10 chunks in the others are missing, first of rows 200 to 249"
    with pytest.raises(InputError, match=words):
        open_vectors(path)
    rows = open_vectors(path, missing="zeros")[:]
    assert np.array_equal(rows[:500], np.concatenate([ROWS[:200], np.zeros((50, D)), ROWS[250:500]]))
    assert not rows[500:].any()


def test_chunks_beyond_the_end_need_not_be_there(tmp_path: Path) -> None:
    """A shard of 512 rows has 8 chunks of 64; of 1,000 rows the second shard's last is of no use."""
    array = zarr.create_array(str(tmp_path / "a.zarr"), shape=(900, D), dtype="f4", chunks=(64, D), shards=(512, D))
    array[:] = ROWS[:900]
    assert np.array_equal(open_vectors(tmp_path / "a.zarr")[:], ROWS[:900])


def has_holes(folder: Path) -> bool:
    """Whether the file system tells where a file has holes."""
    with open(folder / "probe", "wb") as file:
        file.truncate(2**20)
        return os.lseek(file.fileno(), 0, os.SEEK_HOLE) == 0


WIDE = 4096
"""Bytes of a row that is a block of the file system, so that holes are rows."""


def sparse(path: Path) -> Path:
    """Files made in their full size, of which the rows from 50 on were never written."""
    rows = np.ones((50, WIDE // 4), "f4")
    if path.suffix == ".npy":
        made = np.lib.format.open_memmap(path, mode="w+", dtype="f4", shape=(100, WIDE // 4))
        made[:50] = rows
        made.flush()
    elif path.suffix == ".fbin":
        with open(path, "wb") as file:
            file.write(struct.pack("<II", 100, WIDE // 4) + rows.tobytes())
            file.truncate(8 + 100 * WIDE)
    else:
        with h5py.File(path, "w") as file:
            chunked = path.name == "early.h5"
            place = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
            place.set_layout(h5py.h5d.CHUNKED if chunked else h5py.h5d.CONTIGUOUS)
            if chunked:
                place.set_chunk((10, WIDE // 4))
            place.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
            place.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
            space = h5py.h5s.create_simple((100, WIDE // 4))
            kind = h5py.h5t.IEEE_F32BE if path.name == "big.h5" else h5py.h5t.IEEE_F32LE
            h5py.Dataset(h5py.h5d.create(file.id, b"emb", kind, space, place))[:50] = rows
            file["behind"] = np.ones(100_000, "f4")
    return path


@pytest.mark.parametrize("name", ["a.npy", "a.fbin", "contiguous.h5", "big.h5", "early.h5"])
def test_holes_of_a_file_were_never_written(name: str, tmp_path: Path) -> None:
    if not has_holes(tmp_path):
        pytest.skip("this file system does not tell holes")
    path = sparse(tmp_path / name)
    words = r"5 of 10 chunks .* first of rows 50 to 59" if name == "early.h5" else r"has a hole at row 5[01] \(counted"
    with pytest.raises(InputError, match=words):
        open_vectors(path, "emb" if path.suffix == ".h5" else None)
    rows: Vectors = open_vectors(path, "emb" if path.suffix == ".h5" else None, missing="zeros")
    assert rows[:50].all()
    assert not rows[51:].any()


def with_hole(path: Path, start: int, stop: int) -> None:
    """The file anew, with a hole from one byte to another."""
    written = path.read_bytes()
    path.unlink()
    with open(path, "wb") as file:
        file.write(written[:start])
        file.truncate(stop)
        file.seek(stop)
        file.write(written[stop:])


@pytest.mark.parametrize("short", [0, 10])
@pytest.mark.parametrize("name", ["v2", "v3", "shards", "two in a shard", "index first", "hdf5"])
def test_rows_beyond_the_end_of_an_array_need_not_be_written(name: str, short: int, tmp_path: Path) -> None:
    """The last of two files holds 40 rows of 100, and a hole for the other 60; with 10 rows less it is refused."""
    if not has_holes(tmp_path):
        pytest.skip("this file system does not tell holes")
    rows, path = np.ones((140, WIDE // 4), "f4"), tmp_path / "a"
    if name == "hdf5":
        path = tmp_path / "a.h5"
        with h5py.File(path, "w", libver="latest") as file:
            made = file.create_dataset("emb", data=rows, chunks=(100, WIDE // 4))
            begin = made.id.get_chunk_info(1).byte_offset
        with_hole(path, begin + (40 - short) * WIDE, begin + 100 * WIDE)
    else:
        shards = name not in ("v2", "v3")
        inner = 50 if name == "two in a shard" else 100
        codec: Any = {"shape": (100, WIDE // 4), "index_location": "start" if name == "index first" else "end"}
        array = zarr.create_array(
            str(path),
            shape=rows.shape,
            dtype="f4",
            chunks=(inner, WIDE // 4),
            shards=codec if shards else None,
            compressors=None,
            zarr_format=2 if name == "v2" else 3,
        )
        array[:] = rows
        last = path / array.metadata.encode_chunk_key((1, 0))
        first = 16 * (100 // inner) + 4 if name == "index first" else 0
        used = 50 if name == "two in a shard" else 100  # zarr-python leaves out chunks beyond the end
        with_hole(last, first + (40 - short) * WIDE, first + used * WIDE)
    if not short:
        assert np.array_equal(open_vectors(path)[:], rows)
        return
    with pytest.raises(InputError, match=r"1 of 2 .* first of rows 100 to 139"):
        open_vectors(path)


def preallocate(path: Path, written: bytes, start: int, stop: int) -> None:
    """A file in room made for it, of which all was written but for the bytes from one to another."""
    path.unlink(missing_ok=True)
    with open(path, "wb") as file:
        os.posix_fallocate(file.fileno(), 0, len(written))
        file.write(written[:start])
        file.seek(stop)
        file.write(written[stop:])


@pytest.mark.parametrize("row", [1, 50])
@pytest.mark.parametrize("name", ["a.npy", "a.fbin", "a.h5", "chunks.h5", "a.zarr", "shards.zarr", "index first.zarr"])
def test_room_that_was_never_written_stays_so_after_it_was_read(name: str, row: int, tmp_path: Path) -> None:
    """Row 1 lies so near to the file's first bytes that the system reads it together with them."""
    with open(tmp_path / "probe", "wb") as probe:
        try:
            ioctl(probe, FIEMAP, bytearray(ASK.pack(0, 1, 0, 0, 0, 0)))
        except OSError:
            pytest.skip("this file system does not tell extents")
    path, key = tmp_path / name, "emb" if name.endswith("h5") else None
    rows, first, file = np.ones((100, WIDE // 4), "f4"), 0, path
    if name == "a.npy":
        np.save(path, rows)
    elif name == "a.fbin":
        path.write_bytes(struct.pack("<II", *rows.shape) + rows.tobytes())
    elif key:
        with h5py.File(path, "w") as made:
            chunks = (100, WIDE // 4) if name == "chunks.h5" else None
            emb = made.create_dataset("emb", data=rows, chunks=chunks)
            first = emb.id.get_chunk_info(0).byte_offset if chunks else emb.id.get_offset()
    else:
        place: Any = {"shape": rows.shape, "index_location": "start" if name == "index first.zarr" else "end"}
        shards = None if name == "a.zarr" else place
        zarr.create_array(str(path), data=rows, chunks=(100, WIDE // 4), shards=shards, compressors=None)
        file = path / "c/0/0"
    hole = -(-(first + row * WIDE) // WIDE) * WIDE
    preallocate(file, file.read_bytes(), hole, hole + 2 * WIDE)
    for _ in range(2):
        with pytest.raises(InputError, match=r"has a hole at row|first of rows 0 to 99"):
            open_vectors(path, key)
        assert (open_vectors(path, key, missing="zeros")[:] == 0).any()  # which reads what was never written
        file.read_bytes()


@pytest.mark.filterwarnings("ignore:Combining a `sharding_indexed` codec")
@pytest.mark.parametrize("around", ["after", "before"])
@pytest.mark.parametrize("missing", ["refuse", "zeros"])
def test_shards_that_are_packed_as_a_whole_are_refused(around: str, missing: Any, tmp_path: Path) -> None:
    """zarr-python says of these arrays that they have no shards, and reads the chunks that they lack as zeros."""
    array = zarr.create_array(
        str(tmp_path / "a"),
        shape=(140, D),
        dtype="f4",
        chunks=(100, D),
        serializer=ShardingCodec(chunk_shape=(50, D)),
        compressors="auto" if around == "after" else None,
        filters=[zarr.codecs.TransposeCodec(order=(0, 1))] if around == "before" else None,
    )
    array[:50] = 1
    with pytest.raises(InputError, match="packs whole shards, into which gpuknn cannot look"):
        open_vectors(tmp_path / "a", missing=missing)


@pytest.mark.parametrize("missing", ["refuse", "zeros"])
@pytest.mark.parametrize(
    "name", ["shuffle.h5", "lzf.h5", "scaleoffset.h5", "gzip.h5", "zstd", "blosc", "gzip", "shards"]
)
def test_holes_of_what_was_packed_are_no_zeros(name: str, missing: Any, tmp_path: Path) -> None:
    """They would be unpacked to values that nobody wrote, many of them other than 0."""
    if not has_holes(tmp_path):
        pytest.skip("this file system does not tell holes")
    rows = np.random.default_rng(0).integers(1, 100, (140, WIDE)).astype("f4")
    path = tmp_path / name
    if path.suffix == ".h5":
        filters: dict[str, dict[str, Any]] = {"shuffle": {"shuffle": True}, "scaleoffset": {"scaleoffset": 0}}
        with h5py.File(path, "w") as made:
            options = filters.get(path.stem, {"compression": path.stem})
            chunk = made.create_dataset("emb", data=rows, chunks=(50, WIDE), **options).id.get_chunk_info(0)
        file, start, size = path, chunk.byte_offset, chunk.size
    else:
        codecs = {"blosc": zarr.codecs.BloscCodec(), "gzip": zarr.codecs.GzipCodec()}
        packed, shards = codecs.get(name, zarr.codecs.ZstdCodec()), (100, WIDE) if name == "shards" else None
        zarr.create_array(str(path), data=rows, chunks=(50, WIDE), shards=shards, compressors=packed)
        file, start, size = path / "c/0/0", 0, (path / "c/0/0").stat().st_size
    hole = (start + size // 2) // WIDE * WIDE
    with_hole(file, hole, hole + 2 * WIDE)
    with pytest.raises(InputError, match=r"1 of [23] packed (chunks|shards) have holes, first of rows 0 to (49|99) "):
        open_vectors(path, "emb" if path.suffix == ".h5" else None, missing=missing)


@pytest.mark.parametrize("how", ["v2", "v3"])
def test_holes_of_columns_that_lie_one_after_another_may_be_zeros(how: str, tmp_path: Path) -> None:
    if not has_holes(tmp_path):
        pytest.skip("this file system does not tell holes")
    rows, path = np.ones((2 * WIDE, 8), "f4"), tmp_path / "a"
    order: dict[str, Any] = {"zarr_format": 2, "order": "F"}
    if how == "v3":
        order = {"filters": [zarr.codecs.TransposeCodec(order=(1, 0))]}
    array = zarr.create_array(str(path), data=rows, chunks=(WIDE, 8), compressors=None, **order)
    with_hole(path / array.metadata.encode_chunk_key((1, 0)), 3 * 4 * WIDE, 4 * 4 * WIDE)  # the fourth column
    with pytest.raises(InputError, match=r"1 of 2 chunks are missing, first of rows 4096 to 8191 \(counted"):
        open_vectors(path)
    rows[WIDE:, 3] = 0
    assert np.array_equal(open_vectors(path, missing="zeros")[:], rows)


def test_the_order_that_zarr_is_told_for_memory_is_not_that_of_files(tmp_path: Path) -> None:
    if not has_holes(tmp_path):
        pytest.skip("this file system does not tell holes")
    array = zarr.create_array(
        str(tmp_path / "a"), data=np.ones((140, WIDE // 4), "f4"), chunks=(100, WIDE // 4), compressors=None
    )
    with_hole(tmp_path / "a" / array.metadata.encode_chunk_key((1, 0)), 40 * WIDE, 100 * WIDE)
    with zarr.config.set({"array.order": "F"}):
        assert open_vectors(tmp_path / "a")[:].all()


def test_the_first_packed_chunk_is_named_by_its_place(tmp_path: Path) -> None:
    """As texts, c/10/0 would come before c/2/0."""
    if not has_holes(tmp_path):
        pytest.skip("this file system does not tell holes")
    rows = np.random.default_rng(0).integers(0, 2**32, (110, 4 * WIDE), "u4").view("f4")
    zarr.create_array(str(tmp_path / "a"), data=rows, chunks=(10, 4 * WIDE))
    for chunk in (2, 10):
        with_hole(tmp_path / f"a/c/{chunk}/0", 16 * WIDE, 18 * WIDE)
    with pytest.raises(InputError, match="2 of 11 packed chunks have holes, first of rows 20 to 29 "):
        open_vectors(tmp_path / "a")


@pytest.mark.parametrize("seek", [False, True])
@pytest.mark.parametrize("spots", [0, 1, 255, 256, 257, 600])
def test_holes_of_a_file(spots: int, seek: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The system is asked for 256 extents at once; a file system that does not tell extents is asked for holes."""
    if not has_holes(tmp_path):
        pytest.skip("this file system does not tell holes")
    if seek:
        monkeypatch.setattr(written, "FIEMAP", 0)
    path, size = tmp_path / "a", (2 * spots + 1) * WIDE - 100
    with open(path, "wb") as file:
        for spot in range(spots):
            file.seek((2 * spot + 1) * WIDE)
            file.write(b"x" * WIDE)
        file.truncate(size)
    expected = [range(2 * spot * WIDE, min((2 * spot + 1) * WIDE, size)) for spot in range(spots + 1)]
    holes = written.holes_of(str(path))
    assert holes == expected
    for start in range(0, min(size, 40 * WIDE), WIDE // 2):
        for length in (1, WIDE, 3 * WIDE):
            inside = (max(start, hole.start) for hole in holes if hole.stop > start and hole.start < start + length)
            assert written.first_hole(holes, start, start + length) == next(inside, None)


@pytest.mark.parametrize("content", [b"", b"x", b"x" * 5000])
def test_a_file_that_was_written_has_no_holes(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(content)
    assert written.holes_of(str(tmp_path / "a")) == []
    with open(tmp_path / "b", "wb") as file:
        os.posix_fallocate(file.fileno(), 0, len(content) or 1)
        file.write(content or b"x")
        file.flush()
        assert written.holes_of(str(tmp_path / "b")) == []  # though it is not on the disk yet


def test_a_shard_index_whose_numbers_add_up_to_little_is_damaged(tmp_path: Path) -> None:
    array = zarr.create_array(str(tmp_path / "a"), shape=(100, D), dtype="f4", chunks=(100, D), shards=(100, D))
    array[:] = 1
    index = np.array([2**64 - 2, 50], "<u8").tobytes()
    shard = tmp_path / "a/c/0/0"
    shard.write_bytes(shard.read_bytes()[:-20] + index + google_crc32c.value(index).to_bytes(4, "little"))
    with pytest.raises(InputError, match="is shorter than its index says"):
        open_vectors(tmp_path / "a")
