"""Gold standards of VectorDBBench: columns `id`, the query's number, and `neighbors_id`, its ids, counted from 0."""

from pathlib import Path
from typing import Any

import numpy as np

from gpuknn.errors import InputError, one_line
from gpuknn.exact.neighbors import Neighbors
from gpuknn.gold.ids_only import without_distances


def read_neighbors_parquet(path: Path) -> Neighbors:
    """Read such a file, its lines in the order of `id`; raises InputError where they are not of one length.

    Ids that do not number the queries from 0 are refused, too: the answers would go to other queries unnoticed.
    """
    parquet = pyarrow_parquet(path)
    try:
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
    except InputError:
        raise
    except Exception as error:  # pyarrow's own kinds, and OSError
        raise InputError(f"{path}: cannot be read as Parquet ({one_line(error)})") from error
    if len(lengths) == 0 or len(set(lengths.tolist())) != 1 or lengths[0] < 1 or flat.dtype.kind not in "iu":
        raise InputError(f"{path}: its lists of neighbors_id are not integers of one length")
    order = np.argsort(ids, kind="stable") if ids.dtype.kind in "iu" else None  # with nulls they are floats
    if order is None or not np.array_equal(ids[order], np.arange(len(ids))):
        raise InputError(f"{path}: its ids are not the queries' numbers, each of 0 to {len(ids) - 1} once")
    return without_distances(flat.reshape(len(lengths), -1)[order])


def is_neighbors_parquet(path: Path) -> bool:
    """Whether a Parquet file holds neighbours, not vectors."""
    try:
        return "neighbors_id" in pyarrow_parquet(path).read_schema(path).names
    except InputError:
        raise
    except Exception:  # pyarrow's own kinds, and OSError: whoever reads it as vectors will say what is wrong
        return False


def write_neighbors_parquet(path: Path, neighbors: Neighbors) -> None:
    """Write the ids."""
    import pyarrow as pa

    parquet = pyarrow_parquet(path)
    nq, k = neighbors.ids.shape
    # Large, because nq * k may pass what the other's 32-bit offsets can count.
    lists = pa.LargeListArray.from_arrays(np.arange(nq + 1) * k, pa.array(neighbors.ids.reshape(-1)))
    parquet.write_table(pa.table({"id": np.arange(nq), "neighbors_id": lists}), path)


def pyarrow_parquet(path: str | Path) -> Any:
    """Parquet as pyarrow reads it; raises InputError where it is not installed."""
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise InputError(f"{path}: Parquet needs pyarrow; install gpuknn[parquet]") from error
    return pyarrow.parquet
