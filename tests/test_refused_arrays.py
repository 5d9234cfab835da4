"""What holds no rows that can be searched is refused in plain words, and the advice given works."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pyarrow as pa
import pytest
import zarr
from zarr.storage import MemoryStore

import gpuknn
from gpuknn.errors import InputError
from gpuknn.vectors import as_vectors
from tests.test_arrays import N, Producer, numbers, zarr_in


def closed(folder: Path) -> h5py.Dataset:
    with h5py.File(folder / "a.h5", "w") as file:
        return file.create_dataset("emb", data=np.ones((3, 3)))


def masked(rows: np.ndarray) -> Any:
    return np.ma.masked_greater(rows, 1)


class Sparse:
    nnz = 3

    def toarray(self) -> np.ndarray:
        raise AssertionError


ONES = np.ones((4, 3))
REFUSED: dict[str, tuple[Callable[[Path], Any], str]] = {
    "None": (lambda p: None, r"is None; rows are taken from arrays of NumPy"),
    "dict": (lambda p: {"a": ONES}, "is an object of type dict; rows are taken"),
    "generator": (lambda p: iter(ONES), "is an object of type .*; rows are taken"),
    "number": (lambda p: 3.5, "is an object of type float"),
    "ragged": (lambda p: [[1.0, 2], [3.0]], "row 1 .* has 1 components, row 0 has 2 components"),
    "half flat": (lambda p: [[1.0, 2], 3.0], "row 1 .* has none"),
    "ragged deeper": (lambda p: [[[1.0], [2, 3]]], "does not hold rows of numbers"),
    "text": (lambda p: ["a", "b"], "a: there is no such file"),
    "texts": (lambda p: [["1", "2"]], "holds str"),
    "nothing in it": (lambda p: [[1.0, None]], "holds object, .* must be numbers"),
    "empty": (lambda p: [], "1 dimension"),
    "huge": (lambda p: [[2**60, 1]], r"beyond 2\^53"),
    "masked": (lambda p: masked(np.arange(6.0).reshape(2, 3)), "has masked entries"),
    "masked in a list": (lambda p: [masked(np.arange(3.0))], "has masked entries"),
    "objects": (lambda p: np.array([[1, None]]), r"holds object, .* np\.stack"),
    "int64": (lambda p: ONES.astype(int), r"holds int64, .* rows\.astype\(np\.float32\)"),
    "complex": (lambda p: ONES * 1j, "holds complex128"),
    "dates": (lambda p: np.zeros((2, 2), "M8[s]"), r"holds datetime64\[s\]"),
    "records": (lambda p: np.zeros(3, [("emb", "f4", 3)]), "take the field"),
    "three dimensions": (lambda p: np.ones((2, 2, 2)), r"has 3 dimension\(s\)"),
    "scalar": (lambda p: np.float64(3), r"has 0 dimension\(s\)"),
    "sparse": (lambda p: Sparse(), r"dense; use rows\.toarray\(\)"),
    "h5py file": (lambda p: h5py.File(p / "a.h5", "w"), r'name one of its arrays, e\.g\. rows\["emb"\]'),
    "h5py group": (lambda p: h5py.File(p / "a.h5", "w").create_group("g"), "name one of its arrays"),
    "h5py closed": (closed, "has been closed"),
    "h5py text": (lambda p: h5py.File(p / "a.h5", "w").create_dataset("a", data=["x"]), "holds object"),
    "h5py empty": (lambda p: h5py.File(p / "a.h5", "w").create_dataset("a", data=h5py.Empty("f4")), "0 dimension"),
    "zarr ints": (lambda p: zarr_in(MemoryStore(), numbers("uint8", N).astype("i4")), "holds int32"),
    "zarr groups": (lambda p: zarr.create_group(MemoryStore()), "holds no array of vectors"),
    "zarr several": (
        lambda p: [g := zarr.create_group(MemoryStore()), *(g.create_array(x, data=ONES) for x in "ab")][0],
        "several arrays",
    ),
    "arrow null row": (lambda p: pa.array([[1.0, 2.0], None]), "row 1 .* has 0 components"),
    "arrow null": (lambda p: pa.chunked_array([[[1.0, 2.0]], [[1.0, None]]]), "row 1 .* null"),
    "arrow ragged": (lambda p: pa.array([[1.0, 2.0], [1.0]]), "row 1 .* has 1 components"),
    "arrow text": (lambda p: pa.array(["a"]), "holds string; vectors are lists of numbers"),
    "arrow lists of lists": (lambda p: pa.array([[[1.0]]]), "holds list<.*>; vectors are"),
    "arrow no rows": (lambda p: pa.array([], pa.list_(pa.float32(), 3)), "is empty"),
    "arrow no vectors": (lambda p: pa.table({"a": [1.0]}), "1 dimension"),
    "arrow several": (
        lambda p: pa.table({"a": [[1.0]], "b": [[1.0]]}),
        r'several arrays .*; take the column out of the table, e\.g\. rows\["emb"\]',
    ),
    "arrow matrices": (
        lambda p: pa.ExtensionArray.from_storage(
            pa.fixed_shape_tensor(pa.float64(), (2, 2)),
            pa.FixedSizeListArray.from_arrays(pa.array(ONES[:2, :2].ravel()), 4),
        ),
        r"a tensor of the shape \(2, 2\)",
    ),
    "dlpack fault": (lambda p: Producer(ONES, fault="no way"), r"cannot be read \(no way\); use an array of NumPy"),
    "dlpack gradient": (lambda p: Producer(ONES, fault="x", requires_grad=True), r"rows\.detach\(\)"),
    "dlpack bfloat16": (
        lambda p: Producer(ONES, fault="x", dtype="torch.bfloat16"),
        r"NumPy has no bfloat16; .*float\(\)",
    ),
    "dlpack sparse": (lambda p: Producer(ONES, fault="x", layout="torch.sparse_coo"), r"rows\.to_dense\(\)"),
    "dlpack negative": (lambda p: Producer(ONES, is_neg=lambda: True), r"rows\.resolve_neg\(\)"),
    "dlpack elsewhere": (lambda p: Producer(ONES, place=8), r"lies on a device; copy it .* rows\.cpu\(\)"),
}


def frame(library: str, **columns: Any) -> Any:
    return pytest.importorskip(library).DataFrame(columns)


def nullable() -> Any:
    pandas = pytest.importorskip("pandas")
    return pandas.DataFrame({"a": pandas.array([1.5, None], "Float32"), "b": [True, False]})


VECTORS, WIDE = {"id": [7, 8], "emb": [[1.0, 2.0], [3.0, 4.0]]}, {"x": [1.0, 3.0], "y": [2.0, 4.0]}
FRAMES: dict[str, tuple[Callable[[], Any], str]] = {
    "ids and pandas vectors": (lambda: frame("pandas", **VECTORS), "rows['emb']"),
    "ids and polars vectors": (lambda: frame("polars", **VECTORS), "rows['emb']"),
    "pandas vectors": (lambda: frame("pandas", **VECTORS)[["emb"]], "rows['emb']"),
    "polars vectors": (lambda: frame("polars", **VECTORS)[["emb"]], "rows['emb']"),
    "polars arrays": (lambda: frame("polars", emb=np.array([[1.0, 2.0], [3.0, 4.0]])), "rows['emb']"),
    "pandas ids": (lambda: frame("pandas", id=[7, 8], **WIDE), "rows.drop(columns=['id'])"),
    "polars ids": (lambda: frame("polars", ids=[7, 8], **WIDE), "rows.drop(['ids'])"),
    "pandas text": (lambda: frame("pandas", text=["a", "b"], id=[7, 8], **WIDE), "rows.drop(columns=['text', 'id'])"),
    "polars text": (lambda: frame("polars", **WIDE, text=["a", "b"]), "rows.drop(['text'])"),
    "pandas whole numbers": (lambda: frame("pandas", x=[1, 3], y=[2, 4]), "rows.to_numpy(np.float32)"),
    "polars whole numbers": (lambda: frame("polars", x=[1, 3], y=[2, 4]), "np.asarray(rows, np.float32)"),
    "pandas mixed": (lambda: frame("pandas", x=[True, False], y=[2.5, 4]), "rows.to_numpy(np.float32)"),
    "pandas nullable": (nullable, "rows.to_numpy(np.float32)"),
}


@pytest.mark.parametrize("kind", FRAMES)
def test_frames_are_told_what_works(kind: str) -> None:
    make, advice = FRAMES[kind]
    held = make()
    with pytest.raises(InputError, match=f"^rows: .*{re.escape(advice)}$") as caught:
        as_vectors(held, "rows")
    assert "tolist" not in str(caught.value)
    follows = as_vectors(eval(advice, {"rows": held, "np": np}), "rows")[:]
    expected: dict[str, Any] = {"pandas mixed": [[1, 2.5], [0, 4]], "pandas nullable": [[1.5, 1], [np.nan, 0]]}
    assert np.array_equal(follows, expected.get(kind, [[1, 2], [3, 4]]), equal_nan=True)


@pytest.mark.parametrize("kind", REFUSED)
def test_what_is_no_rows_is_refused_in_plain_words(kind: str, tmp_path: Path) -> None:
    make, said = REFUSED[kind]
    with pytest.raises(InputError, match=said):
        gpuknn.exact_knn(make(tmp_path), np.ones((1, 3)), k=1)


def test_rows_on_a_gpu_need_cupy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gpuknn.engine.rows.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"queries: lies on a GPU, .* rows\.cpu\(\), or install CuPy, .*cupy-cuda12x"):
        gpuknn.exact_knn(ONES, Producer(ONES, place=2), k=1)
    with pytest.raises(InputError, match=r"lies on a device"):
        as_vectors(Producer(ONES, place=2), "rows")


def tensor_of(change: str) -> Any:
    torch = pytest.importorskip("torch")
    ones = torch.ones(4, 3)
    return {
        "detach": lambda: ones.requires_grad_(),
        "float": lambda: ones.bfloat16(),
        "to_dense": lambda: ones.to_sparse(),
        "resolve_neg": lambda: torch._neg_view(ones),
    }[change]()


@pytest.mark.parametrize("change", ["detach", "float", "to_dense", "resolve_neg"])
def test_what_a_tensor_has_to_be_made_before(change: str) -> None:
    tensor = tensor_of(change)
    with pytest.raises(InputError, match=rf"rows\.{change}\(\)"):
        gpuknn.exact_knn(tensor, np.ones((1, 3)), k=1)
    gpuknn.exact_knn(getattr(tensor, change)(), np.ones((1, 3)), k=1)
