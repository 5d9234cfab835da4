"""Rows that nobody wrote are refused, with the first of them, or read as zeros if somebody says so."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import google_crc32c
import h5py
import numpy as np
import pytest
import zarr
from zarr.codecs import ShardingCodec

from gpuknn.errors import InputError
from gpuknn.vectors import open_vectors

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
    assert 'missing="zeros"' in str(refused.value)
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
            assert 'missing="zeros"' not in str(refused.value)  # which would not help


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


def test_a_shard_index_whose_numbers_add_up_to_little_is_damaged(tmp_path: Path) -> None:
    array = zarr.create_array(str(tmp_path / "a"), shape=(100, D), dtype="f4", chunks=(100, D), shards=(100, D))
    array[:] = 1
    index = np.array([2**64 - 2, 50], "<u8").tobytes()
    shard = tmp_path / "a/c/0/0"
    shard.write_bytes(shard.read_bytes()[:-20] + index + google_crc32c.value(index).to_bytes(4, "little"))
    with pytest.raises(InputError, match="is shorter than its index says"):
        open_vectors(tmp_path / "a")


@pytest.mark.parametrize("missing", ["refuse", "zeros"])
def test_shards_within_shards_are_refused(missing: Any, tmp_path: Path) -> None:
    nested = ShardingCodec(chunk_shape=(50, D), codecs=[ShardingCodec(chunk_shape=(25, D))])
    zarr.create_array(str(tmp_path / "a"), data=ROWS, chunks=(500, D), serializer=nested, compressors=None)
    with pytest.raises(InputError, match="has shards within its shards, into which gpuknn cannot look"):
        open_vectors(tmp_path / "a", missing=missing)
