"""Rows as a search takes them: wherever `as_vectors` finds them, on a GPU, and as the metric understands them."""

from importlib.util import find_spec

from gpuknn.engine.metric import Metric
from gpuknn.errors import InputError, install_cupy
from gpuknn.vectors import Rows, Vectors, as_vectors
from gpuknn.vectors.bits import as_sketches
from gpuknn.vectors.in_memory import on_gpu
from gpuknn.vectors.written import Missing


def open_rows(rows: Rows, name: str, missing: Missing = "refuse", single: bool = False) -> Vectors:
    """Rows (n, d) from wherever they are, as `as_vectors` takes them; those on a GPU stay there.

    Raises InputError if they are no set of vectors, or on a GPU without CuPy.
    """
    if isinstance(rows, Vectors) or not on_gpu(rows, name):
        return as_vectors(rows, name, missing, single)
    if not find_spec("cupy"):
        raise InputError(
            f"{name}: lies on a GPU, where CuPy is needed to read it; copy it to the processor's memory, e.g. "
            f"rows.cpu(), or install CuPy, {install_cupy()}"
        )
    from gpuknn.engine.cuda.resident import gpu_vectors

    return gpu_vectors(rows, name, single)


def under(metric: Metric, rows: Vectors) -> Vectors:
    """The rows as that metric understands them: bytes are numbers, but under hamming eight bits of a sketch."""
    return as_sketches(rows) if metric is Metric.HAMMING else rows
