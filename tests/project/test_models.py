"""Files of models, and what somebody else has made of them."""

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

import gpuknn
from gpuknn.errors import InputError
from gpuknn.projections.model import SketchModel, read_model
from tests.project.data import D
from tests.project.models import unit_rows, write_published


@pytest.fixture(autouse=True)
def models(rows: np.ndarray) -> None:
    gpuknn.project_fit("rows.npy", "pca.h5", pca=9)
    gpuknn.project_fit("rows.npy", "bits.h5", hamming=128)
    rng = np.random.default_rng(0)
    write_published(Path("published.jld2"), unit_rows(rng, 128, D), rng.permutation(128).reshape(2, 64))


def put(name: str, change: Callable[[np.ndarray], Any]) -> Callable[[h5py.File], None]:
    def changed(file: h5py.File) -> None:
        value = change(file[name][()])
        del file[name]
        file[name] = value

    return changed


def scaled(factor: float) -> Callable[[np.ndarray], np.ndarray]:
    return lambda x: (x * factor).astype(x.dtype)


def with_nan(x: np.ndarray) -> np.ndarray:
    x[0, 0] = np.nan
    return x


def without(*names: str) -> Callable[[h5py.File], None]:
    def changed(file: h5py.File) -> None:
        for name in names:
            del file[name]

    return changed


def attribute(name: str, value: Any) -> Callable[[h5py.File], None]:
    def changed(file: h5py.File) -> None:
        file.attrs[name] = value

    return changed


def outside(file: h5py.File) -> None:
    del file["mean"]
    file["mean"] = h5py.ExternalLink("bits.h5", "references")


def bytes_name(file: h5py.File) -> None:
    del file["components"]
    file[b"\xff\x1b[31m"] = 1


def unwritten(file: h5py.File) -> None:
    shape = file["components"].shape
    del file["components"]
    file.create_dataset("components", shape, np.float64)


DAMAGED: dict[str, tuple[str, Callable[[h5py.File], None], str]] = {
    "empty": ("pca.h5", without("components", "mean", "explained_variance"), "is no model of a projection"),
    "no mean": ("pca.h5", without("mean"), "mean"),
    "type": (
        "pca.h5",
        put("components", lambda x: x.astype(np.float32)),
        "holds no float64 numbers that a model can have",
    ),
    "NaN": ("pca.h5", put("mean", with_nan), "holds no float64 numbers that a model can have"),
    "shape": ("pca.h5", put("mean", lambda x: x[:, 1:]), "its arrays do not fit each other"),
    "length": ("pca.h5", put("components", scaled(1.01)), "no axes of unit length"),
    "grid": ("pca.h5", put("components", lambda x: x + 2.0**-40), "no multiples of 2^-28"),
    "too many": ("pca.h5", put("components", lambda x: np.vstack([x] * 5)), "its arrays do not fit each other"),
    "far mean": ("pca.h5", put("mean", scaled(100)), "no axes of unit length"),
    "rows": ("pca.h5", attribute("rows", "many"), "it does not say of how many rows"),
    "variance": ("pca.h5", attribute("total_variance", -1.0), "or their variance, -1, are none"),
    "little variance": ("pca.h5", attribute("total_variance", 1e-9), "or their variance, 1e-09, are none"),
    "rising": ("pca.h5", put("explained_variance", lambda x: x[:, ::-1].copy()), "are none"),
    "negative": ("pca.h5", put("explained_variance", lambda x: x - 1), "are none"),
    "one row": ("pca.h5", attribute("rows", 1), "its 1 rows"),
    "endless rows": ("pca.h5", attribute("rows", np.inf), "it does not say of how many rows"),
    "equal axes": ("pca.h5", put("components", lambda x: np.repeat(x[:1], 9, axis=0)), "no axes of unit length"),
    "huge": ("pca.h5", put("components", scaled(1e300)), "that a model can have"),
    "name": ("pca.h5", bytes_name, "it holds"),
    "elsewhere": ("pca.h5", outside, "another file"),
    "unwritten": ("pca.h5", unwritten, "was ever written"),
    "references": ("bits.h5", put("references", lambda x: x[:100]), "100 references, not a multiple of 64"),
    "long references": ("bits.h5", put("references", scaled(2)), "not of unit length"),
    "NaN references": ("bits.h5", put("references", with_nan), "holds no float32 numbers that a model can have"),
    "no record": ("published.jld2", put("model", lambda x: 3), "is not the model of the SISAP challenges' sketches"),
}


