"""Are the rows of two files the same, whatever their formats, or those of one as they were written?"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from gpuknn.progress import Listener, step
from gpuknn.vectors.checksums import first_damage, open_noted
from gpuknn.vectors.converted import Converted
from gpuknn.vectors.derived import BLOCK_BYTES
from gpuknn.vectors.ids import first_other, own_ids
from gpuknn.vectors.vectors import Vectors
from gpuknn.vectors.written import Missing


@dataclass(frozen=True, repr=False)
class RowsComparison:
    """Whether all rows are equal, bit by bit; `repr` says so in words."""

    compared: str
    """How many rows of what type, in words."""
    difference: str | None
    """In what way rows, or their ids, differ first, in words."""

    @property
    def equal(self) -> bool:
        """Nothing differs."""
        return self.difference is None

    @property
    def facts(self) -> dict[str, object]:
        """The same for programs."""
        return {"equal": self.equal, "difference": self.difference}

    def __repr__(self) -> str:
        return f"equal: {self.compared}" if self.equal else f"not equal: {self.difference}"


def compare_rows(ours: Converted, theirs: Vectors, ids: bool, told: Listener) -> RowsComparison:
    """Compare rows, and with `ids` the ids that files give them; `told` is told of the step and its events `read`."""
    after = f", after turning {ours.source.dtype} into {ours.dtype}" if ours.source.dtype != ours.dtype else ""
    after += f", scaled by {ours.scale:g}" if ours.scale is not None else ""
    difference = _first_difference(ours, theirs, ids, _telling(told, "comparing", ours))
    return RowsComparison(f"{len(ours):,} x {ours.shape[1]} {ours.dtype}{after}", difference)


def compare_with_checksums(path: str, missing: Missing, told: Listener) -> RowsComparison:
    """Compare rows with the checksums that stand beside them; raises InputError if there are none."""
    rows, notes = open_noted(path, missing)
    damaged = first_damage(rows, notes, _telling(told, "reading", rows))
    difference = None if damaged is None else f"rows {damaged.start} to {damaged.stop} are not what was written"
    return RowsComparison(f"{len(rows):,} x {rows.shape[1]} {rows.dtype}, as they were written", difference)


def _telling(told: Listener, doing: str, rows: Vectors) -> Callable[[int], None]:
    told(step(doing, len(rows), "read", row_bytes=rows.nbytes // len(rows)))
    return lambda done: told({"event": "read", "rows": done})


def _first_difference(ours: Converted, theirs: Vectors, ids: bool, checked: Callable[[int], None]) -> str | None:
    """In what way rows differ first, in words; `checked` is told how many rows have been compared."""
    if ours.shape != theirs.shape or ours.dtype != theirs.dtype:
        return " beside ".join(f"{v.shape[0]:,} x {v.shape[1]} {v.dtype}" for v in (ours, theirs))
    if ids:
        other = first_other(ours.row_ids(), own_ids(theirs.ids), len(ours))
        if other is not None:
            return f"first at row {other[0]}, which has the id {other[1]} beside {other[2]}"
    d, itemsize = ours.shape[1], ours.dtype.itemsize
    size = max(1, BLOCK_BYTES // (d * itemsize))
    for first in range(0, len(ours), size):
        a, b = ours[first : first + size], theirs[first : first + size]
        same = a.view(f"u{itemsize}") == b.view(f"u{itemsize}")
        if not same.all():
            i, j = (int(x) for x in np.argwhere(~same)[0])
            return f"first at row {first + i}, component {j}: {a[i, j].item():.9g} beside {b[i, j].item():.9g}"
        checked(first + len(a))
    return None
