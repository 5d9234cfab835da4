"""Vectors in a column of a Parquet file: lists of numbers of one length, as VectorDBBench and many others keep them."""

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

import numpy as np

from gpuknn.errors import InputError, in_our_words, option, pip_install
from gpuknn.storage.durable import sync
from gpuknn.vectors.decoded import DecodedVectors
from gpuknn.vectors.ids import ID_NAMES, IDS_AT_ONCE, RowIds, chunks, id_advice, regrouped
from gpuknn.vectors.parquet_rows import READ_BYTES, RowGroups, arrow_bytes, page_bytes
from gpuknn.vectors.stream import PASSED_BYTES, Streams
from gpuknn.vectors.target import Target
from gpuknn.vectors.vectors import check_layout, choose_key
from gpuknn.vectors.written import Missing

LARGE_BYTES = 2**26
"""A row group with more than that of rows is decoded as a stream and never held whole."""
BAND_BYTES = 2**24
"""Of rows of such a stream that are decoded together: as much as one thread asks for at once."""
GROUP_BYTES = 2**26
"""Of a row group that is written."""


@dataclass(frozen=True)
class ParquetVectors(DecodedVectors):
    """Rows decoded by Arrow: small row groups whole, large ones from their beginning, a band at a time."""

    edges: tuple[int, ...]
    """The first rows of the row groups, and the number of rows."""
    streams: Streams = field(default_factory=Streams, init=False, repr=False, compare=False)

    def band(self, row: int) -> range:
        """The rows of the small row group, or of the band of a large one, that holds `row`."""
        return self._band(self._group(row), row)

    @property
    def band_rows(self) -> int:
        """Rows of the largest band."""
        return max(len(self._band(range(a, b), a)) for a, b in pairwise(self.edges))

    def decoding_bytes(self, readers: int) -> int:
        """What Arrow takes for each thread, and what streams keep of bands that they have passed."""
        largest = int(np.argmax(np.diff(self.edges)))
        each = arrow_bytes(self._row_bytes, page_bytes(self.path, str(self.key), largest))
        large = self._is_large(range(self.edges[largest], self.edges[largest + 1]))
        return readers * each + (PASSED_BYTES if large and readers > 1 else 0)

    def decode(self, rows: range, out: np.ndarray) -> None:
        """Decode small row groups one after another, and bands of large ones from the streams that come to them."""
        here = rows.start
        while here < rows.stop:
            group = self._group(here)
            if self._is_large(group):
                band = self._band(group, here)
                into = out[here - rows.start :][: len(band)]
                self.streams.read(group, band, self._large_rows, into, partial(self._row_groups, group))
                here = band.stop
            else:
                whole = range(here, self._small_until(group, rows.stop))
                with closing(self._row_groups(whole)) as groups:
                    groups.fill(out[here - rows.start :][: len(whole)])
                here = whole.stop

    def _row_groups(self, rows: range) -> RowGroups:
        groups = range(bisect_left(self.edges, rows.start), bisect_left(self.edges, rows.stop))
        return RowGroups(self.path, str(self.key), rows, groups, self.shape, self.dtype.itemsize)

    def _group(self, row: int) -> range:
        number = bisect_right(self.edges, row) - 1
        return range(self.edges[number], self.edges[number + 1])

    def _band(self, group: range, row: int) -> range:
        if not self._is_large(group):
            return group
        start = row - (row - group.start) % self._large_rows
        return range(start, min(start + self._large_rows, group.stop))

    def _is_large(self, group: range) -> bool:
        return len(group) * self._row_bytes > LARGE_BYTES

    def _small_until(self, group: range, end: int) -> int:
        """Where the last of the small row groups from `group` on ends, before `end`."""
        while group.stop < end and not self._is_large(following := self._group(group.stop)):
            group = following
        return group.stop

    @property
    def _row_bytes(self) -> int:
        return self.shape[1] * self.dtype.itemsize

    @property
    def _large_rows(self) -> int:
        """Rows of a band of a large row group."""
        return max(1, BAND_BYTES // self._row_bytes)


@dataclass(frozen=True)
class ParquetIds(RowIds):
    """Ids in a column beside the rows."""

    path: str
    key: str

    def read(self) -> Iterator[np.ndarray]:
        """Some ids at a time; raises InputError if one is null."""
        import pyarrow.parquet

        with in_our_words(f"{self.where}: cannot be read"), pyarrow.parquet.ParquetFile(self.path) as file:
            first = 0
            for batch in file.iter_batches(IDS_AT_ONCE, columns=[self.key]):
                column = batch.column(0)
                if column.null_count:
                    row = first + int(np.argmax(column.is_null().to_numpy(zero_copy_only=False)))
                    raise InputError(f"{self.where}: row {row} (counted from 0) has no id, but null; {id_advice()}")
                first += len(column)
                yield column.to_numpy(zero_copy_only=False)


def open_parquet(path: Path, key: str | None, missing: Missing) -> ParquetVectors:
    """Open a column of a Parquet file; raises InputError if there is none that fits, or pyarrow is not installed.

    Nothing is `missing` in Parquet: what nobody wrote is null, and refused.
    """
    parquet = pyarrow_parquet(path)
    with in_our_words(f"{path}: is a damaged Parquet file"), parquet.ParquetFile(path, buffer_size=READ_BYTES) as file:
        columns = {column.name: column.type for column in file.schema_arrow}
        n = file.metadata.num_rows
        groups = (file.metadata.row_group(group).num_rows for group in range(file.num_row_groups))
        edges = tuple(accumulate(groups, initial=0))
        if edges[-1] != n:
            raise InputError(f"{path}: says it has {n:,} rows, and its row groups have {edges[-1]:,}; it is damaged")
        if key is None:
            key = choose_key({name: layout(kind, n) for name, kind in columns.items()}, path)
        if key not in columns:
            raise InputError(f"{path}: has no column {key!r}; it holds {', '.join(columns)}")
        (_, *d), dtype = layout(columns[key], n)
        if d == [0]:
            first = next(file.iter_batches(1, columns=[key]), None)
            row = first.column(0)[0].as_py() if first else ()
            if first and not row:
                what = "is null" if row is None else "has no components"
                raise InputError(f"{path}:{key}: row 0 (counted from 0) {what}")
            d = [len(row)]
    check_layout((n, *d), dtype, f"{path}:{key}")
    id_key = next((name for name in ID_NAMES if name in columns), None)
    ids = None if id_key is None else ParquetIds(f"{path}:{id_key}", range(n), n, str(path), id_key)
    return ParquetVectors(str(path), key, (n, d[0]), dtype, edges, ids=ids)


@dataclass(frozen=True)
class ParquetTarget(Target):
    """Columns `id` and `emb`, as one piece: Parquet can only be written from its beginning to its end."""

    column: str
    compression: str
    ids: RowIds | None = None

    @property
    def piece_rows(self) -> int:
        """All."""
        return self.shape[0]

    def create(self) -> None:
        """Nothing: the file is made as it is written."""

    def write(self, piece: range, blocks: Iterator[np.ndarray]) -> None:
        """Write the file, one row group after another."""
        import pyarrow as pa

        parquet = pyarrow_parquet(self.path)
        kind = pa.list_(pa.from_numpy_dtype(self.dtype))
        schema = pa.schema([("id", pa.int64()), (self.column, kind)])
        at_once = max(1, GROUP_BYTES // (self.shape[1] * self.dtype.itemsize))
        with parquet.ParquetWriter(
            self.path, schema, compression=self.compression, use_dictionary=False, write_statistics=["id"]
        ) as file:
            named = chunks(self.ids, self.shape[0], at_once)
            for group in regrouped(blocks, at_once, self.shape, self.dtype):
                starts = np.arange(len(group) + 1, dtype=np.int32) * self.shape[1]
                lists = pa.ListArray.from_arrays(starts, pa.array(group.reshape(-1)))
                ids = pa.array(next(named))
                file.write_table(pa.Table.from_arrays([ids, lists], schema=schema), row_group_size=len(group))
        sync(Path(self.path))

    def finish(self, notes: Mapping[str, Any]) -> None:
        """Nothing is left to do."""


def parquet_target(
    path: str, shape: tuple[int, int], dtype: np.dtype, column: str | None, compression: str, ids: RowIds | None
) -> ParquetTarget:
    """The writer of a Parquet file.  Raises InputError if pyarrow is not installed or Parquet lacks the compression."""
    if compression == "blosc":
        raise InputError(f"{option('compression', 'blosc')}: Parquet has no blosc; choose zstd or none")
    pyarrow_parquet(option("to", "parquet"))
    return ParquetTarget(path, shape, dtype, column or "emb", compression, ids)


def pyarrow_parquet(path: str | Path) -> Any:
    """Parquet as pyarrow reads it; raises InputError if it is not installed."""
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise InputError(f"{path}: Parquet files need pyarrow; install it with: {pip_install('parquet')}") from error
    return pyarrow.parquet


def layout(column: Any, rows: int) -> tuple[tuple[int, ...], np.dtype]:
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
