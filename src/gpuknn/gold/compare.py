"""Are two gold standards, or the rows of two files, the same, and if not, in what way?"""

import os
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from gpuknn.errors import InputError, option, refuse_given
from gpuknn.gold.answers import Answer, as_gold, holds_answer, named
from gpuknn.gold.distances import alike
from gpuknn.gold.gold import Gold
from gpuknn.gold.match import ROWS, matched
from gpuknn.gold.recall import one_kind
from gpuknn.gold.rounding import cut_gold
from gpuknn.progress import Listener, listening
from gpuknn.vectors import Rows, as_vectors
from gpuknn.vectors.compare import RowsComparison, compare_rows, compare_with_checksums
from gpuknn.vectors.converted import Converted, rows_named, rows_said, type_named
from gpuknn.vectors.written import Missing

ROUNDING = 1e-6
"""Distances nearer than this, relative to the larger of 1 and the distance, differ by rounding."""


@dataclass(frozen=True, repr=False)
class Comparison:
    """Entries of two answers, side by side: of the first k neighbours, if one has more; `repr` says it in words."""

    a: Gold
    """As they were compared: its lines and ids are brought beside those of `b`."""
    b: Gold
    rows_by: str
    """What told that a row of the one is a row of the other, in words."""
    ids: int = 0
    """Other ids, if there are no distances to tell why."""
    ties: int = 0
    """Another id at a bit-equal distance."""
    rounding: int = 0
    """Distances that differ by rounding, with or without another id."""
    real: int = 0
    """Distances that differ by more."""
    first: tuple[int, int] | None = None
    """Query and rank of the worst kind of difference, from 0."""

    @property
    def equal(self) -> bool:
        """Nothing differs."""
        return self.first is None

    @property
    def widths(self) -> tuple[int, int]:
        """Neighbours of each query."""
        return self.a.shape[1], self.b.shape[1]

    @property
    def entries(self) -> int:
        """How many were compared."""
        return len(self.a) * min(self.widths)

    @property
    def ids_only(self) -> bool:
        """Whether one of the two has no distances."""
        return self.a.dists is None or self.b.dists is None

    @property
    def facts(self) -> dict[str, Any]:
        """The same for programs."""
        names = ("widths", "entries", "ids_only", "ids", "ties", "rounding", "real", "first", "equal", "rows_by")
        return {name: getattr(self, name) for name in names}

    def __repr__(self) -> str:
        of = "" if len({*self.widths}) == 1 else f" of the first {min(self.widths)} of {max(self.widths)} neighbours"
        by = "" if self.rows_by == ROWS else f"; rows are told by {self.rows_by}"
        if self.equal:
            what = "ids; one of the two has no distances" if self.ids_only else "ids and distances"
            return f"equal{of}: {self.entries:,} {what}{by}"
        if self.ids_only:
            what = f"{self.ids:,} are other ids; one of the two has no distances"
        else:
            what = (
                f"{self.ties:,} are other ids at the same distance, {self.rounding:,} differ by rounding, "
                f"{self.real:,} by more"
            )
        return f"not equal{of}: of {self.entries:,} entries {what}{by}"

    @property
    def remarks(self) -> list[str]:
        """More about a difference, in sentences: the first, and what may be its reason."""
        if self.first is None:
            return []
        i, j = self.first
        a, b = (_entry(gold, i, j, self.rows_by == ROWS) for gold in (self.a, self.b))
        lines = [f"first: query {i}, rank {j} (both counted from 0): {a}, {b}"]
        types = [gold.dists.dtype for gold in (self.a, self.b) if gold.dists is not None]
        if self.rounding and len(set(types)) == 2:
            rounds = f"{option('dtype', str(types[1]))} compares after rounding A's"
            lines.append(f"the distances are {types[0]} and {types[1]}; {rounds}")
        if self.real and one_kind(self.a, self.b) is False:
            lines.append("distances of the same neighbours differ: the two may be of two kinds, as roots and squares")
        return lines


