"""Which distance a file's numbers are: gpuknn's own, and what other formats make of them."""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from gpuknn.engine.metric import ALIASES, metric_named
from gpuknn.errors import InputError, check_known, option
from gpuknn.gold.gold import Gold, negated, turned, unsorted_query

DISTANCES = {
    "cosine": "1 - x.q / sqrt(|x|^2 |q|^2)",
    "ip": "-x.q",
    "l2": "|x - q|^2, the square of the Euclidean distance",
    "euclidean": "|x - q|, the root",
    "hamming": "the number of differing bits",
    "mean-hamming": "the share of differing bits",
    "angle": "arccos(x.q / sqrt(|x|^2 |q|^2)), in radians",
    "dot": "x.q, the largest first",
}
"""What is stored under each name.  `dot` stands in files alone: what is read from one is `ip`, the smallest first."""
METRIC_OF = {"angle": "cosine", "dot": "ip", "euclidean": "l2", "mean-hamming": "hamming"}
"""Distances that are made of those of a metric, and the metric."""
DISTS_AS = {"angle": "angle", "cosine": "cosine", "dot": "dot", "euclidean": "euclidean", "sqeuclidean": "l2"}
"""Distances that may be asked for in place of those that are there, and our names."""
OF_ANN_BENCHMARKS = {"angular": "cosine", "euclidean": "euclidean", "hamming": "mean-hamming"}
"""ann-benchmarks' names, and ours: https://github.com/erikbern/ann-benchmarks, ann_benchmarks/distance.py."""
FOR_ANN_BENCHMARKS = {"cosine": "cosine", "angle": "cosine", "l2": "euclidean", "hamming": "mean-hamming"}
"""What that suite wants, since it computes recall from distances, and recomputes those of an answer."""
HIGHEST = {"cosine": 2, "angle": np.pi}
"""Distances from 0 to a highest one, which two vectors have that point away from each other."""
NEGATED = "similarity times -1"
"""In place of a distance's name, if the source holds similarities and does not tell which."""
UNTOLD = "unknown"
"""In place of a distance's name, so that nobody guesses it from other attributes."""
BITS = "bits"
"""The attribute of a gold standard under hamming that tells how many bits a sketch has."""


def told(gold: Gold, distance: str | None, where: str) -> Gold:
    """The same answer, of which somebody tells which distances it holds; raises InputError if the file tells others."""
    if distance is None or gold.distance == ("ip" if distance == "dot" else distance):
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
    if distance == "dot":
        if gold.were_similarities is False:
            raise InputError(f"{where}: holds distances, the smallest first, and not {DISTANCES[distance]}")
        return replace(gold if gold.were_similarities else turned(gold), distance="ip")
    if not gold.were_similarities:
        if distance in HIGHEST:
            _refuse_untold(gold, distance, where)
            _check_range(gold.dists[gold.ids >= 0], distance, where)
        return replace(gold, distance=distance)
    if distance != "cosine":
        raise InputError(f"{where}: holds similarities, the largest first, and not {DISTANCES[distance]}")
    from_cosines = (1 + gold.dists.astype(np.float64)).astype(gold.dists.dtype)
    _check_range(from_cosines[gold.ids >= 0], distance, where)
    return replace(gold, dists=from_cosines, distance=distance, were_similarities=False)


def as_distance(gold: Gold, wanted: str, where: str) -> Gold:
    """The same answer with distances of another kind, computed in float64 and rounded once, to the type that they have.

    Squares become roots, 1 - cosine an angle, and back; bits become shares of them; inner products change their sign.
    The lines keep their order.  Raises InputError if there is no way from the one to the other.
    """
    assert gold.dists is not None
    if gold.distance == wanted:
        return gold
    if {gold.distance, wanted} == {"ip", "dot"}:
        return replace(gold, dists=negated(gold.dists), distance=wanted)
    there, wide = gold.ids >= 0, gold.dists.astype(np.float64)
    if gold.distance in HIGHEST:
        _check_range(wide[there], gold.distance, where)
    match gold.distance, wanted:
        case "l2", "euclidean":
            _refuse_negative(wide[there], "square", where)
            changed = np.sqrt(np.maximum(wide, 0))
        case "euclidean", "l2":
            _refuse_negative(wide[there], "root", where)
            with np.errstate(over="ignore"):
                changed = np.maximum(wide, 0) ** 2
        case "cosine", "angle":
            # tan^2(a / 2) = (1 - cos a) / (1 + cos a): arccos(1 - d), which would lose the digits of a small d.
            near = np.clip(wide, 0, 2)
            changed = 2 * np.arctan2(np.sqrt(near), np.sqrt(2 - near))
        case "angle", "cosine":
            changed = 2 * np.sin(np.clip(wide, 0, np.pi) / 2) ** 2  # 1 - cos a, for the same reason
        case "hamming", "mean-hamming":
            bits = gold.said.get(BITS)
            if not isinstance(bits, int) or bits < 1:
                raise InputError(f"{where}: does not say how many bits a sketch has, so their share cannot be told")
            changed = wide / bits
        case _:
            bits_alone = "hamming" in (METRIC_OF.get(name or "", name) for name in (gold.distance, wanted))
            why = "bits have no such distance" if bits_alone else "it would for vectors of length 1 only"
            raise InputError(
                f"{where}: holds {described(gold)}, which does not become {wanted} ({DISTANCES[wanted]}); {why}"
            )
    with np.errstate(over="ignore"):
        dists = np.where(there, changed, wide).astype(gold.dists.dtype)  # padding may be anything, and stays
    lost = wide[there & np.isfinite(wide) & ~np.isfinite(dists)]
    if len(lost):
        raise InputError(f"{where}: holds {lost[0]:g}, and {dists.dtype} cannot hold {DISTANCES[wanted]}")
    return replace(gold, dists=dists, distance=wanted)


