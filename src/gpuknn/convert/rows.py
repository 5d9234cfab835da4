"""What becomes of rows on their way: a range of them, another type, unit length."""

from dataclasses import dataclass, replace

import numpy as np

from gpuknn.errors import InputError
from gpuknn.vectors import Vectors


@dataclass(frozen=True)
class Converted(Vectors):
    """Rows of another `Vectors`, as they will be written."""

    source: Vectors
    first: int
    """The row of the source that becomes row 0."""
    normalize: bool

    @classmethod
    def of(cls, source: Vectors, rows: range, dtype: np.dtype, normalize: bool) -> "Converted":
        """The given rows of `source` as `dtype`, divided by their length where `normalize` is set.

        Raises InputError where that has no meaning.
        """
        if source.dtype == np.uint64 and (dtype != source.dtype or normalize):
            raise InputError(f"{source.where}: holds sketches (uint64); they have neither another type nor a length")
        if dtype == np.uint64 != source.dtype:
            raise InputError(f"{source.where}: holds {source.dtype}, which --dtype uint64 does not turn into sketches")
        if normalize and dtype.kind != "f":
            raise InputError(f"{source.where}: {dtype} cannot hold rows of unit length; choose --dtype float32")
        shape = len(rows), source.shape[1]
        return cls(source.path, source.key, shape, dtype, source, rows.start, normalize)

    @property
    def bits(self) -> int | None:
        """Those of the source."""
        return self.source.bits

    def absolute(self) -> "Converted":
        """The same rows, for a process with another working folder."""
        return replace(self, source=self.source.absolute())

    def read(self, first: int, out: np.ndarray) -> None:
        """Fill `out` with the converted rows from `first` on; raises InputError where one cannot be converted."""
        self.take(first, out)

    def take(self, first: int, out: np.ndarray) -> float:
        """The same; the largest error of a component that rounding has made."""
        start = self.first + first
        if self.source.dtype == self.dtype and not self.normalize:
            self.source.read(start, out)
            return 0.0
        rows = self.source[start : start + len(out)]
        if self.normalize:
            rows = self._unit(rows.astype(np.float64), start)
        with np.errstate(over="ignore", invalid="ignore"):
            out[...] = rows if self.dtype.kind == "f" or rows.dtype.kind != "f" else np.rint(rows)
            wide = np.result_type(rows.dtype, self.dtype, np.float32)
            error = np.abs(np.subtract(rows, out, dtype=wide))
        return self._checked(rows, error, start)

    def _checked(self, rows: np.ndarray, error: np.ndarray, start: int) -> float:
        """The largest error; raises InputError where a value is not rounded but lost.

        What an integer cannot hold turns around at its ends and is wrong by more than a half.  Infinity and NaN have no
        error that is a number; a float holds them, and what was finite must not become one.
        """
        worst = float(error.max())
        if worst <= 0.5 if self.dtype.kind != "f" else np.isfinite(worst):
            return worst
        lost = ~(error <= 0.5) if self.dtype.kind != "f" else ~np.isfinite(error) & np.isfinite(rows)
        if lost.any():
            i, j = (int(x) for x in np.argwhere(lost)[0])
            raise InputError(f"{self.where}: row {start + i} holds {rows[i, j]:g}, which {self.dtype} cannot hold")
        return float(error[np.isfinite(error)].max(initial=0))

    def _unit(self, rows: np.ndarray, start: int) -> np.ndarray:
        lengths = np.sqrt(np.einsum("ij,ij->i", rows, rows))
        wrong = np.flatnonzero(~((lengths > 0) & np.isfinite(lengths)))
        if len(wrong):
            what = "is zero" if lengths[wrong[0]] == 0 else "is not finite"
            raise InputError(f"{self.where}: row {start + wrong[0]} {what} and cannot be given unit length")
        rows /= lengths[:, None]
        return rows
