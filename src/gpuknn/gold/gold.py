"""What a gold standard or a result is, whatever file it comes from."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpuknn.engine.neighbors import ARRAYS, Neighbors, same_answer
from gpuknn.errors import InputError

JOB = "job_fingerprint"
"""The attribute of a file that tells which job it answers whole: `gpuknn exact` alone writes it, and trusts it."""
NONE_UNSIGNED = 2**32 - 1
"""-1 in 32 bits without a sign: no neighbour."""


@dataclass(frozen=True, eq=False, repr=False)
class Gold:
    """The neighbours of every query, as a file gives them: `ids, dists = gold`; `len(gold)` is the number of queries.

    It is equal to another, or to `Neighbors`, if `ids`, `dists`, `own_ids` and `query_ids` are, bit by bit.  Lists
    become arrays; raises InputError if one of the four is no such array, or does not fit the others.

    Examples
    --------
    >>> import gpuknn, numpy as np
    >>> gold = gpuknn.Gold(np.array([[4, 2, 7]]), np.array([[0, 0.5, 2]]), "l2")
    >>> gold, len(gold)
    (Gold(1 queries x 3, l2, float64 distances), 1)
    >>> ids, dists = gold
    >>> ids
    array([[4, 2, 7]])
    >>> gold == gold.first(2)
    False
    """

    ids: NDArray[np.int64]
    """(nq, k) int64, counted from 0; -1 if there is no neighbour."""
    dists: NDArray[np.floating] | None = None
    """(nq, k) float32 or float64, the smallest first (under `dot` the largest); None if only ids are known."""
    distance: str | None = None
    """Which distance `dists` are, one of `distances.DISTANCES`; None if the file does not tell.  Of a file that holds
    `dot` it is `ip`."""
    own_ids: NDArray[np.int64] | None = None
    """(nq, k) int64: the ids that the database's file gives to its rows, if these are not their numbers; -1 as in
    `ids`."""
    query_ids: NDArray[np.int64] | None = None
    """(nq,) int64: the ids that the queries' file gives to them, if these are not their numbers."""
    are_rows: bool = True
    """Whether `ids` are row numbers by the format's definition; else they may be ids that the database's file gives."""
    in_order: bool = True
    """Whether line i answers the i-th query of the queries' file; else `query_ids` alone tell."""
    were_similarities: bool | None = None
    """Whether the file held similarities, the largest first; `dists` are these times -1.  None if no line tells: no
    number in it is larger than another."""
    products_negated: bool | None = True
    """If no line tells: whether inner products are stored times -1, by the format's definition; None if none tells."""
    said: Mapping[str, Any] = field(default_factory=dict)
    """What the file says of itself, in attributes or scalars."""

    def __post_init__(self) -> None:
        for name in ARRAYS:
            if name == "ids" or getattr(self, name) is not None:
                object.__setattr__(self, name, _array(getattr(self, name), name))
        for name, shape in (("dists", self.shape), ("own_ids", self.shape), ("query_ids", self.shape[:1])):
            part = getattr(self, name)
            if part is not None and part.shape != shape:
                raise InputError(f"Gold: {name} have the shape {part.shape}; the ids have the shape {self.shape}")

    @property
    def shape(self) -> tuple[int, int]:
        """Number of queries, and of neighbours for each."""
        return self.ids.shape[0], self.ids.shape[1]

    def __len__(self) -> int:
        return len(self.ids)

    def __iter__(self) -> Iterator[Any]:  # type checkers know one type for both, and the distances may be None
        """The ids, then the distances (FAISS and scikit-learn give them in the other order)."""
        return iter((self.ids, self.dists))

    def __eq__(self, other: object) -> bool:
        return same_answer(self, other) if isinstance(other, Gold | Neighbors) else NotImplemented

    def __repr__(self) -> str:
        kind = f"{self.distance}, " if self.distance else ""
        dists = "no distances" if self.dists is None else f"{self.dists.dtype} distances"
        return f"Gold({self.shape[0]:,} queries x {self.shape[1]}, {kind}{dists})"

    def queries(self, chosen: slice | np.ndarray) -> "Gold":
        """The answers to some of the queries."""
        parts = {name: getattr(self, name) for name in ARRAYS}
        return replace(self, **{name: part[chosen] for name, part in parts.items() if part is not None})

    def first(self, k: int) -> "Gold":
        """The first k neighbours of every query."""
        parts = {name: getattr(self, name) for name in ("ids", "dists", "own_ids")}
        return replace(self, **{name: part[:, :k] for name, part in parts.items() if part is not None})