def asked_distance(gold: Gold, asked: str, where: str, untold: str) -> Gold:
    """The same answer with the distances, one of `DISTS_AS`, that somebody asks for.

    Raises InputError if there is no way to them; `untold`: what to do if nothing tells which are there.
    """
    if gold.dists is None:
        raise InputError(f"{where}: holds no distances; leave out {option('dists_as')}")
    if gold.distance is None:
        raise InputError(f"{where}: does not tell which distances it holds; {untold}")
    return as_distance(gold, DISTS_AS[asked], where)


def alike(a: Gold, b: Gold, where: tuple[str, str]) -> tuple[Gold, Gold]:
    """Both with distances of one kind, if both are known and differ; raises InputError if that cannot be."""
    if a.dists is None or b.dists is None or (a.distance == b.distance and a.distance is not None):
        return a, b
    if a.distance is None or b.distance is None:
        products = [gold.distance == "ip" or (gold.distance is None and gold.were_similarities) for gold in (a, b)]
        return _products(a, where[0]) if products[1] else a, _products(b, where[1]) if products[0] else b
    for wanted in ("euclidean", "mean-hamming", "angle"):
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
    if metric in METRIC_OF and metric not in ALIASES:
        raise InputError(f"the attribute metric is {metric}, which is the name of a distance; call it distance")
    ours = metric_named(str(metric)).value
    if distance is not None and METRIC_OF.get(str(distance), distance) != ours:
        raise InputError(
            f"the attribute metric is {metric}, but the attribute distance is {distance}; mend one of them"
        )
    return str(distance or ours)


def _check_range(dists: np.ndarray, distance: str, where: str) -> None:
    """Raise InputError if one of the numbers, but for rounding, cannot be such a distance, one of `HIGHEST`."""
    wrong = dists[(dists < -0.01) | (dists > HIGHEST[distance] + 0.01)]
    if len(wrong):
        highest = f"{HIGHEST[distance]:.3g}"
        raise InputError(
            f"{where}: holds {wrong[0]:g}, which is not {DISTANCES[distance]}: that is from 0 to {highest}"
        )


def _refuse_negative(dists: np.ndarray, kind: str, where: str) -> None:
    """Raise InputError if one of the distances is below zero by more than rounding."""
    lowest = np.fmin.reduce(dists, initial=0)
    if lowest < -1e-3 * max(1.0, np.abs(dists[np.isfinite(dists)]).max(initial=0)):
        raise InputError(f"{where}: holds the distance {lowest:g}, which is no {kind}")


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
    return f"{gold.distance} ({DISTANCES[gold.distance]})" if gold.distance in DISTANCES else gold.distance


def said_of(gold: Gold) -> dict[str, str | int]:
    """What an HDF5 file says of the distances in it, in attributes."""
    name = gold.distance or (NEGATED if gold.were_similarities else UNTOLD)
    words = DISTANCES.get(name, "the source does not tell which distances or similarities these are")
    said: dict[str, str | int] = {"distance": name, "dists_are": words}
    return said | ({BITS: gold.said[BITS]} if BITS in gold.said else {})


def for_ann_benchmarks(gold: Gold, where: str) -> Gold:
    """With the distances that ann-benchmarks wants: roots, 1 - cosine, shares of bits; others are refused."""
    if gold.distance in ("ip", "dot"):
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
