"""What is looked for, and the small interface through which all others drive a processor or a GPU."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from gpuknn.engine.metric import Metric
from gpuknn.engine.neighbors import Certificate, Neighbors
from gpuknn.engine.projecting import Block, Check
from gpuknn.vectors import Vectors

if TYPE_CHECKING:
    from gpuknn.engine.cpu.needed import Needed  # which loads Numba


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

    def feed_resident(self, rows: Any, first: int) -> None:
        """The same for rows that lie where the device computes: an array of NumPy's, or of CuPy's on that GPU.

        They are of the type that the search was begun with, and stay unchanged until `result` has returned.
        """

    def result(self) -> tuple[Neighbors, Certificate]:
        """The neighbours among all rows fed."""

    @property
    def seconds(self) -> dict[str, float]:
        """Where the time went so far, by stage, summed over the device's `units`; empty if the device cannot tell."""


BlockOf = Callable[[np.ndarray, Check], AbstractContextManager[Block]]
"""Makes a block of rows (m, d) for the calling thread, which lasts as long as the context."""


class Device(Protocol):
    """Where the arithmetic is done."""

    @property
    def name(self) -> str:
        """What a person calls it."""

    @property
    def kind(self) -> str:
        """The name under which rates of such devices are kept: cpu, or the GPU's own."""

    @property
    def units(self) -> int:
        """How many there are of what a rate is of: the cores of a processor; a GPU is one."""

    @property
    def resources(self) -> dict[str, int]:
        """What a task on such a device takes of its worker's resources, as Dask counts them."""

    @property
    def readers(self) -> int:
        """Threads that it takes to read rows as fast as they are used."""

    def here(self, threads: int, number: int) -> "Device":
        """Such a device on this machine, for a worker of so many threads and that number.

        A processor keeps its own threads if they are more; GPUs are counted round.  Raises InputError if there is none.
        """

    def memory(self, queries: int, k: int, components: int, itemsize: int = 8) -> int:
        """Bytes of the machine's memory that a search for so many queries takes at most, its result included.

        `itemsize`: bytes of a component of the rows.
        """

    def most_queries(self, k: int, components: int) -> int:
        """Queries that the device's own memory has room for, at least 1."""

    def kernels(self, metric: Metric, rows: Vectors, queries: Vectors, k: int) -> "list[Needed]":
        """What a search on it, and the check before, call of `cpu/kernels`, to be compiled before they begin."""

    def resident(self, rows: Vectors) -> Any:
        """The rows as `feed_resident` takes them if they lie where the device computes, in one piece; None if not."""

    def blocks(self) -> AbstractContextManager[BlockOf]:
        """What makes blocks of rows, in any thread, as long as the context lasts."""

    def begin(self, search: Search, components_as: np.dtype) -> AbstractContextManager[Scan]:
        """Start a search among rows of that type; leaving the context frees what it holds."""
