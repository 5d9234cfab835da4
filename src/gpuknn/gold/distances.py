"""Which distance a file's numbers are: gpuknn's own, and what other formats make of them."""

from dataclasses import replace

import numpy as np

from gpuknn.errors import InputError
from gpuknn.gold.gold import Gold

DISTANCES = {
    "cosine": "1 - x.q / sqrt(|x|^2 |q|^2)",
    "ip": "-x.q",
    "l2": "|x - q|^2, the square of the Euclidean distance",
    "euclidean": "|x - q|, the root",
    "hamming": "the number of differing bits",
    "mean hamming": "the share of differing bits",
}
"""What is stored under each name."""
OF_ANN_BENCHMARKS = {"angular": "cosine", "euclidean": "euclidean", "hamming": "mean hamming"}
"""ann-benchmarks' names, and ours: https://github.com/erikbern/ann-benchmarks, ann_benchmarks/distance.py."""
FOR_ANN_BENCHMARKS = {"cosine": "cosine", "l2": "euclidean", "hamming": "mean hamming"}
"""What that suite wants, since it computes recall from distances, and recomputes those of an answer."""
BITS = "bits"
"""The attribute of a gold standard under hamming that tells how many bits a sketch has."""


def told(gold: Gold, distance: str | None, where: str) -> Gold:
    """The same answer, of which somebody tells which distances it holds; raises InputError if the file tells others."""
    if distance is None or gold.dists is None or gold.distance == distance:
        return gold
    if gold.distance is not None:
        raise InputError(f"{where}: holds {described(gold)}, and not {DISTANCES[distance]}; leave out --distance")
    return replace(gold, distance=distance)


def as_distance(gold: Gold, wanted: str, where: str) -> Gold:
    """The same answer with distances of another kind: squares become roots, and bits become shares of them.

    Raises InputError if there is no way from the one to the other.
    """
    assert gold.dists is not None
    if gold.distance == wanted:
        return gold
    wide = gold.dists.astype(np.float64)
    if (gold.distance, wanted) == ("l2", "euclidean"):
        changed = np.sqrt(np.maximum(wide, 0))  # padding may be anything
    elif (gold.distance, wanted) == ("hamming", "mean hamming"):
        bits = gold.said.get(BITS)
        if not isinstance(bits, int) or bits < 1:
            raise InputError(f"{where}: does not say how many bits a sketch has, so their share cannot be told")
        changed = wide / bits
    else:
        raise InputError(f"{where}: holds {described(gold)}, which does not become {DISTANCES[wanted]}")
    return replace(gold, dists=changed.astype(gold.dists.dtype), distance=wanted)


def alike(a: Gold, b: Gold, where: tuple[str, str]) -> tuple[Gold, Gold]:
    """Both with distances of one kind, if both are known and differ; raises InputError if that cannot be."""
    if a.dists is None or b.dists is None or None in (a.distance, b.distance) or a.distance == b.distance:
        return a, b
    for wanted in ("euclidean", "mean hamming"):
        if wanted == b.distance:
            return as_distance(a, wanted, where[0]), b
        if wanted == a.distance:
            return a, as_distance(b, wanted, where[1])
    raise InputError(f"{where[0]} holds {described(a)}, {where[1]} holds {described(b)}: two different distances")


def described(gold: Gold) -> str:
    """What the distances are, in words."""
    if gold.distance is None:
        return "distances of a kind that the file does not tell"
    return DISTANCES.get(gold.distance, gold.distance)
