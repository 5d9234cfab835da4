"""Which rows of an HDF5 array were written."""

import math
import os
from collections import Counter
from itertools import count
from pathlib import Path

import h5py

from gpuknn.errors import InputError
from gpuknn.vectors.written import AGAIN, HOLES_PACKED, check_holes, first_hole, first_rows, holes_of


def check_written(dataset: h5py.Dataset, where: str, advice: str) -> None:
    """Raise InputError, naming the first rows, if some of the array was never written.

    HDF5 reads what was never allocated as its fill value, or not at all: with FILL_TIME_NEVER the reader's memory shows
    through.  What was allocated and never written is a hole in the file.
    """
    chunks = dataset.chunks
    if chunks is None:
        if not all_allocated(dataset):
            raise InputError(f"{where}: none of its {dataset.shape[0]:,} rows was ever written; {advice}")
        offset = dataset.id.get_offset()
        if offset is not None and on_disk(dataset.file):  # without an offset it lies in the file's header
            row_bytes = dataset.id.get_storage_size() // dataset.shape[0]
            check_holes(dataset.file.filename, where, range(dataset.shape[0]), offset, row_bytes, advice)
        return
    check_packed(dataset, where)
    holes = [] if has_filters(dataset) else _holes(dataset.file)
    if all_allocated(dataset) and not holes:
        return
    written: Counter[int] = Counter()
    total, step = _chunks(dataset), chunks[0]

    def see(chunk: h5py.h5d.StoreInfo) -> None:
        first, start = chunk.chunk_offset[0], chunk.byte_offset
        # The rows of the last chunk that lie beyond the array need not be written.
        size = chunk.size // step * min(step, dataset.shape[0] - first)
        if first_hole(holes, start, start + size) is None:
            written[first] += 1

    dataset.id.chunk_iter(see)
    if written.total() < total:
        abreast = total // -(-dataset.shape[0] // step)
        first = next(row for row in count(0, step) if written[row] < abreast)
        raise InputError(
            f"{where}: {total - written.total():,} of {total:,} chunks were never written, "
            f"{first_rows(first, step, dataset.shape[0])}; {advice}"
        )


def check_packed(dataset: h5py.Dataset, where: str) -> None:
    """Raise InputError if a chunk that filters packed has a hole: it would be unpacked to other rows, or not at all."""
    holes = _holes(dataset.file) if has_filters(dataset) else []
    if not holes:
        return
    damaged: list[int] = []

    def see(chunk: h5py.h5d.StoreInfo) -> None:
        if first_hole(holes, chunk.byte_offset, chunk.byte_offset + chunk.size) is not None:
            damaged.append(chunk.chunk_offset[0])

    dataset.id.chunk_iter(see)
    if damaged:
        some = f"{len(damaged):,} of {_chunks(dataset):,} packed chunks"
        rows = first_rows(min(damaged), dataset.chunks[0], dataset.shape[0])
        raise InputError(f"{where}: {some} have holes, {rows}; {HOLES_PACKED}; {AGAIN}")


def on_disk(file: h5py.File) -> bool:
    """Whether an open file is the one of its name; others are in memory, in several files, or were renamed."""
    if file.driver != "sec2":
        return False
    name, opened = Path(os.fsdecode(file.filename)), os.fstat(file.id.get_vfd_handle())
    return name.exists() and os.path.samestat(name.stat(), opened)  # it may have been replaced, or the folder changed


def has_filters(dataset: h5py.Dataset) -> bool:
    """Whether chunks may be packed, or checked."""
    return bool(dataset.id.get_create_plist().get_nfilters())


def all_allocated(dataset: h5py.Dataset) -> bool:
    """Whether HDF5 has made room for all of the array."""
    if dataset.chunks is not None:
        return bool(dataset.id.get_num_chunks() >= _chunks(dataset))
    return bool(dataset.id.get_storage_size() >= dataset.size * dataset.id.get_type().get_size())


def _holes(file: h5py.File) -> list[range]:
    """The bytes of a file that nobody wrote; none in memory."""
    return holes_of(file.filename) if on_disk(file) else []


def _chunks(dataset: h5py.Dataset) -> int:
    """How many chunks the array has, written or not."""
    return math.prod(-(-n // piece) for n, piece in zip(dataset.shape, dataset.chunks, strict=True))
