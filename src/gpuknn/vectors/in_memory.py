"""Rows of an array in memory: of NumPy, of what speaks DLPack, or of lists."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from gpuknn.errors import InputError, in_our_words, one_line
from gpuknn.vectors.bits import PackedBits
from gpuknn.vectors.ids import ID_NAMES
from gpuknn.vectors.vectors import ROW_TYPES, ArrayVectors, Vectors

TAKEN = (
    "rows are taken from arrays of NumPy, h5py, Zarr, Dask, Arrow and whatever speaks DLPack (PyTorch, CuPy, JAX), "
    "data frames, lists, paths and URLs"
)
CPU, CUDA, CUDA_HOST, CUDA_MANAGED = 1, 2, 3, 13
"""DLPack's numbers of the places in which an array may lie."""
WHOLE_IN_FLOAT64 = 2**53
"""The largest whole number up to which float64 holds all."""


def array_vectors(array: np.ndarray, name: str, single: bool = False) -> Vectors:
    """The rows of an array of NumPy, of any layout; booleans become sketches.  Raises as `as_vectors` does."""
    if single and array.ndim == 1:
        array = array[np.newaxis]
    if array.dtype == np.bool_:
        return PackedBits.of(ArrayVectors.of(array.view(np.uint8), name))
    check_type(array.dtype, name)
    return ArrayVectors.of(array, name)


def check_type(dtype: np.dtype, name: str) -> None:
    """Raise InputError, and say what to do, if components of that type are none of vectors."""
    kind = dtype.newbyteorder("=").name
    if kind in ROW_TYPES:
        return
    if dtype.kind in "iuf" or kind == "bfloat16":
        advice = "convert the rows, e.g. rows.astype(np.float32), or np.float64 if float32 does not hold the values"
    elif dtype.kind == "O":
        advice = "rows must be numbers, all of one length; try np.stack(rows), or rows.tolist()"
    elif dtype.kind == "V":
        advice = "take the field that holds the vectors, or np.lib.recfunctions.structured_to_unstructured(rows)"
    else:
        advice = "vectors are numbers"
    raise InputError(f"{name}: holds {kind}, vectors are {', '.join(ROW_TYPES)} or bool; {advice}")


def on_gpu(rows: Any, name: str) -> bool:
    """Whether an array lies in a GPU's memory; raises InputError if the array cannot say where it lies."""
    if isinstance(rows, np.ndarray):
        return False
    if hasattr(rows, "__dlpack_device__"):
        return _place(rows, name) in (CUDA, CUDA_MANAGED)
    return hasattr(rows, "__cuda_array_interface__")


def dlpack_words(rows: Any, name: str, error: Exception) -> InputError:
    """What is wrong with an array that does not give its content by DLPack, and what to do."""
    kind = str(getattr(rows, "dtype", ""))
    if "sparse" in str(getattr(rows, "layout", "")):
        advice = "vectors are dense; use rows.to_dense()"
    elif "bfloat16" in kind or "float8" in kind:
        advice = f"NumPy has no {kind.rpartition('.')[2]}; use rows.float(), or rows.astype('float32')"
    elif getattr(rows, "requires_grad", False):
        advice = "it takes part in a gradient; use rows.detach()"
    else:
        advice = "use an array of NumPy, e.g. np.asarray(rows)"
    return InputError(f"{name}: {type_of(rows)} cannot be read ({one_line(error)}); {advice}")


def type_of(rows: Any) -> str:
    """What a person calls the type of an object, with an article."""
    kind = type(rows)
    where = "" if kind.__module__ == "builtins" else f"{kind.__module__.partition('.')[0]}."
    return "None" if rows is None else f"an object of type {where}{kind.__name__}"


def in_memory(rows: Any, kinds: set[str], name: str) -> np.ndarray:
    """The array that holds the rows, which is a copy only if the object cannot give its own."""
    _refuse(rows, kinds, name)
    if isinstance(rows, np.ndarray):
        if np.ma.is_masked(rows):
            raise InputError(f"{name}: has masked entries, which are no values; fill them, or leave those rows out")
        return np.asarray(rows)
    if hasattr(rows, "__array__") and hasattr(rows, "columns"):
        return _from_frame(rows, name)
    if hasattr(rows, "__dlpack_device__"):
        return _from_dlpack(rows, name)
    if hasattr(rows, "__array__"):
        with in_our_words(f"{name}: {type_of(rows)} gives no array"):
            array = np.asarray(rows)
        # A column of a data frame that holds a list or an array in each row.
        return _from_list(list(array), name) if array.dtype == object and array.ndim == 1 else array
    if isinstance(rows, list | tuple):
        return _from_list(rows, name)
    raise InputError(f"{name}: is {type_of(rows)}; {TAKEN}")


