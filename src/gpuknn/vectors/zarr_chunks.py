"""Which chunks of a Zarr array were written, those inside of shards, too.

The library reads what is not there as the fill value.  A writer that was killed leaves chunks out, and so does one that
finished and was not told to write chunks that hold the fill value only, which is the default: nothing in the store
tells the one from the other.
"""

import math
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
import zarr
from zarr.abc.store import RangeByteRequest
from zarr.buffer import default_buffer_prototype
from zarr.codecs import BytesCodec, Crc32cCodec, ShardingCodec, TransposeCodec
from zarr.core.sync import sync
from zarr.storage import StorePath

from gpuknn.errors import InputError
from gpuknn.storage.location import Stored, is_url, listing, object_store
from gpuknn.vectors.written import HOLES_PACKED, first_hole, first_rows, holes_of, zeros_instead

INDEX_CODECS = [BytesCodec(endian="little").to_dict(), Crc32cCodec().to_dict()]
LEFT_OUT = np.iinfo(np.uint64).max
"""In a shard's index: where a chunk begins that was not written."""
MOST_NAMES = 2**20
"""Chunks whose names are made although fewer files are there."""
READERS = 8
"""Indexes read at once: each may wait for an object store."""
REASON = (
    "they were never written, or held only the fill value, {}, and were left out, as Zarr's writers do if "
    "write_empty_chunks is not set; the store does not tell which"
)
ADVICE = "copy or write the store again"


