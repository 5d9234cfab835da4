"""A result evaluated against a gold standard: recall at several ranks, and what a reader of the figures must know."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from numbers import Real
from typing import Any

from gpuknn.errors import InputError, check_known, in_python, option
from gpuknn.gold.answers import Answer, as_gold, named
from gpuknn.gold.distances import DISTS_AS, METRIC_OF, asked_distance
from gpuknn.gold.gold import Gold
from gpuknn.gold.match import ROWS, Matched, matched
from gpuknn.gold.recall import EPSILON, WHERE, Recall, one_kind, recall_at


@dataclass(frozen=True, repr=False)
class Evaluation:
    """Recall at several ranks: `evaluation[10].by_ids`, or `for recall in evaluation`; its `repr` is a table."""

    recalls: tuple[Recall, ...]
    """At each k that was asked for."""
    rows_by: str
    """What told that a row of the one is a row of the other, in words."""
    result: Gold
    """As it was compared: its lines and ids are brought beside those of `gold`."""
    gold: Gold
    dists_as: str | None = None
    """The distances that were compared, if some were asked for; else those that ann-benchmarks counts by."""

    def __getitem__(self, k: int) -> Recall:
        """Recall at k."""
        return {recall.k: recall for recall in self.recalls}[k]

    def __iter__(self) -> Iterator[Recall]:
        return iter(self.recalls)

    def __len__(self) -> int:
        return len(self.recalls)

    def __repr__(self) -> str:
        lines = [] if self.rows_by == ROWS else [f"rows are told by {self.rows_by}"]
        return "\n".join([*lines, *(f"recall@{r.k}: {self._figures(r)}{self._remarks(r)}" for r in self)])

    def _figures(self, r: Recall) -> str:
        figures = f"{r.by_ids:.6f} by ids, {r.tie_aware:.6f} tie-aware"
        if r.by_distances is not None:
            which = f" ({self.dists_as})" if self.dists_as else ""
            figures += f", {r.by_distances:.6f} by distances{which} to within {r.epsilon:g}"
        return figures

    def _remarks(self, r: Recall) -> str:
        """What a reader of the figures must know."""
        result, gold, remarks = self.result, self.gold, []
        if r.by_distances is None and result.dists is not None and gold.dists is not None:
            apart = one_kind(result, gold) is False
            why = "distances are of two kinds" if apart else "distances may be of two kinds"
            remarks.append(f"{why}, and were not compared")
        if r.by_ids == 0 and result.are_rows != gold.are_rows:
            remarks.append("one answer counts rows, and the other may hold ids of the database's own")
        if r.short:
            remarks.append(f"the gold has fewer than {r.k} neighbours of {r.short} queries")
        if r.repeated:
            remarks.append(f"{r.repeated} queries have an id more than once, which was counted once")
        if r.undecided:
            remarks.append(f"{r.undecided} queries' ties may go on past the gold's last column")
        return f"  ({'; '.join(remarks)})" if remarks else ""


def evaluate(
    result: Answer,
    gold: Answer,
    *,
    ks: int | Iterable[int] = (10,),
    epsilon: float = EPSILON,
    dists_as: str | None = None,
) -> Evaluation:
    """Recall of a result against a gold standard: by ids, with ties, and by distances.

    Parameters
    ----------
    result, gold
        As `recall` takes them: paths, answers, arrays of ids, or pairs of ids and distances.
    ks
        The ranks at which recall is wanted.
    epsilon
        How much farther than the gold's k-th neighbour a row may be that counts by distances.
    dists_as
        The distances in which this is measured: angle or cosine, euclidean or sqeuclidean, dot.  By default those of
        ann-benchmarks: 1 - cosine, the Euclidean distance, the share of differing bits.

    Returns
    -------
    Evaluation
        `evaluation[k]` is the `Recall` at k: `by_ids`, `tie_aware`, `by_distances` (None if nothing shows that both
        hold distances of one kind).

    Raises
    ------
    InputError
        As `recall` does; also if no rank is named, the gold's distances do not ascend or are no numbers, epsilon is not
        0 or more, or there is no way from the distances that are there to those that are asked for.

    Examples
    --------
    >>> import gpuknn, numpy as np
    >>> gold = gpuknn.exact_knn([[0.0], [2.0], [4.0], [9.0]], [[3.0], [8.0]], k=3, metric="l2")
    >>> ids, dists = np.array([[2, 0], [3, 0]]), np.array([[1.0, 9.0], [1.0, 64.0]])
    >>> found = gpuknn.evaluate((ids, dists), gold, ks=(1, 2))
    >>> found
    recall@1: 0.500000 by ids, 1.000000 tie-aware, 1.000000 by distances to within 0.001
    recall@2: 0.500000 by ids, 0.500000 tie-aware, 0.500000 by distances to within 0.001
    >>> found[1].tie_aware
    1.0
    >>> [recall.by_ids for recall in found]
    [0.5, 0.5]
    """
    if not (isinstance(epsilon, Real) and epsilon >= 0):
        raise InputError(f"{option('epsilon', epsilon)}: must be 0 or more")
    where = named(result, WHERE[0]), named(gold, WHERE[1])
    pair = matched(as_gold(result, where[0]), as_gold(gold, where[1]), where)
    distance = None if dists_as is None else _asked(pair, dists_as, where)
    recalls = tuple(recall_at(pair.a, pair.b, k, epsilon, distance) for k in _ranks(ks))
    return Evaluation(recalls, pair.by, pair.a, pair.b, dists_as)


def _asked(pair: Matched, dists_as: str, where: tuple[str, str]) -> str:
    """Our name of the distances that are asked for, the smallest first; raises InputError if there is no way to them.

    If the result does not tell which distances it holds, the pairs show whether these are the gold's.
    """
    check_known("dists_as", dists_as, DISTS_AS)
    told = option("distance", python="distance=...") + in_python(", or gpuknn.Gold(ids, dists, ...),")
    untold = f"gpuknn convert with {told} tells it"
    for gold, name in ((pair.b, where[1]), (pair.a, where[0])):
        if gold.distance is not None or gold.dists is None or gold is pair.b:
            asked_distance(gold, dists_as, name, untold)
    return METRIC_OF["dot"] if dists_as == "dot" else DISTS_AS[dists_as]


def _ranks(ks: Any) -> list[Any]:
    """Each of them; `recall_at` refuses what is no whole number."""
    alone = isinstance(ks, str | bytes) or not isinstance(ks, Iterable) or getattr(ks, "ndim", 1) == 0
    ranks = [ks] if alone else list(ks)
    if not ranks:
        raise InputError(f"{option('ks', ks)}: names no rank; ks=(10,) asks for recall at 10")
    return ranks
