"""Vectors in a GPU's memory, of whatever library speaks DLPack or CUDA's array interface."""

from dataclasses import dataclass, field
from typing import Any

import cupy as cp
import numpy as np

from gpuknn.errors import in_our_words
from gpuknn.vectors import Rows, Vectors
from gpuknn.vectors.bits import PackedBits
from gpuknn.vectors.in_memory import check_type, dlpack_words
from gpuknn.vectors.vectors import check_layout


@dataclass(frozen=True)
class GpuVectors(Vectors):
    """Rows of an array of CuPy's; a search on that GPU reads them where they lie."""

    array: Any = field(repr=False)
    in_files = False

    @property
    def gpu(self) -> int:
        """The number of the GPU that holds the array."""
        return int(self.array.device.id)

    def read(self, first: int, out: np.ndarray) -> None:
        """Copy the rows from `first` on into `out`, in the machine's memory."""
        with cp.cuda.Device(self.gpu):
            self.array[first : first + len(out)].get(out=out)


def gpu_vectors(rows: Rows, name: str, single: bool = False) -> Vectors:
    """Take rows (n, d) on a GPU, or one row (d,) if it may be `single`; nothing is copied.

    Raises InputError if they are no set of vectors, or cannot be taken as an array of CuPy's.
    """
    array = _cupy_array(rows, name)
    if single and array.ndim == 1:
        array = array[np.newaxis]
    boolean = array.dtype == np.bool_
    array = array.view(np.uint8) if boolean else array
    check_type(array.dtype, name)
    check_layout(array.shape, array.dtype, name)
    # Whatever stream wrote the rows: the search's own streams do not wait for it.
    array.device.synchronize()
    held = GpuVectors(name, None, array.shape, array.dtype, array)
    return PackedBits.of(held) if boolean else held


def _cupy_array(rows: Rows, name: str) -> Any:
    """The same memory as an array of CuPy's."""
    if isinstance(rows, cp.ndarray):
        return rows
    if not hasattr(rows, "__dlpack_device__"):
        with in_our_words(f"{name}: cannot be read on the GPU"):
            return cp.asarray(rows)
    try:
        with cp.cuda.Device(rows.__dlpack_device__()[1]):
            return cp.from_dlpack(rows)
    except Exception as error:  # each library has its own
        raise dlpack_words(rows, name, error) from error
