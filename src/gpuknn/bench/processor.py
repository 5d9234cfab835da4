"""What the processor is, and how fast it multiplies."""

import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import numpy as np
import threadpoolctl

from gpuknn.engine.choose import usable_cores
from gpuknn.engine.cpu.device import ONE_BLAS_THREAD
from gpuknn.vectors import Vectors

PRODUCT_ROWS = 1024
"""Rows of one product of the bare multiplication: what BLAS does best with."""
SAMPLE_ROWS = 8 * PRODUCT_ROWS
"""Rows that the bare multiplication goes over again and again."""


def processor() -> str:
    """The processor's name, if the system tells."""
    try:
        with open("/proc/cpuinfo") as file:
            return next(line.partition(":")[2].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def blas() -> str:
    """The libraries that NumPy's products may go to, and for which processor they take this one."""
    libraries = [lib for lib in threadpoolctl.threadpool_info() if lib["user_api"] == "blas"]
    names = {f"{lib['internal_api']} {lib['version']} for {lib.get('architecture', 'any')}" for lib in libraries}
    return ", ".join(sorted(names)) or "unknown to threadpoolctl"


def product_rate(rows: int = 4096) -> float:
    """Multiplications and additions a second of a float32 product on all cores, the best of three."""
    rng = np.random.default_rng(0)
    x, q = (rng.random((n, 768), np.float32) for n in (rows, 1024))
    return 2.0 * x.size * len(q) / min(bare_product(x, q, rows, usable_cores()) for _ in range(3))


def bare_product(rows: Vectors | np.ndarray, queries: np.ndarray, n: int, threads: int) -> float:
    """Seconds of float32 products of all queries with n rows, which are converted already, and nothing else."""
    wide = rows[: min(n, SAMPLE_ROWS)].astype(np.float32)
    asked = queries.astype(np.float32)
    out = np.empty((len(asked), PRODUCT_ROWS), np.float32)
    done = 0
    with _blas_threads(threads):
        started = time.perf_counter()
        while done < n:
            start = done % len(wide)
            tile = wide[start : start + min(PRODUCT_ROWS, n - done, len(wide) - start)]
            np.matmul(asked, tile.T, out=out[:, : len(tile)])
            done += len(tile)
        return time.perf_counter() - started


@contextmanager
def _blas_threads(threads: int) -> Iterator[None]:
    """So many, unless a search is under way in this process, which wants one for each of its own threads."""
    with ONE_BLAS_THREAD.lock:
        wanted = ONE_BLAS_THREAD.wanted
        with nullcontext() if wanted else threadpoolctl.threadpool_limits(threads, user_api="blas"):
            yield
