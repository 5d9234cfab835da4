"""The formats that can be written: their names, how a file's name tells them, what they hold."""

from dataclasses import dataclass
from pathlib import Path

from gpuknn.errors import InputError, check_known, option

NAMES = (
    *("h5", "zarr", "npy", "fbin", "f16bin", "u8bin", "i8bin", "fvecs", "bvecs", "parquet", "ann-benchmarks", "sisap"),
    *("ibin", "ivecs"),
)
"""Here, so that the command line need not load the formats."""
NARROW = ("float16", "uint8", "int8")
"""Types in which differences or sums of squares may not fit."""


@dataclass(frozen=True)
class Format:
    """A format that `gpuknn convert` writes."""

    name: str
    vectors: bool
    gold: bool
    dtype: str | None
    """The only type of components, or of distances, that it holds, if it is one."""


def choose_format(destination: str, name: str | None) -> Format:
    """The format called `name`, or the one that the destination's name tells; raises InputError if none does."""
    from gpuknn.gold import formats as gold
    from gpuknn.vectors import formats as vectors

    known = gold.SUFFIXES | vectors.SUFFIXES
    if name:
        check_known("to", name, NAMES)
    name = name or known.get(Path(destination.rstrip("/")).suffix.lower())
    if name not in NAMES:
        to = option("to", python="to=...")
        raise InputError(f"{destination}: its name tells no format; say {to}, one of {', '.join(NAMES)}")
    writer = gold.WRITERS.get(name)
    of_vectors = name in vectors.SUFFIXES.values() or name in ("ann-benchmarks", "sisap")
    one_type = vectors.ONE_TYPE.get(name) or (writer.DISTS if writer else None)
    return Format(name, of_vectors, writer is not None, one_type)


def choose_dtype(target: Format, asked: str | None, source: str, destination: str) -> str:
    """The type of components to write; raises InputError if the format does not hold the one asked for.

    ann-benchmarks computes with the type that it finds, in which differences of bytes turn around and float16 overflows
    (ann_benchmarks/distance.py): such rows become float32, which loses nothing.
    """
    if target.dtype and asked and asked != target.dtype:
        raise InputError(f"{destination}: {target.name} holds {target.dtype} only; leave out {option('dtype', asked)}")
    if target.name == "ann-benchmarks" and (asked or source) in NARROW:
        if asked:
            raise InputError(f"{destination}: ann-benchmarks computes in {asked} what it finds in {asked}; use float32")
        return "float32"
    return target.dtype or asked or source
