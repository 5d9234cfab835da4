"""Exact sums over rows: how many, of their components, and of products of components."""

import threading
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from gpuknn.engine.projecting import GRID

UNIT = 2.0**48
"""Products are multiples of 1 / UNIT, below 2^53 / UNIT: as whole numbers, below 2^53."""
LOW_BITS = 40
FLUSH_EVERY = 256
"""Sums of products, each below 2^53, that 64 bits hold beside 2^LOW_BITS."""


@dataclass(eq=False)
class ExactSums:
    """Sums of v = x^ - shift over rows, as whole numbers; any thread may add to them."""

    shift: np.ndarray
    """(d,) float64: multiples of 1 / GRID."""
    count: int
    sums: np.ndarray
    """(d,) int64: of v GRID."""
    high: np.ndarray
    """(d, d) int64: of v v' UNIT, without the LOW_BITS lowest bits."""
    low: np.ndarray
    """(d, d) int64: these bits, and what was added since `high` was made."""
    _added: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @classmethod
    def none(cls, shift: np.ndarray) -> "ExactSums":
        """Those of no rows."""
        d = len(shift)
        return cls(shift, 0, np.zeros(d, np.int64), np.zeros((d, d), np.int64), np.zeros((d, d), np.int64))

    def add(self, count: int, parts: list[tuple[np.ndarray, np.ndarray]]) -> None:
        """Add those of a block of `count` rows, as `Block.moments` gives them."""
        whole = [((sums * GRID).astype(np.int64), (products * UNIT).astype(np.int64)) for sums, products in parts]
        with self._lock:
            self.count += count
            for sums, products in whole:
                self.sums += sums
                self.low += products
                self._added += 1
                if self._added == FLUSH_EVERY:
                    self._flush()

    def merge(self, other: "ExactSums") -> None:
        """Add those of other rows about the same shift."""
        with self._lock:
            self.count += other.count
            self.sums += other.sums
            self.high += other.high
            self.low += other.low
            self._flush()

    def covariance(self) -> np.ndarray:
        """(d, d) float64: each number rounded once, so that neither shift nor order shows; of at least two rows."""
        self._flush()
        sums, n = self.sums.astype(object), self.count
        found = np.empty(self.high.shape)
        for i, (high, low) in enumerate(zip(self.high, self.low, strict=True)):  # Python's numbers are large
            scatter = n * (high.astype(object) * 2**LOW_BITS + low.astype(object)) - sums[i] * sums
            found[i] = scatter / (n * (n - 1) * int(UNIT))
        return found

    def mean(self) -> np.ndarray:
        """(d,) float64, each number rounded once."""
        whole = (self.shift * GRID).astype(np.int64).astype(object) * self.count + self.sums.astype(object)
        return np.asarray(whole / (self.count * int(GRID)), np.float64)

    def write(self, path: Path) -> None:
        """Bring them to disk."""
        self._flush()
        with open(path, "wb") as file:
            for array in (np.array([self.count]), self.sums, self.high, self.low):
                file.write(array.astype("<i8").tobytes())

    @classmethod
    def read(cls, path: Path, shift: np.ndarray) -> "ExactSums":
        """What was written; raises ValueError if it is not as long as it must be."""
        d = len(shift)
        content = np.fromfile(path, "<i8")
        if len(content) != 1 + d + 2 * d * d:
            raise ValueError(f"{path}: holds sums of other rows")
        count, sums, high, low = np.split(content.astype(np.int64), np.cumsum([1, d, d * d]))
        return cls(shift, int(count[0]), sums, high.reshape(d, d), low.reshape(d, d))

    def _flush(self) -> None:
        self.high += self.low >> LOW_BITS
        self.low &= 2**LOW_BITS - 1
        self._added = 0


def partial_bytes(d: int) -> int:
    """Bytes of them on disk."""
    return 8 * (1 + d + 2 * d * d)
