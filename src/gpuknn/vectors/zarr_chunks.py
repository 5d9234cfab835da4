"""Which chunks of a Zarr array were written, those inside of shards, too.

The library reads what is not there as the fill value.  A writer that was killed leaves chunks out, and so does one that
finished and was not told to write chunks that hold the fill value only, which is the default: nothing in the store
tells the one from the other.
"""

import math
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import google_crc32c
import numpy as np
import zarr
from zarr.codecs import BytesCodec, Crc32cCodec, ShardingCodec

from gpuknn.errors import InputError
from gpuknn.vectors.location import Stored, is_url, listing, object_store

INDEX_CODECS = [BytesCodec(endian="little").to_dict(), Crc32cCodec().to_dict()]
LEFT_OUT = np.iinfo(np.uint64).max
"""In a shard's index: where a chunk begins that was not written."""
MOST_NAMES = 2**20
"""Chunks whose names are made although fewer files are there."""
READERS = 8
"""Indexes read at once: each may wait for an object store."""
REASON = (
    "they were never written, or held only zeros and were left out, as Zarr's writers do if write_empty_chunks is not "
    "set; the store does not tell which"
)
ADVICE = "copy or write the store again, or read them as zeros with --missing zeros"


def unwritten(array: zarr.Array, folder: str) -> str | None:
    """What is missing, in words: files of chunks or shards, or chunks within shards; None if all is there.

    `folder`: the path or URL of the array's metadata.  Raises InputError if the index of a shard is damaged.
    """
    pieces = array.shards or array.chunks
    grid = [-(-length // piece) for length, piece in zip(array.shape, pieces, strict=True)]
    there, need = {stored.name: stored for stored in listing(folder)}, math.prod(grid)
    what, first, names = "shards" if array.shards else "chunks", "", {}
    missing = need - len(there)
    if missing <= 0 or need <= MOST_NAMES:  # metadata may promise any number
        names = {place: array.metadata.encode_chunk_key(place) for place in np.ndindex(*grid)}
        places = [place for place, name in names.items() if name not in there]
        missing, first = (
            len(places),
            f", first of {_rows(array, places[0][0] * pieces[0], pieces[0])}" if places else "",
        )
    if missing:
        return f"{missing:,} of {need:,} {what} are missing{first}"
    return _left_out(array, folder, {place: there[name] for place, name in names.items()}) if array.shards else None


def refuse_unwritten(where: str, found: str | None) -> None:
    """Raise InputError if something is missing that `unwritten` found."""
    if found:
        raise InputError(f"{where}: {found}; {REASON}; {ADVICE}")


def shard_index(folder: str, shard: Stored, codec: ShardingCodec, chunks: tuple[int, ...]) -> np.ndarray:
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
    there = index[index[..., 0] != LEFT_OUT]
    if np.any(there.sum(axis=-1) > shard.size - length * at_end):
        raise InputError(f"{where}: is shorter than its index says; copy or write it again")
    return index


def sharding(array: zarr.Array) -> ShardingCodec:
    """How the chunks of an array with shards lie in them."""
    codecs = getattr(array.metadata, "codecs", ())  # version 2 has neither shards nor these
    return next(codec for codec in codecs if isinstance(codec, ShardingCodec))


def _left_out(array: zarr.Array, folder: str, shards: dict[tuple[int, ...], Stored]) -> str | None:
    """What chunks are missing in shards that are there."""
    codec, shard_shape = sharding(array), array.shards or ()
    if any(isinstance(inner, ShardingCodec) for inner in codec.codecs):
        raise InputError(
            f"{folder}: has shards within its shards, which gpuknn cannot look into; write the store again"
        )
    chunks = tuple(s // c for s, c in zip(shard_shape, array.chunks, strict=True))
    missing, first = 0, array.shape[0]
    with ThreadPoolExecutor(READERS) as pool:
        indexes = pool.map(lambda shard: shard_index(folder, shard, codec, chunks), shards.values())
        for place, index in zip(shards, indexes, strict=True):
            # The last shards of a row or column of shards may have chunks that lie outside of the array.
            inside = tuple(
                slice(-(-(length - at * shard) // chunk))
                for length, at, shard, chunk in zip(array.shape, place, shard_shape, array.chunks, strict=True)
            )
            left_out = np.argwhere(index[inside][..., 0] == LEFT_OUT)
            missing += len(left_out)
            if len(left_out):
                first = min(first, place[0] * shard_shape[0] + int(left_out[0, 0]) * array.chunks[0])
    if not missing:
        return None
    need = math.prod(-(-n // c) for n, c in zip(array.shape, array.chunks, strict=True))
    return f"{missing:,} of {need:,} chunks are missing, first of {_rows(array, first, array.chunks[0])}"


def _rows(array: zarr.Array, first: int, length: int) -> str:
    return f"rows {first} to {min(first + length, array.shape[0]) - 1} (counted from 0)"


def _read(folder: str, shard: Stored, start: int, length: int) -> bytes:
    if is_url(folder):
        return bytes(object_store(folder).get_range(shard.name, start=start, length=length)) if length else b""
    with open(Path(folder, shard.name), "rb") as file:
        file.seek(start)
        return file.read(length)
