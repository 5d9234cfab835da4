"""Rows taken block by block, by as many threads as the device has use for."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from gpuknn.engine.check import refuse_unmeasured
from gpuknn.engine.device import Device, Taking
from gpuknn.engine.metric import Metric
from gpuknn.engine.projecting import Block, Check
from gpuknn.errors import InputError
from gpuknn.vectors import Vectors

COORDINATES_VALUES = 2**19
"""Components of a block that is projected: with its copies it stays in a core's second cache or the third."""
MOMENTS_VALUES = 2**21
"""Of a block that is added up: the sums of products, components times components, are added once a block."""

Work = Callable[[Block, range, Taking], None]
"""What is done with a block and the numbers of its rows; others can be taken in hand meanwhile."""


def over_blocks(vectors: Vectors, rows: range, device: Device, values: int, work: Work) -> None:
    """Have `work` done for all rows, in blocks of about so many components, by several threads at once.

    Raises InputError, naming the first rows of a block, if they have no length.
    """
    length = max(1, values // vectors.shape[1])

    with device.blocks() as taking, ThreadPoolExecutor(threads_of(device)) as pool:

        def take(first: int) -> None:
            part = range(first, min(first + length, rows.stop))
            with taking(vectors[part.start : part.stop], checking(vectors, first)) as block:
                work(block, part, taking)

        for _ in pool.map(take, rows[::length]):
            pass


def checking(vectors: Vectors, first: int) -> Check:
    """What refuses rows from `first` on that have no length."""
    return partial(refuse_unmeasured, vectors, first, metric=Metric.COSINE)


def threads_of(device: Device) -> int:
    """As many as it has cores, or as it takes to read for a GPU."""
    return max(device.units, device.readers)


def memory_of(vectors: Vectors, device: Device, values: int, width: int) -> int:
    """Bytes that blocks take at most: rows as stored, in float64 and float32, and `width` bytes for each row."""
    n, d = vectors.shape
    length = min(n, max(1, values // d))
    return threads_of(device) * length * (d * (vectors.dtype.itemsize + 8 + 8 + 4) + width)


def check_rows_are_numbers(vectors: Vectors) -> None:
    """Raise InputError if the rows are sketches."""
    if vectors.dtype.name not in Metric.COSINE.dtypes:
        raise InputError(f"{vectors.where}: holds sketches; rows of numbers are projected")