def from_file(ids: np.ndarray, dists: np.ndarray | None, first_id: int, **more: Any) -> Gold:
    """A gold standard of ids counted from `first_id` and, if there are any, distances or similarities.

    Ids below the first are padding, whichever number it is: no neighbour.  Distances that never ascend and do descend
    are taken for similarities (big-ann-benchmarks keeps inner products so), and their sign is turned, unless the file
    says that they are distances.  Under `dot` they are similarities, whatever they do.
    """
    wide = _signed(ids)
    gold = Gold(np.where(wide < first_id, -1, wide - first_id), dists, **more)
    dists = gold.dists
    if dists is None:
        return gold
    if gold.distance == "dot":
        return turned(replace(gold, distance="ip"))
    steps, known = _steps(gold.ids, dists)
    falls, rises = bool(np.any(steps[known] < 0)), bool(np.any(steps[known] > 0))
    if falls and not rises and gold.distance in (None, "ip"):
        return turned(gold)
    return replace(gold, were_similarities=False if falls or rises else None)


def refuse_other_count(ids: np.ndarray, first_id: int, where: str) -> None:
    """Raise InputError if an array that counts rows from 1 has a 0 that is no padding at the end of a line."""
    before_others = (ids == 0) & (np.cumsum(ids[:, ::-1] >= first_id, axis=1)[:, ::-1] > 0)
    if first_id == 1 and before_others.any():
        i, j = (int(x) for x in np.argwhere(before_others)[0])
        raise InputError(
            f"{where}: query {i} has the id 0 at rank {j} (both counted from 0), but rows are counted from 1 there; "
            "name the array neighbors if it counts from 0"
        )


def turned(gold: Gold) -> Gold:
    """The same answer, of which the numbers are similarities: times -1."""
    assert gold.dists is not None
    return replace(gold, dists=negated(gold.dists), were_similarities=True)


def negated(dists: np.ndarray) -> np.ndarray:
    """Times -1; zero stays +0.0, as in all that gpuknn computes."""
    return 0 - dists


def unsorted_query(gold: Gold) -> int | None:
    """The first query whose distances do not ascend, or are not all numbers; None if there is none."""
    assert gold.dists is not None
    steps, known = _steps(gold.ids, gold.dists)
    wrong = np.any(known & ~(steps >= 0), axis=1) | np.any((gold.ids >= 0) & np.isnan(gold.dists), axis=1)
    return int(np.argmax(wrong)) if wrong.any() else None


def _array(values: Any, name: str) -> np.ndarray:
    """One of `ARRAYS`, from whatever NumPy takes."""
    kinds, numbers = ("fiu", "numbers") if name == "dists" else ("iu", "whole numbers")
    ndim = 1 if name == "query_ids" else 2
    try:
        array = np.asarray(values)
    except ValueError as error:  # lines of several lengths
        raise InputError(f"Gold: {name} are no array that NumPy can take ({error})") from error
    if array.dtype.kind not in kinds or array.ndim != ndim:
        shown = f"{array.dtype} {array.shape}" if array.dtype.kind != "O" else type(values).__name__
        lines = "(queries, neighbours)" if ndim == 2 else "(queries,)"
        raise InputError(f"Gold: {name} are {shown}; pass an array of {numbers}, {lines}")
    return _floats(array) if name == "dists" else _signed(array)


def _signed(ids: np.ndarray) -> np.ndarray:
    """Ids as int64, in which -1 is no id; it is the highest number of a type without a sign."""
    if ids.dtype == np.uint64 and np.any((ids > np.iinfo(np.int64).max) & (ids != np.iinfo(np.uint64).max)):
        raise InputError("an id is beyond 2^63 - 1; gpuknn keeps ids in 64 bits with a sign")
    wide = ids.astype(np.int64, copy=False)
    return np.where(wide == NONE_UNSIGNED, -1, wide) if ids.dtype.itemsize == 4 else wide


def _floats(dists: np.ndarray) -> np.ndarray:
    """Whole numbers, as of differing bits, as floats that hold them."""
    if dists.dtype.kind == "f":
        return dists
    return dists.astype(np.float32 if np.abs(dists).max(initial=0) <= 2**24 else np.float64)


def _steps(ids: np.ndarray, dists: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """From each distance to the next (nq, k - 1), and whether both are those of neighbours."""
    # A comparison, since infinity minus infinity is no step.
    before, after = dists[:, :-1], dists[:, 1:]
    steps = (after > before).astype(np.int8) - (after < before)
    return steps, (ids[:, :-1] >= 0) & (ids[:, 1:] >= 0)
