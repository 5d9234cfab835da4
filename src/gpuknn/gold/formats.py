"""Gold standards of other tools, by the file's name; HDF5 is `file.py`'s."""

from collections.abc import Callable
from pathlib import Path

from gpuknn.exact.neighbors import Neighbors
from gpuknn.gold.ibin import read_ibin
from gpuknn.gold.ivecs import read_ivecs
from gpuknn.gold.parquet import read_neighbors_parquet

READERS: dict[str, Callable[[Path], Neighbors]] = {
    ".ibin": read_ibin,
    ".bin": read_ibin,
    ".ivecs": read_ivecs,
    ".parquet": read_neighbors_parquet,
    ".pq": read_neighbors_parquet,
}


def reader_of(path: Path) -> Callable[[Path], Neighbors] | None:
    """What reads a gold standard of that name; None where it is HDF5."""
    return READERS.get(path.suffix.lower())
