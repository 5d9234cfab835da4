"""What becomes of rows on their way: a range of them, unit length, a factor, another type."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from gpuknn.errors import InputError, check_known, option
from gpuknn.vectors.derived import Derived
from gpuknn.vectors.vectors import ROW_TYPES, Vectors

SMALL_SQUARES = 2.0**-960
"""Below such a sum of squares what the smallest of them have lost would show."""


@dataclass(frozen=True)
class Converted(Derived):
    """Rows of another `Vectors`, as they will be written."""

    normalize: bool
    scale: float | None = None
    """What each component is multiplied by, after its row was normalised and before it is rounded."""
    round: bool = False
    """Whether an integer type takes the nearest whole numbers; else it takes whole numbers only."""

    @classmethod
    def of(
        cls, source: Vectors, rows: range, dtype: np.dtype, normalize: bool, scale: float | None, round: bool
    ) -> "Converted":
        """The given rows of `source` as `dtype`; the options are those of the fields.

        Raises InputError where that has no meaning.
        """
        if source.dtype == np.uint64 and (dtype != source.dtype or normalize or scale is not None):
            raise InputError(
                f"{source.where}: holds sketches (uint64); a sketch has no length, no {option('scale')} "
                "and no other type"
            )
        if dtype == np.uint64 != source.dtype:
            raise InputError(
                f"{source.where}: holds {source.dtype}, which {option('dtype', 'uint64')} does not turn into sketches"
            )
        if round and (dtype.kind == "f" or dtype == np.uint64):
            raise InputError(f"{option('round', True)}: {dtype} needs no rounding to whole numbers; leave it out")
        if scale is not None and not 0 < scale < math.inf:
            raise InputError(f"{option('scale', f'{scale:g}', f'scale={scale:g}')}: must be a number above 0")
        if normalize and dtype.kind != "f" and scale is None:
            raise InputError(
                f"{source.where}: {dtype} cannot hold rows of unit length; choose {option('dtype', 'float32')}, "
                f"or add {option('scale', 127)}"
            )
        shape = len(rows), source.shape[1]
        how = rows.start, normalize, scale, round
        return cls(source.path, source.key, shape, dtype, source, *how, missing=source.missing)

    @property
    def bits(self) -> int | None:
        """Those of the source."""
        return self.source.bits

    @property
    def said(self) -> dict[str, Any]:
        """Which rows, and what was done to them."""
        return {
            "rows": f"{self.first}:{self.first + len(self)}",
            "normalized": self.normalize,
            "scaled_by": 1.0 if self.scale is None else self.scale,
            "rounded_to_whole_numbers": self.round,
        }

    def take(self, first: int, out: np.ndarray) -> float:
        """Fill `out`; the largest error of a component that rounding has made."""
        start = self.first + first
        if self.source.dtype == self.dtype and not self.normalize and self.scale is None:
            self.source.read(start, out)
            return 0.0
        stored = self.source[start : start + len(out)]
        with np.errstate(over="ignore", under="ignore", invalid="ignore"):
            rows = self._changed(stored, start)
            out[...] = rows if self.dtype.kind == "f" or rows.dtype.kind != "f" else np.rint(rows)
            wide = np.result_type(rows.dtype, self.dtype, np.float32)
            error = np.abs(np.subtract(rows, out, dtype=wide))
        worst = self._checked(stored, rows, error, start)
        if worst or rows is not stored:
            self._refuse_vanished(stored, out, start)
        return worst

    def _changed(self, stored: np.ndarray, start: int) -> np.ndarray:
        """What is to be rounded to the type that is written."""
        if not self.normalize and self.scale is None:
            return stored
        rows = stored.astype(np.float64)
        if self.normalize:
            self._give_unit_length(rows, start)
        if self.scale is not None:
            rows *= self.scale
        return rows

    def _give_unit_length(self, rows: np.ndarray, start: int) -> None:
        """Divide each row (float64) by its length; a length whose square is no float64 is found all the same."""
        squares = np.einsum("ij,ij->i", rows, rows)
        for i in np.flatnonzero(~((squares >= SMALL_SQUARES) & np.isfinite(squares))):
            largest = np.abs(rows[i]).max()
            if largest == 0 or not np.isfinite(largest):
                what = "is zero" if largest == 0 else "is not finite"
                raise InputError(f"{self._row(start + int(i))} {what} and cannot be given unit length")
            rows[i] = np.ldexp(rows[i], -int(np.frexp(largest)[1]))
            squares[i] = np.einsum("j,j->", rows[i], rows[i])
        rows /= np.sqrt(squares)[:, None]

    def _checked(self, stored: np.ndarray, rows: np.ndarray, error: np.ndarray, start: int) -> float:
        """The largest error; raises InputError where a value is not rounded but lost.

        What an integer cannot hold turns around at its ends and is wrong by more than a half.  Infinity and NaN have no
        error that is a number; a float holds them, and what was finite must not become one.
        """
        worst = float(error.max())
        if self.dtype.kind == "f":
            if np.isfinite(worst):
                return worst
            lost = ~np.isfinite(error) & np.isfinite(stored)
        else:
            most = 0.5 if self.round else 0.0
            if worst <= most:
                return worst
            lost = ~(error <= most)
        if lost.any():
            i, j = (int(x) for x in np.argwhere(lost)[0])
            holds = "holds" if rows is stored else "comes to hold"
            value = float(rows[i, j])
            raise InputError(
                f"{self._row(start + i)} {holds} {value:g}, which {self.dtype} cannot hold{self._remedy(value)}"
            )
        return float(error[np.isfinite(error)].max(initial=0))

    def _remedy(self, value: float) -> str:
        """What would make a value fit that was refused.

        Names no option: a worker cannot know in which language its client was asked.
        """
        if not np.isfinite(value):
            return ""
        if self.dtype.kind != "f":
            held = np.iinfo(self.dtype)
            if held.min <= np.rint(value) <= held.max:
                return "; round to whole numbers, or scale the rows before"
            if held.min == 0 > value:
                return "; int8 holds negative numbers"
        return "; scale the rows by a number that is small enough"

    def _refuse_vanished(self, stored: np.ndarray, out: np.ndarray, start: int) -> None:
        """Raise InputError where a row was not zero and has become so."""
        left = np.flatnonzero(out[:, 0] == 0)
        if not len(left):
            return
        left = left[~out[left, :16].any(axis=1)]  # of most rows a few components tell
        left = left[stored[left].any(axis=1)]
        left = left[~out[left].any(axis=1)]
        if len(left):
            raise InputError(
                f"{self._row(start + int(left[0]))} is not zero and would become zero in {self.dtype}; "
                "scale the rows by a number that is large enough"
            )

    def _row(self, number: int) -> str:
        where, row = self.source.locate(number) if len(self.source.files) > 1 else (self.where, number)
        return f"{where}: row {row} (counted from 0)"


def type_named(dtype: DTypeLike | None) -> str | None:
    """The name of a type of components; raises InputError if vectors have no such type."""
    if dtype is None:
        return None
    try:
        name = np.dtype(dtype).name
    except TypeError:
        name = str(dtype)
    check_known("dtype", name, ROW_TYPES)
    return name


def rows_said(rows: str | range | None) -> str | None:
    """A range of rows as `A:B`; raises InputError if it has a step."""
    if rows is None or isinstance(rows, str):
        return rows
    if not isinstance(rows, range):
        raise InputError(f"{option('rows', rows)}: must be range(A, B), or A:B as text")
    if rows.step != 1:
        raise InputError(f"{option('rows', rows)}: must have a step of 1")
    return f"{rows.start}:{rows.stop}"


def rows_named(words: str | None, length: int) -> range:
    """The rows that `A:B` means, all if there are no words; raises InputError if it means none of so many rows."""
    if words is None:
        return range(length)
    first, colon, stop = words.partition(":")
    try:
        found = range(int(first or 0), int(stop or length))
    except ValueError:
        found = range(0)
    if not colon or not len(found) or found.start < 0 or found.stop > length:
        raise InputError(f"{option('rows', words)}: expected A:B with 0 <= A < B <= {length}")
    return found
