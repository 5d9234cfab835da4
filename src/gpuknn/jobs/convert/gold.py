"""A gold standard into another format: small enough to be read and written whole."""

from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path

import numpy as np

from gpuknn.errors import InputError, check_known, option
from gpuknn.gold import Gold, read_gold, save_gold
from gpuknn.gold.distances import DISTS_AS, asked_distance, told
from gpuknn.gold.formats import WRITERS, check_expected, for_target
from gpuknn.gold.rounding import cut_gold
from gpuknn.jobs.convert.job import Job
from gpuknn.jobs.rewrite.formats import choose_dtype, choose_format
from gpuknn.storage.destination import check_destination
from gpuknn.storage.location import is_url, split_key
from gpuknn.vectors.hdf5 import check_key

VECTORS_ONLY = (
    *("ignore_ids", "normalize", "scale", "round", "queries_file", "gold"),
    *("compression", "zarr_format", "shard_rows", "chunk_rows"),
)
"""Options that a gold standard has no use for."""


@dataclass(frozen=True)
class Written:
    """What was written."""

    format: str
    gold: Gold
    error: float
    """The largest that rounding has made."""


def convert_gold(job: Job, destination: str, replaces: bool) -> Written:
    """Write the source's gold standard to the destination, in the format that its name or `--to` tells.

    Raises InputError if the format does not hold what the source does, or an option has no meaning.
    """
    target = choose_format(destination, job.to)
    if is_url(destination):
        raise InputError(f"{destination}: into an object store only Zarr is written")
    if target.name == "ann-benchmarks" and job.dtype == "float64":
        raise InputError(f"{option('dtype', 'float64')}: ann-benchmarks keeps distances as float32; leave it out")
    if not WRITERS[target.name].HOLDS_DISTS:
        job.refuse(["dtype", "dists_as"], f"{target.name} holds no distances")
    if target.name != "sisap":
        job.refuse(["dst_key"], f"{target.name} files have a place for the gold standard")
    elif job.dst_key is not None:
        check_key(job.dst_key)
    narrow = "float32" if target.name == "ann-benchmarks" else None  # as that suite keeps distances
    dists = choose_dtype(target, job.dtype or narrow, "", destination) or None
    job.refuse(VECTORS_ONLY, f"{job.source} is a gold standard, not vectors")
    gold, error = _changed(told(read_gold(job.source), job.distance, job.source), job, target.name, destination, dists)
    source = str(split_key(job.source)[0])
    check_destination(destination, [source], replaces, stores=False)
    plain = {name: value for name, value in gold.said.items() if isinstance(value, str | int | float)}
    notes = plain | {"gpuknn": version("gpuknn"), "converted_from": Path(source).name}
    gold = for_target(gold, target.name, job.source)
    save_gold(gold, target.name, Path(destination), job.dst_key, notes)
    return Written(target.name, gold, error)


def _changed(gold: Gold, job: Job, name: str, destination: str, dists: str | None) -> tuple[Gold, float]:
    """The queries and distances that the job asks for, distances as `dists`, and the largest error of rounding."""
    if job.dists_as is None:
        return cut_gold(gold, job.rows, dists)
    check_known("dists_as", job.dists_as, DISTS_AS)
    check_expected(DISTS_AS[job.dists_as], name, destination)
    asked = asked_distance(_wide(gold), job.dists_as, job.source, f"say it with {option('distance')}")
    assert gold.dists is not None
    dists = dists or ("float32" if gold.dists.dtype.itemsize <= 4 else "float64")
    kept, error = cut_gold(asked, job.rows, dists)
    computed = asked.distance not in (gold.distance, "dot") and dists == "float64"
    return kept, _error_of_float64(kept) if computed else error


def _wide(gold: Gold) -> Gold:
    """With distances in float64, so that those that are made of them are rounded once."""
    return gold if gold.dists is None else replace(gold, dists=gold.dists.astype(np.float64))


def _error_of_float64(gold: Gold) -> float:
    """What computing distances in float64 has rounded by, at most: two units in the last place of the largest."""
    assert gold.dists is not None
    there = gold.dists[(gold.ids >= 0) & np.isfinite(gold.dists)]
    return float(2 * np.spacing(there.max(initial=0)))
