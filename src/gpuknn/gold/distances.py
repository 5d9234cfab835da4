"""Which distance a file's numbers are: gpuknn's own, and what other formats make of them."""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from gpuknn.engine.metric import Metric, metric_named
from gpuknn.errors import InputError, check_known, option
from gpuknn.gold.gold import Gold, turned, unsorted_query

DISTANCES = {
    "cosine": "1 - x.q / sqrt(|x|^2 |q|^2)",
    "ip": "-x.q",
    "l2": "|x - q|^2, the square of the Euclidean distance",
    "euclidean": "|x - q|, the root",
    "hamming": "the number of differing bits",
    "mean-hamming": "the share of differing bits",
}
"""What is stored under each name."""
OF_ANN_BENCHMARKS = {"angular": "cosine", "euclidean": "euclidean", "hamming": "mean-hamming"}
"""ann-benchmarks' names, and ours: https://github.com/erikbern/ann-benchmarks, ann_benchmarks/distance.py."""
FOR_ANN_BENCHMARKS = {"cosine": "cosine", "l2": "euclidean", "hamming": "mean-hamming"}
"""What that suite wants, since it computes recall from distances, and recomputes those of an answer."""
NEGATED = "similarity times -1"
"""In place of a distance's name, if the source holds similarities and does not tell which."""
UNTOLD = "unknown"
"""In place of a distance's name, so that nobody guesses it from other attributes."""
BITS = "bits"
"""The attribute of a gold standard under hamming that tells how many bits a sketch has."""


def told(gold: Gold, distance: str | None, where: str) -> Gold:
    """The same answer, of which somebody tells which distances it holds; raises InputError if the file tells others."""
    if distance is None or gold.distance == distance:
        return gold
    check_known("distance", distance, DISTANCES)
    if gold.dists is None:
        raise InputError(f"{where}: holds no distances; leave out {option('distance')}")
    if gold.distance is not None:
        raise InputError(
            f"{where}: holds {described(gold)}, and not {DISTANCES[distance]}; leave out {option('distance')}"
        )
    if distance == "ip":
        return replace(_products(gold, where), distance=distance)
    if not gold.were_similarities:
        if distance == "cosine":
            _refuse_untold(gold, distance, where)
            _check_cosines(gold.dists[gold.ids >= 0], where)
        return replace(gold, distance=distance)
    if distance != "cosine":
        raise InputError(f"{where}: holds similarities, the largest first, and not {DISTANCES[distance]}")
    from_cosines = (1 + gold.dists.astype(np.float64)).astype(gold.dists.dtype)
    _check_cosines(from_cosines[gold.ids >= 0], where)
    return replace(gold, dists=from_cosines, distance=distance, were_similarities=False)


def as_distance(gold: Gold, wanted: str, where: str) -> Gold:
    """The same answer with distances of another kind: squares become roots, and bits become shares of them.

    Raises InputError if there is no way from the one to the other.
    """
    assert gold.dists is not None
    if gold.distance == wanted:
        return gold
    wide = gold.dists.astype(np.float64)
    if (gold.distance, wanted) == ("l2", "euclidean"):
        lowest = wide[gold.ids >= 0].min(initial=0)
        if lowest < -1e-3 * max(1.0, np.abs(wide[gold.ids >= 0]).max(initial=0)):  # below zero by more than rounding
            raise InputError(f"{where}: holds the distance {lowest:g}, which is no square")
        changed = np.sqrt(np.maximum(wide, 0))  # padding may be anything
    elif (gold.distance, wanted) == ("hamming", "mean-hamming"):
        bits = gold.said.get(BITS)
        if not isinstance(bits, int) or bits < 1:
            raise InputError(f"{where}: does not say how many bits a sketch has, so their share cannot be told")
        changed = wide / bits
    else:
        raise InputError(f"{where}: holds {described(gold)}, which does not become {DISTANCES[wanted]}")
    return replace(gold, dists=changed.astype(gold.dists.dtype), distance=wanted)


