"""Row groups of a Parquet file, decoded by Arrow from their first row on, a batch at a time."""

from contextlib import AbstractContextManager
from typing import Any

import numpy as np

from gpuknn.errors import InputError, in_our_words

BATCH_BYTES = 2**22
"""Of rows that Arrow decodes at once."""
READ_BYTES = 2**20
"""Of the file, read at once.  Without it, Arrow reads all pages of a row group before it decodes one."""
ARROW_BATCHES, ARROW_BYTES = 8, 2**25
"""What Arrow takes while it decodes, measured: 5 to 6 batches, and what its allocator keeps of those before."""
ASSUMED_PAGE = 2**20
"""Bytes of a page by default, with Arrow and others; DuckDB's have up to 100 MB."""


class RowGroups:
    """A run of whole row groups of a column."""

    def __init__(
        self, path: str, column: str, rows: range, groups: range, shape: tuple[int, int], itemsize: int
    ) -> None:
        """Open them; `rows` are theirs, `shape` is that of all rows.  Raises InputError if they cannot be read."""
        import pyarrow.parquet

        self._where, self._rows, self._components = f"{path}:{column}", rows, shape[1]
        self._here = rows.start
        self._lists: Any = ()
        batch_rows = max(1, BATCH_BYTES // (shape[1] * itemsize))
        with self._in_our_words():
            self._file = pyarrow.parquet.ParquetFile(path, buffer_size=READ_BYTES, pre_buffer=False)
            self._batches = self._file.iter_batches(batch_rows, row_groups=list(groups), columns=[column])

    def fill(self, out: np.ndarray) -> None:
        """Fill `out` with the next rows; raises InputError if they cannot be read or are not d numbers each."""
        filled = 0
        while filled < len(out):
            if not len(self._lists):
                self._lists = self._next_batch()
            lists, self._lists = self._lists[: len(out) - filled], self._lists[len(out) - filled :]
            out[filled : filled + len(lists)] = list_values(lists, self._components, self._where, self._here)
            filled, self._here = filled + len(lists), self._here + len(lists)

    def close(self) -> None:
        """Close the file, and have Arrow's allocator give back what it keeps: hundreds of MiB, measured."""
        import pyarrow

        self._batches.close()
        self._file.close()
        pyarrow.default_memory_pool().release_unused()

    def _next_batch(self) -> Any:
        with self._in_our_words():
            batch = next(self._batches, None)
        if batch is None:
            there, promised = self._here - self._rows.start, len(self._rows)
            raise InputError(f"{self._where}: has {there} rows where {promised} were promised")
        return batch.column(0)

    def _in_our_words(self) -> AbstractContextManager[None]:
        return in_our_words(f"{self._where}: rows {self._rows.start} to {self._rows.stop} cannot be read")


def list_values(lists: Any, components: int, where: str, first: int) -> np.ndarray:
    """(m, components): the numbers of m lists of Arrow's, not copied if Arrow keeps them as NumPy does.

    `first`: the number of the first row.  Raises InputError at a row that is not so many numbers.
    """
    import pyarrow.compute

    lengths = pyarrow.compute.fill_null(pyarrow.compute.list_value_length(lists), 0).to_numpy()
    odd = np.flatnonzero(lengths != components)
    if len(odd):
        row = f"row {first + odd[0]} (counted from 0)"
        raise InputError(f"{where}: {row} has {lengths[odd[0]]} components, others have {components}")
    values = lists.flatten()
    if values.null_count:
        missing = int(np.argmax(values.is_null().to_numpy(zero_copy_only=False)))
        row = f"row {first + missing // components} (counted from 0)"
        raise InputError(f"{where}: {row} has a component that is null")
    found: np.ndarray = values.to_numpy(zero_copy_only=False).reshape(len(lists), components)
    return found


def arrow_bytes(row_bytes: int, page: int) -> int:
    """What Arrow takes at most while it decodes rows of that size from pages of that size, packed and unpacked."""
    return ARROW_BATCHES * max(BATCH_BYTES, row_bytes) + ARROW_BYTES + 2 * page


def page_bytes(path: str, column: str, group: int) -> int:
    """Bytes of the first page of a column in a row group, unpacked; writers cut a column into pages of one size.

    Of a page's header only that is read (Thrift's compact protocol: type, size unpacked, size packed).  Raises
    InputError if the file cannot be read.
    """
    import pyarrow.parquet

    with in_our_words(f"{path}:{column}: cannot be read"):
        with pyarrow.parquet.ParquetFile(path) as file:
            chunks = file.metadata.row_group(group)
            every = (chunks.column(number) for number in range(chunks.num_columns))
            chunk = next(c for c in every if f"{c.path_in_schema}.".startswith(f"{column}."))
            most, start = int(chunk.total_uncompressed_size), chunk.data_page_offset
        with open(path, "rb") as opened:
            opened.seek(start)
            head = opened.read(16)
    numbers = _numbers(head)
    return min(most, max(ASSUMED_PAGE, numbers[1] if len(numbers) > 1 else 0))


def _numbers(head: bytes) -> list[int]:
    """The whole numbers (fields 1, 2, ... of 32 bits) with which a structure of Thrift's begins."""
    found: list[int] = []
    at = 0
    while at + 1 < len(head) and head[at] == 0x15:
        number, shift, at = 0, 0, at + 1
        while at < len(head):
            byte, at = head[at], at + 1
            number |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                found.append(number >> 1 ^ -(number & 1))
                break
    return found
