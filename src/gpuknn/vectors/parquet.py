"""Vectors in a column of a Parquet file: lists of numbers of one length, as VectorDBBench and many others keep them."""

from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

import numpy as np

from gpuknn.errors import InputError, one_line, pip_install
from gpuknn.vectors.decoded import DecodedVectors
from gpuknn.vectors.ids import ADVICE, IDS_AT_ONCE, RowIds
from gpuknn.vectors.source import check_layout, choose_ids, choose_key
from gpuknn.vectors.written import Missing

BATCH_ROWS = 2**14
"""Rows decoded at once."""


@dataclass(frozen=True)
class ParquetVectors(DecodedVectors):
    """Rows decoded by Arrow, a row group or more at a time."""

    edges: tuple[int, ...]
    """The first rows of the row groups, and the number of rows."""

    def band(self, row: int) -> range:
        """The rows of the row group that holds `row`."""
        group = bisect_right(self.edges, row) - 1
        return range(self.edges[group], self.edges[group + 1])

    @property
    def band_rows(self) -> int:
        """Rows of the largest row group."""
        return max(b - a for a, b in pairwise(self.edges))

    def decode(self, rows: range, out: np.ndarray) -> None:
        """Decode row groups into `out`, batch by batch."""
        import pyarrow.parquet

        groups = range(bisect_left(self.edges, rows.start), bisect_left(self.edges, rows.stop))
        here = 0
        try:
            with pyarrow.parquet.ParquetFile(self.path) as file:
                for batch in file.iter_batches(BATCH_ROWS, row_groups=list(groups), columns=[self.key]):
                    here += self._copy(batch.column(0), rows.start + here, out[here:])
        except InputError:
            raise
        except Exception as error:  # of a damaged file Arrow raises what it likes
            raise InputError(
                f"{self.where}: rows {rows.start} to {rows.stop} cannot be read ({one_line(error)})"
            ) from error
        if here != len(rows):
            raise InputError(f"{self.where}: has {here} rows where {len(rows)} were promised")

    def _copy(self, lists: Any, first: int, out: np.ndarray) -> int:
        """Copy a batch, which begins at row `first`; raises InputError at a row that is not d numbers."""
        import pyarrow.compute

        d = self.shape[1]
        lengths = pyarrow.compute.fill_null(pyarrow.compute.list_value_length(lists), 0).to_numpy()
        odd = np.flatnonzero(lengths != d)
        if len(odd):
            raise InputError(
                f"{self.where}: row {first + odd[0]} (counted from 0) has {lengths[odd[0]]} components, others have {d}"
            )
        values = lists.flatten()
        if values.null_count:
            missing = int(np.argmax(values.is_null().to_numpy(zero_copy_only=False)))
            raise InputError(f"{self.where}: row {first + missing // d} (counted from 0) has a component that is null")
        out[: len(lists)] = values.to_numpy().reshape(len(lists), d)
        return len(lists)


@dataclass(frozen=True)
class ParquetIds(RowIds):
    """Ids in a column beside the rows."""

    path: str
    key: str

    def read(self) -> Iterator[np.ndarray]:
        """Some ids at a time; raises InputError if one is null."""
        import pyarrow.parquet

        try:
            with pyarrow.parquet.ParquetFile(self.path) as file:
                first = 0
                for batch in file.iter_batches(IDS_AT_ONCE, columns=[self.key]):
                    column = batch.column(0)
                    if column.null_count:
                        row = first + int(np.argmax(column.is_null().to_numpy(zero_copy_only=False)))
                        raise InputError(f"{self.where}: row {row} (counted from 0) has no id, but null; {ADVICE}")
                    first += len(column)
                    yield column.to_numpy(zero_copy_only=False)
        except InputError:
            raise
        except Exception as error:  # of a damaged file Arrow raises what it likes
            raise InputError(f"{self.where}: cannot be read ({one_line(error)})") from error


def open_parquet(path: Path, key: str | None, missing: Missing) -> ParquetVectors:
    """Open a column of a Parquet file; raises InputError if there is none that fits, or pyarrow is not installed.

    Nothing is `missing` in Parquet: what nobody wrote is null, and refused.
    """
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise InputError(f"{path}: Parquet files need pyarrow; install it with: {pip_install('parquet')}") from error
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            columns = {column.name: column.type for column in file.schema_arrow}
            n = file.metadata.num_rows
            groups = (file.metadata.row_group(group).num_rows for group in range(file.num_row_groups))
            edges = tuple(accumulate(groups, initial=0))
            if key is None:
                key = choose_key({name: _layout(kind, n) for name, kind in columns.items()}, path)
            if key not in columns:
                raise InputError(f"{path}: has no column {key!r}; it holds {', '.join(columns)}")
            (_, *d), dtype = _layout(columns[key], n)
            if d == [0]:
                first = next(file.iter_batches(1, columns=[key]), None)
                row = first.column(0)[0].as_py() if first else ()
                if first and not row:
                    what = "is null" if row is None else "has no components"
                    raise InputError(f"{path}:{key}: row 0 (counted from 0) {what}")
                d = [len(row)]
    except InputError:
        raise
    except Exception as error:  # of a damaged file Arrow raises what it likes
        raise InputError(f"{path}: is a damaged Parquet file ({one_line(error)})") from error
    check_layout((n, *d), dtype, f"{path}:{key}")
    id_key = choose_ids(key, n, {name: ((n,), np.dtype(object)) for name in columns})
    ids = None if id_key is None else ParquetIds(f"{path}:{id_key}", range(n), str(path), id_key)
    return ParquetVectors(str(path), key, (n, d[0]), dtype, edges, ids=ids)


def _layout(column: Any, rows: int) -> tuple[tuple[int, ...], np.dtype]:
    """Shape and dtype of a column of that Arrow type: (rows, d), d being 0 where every row has a length of its own."""
    from pyarrow import types

    if types.is_fixed_size_list(column):
        return (rows, column.list_size), _dtype(column.value_type)
    if types.is_list(column) or types.is_large_list(column):
        return (rows, 0), _dtype(column.value_type)
    return (rows,), _dtype(column)


def _dtype(kind: Any) -> np.dtype:
    """NumPy's name for a type of numbers; object for all others."""
    from pyarrow import types

    return np.dtype(kind.to_pandas_dtype() if types.is_integer(kind) or types.is_floating(kind) else object)
