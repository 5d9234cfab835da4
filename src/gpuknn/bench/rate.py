"""Figures of how fast something is, and how one is shown."""

from dataclasses import dataclass

HOST_BUILD = "cuda-on-cpu"
"""What the devices of the host build of CuPy are called: its kernels run on the processor."""


@dataclass(frozen=True)
class Rate:
    """One figure."""

    name: str
    value: float
    unit: str
    said: str


@dataclass(frozen=True)
class Resident:
    """A search of rows that lay on the GPU already, from the queries on the host to the answer on the host."""

    rows: int
    queries: int
    components: int
    k: int
    seconds: float
    operations: float
    """Multiplications and additions a second, of the filter's product."""
    share: float
    """Of the bare product's rate in this run."""
    pairs_refined: int
    bound_used: float
    """The largest error of a score of a refined pair, as a share of what is proven."""


def si(value: float, unit: str) -> str:
    """A rate with three digits and a prefix."""
    for prefix, size in (("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= size:
            return f"{value / size:.3g} {prefix}{unit}"
    return f"{value:.3g} {unit}"
