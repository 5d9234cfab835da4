"""Gold standards of VectorDBBench: columns `id`, a query's id, and `neighbors_id`, the ids of its neighbours."""

from pathlib import Path

import numpy as np

from gpuknn.errors import InputError, in_our_words
from gpuknn.gold.gold import Gold, from_file
from gpuknn.gold.writer import GoldWriter, Outline
from gpuknn.vectors.parquet import pyarrow_parquet


def read_neighbors_parquet(path: Path) -> Gold:
    """Read such a file, its lines in the order of `id`.

    VectorDBBench itself goes by the lines' own order.  The two agree if `id` ascends; if not, `in_order` is False.
    Raises InputError if its lists are not of one length, or an id is no whole number or stands twice: the answers would
    go to other queries unnoticed.
    """
    parquet = pyarrow_parquet(path)
    with in_our_words(f"{path}: cannot be read as Parquet"):
        with parquet.ParquetFile(path) as file:
            if not {"id", "neighbors_id"} <= set(file.schema_arrow.names):
                raise InputError(
                    f"{path}: has no columns id and neighbors_id, but {', '.join(file.schema_arrow.names)}"
                )
            table = file.read(["id", "neighbors_id"])
        ids, lists = table["id"].to_numpy(), table["neighbors_id"].combine_chunks()
        if lists.null_count:
            missing = int(np.argmax(lists.is_null().to_numpy(zero_copy_only=False)))
            raise InputError(f"{path}: row {missing} (counted from 0) has no list of neighbors_id, but null")
        flat, lengths = lists.flatten().to_numpy(zero_copy_only=False), lists.value_lengths().to_numpy()
    if len(lengths) == 0 or len(set(lengths.tolist())) != 1 or lengths[0] < 1 or flat.dtype.kind not in "iu":
        raise InputError(f"{path}: its lists of neighbors_id are not integers of one length")
    if ids.dtype.kind not in "iu" or (len(ids) and ids.max() > np.iinfo(np.int64).max):  # with nulls they are floats
        raise InputError(f"{path}: its ids are not the queries' ids, whole numbers")
    order = np.argsort(ids, kind="stable")
    queries = ids[order].astype(np.int64)
    twice = np.flatnonzero(queries[1:] == queries[:-1])
    if len(twice):
        raise InputError(f"{path}: its ids are not the queries' ids: {queries[twice[0]]} stands twice")
    lines = flat.reshape(len(lengths), -1)[order]
    ascending = bool(np.array_equal(order, np.arange(len(order))))
    return from_file(lines, None, 0, query_ids=queries, are_rows=False, in_order=ascending)


def is_neighbors_parquet(path: Path) -> bool:
    """Whether a Parquet file holds neighbours, not vectors."""
    try:
        return "neighbors_id" in pyarrow_parquet(path).read_schema(path).names
    except InputError:
        raise
    except Exception:  # pyarrow's own kinds, and OSError: whoever reads it as vectors will say what is wrong
        return False


class ParquetWriter(GoldWriter):
    """The ids, a row group for each block."""

    HOLDS_DISTS = False
    HOLDS_QUERY_IDS = True

    def __init__(self, part: Path, outline: Outline) -> None:
        super().__init__(part, outline)
        import pyarrow as pa

        # Large, because nq * k may pass what the other's 32-bit offsets can count.
        self._schema = pa.schema([("id", pa.int64()), ("neighbors_id", pa.large_list(pa.int64()))])
        self._file = pyarrow_parquet(part).ParquetWriter(part, self._schema)

    def write(self, first: int, gold: Gold) -> None:
        """Write a block behind the last."""
        import pyarrow as pa

        nq, k = gold.shape
        ids = gold.ids if gold.own_ids is None else gold.own_ids
        lists = pa.LargeListArray.from_arrays(np.arange(nq + 1) * k, pa.array(np.ascontiguousarray(ids).reshape(-1)))
        queries = np.arange(first, first + nq) if gold.query_ids is None else gold.query_ids
        self._file.write_table(pa.Table.from_arrays([pa.array(queries), lists], schema=self._schema))

    def close(self) -> None:
        """Write the file's end."""
        self._file.close()