def compare(
    a: Answer | Rows,
    b: Answer | Rows | None = None,
    *,
    rows: str | range | None = None,
    dtype: DTypeLike | None = None,
    normalize: bool = False,
    scale: float | None = None,
    round: bool = False,
    ignore_ids: bool = False,
    missing: Missing = "refuse",
    progress: bool | Listener = False,
) -> Comparison | RowsComparison:
    """Compare two gold standards or two sets of vectors, of any formats, bit by bit.

    Parameters
    ----------
    a, b
        Gold standards and results, each as `recall` takes them; or vectors, each as `exact_knn` takes them.  An array
        of int32, int64 or uint32 holds ids.  Without b, the file a is checked by the checksums that gpuknn has written
        to it.
    rows
        `range(A, B)` or "A:B": the rows of a to compare, counted from 0; of a gold standard, queries.
    dtype, normalize, scale, round
        What a becomes first, as `convert` would write it: another type (by default that of b's vectors), rows of unit
        length, components times a factor, whole numbers.  A gold standard's distances may get another type only.
    ignore_ids
        Leave out the ids that files give their rows.
    missing
        What becomes of rows that nobody wrote: refuse, or zeros.
    progress
        True for a bar in a terminal or a notebook while vectors are read, or a function that is told what happens, as
        mappings.

    Returns
    -------
    Comparison or RowsComparison
        `equal`, and a `repr` in words.  Of gold standards the first neighbours of each query are compared if one has
        more of them, and only the ids if one has no distances; `ties`, `rounding` and `real` count the differences.  Of
        vectors `difference` says what differs first.

    Raises
    ------
    InputError
        One of the two cannot be read or is of another kind, they answer other queries, or an option has no meaning.

    Examples
    --------
    >>> import gpuknn, numpy as np
    >>> gold = gpuknn.Gold(np.array([[4, 2, 7], [1, 0, 5]]), np.array([[0, 1.5, 1.5], [0, 0.5, 2]]))
    >>> other = gpuknn.Gold(np.array([[4, 7, 2], [1, 0, 5]]), np.array([[0, 1.5, 1.5], [0, 0.5, 2]]))
    >>> gpuknn.compare(gold, gold)
    equal: 6 ids and distances
    >>> found = gpuknn.compare(gold, other)
    >>> found
    not equal: of 6 entries 2 are other ids at the same distance, 0 differ by rounding, 0 by more
    >>> found.equal, found.ties, found.first
    (False, 2, (0, 1))
    >>> found.remarks
    ['first: query 0, rank 1 (both counted from 0): row 3 (counted from 1) at 1.5, row 8 (counted from 1) at 1.5']
    >>> gpuknn.compare(np.eye(3), np.eye(3, dtype=np.float32))
    equal: 3 x 3 float32, after turning float64 into float32
    """
    kind, extent = type_named(dtype), rows_said(rows)
    vectors_only: dict[str, object] = {"ignore_ids": ignore_ids, "normalize": normalize, "scale": scale, "round": round}
    where = named(a, "a"), named(b, "b")
    if b is None:
        refuse_given({"rows": extent, "dtype": kind, **vectors_only}, f"there is nothing to compare {where[0]} with")
        if not isinstance(a, str | os.PathLike):
            raise InputError("there is nothing to compare a with; name b, too: only files hold checksums")
        with listening(progress) as told:
            return compare_with_checksums(where[0], missing, told)
    both = tuple(zip((a, b), where, strict=True))
    gold = [holds_answer(what, name) for what, name in both]
    if any(gold) or all(holds_answer(what, name, beside_rows=True) for what, name in both):
        refuse_given(vectors_only, f"{where[1] if gold == [False, True] else where[0]} is a gold standard, not vectors")
        cut, _ = cut_gold(as_gold(a, where[0]), extent, kind)
        return _compare_answers(cut, as_gold(b, where[1]), where)
    ours, theirs = as_vectors(a, where[0], missing), as_vectors(b, where[1], missing)
    some = rows_named(extent, len(ours))
    changed = Converted.of(ours, some, np.dtype(kind or theirs.dtype), normalize, scale, round)
    with listening(progress) as told:
        return compare_rows(changed, theirs, not ignore_ids, told)


def _compare_answers(a: Gold, b: Gold, where: tuple[str, str]) -> Comparison:
    pair = matched(*alike(a, b, where), where)
    k = min(pair.a.shape[1], pair.b.shape[1])
    a, b = pair.a.first(k), pair.b.first(k)
    other = a.ids != b.ids
    if a.dists is None or b.dists is None:
        return Comparison(pair.a, pair.b, pair.by, ids=int(other.sum()), first=_first(other))
    x, y = a.dists.astype(np.float64), b.dists.astype(np.float64)
    none = (a.ids < 0) & (b.ids < 0)  # what stands beside no neighbour is no distance
    apart = (x != y) & ~none
    # NaN is unequal to itself and no rounding of anything: a real difference.
    near = np.isfinite(x) & np.isfinite(y)
    largest = np.maximum(1.0, np.maximum(np.abs(x[near]), np.abs(y[near])))
    near[near] = np.abs(x[near] - y[near]) <= ROUNDING * largest
    ties, rounding, real = ~apart & other, apart & near, apart & ~near
    worst = next((kind for kind in (real, rounding, ties) if kind.any()), np.zeros_like(other))
    counts = {"ties": int(ties.sum()), "rounding": int(rounding.sum()), "real": int(real.sum())}
    return Comparison(pair.a, pair.b, pair.by, **counts, first=_first(worst))


def _first(differ: np.ndarray) -> tuple[int, int] | None:
    found = np.argwhere(differ)
    return (int(found[0, 0]), int(found[0, 1])) if len(found) else None


def _entry(gold: Gold, i: int, j: int, rows: bool) -> str:
    """A neighbour in words, its row counted as in HDF5 files."""
    if gold.ids[i, j] < 0:
        return "none"
    neighbor = f"row {gold.ids[i, j] + 1} (counted from 1)" if rows else f"id {gold.ids[i, j]}"
    return neighbor if gold.dists is None else f"{neighbor} at {gold.dists[i, j]:.9g}"