@pytest.mark.parametrize("case", DAMAGED)
def test_damaged(case: str) -> None:
    name, change, said = DAMAGED[case]
    with h5py.File(name, "r+") as file:
        change(file)
    with pytest.raises(InputError, match=re.escape(said)):
        read_model(name)


@pytest.mark.parametrize("pool", [[0] * 64, list(range(1, 65)), [-1, *range(63)], [*range(63), 10**6]])
def test_orders_that_are_none(pool: list[int]) -> None:
    write_published(Path("x.jld2"), unit_rows(np.random.default_rng(0), 64, D), np.array([pool]))
    with pytest.raises(InputError, match="does not hold each of its references once"):
        read_model("x.jld2")


def test_files_that_are_no_models(rows: np.ndarray) -> None:
    Path("text.h5").write_text("no")
    for name in ("rows.npy", "text.h5"):
        with pytest.raises(InputError, match=f"{name}: is no model of a projection; gpuknn project fit makes one"):
            read_model(name)
    gpuknn.convert("rows.npy", "rows.h5")
    with pytest.raises(InputError, match="it holds emb"):
        read_model("rows.h5")


def pipe(path: Path) -> str:
    os.mkfifo(path)
    return str(path)


def through(name: str) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        with h5py.File(path, "w") as file:
            file[name] = h5py.ExternalLink(pipe(path.with_suffix(".pipe")), "x")

    return make


def by_soft_links(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file["g/x"] = h5py.ExternalLink(pipe(path.with_suffix(".pipe")), "x")
        file["a"], file["model"] = h5py.SoftLink("/g/x"), h5py.SoftLink("a")


def virtual(path: Path) -> None:
    layout = h5py.VirtualLayout((), np.float32)
    layout[()] = h5py.VirtualSource(pipe(path.with_suffix(".pipe")), "x", ())
    with h5py.File(path, "w") as file:
        file.create_virtual_dataset("model", layout)


def words(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file["e"] = h5py.ExternalLink(pipe(path.with_suffix(".pipe")), "x")
        kind = np.dtype([("refs", np.dtype([("matrix", h5py.string_dtype())])), ("pool", h5py.string_dtype())])
        file["model"] = np.array((("e",), "e"), kind)


def nothing(path: Path) -> None:
    write_published(path, np.zeros((0, D), np.float32), np.zeros((0, 64), int))


def huge(name: str, *shape: int) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        with h5py.File(path, "w") as file:
            file.create_dataset(name, shape, np.float64, compression="gzip", chunks=(1,) * (len(shape) - 1) + (10**6,))

    return make


HOSTILE = {
    "pipe, model": through("model"),
    "pipe, references": through("references"),
    "pipe, components": through("components"),
    "soft links": by_soft_links,
    "virtual": virtual,
    "words": words,
    "nothing": nothing,
    "huge model": huge("model", 10**5, 10**6),
    "huge components": huge("components", 10**5, 10**6),
}


@pytest.mark.timeout(60)
@pytest.mark.parametrize("case", HOSTILE)
def test_hostile(case: str) -> None:
    HOSTILE[case](Path("x.h5"))
    with pytest.raises(InputError):
        read_model("x.h5")


def test_the_published_model() -> None:
    rng = np.random.default_rng(5)
    references, pool = unit_rows(rng, 192, D), rng.permutation(192).reshape(3, 64)
    write_published(Path("x.jld2"), references, pool)
    model = read_model("x.jld2")
    assert isinstance(model, SketchModel)
    assert np.array_equal(model.references, references[pool.reshape(-1)])