def unwritten(array: zarr.Array, folder: str | StorePath) -> str | None:
    """What is missing, in words: files of chunks or shards, or chunks within shards; None if all is there.

    `folder`: the path or URL of the array's metadata, or their place in a store that is open.  Raises InputError if the
    index of a shard is damaged, if packed chunks have holes, or if shards lie within shards or are packed as a whole,
    so that what they lack cannot be told.
    """
    if any(isinstance(codec, ShardingCodec) for codec in codecs(array)):
        how = "has shards within its shards" if array.shards else "packs whole shards"
        raise InputError(f"{folder}: {how}, into which gpuknn cannot look; write the store again")
    pieces = array.shards or array.chunks
    grid = [-(-length // piece) for length, piece in zip(array.shape, pieces, strict=True)]
    stored = listing(folder) if isinstance(folder, str) else _listing(folder, bool(array.shards))
    there, need = {file.name: file for file in stored}, math.prod(grid)
    what = "shards" if array.shards else "chunks"
    if need > max(len(there), MOST_NAMES):  # metadata may promise any number
        return f"{need - len(there):,} of {need:,} {what} are missing"
    names = {place: array.metadata.encode_chunk_key(place) for place in np.ndindex(*grid)}
    if isinstance(folder, str) and not is_url(folder):
        holes = {p: name for p, name in names.items() if name in there and _has_holes(array, folder, p, there[name])}
        if holes and _packed(array):
            rows = first_rows(next(iter(holes))[0] * pieces[0], pieces[0], array.shape[0])
            some = f"{len(holes):,} of {need:,} packed {what}"
            raise InputError(f"{folder}: {some} have holes, {rows}; {HOLES_PACKED}; {ADVICE}")
        for name in holes.values():
            del there[name]
    gone = [place[0] * pieces[0] for place, name in names.items() if name not in there]
    parts = [f"{len(gone):,} of {need:,} {what}"] if gone else []
    runs = [(min(gone), pieces[0])] if gone else []
    if array.shards:
        inside, total, first = _left_out(array, folder, {p: there[n] for p, n in names.items() if n in there})
        if inside:
            parts.append(f"{inside:,} of {total:,} chunks" + " in the others" * bool(gone))
            runs.append((first, array.chunks[0]))
    if not parts:
        return None
    return f"{' and '.join(parts)} are missing, {first_rows(*min(runs), array.shape[0])}"


def missing_chunks(array: zarr.Array, where: str, found: str) -> InputError:
    """The error for what `unwritten` found to be missing."""
    zeros = "" if array.fill_value else f", or {zeros_instead()}"
    return InputError(f"{where}: {found}; {REASON.format(array.fill_value or 0)}; {ADVICE}{zeros}")


def shard_index(folder: str | StorePath, shard: Stored, codec: ShardingCodec, chunks: tuple[int, ...]) -> np.ndarray:
    """(*chunks, 2) uint64: where the chunks of a shard begin and how long they are, `LEFT_OUT` for those left out.

    Raises InputError if the index is damaged, or a chunk would lie outside the file.
    """
    if [part.to_dict() for part in codec.index_codecs] != INDEX_CODECS:
        raise InputError(f"{folder}: the indexes of its shards are kept in a way of their own; write the store again")
    length, where = 16 * math.prod(chunks) + 4, f"{folder}/{shard.name}"
    at_end = codec.index_location.value == "end"
    found = _read(folder, shard, max(0, shard.size - length) if at_end else 0, min(length, shard.size))
    if len(found) < length or google_crc32c.value(found[:-4]) != int.from_bytes(found[-4:], "little"):
        at = "end" if at_end else "beginning"
        raise InputError(f"{where}: the index at its {at} is damaged, or the file truncated; copy or write it again")
    index = np.frombuffer(found[:-4], "<u8").reshape(*chunks, 2)
    there, most = index[index[..., 0] != LEFT_OUT], shard.size - length * at_end
    if np.any(there > most) or np.any(there.sum(axis=-1) > most):  # a sum of two large numbers may be small
        raise InputError(f"{where}: is shorter than its index says; copy or write it again")
    return index


def sharding(array: zarr.Array) -> ShardingCodec:
    """How the chunks of an array with shards lie in them."""
    codecs = getattr(array.metadata, "codecs", ())  # version 2 has neither shards nor these
    return next(codec for codec in codecs if isinstance(codec, ShardingCodec))


def _has_holes(array: zarr.Array, folder: str, place: tuple[int, ...], file: Stored) -> bool:
    """Whether some bytes of a chunk or shard were never written, other than those of rows beyond the array's end.

    gpuknn itself makes room for these rows and does not write them.
    """
    holes = holes_of(f"{folder}/{file.name}")
    return bool(holes) and any(first_hole(holes, *span) is not None for span in _used(array, folder, place, file))


def _used(array: zarr.Array, folder: str, place: tuple[int, ...], file: Stored) -> Iterator[tuple[int, int]]:
    """The bytes of a chunk or shard that matter, from and to."""
    # How much of the array begins with this file, by dimension.
    sizes = zip(array.shape, place, array.shards or array.chunks, strict=True)
    left = [length - at * piece for length, at, piece in sizes]
    rows_only = by_rows(array)
    if array.shards is None:
        yield 0, file.size * min(left[0], array.chunks[0]) // array.chunks[0] if rows_only else file.size
        return
    codec, chunks = sharding(array), _chunks_of_shard(array)
    index = shard_index(folder, file, codec, chunks)
    for inner in np.ndindex(*chunks):
        begin, size = (int(value) for value in index[inner])
        beyond = any(i * chunk >= most for i, chunk, most in zip(inner, array.chunks, left, strict=True))
        if begin != LEFT_OUT and not beyond:
            used = min(left[0] - inner[0] * array.chunks[0], array.chunks[0])
            yield begin, begin + (size * used // array.chunks[0] if rows_only else size)


def by_rows(array: zarr.Array) -> bool:
    """Whether chunks are their rows, one after another."""
    in_order = getattr(array.metadata, "order", "C") == "C"  # version 2's; version 3 has a codec for it
    return in_order and all(isinstance(codec, BytesCodec) for codec in codecs(array))


def _packed(array: zarr.Array) -> bool:
    """Whether chunks hold other bytes than those of their components."""
    return not all(isinstance(codec, BytesCodec | TransposeCodec | Crc32cCodec) for codec in codecs(array))


def codecs(array: zarr.Array) -> tuple[Any, ...]:
    """What makes bytes of the rows of a chunk, inside of a shard if there are shards."""
    codecs = getattr(array.metadata, "codecs", None)
    if codecs is None:  # version 2
        return (*array.filters, *array.compressors)
    return tuple(sharding(array).codecs if array.shards else codecs)


def _left_out(
    array: zarr.Array, folder: str | StorePath, shards: dict[tuple[int, ...], Stored]
) -> tuple[int, int, int]:
    """How many chunks are missing in shards that are there, of how many, and the first row of the first of them."""
    codec, shard_shape, chunks = sharding(array), array.shards or (), _chunks_of_shard(array)
    missing, total, first = 0, 0, array.shape[0]
    with ThreadPoolExecutor(READERS) as pool:
        indexes = pool.map(lambda shard: shard_index(folder, shard, codec, chunks), shards.values())
        for place, index in zip(shards, indexes, strict=True):
            # The last shards of a row or column of shards may have chunks that lie outside of the array.
            inside = tuple(
                slice(-(-(length - at * shard) // chunk))
                for length, at, shard, chunk in zip(array.shape, place, shard_shape, array.chunks, strict=True)
            )
            begins = index[inside][..., 0]
            left_out = np.argwhere(begins == LEFT_OUT)
            missing, total = missing + len(left_out), total + begins.size
            if len(left_out):
                first = min(first, place[0] * shard_shape[0] + int(left_out[0, 0]) * array.chunks[0])
    return missing, total, first


def _chunks_of_shard(array: zarr.Array) -> tuple[int, ...]:
    """How many chunks a shard has, by dimension."""
    return tuple(s // c for s, c in zip(array.shards or (), array.chunks, strict=True))


def _listing(place: StorePath, sizes: bool) -> list[Stored]:
    """What an open store has at a place, by name; without their sizes, which may take a request each, unless asked."""

    async def names() -> list[str]:
        return [key async for key in place.store.list_prefix(f"{place.path}/" if place.path else "")]

    async def size(key: str) -> int:
        return await place.store.getsize(key) if sizes else 0

    below = len(place.path) + bool(place.path)
    return [Stored(key[below:], sync(size(key)), "") for key in sorted(sync(names()))]


def _read(folder: str | StorePath, shard: Stored, start: int, length: int) -> bytes:
    if isinstance(folder, StorePath):
        part = RangeByteRequest(start, start + length)
        found = sync((folder / shard.name).get(default_buffer_prototype(), part))
        return found.to_bytes() if found is not None else b""
    if is_url(folder):
        return bytes(object_store(folder).get_range(shard.name, start=start, length=length)) if length else b""
    with open(Path(folder, shard.name), "rb") as file:
        file.seek(start)
        return file.read(length)
