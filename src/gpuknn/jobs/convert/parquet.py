"""Parquet: columns `id` and `emb`, a list for each row, as VectorDBBench reads them; written from the first row on."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gpuknn.errors import InputError
from gpuknn.gold.parquet import pyarrow_parquet
from gpuknn.storage.durable import sync
from gpuknn.vectors.ids import RowIds, chunks
from gpuknn.vectors.target import Target

GROUP_BYTES = 2**26
"""Of a row group."""


@dataclass(frozen=True)
class Parquet(Target):
    """A file of one piece: Parquet can only be written from its beginning to its end."""

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
            for group in _groups(blocks, at_once, self.shape, self.dtype):
                starts = np.arange(len(group) + 1, dtype=np.int32) * self.shape[1]
                lists = pa.ListArray.from_arrays(starts, pa.array(group.reshape(-1)))
                ids = pa.array(next(named))
                file.write_table(pa.Table.from_arrays([ids, lists], schema=schema), row_group_size=len(group))
        sync(Path(self.path))

    def finish(self, notes: Mapping[str, Any]) -> None:
        """Nothing is left to do."""


def parquet_target(
    path: str,
    shape: tuple[int, int],
    dtype: np.dtype,
    column: str | None,
    compression: str,
    ids: RowIds | None = None,
) -> Parquet:
    """Raises InputError where pyarrow is not installed or Parquet lacks the compression."""
    if compression == "blosc":
        raise InputError("--compression blosc: Parquet has no blosc; choose zstd or none")
    pyarrow_parquet("--to parquet")
    return Parquet(path, shape, dtype, column or "emb", compression, ids)


def _groups(
    blocks: Iterator[np.ndarray], at_once: int, shape: tuple[int, int], dtype: np.dtype
) -> Iterator[np.ndarray]:
    """The rows of all blocks, `at_once` together."""
    buffer, filled = np.empty((min(at_once, shape[0]), shape[1]), dtype), 0
    for block in blocks:
        while len(block):
            part = block[: len(buffer) - filled]
            buffer[filled : filled + len(part)] = part
            filled, block = filled + len(part), block[len(part) :]
            if filled == len(buffer):
                yield buffer
                filled = 0
    if filled:
        yield buffer[:filled]
