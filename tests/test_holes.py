"""Holes of files, bytes that nobody wrote: their rows are refused, or read as zeros if chunks are not compressed."""

import os
import struct
from fcntl import ioctl
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import zarr

from gpuknn.errors import InputError
from gpuknn.vectors import Vectors, open_vectors, written
from gpuknn.vectors.written import ASK, FIEMAP

pytestmark = pytest.mark.usefixtures("holes")

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
    path = sparse(tmp_path / name)
    words = r"5 of 10 chunks .* first of rows 50 to 59" if name == "early.h5" else r"has a hole at row 5[01] \(counted"
    with pytest.raises(InputError, match=words):
        open_vectors(path, key="emb" if path.suffix == ".h5" else None)
    rows: Vectors = open_vectors(path, key="emb" if path.suffix == ".h5" else None, missing="zeros")
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
            open_vectors(path, key=key)
        assert (open_vectors(path, key=key, missing="zeros")[:] == 0).any()  # which reads what was never written
        file.read_bytes()


@pytest.mark.parametrize("missing", ["refuse", "zeros"])
@pytest.mark.parametrize(
    "name", ["shuffle.h5", "lzf.h5", "scaleoffset.h5", "gzip.h5", "zstd", "blosc", "gzip", "shards"]
)
def test_holes_of_what_was_packed_are_no_zeros(name: str, missing: Any, tmp_path: Path) -> None:
    """They would be unpacked to values that nobody wrote, many of them other than 0."""
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
        open_vectors(path, key="emb" if path.suffix == ".h5" else None, missing=missing)


@pytest.mark.parametrize("how", ["v2", "v3"])
def test_holes_of_columns_that_lie_one_after_another_may_be_zeros(how: str, tmp_path: Path) -> None:
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
    array = zarr.create_array(
        str(tmp_path / "a"), data=np.ones((140, WIDE // 4), "f4"), chunks=(100, WIDE // 4), compressors=None
    )
    with_hole(tmp_path / "a" / array.metadata.encode_chunk_key((1, 0)), 40 * WIDE, 100 * WIDE)
    with zarr.config.set({"array.order": "F"}):
        assert open_vectors(tmp_path / "a")[:].all()


def test_the_first_packed_chunk_is_named_by_its_place(tmp_path: Path) -> None:
    """As texts, c/10/0 would come before c/2/0."""
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
