"""The formats that can be written: their names, how a file's name tells them, what they hold."""

from dataclasses import dataclass
from pathlib import Path

from gpuknn.errors import InputError


@dataclass(frozen=True)
class Format:
    """A format that `gpuknn convert` writes."""

    name: str
    suffixes: tuple[str, ...]
    vectors: bool
    gold: bool
    dtype: str | None = None
    """The only type of components, or of distances, that it holds, where there is but one."""


FORMATS = (
    Format("h5", (".h5", ".hdf5", ".jld2"), vectors=True, gold=True),
    Format("zarr", (".zarr",), vectors=True, gold=False),
    Format("npy", (".npy",), vectors=True, gold=False),
    Format("fbin", (".fbin",), vectors=True, gold=False, dtype="float32"),
    Format("f16bin", (".f16bin",), vectors=True, gold=False, dtype="float16"),
    Format("u8bin", (".u8bin",), vectors=True, gold=False, dtype="uint8"),
    Format("i8bin", (".i8bin",), vectors=True, gold=False, dtype="int8"),
    Format("fvecs", (".fvecs",), vectors=True, gold=False, dtype="float32"),
    Format("bvecs", (".bvecs",), vectors=True, gold=False, dtype="uint8"),
    Format("parquet", (".parquet", ".pq"), vectors=True, gold=True),
    Format("ann-benchmarks", (), vectors=True, gold=True),
    Format("sisap", (), vectors=True, gold=True),
    Format("ibin", (".ibin", ".bin"), vectors=False, gold=True, dtype="float32"),
    Format("ivecs", (".ivecs",), vectors=False, gold=True),
)
NARROW = ("float16", "uint8", "int8")
"""Types in which differences or sums of squares may not fit."""
NAMES = tuple(f.name for f in FORMATS)


def choose_format(destination: str, name: str | None) -> Format:
    """The format called `name`, or the one that the destination's name tells; raises InputError where none does."""
    suffix = Path(destination.rstrip("/")).suffix.lower()
    for known in FORMATS:
        if known.name == name or (name is None and suffix in known.suffixes):
            return known
    raise InputError(f"{destination}: its name tells no format; say --to, one of {', '.join(NAMES)}")


def choose_dtype(target: Format, asked: str | None, source: str, destination: str) -> str:
    """The type of components to write; raises InputError if the format does not hold the one asked for.

    ann-benchmarks computes with the type that it finds, in which differences of bytes turn around and float16 overflows
    (ann_benchmarks/distance.py): such rows become float32, which loses nothing.
    """
    if target.dtype and asked and asked != target.dtype:
        raise InputError(f"{destination}: {target.name} holds {target.dtype} only; leave out --dtype {asked}")
    if target.name == "ann-benchmarks" and (asked or source) in NARROW:
        if asked:
            raise InputError(f"{destination}: ann-benchmarks computes in {asked} what it finds in {asked}; use float32")
        return "float32"
    return target.dtype or asked or source
