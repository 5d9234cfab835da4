"""Models of projections, and their files: gpuknn's own, and the published one of the SISAP challenges' sketches."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from gpuknn.engine.projecting import AXES_GRID, POOL, Axes
from gpuknn.errors import InputError, in_our_words
from gpuknn.vectors import open_vectors
from gpuknn.vectors.hdf5 import open_file, writing
from gpuknn.vectors.hdf5_chunks import check_written
from gpuknn.vectors.hdf5_links import refuse_links_out, refuse_outside

MOST_BYTES = 2**30
"""Of a model's file that is looked at."""
RECORD_BYTES = 64
"""Of Julia's record, at most: it has 16."""
LARGEST = 2.0**64
"""Of a model's numbers, which are about 1."""
MAKE = "gpuknn project fit makes one"


@dataclass(frozen=True, eq=False)
class PcaModel:
    """Principal components."""

    components: np.ndarray
    """(D, d) float64, of unit length, the one of largest variance first; multiples of 2^-28."""
    mean: np.ndarray
    """(d,) float64: of the rows of unit length."""
    explained_variance: np.ndarray
    """(D,) float64: of the rows along each component."""
    total_variance: float
    """Of the rows, along all directions."""
    rows: int
    """That it was made of."""

    @property
    def input_width(self) -> int:
        """Components of the rows that it takes."""
        return int(self.components.shape[1])

    @property
    def shares(self) -> np.ndarray:
        """(D,) float64: of the variance, that each component explains."""
        found: np.ndarray = self.explained_variance / self.total_variance
        return found

    def axes(self) -> Axes:
        """As a device takes them; the offset is a sum, rounded once, of products."""
        offset = [math.fsum(component * self.mean) for component in self.components]
        return Axes(self.components, np.array(offset))


@dataclass(frozen=True, eq=False)
class SketchModel:
    """References of binary sketches."""

    references: np.ndarray
    """(bits, d) float32, in the order of the bits: row 64 w + i decides bit i of word w."""

    @property
    def input_width(self) -> int:
        """Components of the rows that it takes."""
        return int(self.references.shape[1])

    @property
    def bits(self) -> int:
        """Of a sketch."""
        return len(self.references)


Model = PcaModel | SketchModel


def write_model(path: Path, model: Model, notes: Mapping[str, Any]) -> None:
    """Write a model and what it says of itself; the same ones make the same bytes."""
    with writing(path), h5py.File(path, "w", locking=False) as file:
        if isinstance(model, SketchModel):
            file["references"] = model.references
        else:
            file["components"] = model.components
            for name in ("mean", "explained_variance"):
                file[name] = getattr(model, name)[np.newaxis]
            file.attrs.update({"total_variance": model.total_variance, "rows": model.rows})
        file.attrs["gpuknn"] = json.dumps(notes)


def read_model(path: str | Path) -> Model:
    """Read a model; raises InputError if the file is none, or its numbers are none that a model has."""
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: there is no such file; {MAKE}")
    if not h5py.is_hdf5(path) or path.stat().st_size > MOST_BYTES:
        raise InputError(f"{path}: is no model of a projection; {MAKE}")
    with in_our_words(f"{path}: is a damaged HDF5 file"), open_file(path) as file:
        names = [name if isinstance(name, str) else repr(name) for name in file]
        attributes = {name: file.attrs[name] for name in ("total_variance", "rows") if name in file.attrs}
        if "model" in names:
            return _checked_sketch(_published(file, path), path)
    if "references" in names:
        return _checked_sketch(_array(path, "references", np.float32), path)
    if "components" in names:
        arrays = {name: _array(path, name, np.float64) for name in ("components", "mean", "explained_variance")}
        return _checked_pca(arrays, attributes, path)
    holds = "".join(c if c.isprintable() else "?" for c in ", ".join(sorted(names))) or "nothing"
    raise InputError(f"{path}: is no model of a projection, it holds {holds}; {MAKE}")


