"""What a file calls its rows: found, checked, looked up."""

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import zarr

from gpuknn.errors import InputError
from gpuknn.vectors import Vectors, ids, open_vectors
from gpuknn.vectors.ids import own_ids, rows_of

N, D = 100, 4
ROWS = np.random.default_rng(0).random((N, D), np.float32)
SHUFFLED = np.random.default_rng(1).permutation(N) + 1_000_000


def parquet(path: Path, column: Any, name: str = "id") -> Vectors:
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    lists = pa.FixedSizeListArray.from_arrays(pa.array(ROWS.reshape(-1)), D)
    pq.write_table(pa.table({name: column, "emb": lists}), path, row_group_size=30)
    return open_vectors(path)


def hdf5(path: Path, column: Any, name: str = "ids") -> Vectors:
    with h5py.File(path, "w") as file:
        file["emb"], file[name] = ROWS, column
    return open_vectors(path)


def in_zarr_by_path(path: Path, column: Any, name: str = "ids") -> Vectors:
    in_zarr(path, column, name)
    return open_vectors(path / "emb")


def in_zarr(path: Path, column: Any, name: str = "ids") -> Vectors:
    group = zarr.open_group(str(path), mode="w")
    group.create_array("emb", data=ROWS)
    group.create_array(name, data=np.asarray(column))
    return open_vectors(path, key="emb")


KINDS = {"a.parquet": parquet, "a.h5": hdf5, "a.zarr": in_zarr, "b.zarr": in_zarr_by_path}


@pytest.mark.parametrize("name", ["id", "ids"])
@pytest.mark.parametrize("kind", KINDS)
def test_ids_beside_the_rows(kind: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("hdf5", "parquet", "zarr"):
        monkeypatch.setattr(f"gpuknn.vectors.{module}.IDS_AT_ONCE", 7)
    monkeypatch.setattr(ids, "LOOKED_AT", 13)
    found = own_ids(KINDS[kind](tmp_path / kind, SHUFFLED, name).ids)
    assert found is not None
    assert np.concatenate(list(found.batches())).tolist() == SHUFFLED.tolist()
    asked = np.random.default_rng(2).integers(-1, N, (9, 5))
    assert np.array_equal(found.of(asked), np.where(asked < 0, -1, SHUFFLED[asked]))
    part = rows_of(found, range(33, 77))
    assert part is not None
    assert np.concatenate(list(part.batches())).tolist() == SHUFFLED[33:77].tolist()
    assert part.of(np.array([0, 43])).tolist() == SHUFFLED[[33, 76]].tolist()


@pytest.mark.parametrize("kind", KINDS)
def test_ids_that_are_the_rows_numbers_are_none(kind: str, tmp_path: Path) -> None:
    assert own_ids(KINDS[kind](tmp_path / kind, np.arange(N)).ids) is None
    assert own_ids(open_vectors(write_plain(tmp_path / "plain.npy")).ids) is None


def write_plain(path: Path) -> Path:
    np.save(path, ROWS)
    return path


@pytest.mark.parametrize(
    ("column", "words"),
    [
        ([f"row-{i}" for i in range(N)], "its ids are text and not whole numbers; ignore_ids=True"),
        (np.arange(N) / 2, "its ids are float64 and not whole"),
        ([0, None, *range(2, N)], r"row 1 \(counted from 0\) has no id"),
        ([0, -4, *range(2, N)], r"row 1 \(counted from 0\) has the id -4"),
        ([*range(1, N), 5], "the id 5 belongs to more than one row"),
        (np.array([*range(N - 1), 2**63 + 5], np.uint64), "row 99 has the id 9223372036854775813, beyond"),
    ],
)
def test_ids_that_cannot_be_honoured(column: Any, words: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=words):
        own_ids(parquet(tmp_path / "a.parquet", column).ids)


def test_queries_in_a_file_of_rows_have_ids_of_their_own(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["train"], file["test"], file["ids"], file["query_ids"] = ROWS, ROWS, SHUFFLED, SHUFFLED[::-1]
    found = own_ids(open_vectors(tmp_path / "a.h5", key="test").ids)
    assert found is not None
    assert found.where.endswith("a.h5:query_ids")


@pytest.mark.parametrize("kind", ["a.h5", "a.zarr"])
@pytest.mark.parametrize("column", [np.arange(N - 5), np.arange(N + 5), SHUFFLED[:, None]], ids=["short", "long", "2d"])
def test_ids_that_are_not_one_for_each_row(kind: str, column: Any, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"ids: has the shape .*, not an id for each row; ignore_ids=True"):
        own_ids(KINDS[kind](tmp_path / kind, column).ids)


def test_links_lead_to_ids_of_the_same_file_only(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["real"] = SHUFFLED
    for name, link, words in (
        ("a.h5", h5py.SoftLink("/real"), None),
        ("b.h5", h5py.ExternalLink("other.h5", "real"), "another file"),
    ):
        with h5py.File(tmp_path / name, "w") as file:
            file["emb"], file["real"], file["ids"] = ROWS, SHUFFLED, link
        if words is None:
            found = own_ids(open_vectors(tmp_path / name, key="emb").ids)
            assert found is not None
            assert found.all().tolist() == SHUFFLED.tolist()
        else:
            with pytest.raises(InputError, match=words):
                own_ids(open_vectors(tmp_path / name, key="emb").ids)


@pytest.mark.parametrize("name", ["queries", "test"])
def test_queries_alone_in_a_file_have_its_ids(name: str, tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file[name], file["ids"] = ROWS, SHUFFLED
    found = own_ids(
        open_vectors(tmp_path / "a.h5").ids if name == "test" else open_vectors(tmp_path / "a.h5", key=name).ids
    )
    assert found is not None
    assert found.highest == SHUFFLED.max()


def test_ids_that_were_never_written(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["emb"] = ROWS
        file.create_dataset("ids", (N,), "i8", chunks=(10,))[:10] = SHUFFLED[:10]
    with pytest.raises(InputError, match=r"a.h5:ids: 9 of 10 chunks were never written.*ignore_ids=True"):
        own_ids(open_vectors(tmp_path / "a.h5").ids)
    group = zarr.open_group(str(tmp_path / "a.zarr"), mode="w")
    group.create_array("emb", data=ROWS)
    group.create_array("ids", shape=(N,), dtype="i8", chunks=(10,))[:10] = SHUFFLED[:10]
    for vectors in (open_vectors(tmp_path / "a.zarr", key="emb"), open_vectors(tmp_path / "a.zarr/emb")):
        with pytest.raises(InputError, match=r"ids: 9 of 10 chunks are missing.*ignore_ids=True"):
            own_ids(vectors.ids)
