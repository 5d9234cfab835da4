"""Distances of another type: rounded, and never lost."""

from dataclasses import replace

import numpy as np

from gpuknn.errors import InputError, option
from gpuknn.gold.gold import Gold
from gpuknn.vectors.converted import rows_named


def cut_gold(gold: Gold, rows: str | None, dists: str | None) -> tuple[Gold, float]:
    """The answers to the queries A:B, distances as `dists`; and the largest error that rounding has made.

    Raises InputError if there are no such queries, or a distance is not rounded but lost.
    """
    if dists not in (None, "float32", "float64"):
        raise InputError(f"{option('dtype', dists)}: distances are float32 or float64")
    queries = rows_named(rows, len(gold))
    kept = gold.queries(slice(queries.start, queries.stop))
    if kept.dists is None or dists is None:
        return kept, 0.0
    exact = kept.dists
    with np.errstate(over="ignore", invalid="ignore"):
        rounded = exact.astype(dists)
    lost = np.argwhere(np.isfinite(exact) & ~np.isfinite(rounded))
    if len(lost):
        i, j = (int(x) for x in lost[0])
        raise InputError(f"query {queries.start + i} has a distance of {exact[i, j]:g}, which {dists} cannot hold")
    vanished = np.argwhere((exact != 0) & (rounded == 0))
    if len(vanished):
        i, j = (int(x) for x in vanished[0])
        raise InputError(
            f"query {queries.start + i} (counted from 0) has a distance of {exact[i, j]:g}, which {dists} would make "
            f"zero; keep {option('dtype', 'float64')}, in a format that holds it (h5)"
        )
    with np.errstate(invalid="ignore"):
        error = np.abs(exact - rounded, dtype=np.float64)
    return replace(kept, dists=rounded), float(error[np.isfinite(error)].max(initial=0))
