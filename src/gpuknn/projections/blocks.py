"""Rows taken block by block, by as many threads as the device has use for."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np

from gpuknn.engine.check import MOST_DIMENSIONS, refuse_unmeasured
from gpuknn.engine.device import BlockOf, Device
from gpuknn.engine.metric import Metric
from gpuknn.engine.projecting import Block, Check
from gpuknn.errors import InputError
from gpuknn.vectors import Vectors

Work = Callable[[Block, np.ndarray, int, BlockOf], None]
"""What is done with a block: its rows as stored (m, d), the number of the first, and what makes others of them."""


def over_blocks(vectors: Vectors, rows: range, device: Device, length: int, work: Work) -> None:
    """Have `work` done for all rows, in blocks of `length`, by several threads at once.

    Raises InputError, naming the first rows of a block, if they have no length.
    """
    with device.blocks() as block_of, ThreadPoolExecutor(threads_of(device)) as pool:

        def take(first: int) -> None:
            stored = vectors[first : min(first + length, rows.stop)]
            with block_of(stored, checking(vectors, first)) as block:
                work(block, stored, first, block_of)

        for _ in pool.map(take, rows[::length]):
            pass


def checking(vectors: Vectors, first: int) -> Check:
    """What refuses rows from `first` on that have no length."""
    return partial(refuse_unmeasured, vectors, first, metric=Metric.COSINE)


def threads_of(device: Device) -> int:
    """As many as it has cores, or as it takes to read for a GPU."""
    return max(device.units, device.readers)


def memory_of(vectors: Vectors, device: Device, length: int, width: int) -> int:
    """Bytes that blocks take at most: rows as stored, in float64 and float32, and `width` bytes for each row."""
    n, d = vectors.shape
    return threads_of(device) * min(n, length) * (d * (vectors.dtype.itemsize + 8 + 8 + 4) + width)


def check_rows_are_numbers(vectors: Vectors) -> None:
    """Raise InputError if the rows are sketches, or of more components than the bounds know."""
    if vectors.dtype.name not in Metric.COSINE.dtypes:
        raise InputError(f"{vectors.where}: holds sketches; rows of numbers are projected")
    if vectors.shape[1] > MOST_DIMENSIONS:
        raise InputError(f"{vectors.where}: {vectors.shape[1]} components; at most {MOST_DIMENSIONS} are supported")
