"""What is looked for, and the small interface through which `scan.py` drives a CPU or a GPU."""

import os
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from gpuknn.errors import InputError
from gpuknn.exact.metric import Metric
from gpuknn.exact.neighbors import Neighbors


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
            self.method if self.method == other.method else f"{self.method}, {other.method}",
            max(self.bound, other.bound),
            self.pairs_refined + other.pairs_refined,
            min(self.smallest_margin, other.smallest_margin),
        )


class Scan(Protocol):
    """A search under way on a device: the exact answer for the rows fed so far."""

    def feed(self, rows: np.ndarray, first: int) -> None:
        """Take in rows (m, d), the ids of which begin at `first`; ids ascend from call to call.

        The rows may be overwritten once the call returns.
        """

    def result(self) -> tuple[Neighbors, Certificate]:
        """The neighbours among all rows fed."""


class Device(Protocol):
    """Where the arithmetic is done."""

    @property
    def name(self) -> str:
        """What a person calls it."""

    def epochs(self, extent: range, k: int, components: int) -> list[range]:
        """The runs of rows, in order, that `feed` is to be given one by one."""

    def memory(self, queries: int, k: int, components: int) -> int:
        """Bytes that a search for so many queries takes at most, its result included."""

    def begin(self, search: Search) -> AbstractContextManager[Scan]:
        """Start a search; leaving the context frees what it holds."""


def open_device(name: str = "auto", threads: int | None = None) -> Device:
    """The device called `auto`, `cpu` or `cuda`; `threads` bounds the cores that the CPU uses.

    Raises InputError where there is no such device on this machine.
    """
    if threads is not None and threads < 1:
        raise InputError(f"threads = {threads}: must be at least 1")
    if name == "cuda":
        raise InputError("--device cuda: this version of gpuknn computes on the CPU only; use --device cpu")
    if name not in ("auto", "cpu"):
        raise InputError(f"--device {name}: there are auto, cpu and cuda")
    from gpuknn.exact.cpu import CpuDevice

    return CpuDevice(threads or usable_cores())


def usable_cores() -> int:
    """Cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