def alike(a: Gold, b: Gold, where: tuple[str, str]) -> tuple[Gold, Gold]:
    """Both with distances of one kind, if both are known and differ; raises InputError if that cannot be."""
    if a.dists is None or b.dists is None or (a.distance == b.distance and a.distance is not None):
        return a, b
    if a.distance is None or b.distance is None:
        products = [gold.distance == "ip" or (gold.distance is None and gold.were_similarities) for gold in (a, b)]
        return _products(a, where[0]) if products[1] else a, _products(b, where[1]) if products[0] else b
    for wanted in ("euclidean", "mean-hamming"):
        if wanted == b.distance:
            return as_distance(a, wanted, where[0]), b
        if wanted == a.distance:
            return a, as_distance(b, wanted, where[1])
    raise InputError(f"{where[0]} holds {described(a)}, {where[1]} holds {described(b)}: two different distances")


def check_said(said: Mapping[str, object]) -> str | None:
    """The distance that attributes tell, by `distance` or by `metric`; None if neither is there.

    Raises InputError if one of them is unknown, or they tell two distances.
    """
    distance, metric = said.get("distance"), said.get("metric")
    if distance is not None:
        check_known("distance", distance, DISTANCES)
    if metric is None:
        return None if distance is None else str(distance)
    if metric in DISTANCES and metric not in list(Metric):
        raise InputError(f"the attribute metric is {metric}, which is the name of a distance; call it distance")
    ours = metric_named(str(metric)).value
    if distance not in (None, ours, FOR_ANN_BENCHMARKS.get(ours)):
        raise InputError(
            f"the attribute metric is {metric}, but the attribute distance is {distance}; mend one of them"
        )
    return str(distance or ours)


def _check_cosines(dists: np.ndarray, where: str) -> None:
    """Raise InputError if one of the distances cannot be 1 - cosine, from 0 to 2, but for rounding."""
    wrong = dists[(dists < -0.01) | (dists > 2.01)]
    if len(wrong):
        raise InputError(f"{where}: holds {wrong[0]:g}, which is not {DISTANCES['cosine']}: that is from 0 to 2")


def _products(gold: Gold, where: str) -> Gold:
    """Inner products times -1: if no line tells the sign, it is the format's; HDF5 files hold them so already."""
    _refuse_untold(gold, "ip", where)
    return turned(gold) if gold.were_similarities is None and gold.products_negated is False else gold


def _refuse_untold(gold: Gold, distance: str, where: str) -> None:
    """Raise InputError if neither the lines nor a format tell whether these are distances or similarities."""
    if gold.products_negated is not None or gold.were_similarities:
        return
    if gold.were_similarities is None or unsorted_query(gold) is not None:
        raise InputError(
            f"{where}: its lines do not tell whether the smallest or the largest number is nearest, so these may be "
            f"distances or similarities; pass gpuknn.Gold(ids, dists), dists being distances, {DISTANCES[distance]}"
        )


def described(gold: Gold) -> str:
    """What the distances are, in words."""
    if gold.distance is None:
        return "distances of a kind that the file does not tell"
    return DISTANCES.get(gold.distance, gold.distance)


def said_of(gold: Gold) -> dict[str, str | int]:
    """What an HDF5 file says of the distances in it, in attributes."""
    name = gold.distance or (NEGATED if gold.were_similarities else UNTOLD)
    words = DISTANCES.get(name, "the source does not tell which distances or similarities these are")
    said: dict[str, str | int] = {"distance": name, "dists_are": words}
    return said | ({BITS: gold.said[BITS]} if BITS in gold.said else {})


def for_ann_benchmarks(gold: Gold, where: str) -> Gold:
    """With the distances that ann-benchmarks wants: roots, 1 - cosine, shares of bits; others are refused."""
    if gold.distance == "ip":
        raise InputError(f"{where}: ann-benchmarks knows no inner products; {option('to', 'sisap')} holds them")
    if gold.distance is None:
        said_with = option("distance", python="distance=...")
        raise InputError(f"{where}: the gold standard does not tell which distances it holds; say it with {said_with}")
    wrong = unsorted_query(gold)
    if wrong is not None:
        raise InputError(f"{where}: the distances of query {wrong} (counted from 0) do not ascend, or are not numbers")
    found = as_distance(gold, FOR_ANN_BENCHMARKS.get(gold.distance, gold.distance), where)
    assert found.dists is not None
    return replace(found, dists=found.dists.astype(np.float32))  # as that suite keeps those of an answer


def said_to_ann_benchmarks(gold: Gold) -> dict[str, str | int]:
    """The same as `said_of`, in that suite's words."""
    theirs = next(theirs for theirs, ours in OF_ANN_BENCHMARKS.items() if ours == gold.distance)
    return said_of(gold) | {"distance": theirs}
