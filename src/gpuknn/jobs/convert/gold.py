"""A gold standard into another format: small enough to be read and written whole."""

from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from gpuknn.errors import InputError, option
from gpuknn.gold import Gold, read_gold, save_gold
from gpuknn.gold.distances import told
from gpuknn.gold.formats import WRITERS, for_target
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


def convert_gold(job: Job, destination: str, replace: bool) -> Written:
    """Write the source's gold standard to the destination, in the format that its name or `--to` tells.

    Raises InputError if the format does not hold what the source does, or an option has no meaning.
    """
    target = choose_format(destination, job.to)
    if is_url(destination):
        raise InputError(f"{destination}: into an object store only Zarr is written")
    if target.name == "ann-benchmarks" and job.dtype == "float64":
        raise InputError(f"{option('dtype', 'float64')}: ann-benchmarks keeps distances as float32; leave it out")
    if not WRITERS[target.name].HOLDS_DISTS:
        job.refuse(["dtype"], f"{target.name} holds no distances")
    if target.name != "sisap":
        job.refuse(["dst_key"], f"{target.name} files have a place for the gold standard")
    elif job.dst_key is not None:
        check_key(job.dst_key)
    narrow = "float32" if target.name == "ann-benchmarks" else None  # as that suite keeps distances
    dists = choose_dtype(target, job.dtype or narrow, "", destination) or None
    job.refuse(VECTORS_ONLY, f"{job.source} is a gold standard, not vectors")
    gold, error = cut_gold(told(read_gold(job.source), job.distance, job.source), job.rows, dists)
    source = str(split_key(job.source)[0])
    check_destination(destination, [source], replace, stores=False)
    plain = {name: value for name, value in gold.said.items() if isinstance(value, str | int | float)}
    notes = plain | {"gpuknn": version("gpuknn"), "converted_from": Path(source).name}
    gold = for_target(gold, target.name, job.source)
    save_gold(gold, target.name, Path(destination), job.dst_key, notes)
    return Written(target.name, gold, error)
