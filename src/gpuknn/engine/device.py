"""What is looked for, and the small interface through which `scan.py` drives a CPU or a GPU."""

import os
from contextlib import AbstractContextManager
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Protocol

import numpy as np

from gpuknn.engine.metric import Metric
from gpuknn.engine.neighbors import Neighbors
from gpuknn.errors import InputError, pip_install


@dataclass(frozen=True)
class Search:
    """The question: the k nearest rows of every query."""

    queries: np.ndarray
    """(nq, d) float16, float32, float64, uint8 or int8; (nq, words) uint64 for hamming."""
    k: int
    metric: Metric
    dists: np.dtype
    """float32 or float64: how distances are stored, and so what a tie is."""
    floor: np.ndarray | None = None
    """(nq,) float64 or None: distances that the k-th neighbours are known not to exceed."""
    first_id: int | None = None
    """Where the queries are rows of the database: the first one's id.  A row is then no neighbour of itself."""


@dataclass(frozen=True)
class Certificate:
    """What the proof rested on: how pairs were filtered and how close the bound was to being needed."""

    method: str
    bound: float
    """The largest proven error of a filter score, in units of |q||x| (`bound.py`)."""
    pairs_refined: int
    """(query, row) pairs whose float64 distance was computed."""
    smallest_margin: float
    """The smallest share of the proven error that was left unused by a refined pair; 1 where none was needed."""

    def __add__(self, other: "Certificate") -> "Certificate":
        return Certificate(
            ", ".join(sorted({*self.method.split(", "), *other.method.split(", ")})),
            max(self.bound, other.bound),
            self.pairs_refined + other.pairs_refined,
            min(self.smallest_margin, other.smallest_margin),
        )


class Scan(Protocol):
    """A search under way on a device: the exact answer for the rows fed so far."""

    def epochs(self, extent: range) -> list[range]:
        """The runs of rows, in order, that `feed` is to be given one by one."""

    def buffer(self, number: int) -> np.ndarray:
        """Where the rows of that run are to be read to, (as many as the longest has, d).

        Waits until it is free: called before `feed` of the run before returns, and not earlier than that of the one
        before that.
        """

    def feed(self, rows: np.ndarray, first: int) -> None:
        """Take in rows (m, d), which lie in the run's buffer and the ids of which begin at `first`."""

    def result(self) -> tuple[Neighbors, Certificate]:
        """The neighbours among all rows fed."""


class Device(Protocol):
    """Where the arithmetic is done."""

    @property
    def name(self) -> str:
        """What a person calls it."""

    @property
    def readers(self) -> int:
        """Threads that it takes to read rows as fast as they are used."""

    def memory(self, queries: int, k: int, components: int, itemsize: int = 8) -> int:
        """Bytes of the machine's memory that a search for so many queries takes at most, its result included.

        `itemsize`: bytes of a component of the rows.
        """

    def most_queries(self, k: int, components: int) -> int:
        """Queries that the device's own memory has room for, at least 1."""

    def begin(self, search: Search, components_as: np.dtype) -> AbstractContextManager[Scan]:
        """Start a search among rows of that type; leaving the context frees what it holds."""


def open_device(name: str = "auto", threads: int | None = None, number: int = 0) -> Device:
    """The device called `cpu` or `cuda`, or `auto`: a GPU where there is one.

    `threads` bounds the cores that the CPU uses; `number` is the GPU's among those that this process sees.  Raises
    InputError where there is no such device on this machine.
    """
    if threads is not None and threads < 1:
        raise InputError(f"threads = {threads}: must be at least 1")
    if name not in ("auto", "cpu", "cuda"):
        raise InputError(f"--device {name}: there are auto, cpu and cuda")
    if name == "cuda" or (name == "auto" and count_gpus()):
        if not find_spec("cupy"):
            raise no_cupy()
        try:
            from gpuknn.engine.cuda.device import open_cuda
        except ImportError as error:  # CuPy looks for cuBLAS as soon as it is mentioned
            missing = f"CuPy lacks CUDA's libraries ({error})"
            raise InputError(
                f"--device cuda: {missing}; use --device cpu, or install them, {install_cupy()}"
            ) from error
        return open_cuda(number)
    from gpuknn.engine.cpu.device import CpuDevice

    return CpuDevice(threads or usable_cores())


def count_gpus() -> int:
    """GPUs that CuPy sees; 0 where it is not installed."""
    if not find_spec("cupy"):
        return 0
    import cupy

    return int(cupy.cuda.runtime.getDeviceCount()) if cupy.cuda.is_available() else 0


def usable_cores() -> int:
    """Cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def no_cupy() -> InputError:
    """That a GPU is asked for and CuPy is not installed."""
    return InputError(f"--device cuda: CuPy is not installed; use --device cpu, or install it, {install_cupy()}")


def install_cupy() -> str:
    """How, for either version of CUDA."""
    return f"for a driver of CUDA 12: {pip_install('cuda12')}; for one of CUDA 13: {pip_install('cuda13')}"
