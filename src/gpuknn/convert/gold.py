"""Gold standards from one format to another; they are small enough to be written whole."""

import os
from collections.abc import Mapping
from pathlib import Path

import h5py
import numpy as np

from gpuknn.convert.formats import Format
from gpuknn.convert.hdf5 import ANN_BENCHMARKS, DISTANCES, Layout, check_key, put_gold
from gpuknn.errors import InputError
from gpuknn.exact.neighbors import Neighbors
from gpuknn.gold import Comparison, compare_gold, write_gold
from gpuknn.gold.file import sync
from gpuknn.gold.ibin import write_ibin
from gpuknn.gold.ids_only import has_distances
from gpuknn.gold.ivecs import write_ivecs
from gpuknn.gold.parquet import write_neighbors_parquet

IDS_ONLY = {"ivecs": 2**31, "parquet": 2**63}
"""Formats without distances, and what ids are less than."""


def cut_gold(gold: Neighbors, queries: range, dists: np.dtype | None) -> tuple[Neighbors, float]:
    """The answers to some queries, distances as `dists`; and the largest error that rounding has made.

    Raises InputError where a distance is not rounded but lost.
    """
    ids, exact = gold.ids[queries.start : queries.stop], gold.dists[queries.start : queries.stop]
    with np.errstate(over="ignore"):
        rounded = exact.astype(dists or exact.dtype)
    lost = np.argwhere(np.isfinite(exact) & ~np.isfinite(rounded))
    if len(lost):
        i, j = (int(x) for x in lost[0])
        raise InputError(f"query {queries.start + i} has a distance of {exact[i, j]:g}, which {dists} cannot hold")
    error = np.abs(exact - rounded, dtype=np.float64)
    return Neighbors(ids, rounded), float(error[np.isfinite(error)].max(initial=0))


def save_gold(
    gold: Neighbors, target: Format, path: Path, key: str | None, said: Mapping[str, str | int | float]
) -> None:
    """Write a gold standard, whole or not at all; `said`: root attributes, where the format has some.

    `key`: the group for SISAP's files.  Raises InputError where the format cannot hold it.
    """
    if key is not None:
        if target.name != "sisap":
            raise InputError(f"--dst-key: {target.name} files have a place for the gold standard; leave it out")
        check_key(key)
    if target.name not in IDS_ONLY and target.name != "ibin" and not has_distances(gold):
        raise InputError(f"{path}: {target.name} holds distances, and the source has none; gpuknn exact finds them")
    least, most = int(gold.ids.min(initial=0)), IDS_ONLY.get(target.name, 2**32 if target.name == "ibin" else 2**63)
    if least < 0 or int(gold.ids.max(initial=0)) >= most:
        raise InputError(f"{path}: {target.name} cannot hold the id {least if least < 0 else int(gold.ids.max())}")
    if target.name == "h5":
        write_gold(path, gold, said)
        return
    part = path.with_name(f"{path.name}.part")
    try:
        match target.name:
            case "ibin":
                write_ibin(part, gold)
            case "ivecs":
                write_ivecs(part, gold)
            case "parquet":
                write_neighbors_parquet(part, gold)
            case _:
                _write_layout(part, gold, target, key, said)
        sync(part)
        os.replace(part, path)
        sync(path.parent)
    finally:
        part.unlink(missing_ok=True)


def check_gold(ours: Neighbors, theirs: Neighbors) -> Comparison:
    """Compare the source's answer with what was written: distances as they are stored there, or ids alone."""
    if ours.ids.shape == theirs.ids.shape and not (has_distances(ours) and has_distances(theirs)):
        none = np.zeros(ours.ids.shape, np.float32)
        ours, theirs = Neighbors(ours.ids, none), Neighbors(theirs.ids, none)
    with np.errstate(over="ignore"):
        ours = Neighbors(ours.ids, ours.dists.astype(theirs.dists.dtype))
    return compare_gold(ours, theirs)


def _write_layout(
    path: Path, gold: Neighbors, target: Format, key: str | None, said: Mapping[str, str | int | float]
) -> None:
    group = "itest" if key is None else key
    layout = ANN_BENCHMARKS if target.name == "ann-benchmarks" else Layout("", "", f"{group}/knns", f"{group}/dists", 1)
    with h5py.File(path, "w") as file:
        put_gold(file, gold, layout)
        file.attrs.update(said)
        if layout is ANN_BENCHMARKS and said.get("metric") in DISTANCES:
            file.attrs["distance"] = DISTANCES[str(said["metric"])]