def _refuse(rows: Any, kinds: set[str], name: str) -> None:
    """Raise InputError for objects that hold vectors, but not as rows that can be read."""
    advice = None
    if hasattr(rows, "toarray") and hasattr(rows, "nnz"):
        advice = "vectors are dense; use rows.toarray()"
    elif kinds & {"h5py.File", "h5py.Group"}:
        advice = 'name one of its arrays, e.g. rows["emb"]'
    elif kinds & {"dask.DataFrame", "dask.Series"}:
        advice = "use rows.to_dask_array(lengths=True)"
    elif "polars.LazyFrame" in kinds:
        advice = "use rows.collect()"
    if advice is not None:
        raise InputError(f"{name}: is {type_of(rows)}; {advice}")


def _from_frame(frame: Any, name: str) -> np.ndarray:
    """(n, d) of a data frame with a column for each component; raises InputError if the columns are something else."""
    with in_our_words(f"{name}: {type_of(frame)} gives no array"):
        first, array = np.asarray(frame.head(1), object), np.asarray(frame)
    pandas = hasattr(frame, "iloc")  # and what has its interface
    cells = [(column, cell) for column, cells in zip(frame.columns, first.T, strict=True) for cell in cells]
    for column, cell in cells:
        if _length(cell) is not None:
            raise InputError(f"{name}: each cell of the column {column!r} holds a vector; use rows[{column!r}]")
    others = [column for column, cell in cells if column in ID_NAMES or isinstance(cell, str)]
    if others:
        leave = f"rows.drop({'columns=' if pandas else ''}{others!r})"
        raise InputError(f"{name}: the column {others[0]!r} holds no component; leave it out, {leave}")
    if array.dtype != np.bool_ and array.dtype.name not in ROW_TYPES:
        numbers = "rows.to_numpy(np.float32)" if pandas else "np.asarray(rows, np.float32)"
        raise InputError(f"{name}: its columns together are {array.dtype}; convert them, e.g. {numbers}")
    return array


def _from_dlpack(rows: Any, name: str) -> np.ndarray:
    """The array itself, not a copy."""
    if _place(rows, name) not in (CPU, CUDA_HOST):
        raise InputError(
            f"{name}: {type_of(rows)} lies on a device; copy it to the processor's memory, e.g. rows.cpu()"
        )
    try:
        return np.from_dlpack(rows)
    except Exception as error:  # each library has its own
        raise dlpack_words(rows, name, error) from error


def _place(rows: Any, name: str) -> int:
    """DLPack's number of the place; raises InputError if the array cannot say it, or would not give its own values."""
    if getattr(rows, "is_neg", bool)():  # PyTorch would give the values without their sign
        raise InputError(f"{name}: is the negative of a tensor and was not computed yet; use rows.resolve_neg()")
    try:
        return int(rows.__dlpack_device__()[0])
    except Exception as error:  # as of an array that is spread over devices
        raise dlpack_words(rows, name, error) from error


def _from_list(rows: Sequence[Any], name: str) -> np.ndarray:
    """(n, d), or (d,), of the numbers of a list; whole numbers become float64 if they are of no type of vectors."""
    if any(np.ma.is_masked(row) for row in rows):
        raise InputError(f"{name}: has masked entries, which are no values; fill them, or leave those rows out")
    lengths = [_length(row) for row in rows]
    odd = next((i for i, length in enumerate(lengths) if length != lengths[0]), None)
    if odd is not None:
        first, other = (
            f"{length} components" if length is not None else "none" for length in (lengths[0], lengths[odd])
        )
        raise InputError(f"{name}: row {odd} (counted from 0) has {other}, row 0 has {first}; rows have one length")
    with in_our_words(f"{name}: {type_of(rows)} does not hold rows of numbers"):
        array = np.array(rows)
    if array.dtype.kind not in "iu" or array.dtype.name in ROW_TYPES:
        return array
    if array.size and max(int(array.max()), -int(array.min())) > WHOLE_IN_FLOAT64:
        raise InputError(f"{name}: holds whole numbers beyond 2^53, which float64 would round; use floats")
    return array.astype(np.float64)


def _length(row: Any) -> int | None:
    """How many components a row has; None if it is itself one."""
    try:
        return None if isinstance(row, str | bytes) else len(row)
    except TypeError:  # numbers, and arrays that hold one
        return None