def _array(path: Path, key: str, kind: type) -> np.ndarray:
    """An array (n, d) of the file; raises InputError if it is too large, of another type, or not all numbers."""
    vectors = open_vectors(path, key=key)
    if vectors.nbytes > MOST_BYTES:
        raise InputError(f"{vectors.where}: has the shape {vectors.shape}, which is too large for a model; {MAKE}")
    found = vectors[:] if vectors.dtype == kind else None
    if found is None or not np.isfinite(found).all() or np.abs(found).max() > LARGEST:
        raise InputError(f"{vectors.where}: holds no {np.dtype(kind)} numbers that a model can have; {MAKE}")
    return found


def _checked_pca(arrays: Mapping[str, np.ndarray], attributes: Mapping[str, Any], path: Path) -> PcaModel:
    components, mean, variances = arrays.values()
    (wanted, d), refused = components.shape, f"{path}: is no PCA model of gpuknn's"
    if mean.shape != (1, d) or variances.shape != (1, wanted) or wanted > d:
        raise InputError(f"{refused}, its arrays do not fit each other; {MAKE}")
    # Only then are sums of products exact (`engine/projecting.py`).
    on_grid = np.all(np.rint(components * AXES_GRID) == components * AXES_GRID)
    if not on_grid or np.abs(components @ components.T - np.eye(wanted)).max() > 1e-3 or np.any(abs(mean) > 1.01):
        raise InputError(f"{refused}, its components are no axes of unit length, or no multiples of 2^-28; {MAKE}")
    try:
        total, rows = float(attributes["total_variance"]), int(attributes["rows"])
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise InputError(f"{refused}, it does not say of how many rows it was made; {MAKE}") from error
    falling = np.all(variances[0, 1:] <= variances[0, :-1]) and variances.min() >= 0
    if not falling or not variances.sum() <= 1.001 * total < math.inf or not 2 <= rows < 2**63:
        raise InputError(f"{refused}, its {rows:,} rows or their variance, {total:g}, are none; {MAKE}")
    return PcaModel(components, mean[0], variances[0], total, rows)


def _checked_sketch(references: np.ndarray, path: Path) -> SketchModel:
    if len(references) % POOL or not len(references):
        raise InputError(f"{path}: holds {len(references)} references, not a multiple of {POOL}; {MAKE}")
    lengths = np.square(references.astype(np.float64)).sum(axis=1)
    if np.any(abs(lengths - 1) > 1e-2):
        raise InputError(f"{path}: holds references that are not of unit length; {MAKE}")
    return SketchModel(references)


def _published(file: h5py.File, path: Path) -> np.ndarray:
    """(bits, d) float32: the references of BinWalk's model, in the order of its pools.

    Julia's JLD2 keeps a structure as a record of references to arrays: `refs`, whose only field refers to the matrix,
    and `pool` (words, 64), numbers of references counted from 1 (SurrogateDistanceModels.jl, src/references/walk.jl).
    """
    where, refused = f"{path}:model", f"{path}:model: is not the model of the SISAP challenges' sketches; {MAKE}"
    refuse_links_out(file, "model", where)
    model = file["model"]
    refuse_outside(model, file, where)
    if not isinstance(model, h5py.Dataset) or model.shape != () or model.dtype.itemsize > RECORD_BYTES:
        raise InputError(refused)
    record = model[()]
    try:
        places = record["refs"]["matrix"], record["pool"]
    except (TypeError, ValueError, IndexError, KeyError) as error:
        raise InputError(refused) from error
    if not all(isinstance(place, h5py.Reference) and place for place in places):
        raise InputError(refused)
    refs, pool = (file[place] for place in places)
    for array in (refs, pool):
        refuse_outside(array, file, where)
        if not isinstance(array, h5py.Dataset) or len(array.shape or ()) != 2 or array.nbytes > MOST_BYTES:
            raise InputError(f"{where}: holds no matrices of references and of their order; {MAKE}")
        check_written(array, where, "fetch the file again")
    vectors, order = refs[()], pool[()]
    known = np.arange(1, len(vectors) + 1)
    fits = vectors.dtype == np.float32 and order.dtype.kind in "iu" and order.shape[1] == POOL
    if not fits or not np.isfinite(vectors).all() or not np.array_equal(np.sort(order, axis=None), known):
        raise InputError(f"{where}: does not hold each of its references once, as float32 numbers; {MAKE}")
    return np.ascontiguousarray(vectors[order.reshape(-1) - 1])
