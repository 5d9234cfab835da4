"""A folder of its own for each test, and a web server that has published files."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gpuknn.jobs.download import transfer
from tests.published.files import FILES, as_jld2, md5_of, vectors, write_catalogue
from tests.web import Web, serving


@pytest.fixture(autouse=True)
def without_proxies_and_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)
    for name, value in (("PAUSE", 0.001), ("HALVED_AFTER", 0.001), ("HASH_SECONDS", 0.001), ("ATTEMPTS", 2)):
        monkeypatch.setattr(transfer, name, value)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "home"))
    return tmp_path


@pytest.fixture
def web() -> Iterator[Web]:
    with serving({**FILES}) as web:
        write_catalogue(web.url)
        yield web


@pytest.fixture
def laion(request: pytest.FixtureRequest) -> Iterator[Web]:
    """LAION2B's own names and rows, its files small; without a gold standard, as for projections."""
    files: dict[str, bytes | Path] = {}
    rows: list[dict[str, Any]] = []
    bundles = []
    for bundle, metric in (("clip768", "cosine"), ("pca32", "l2"), ("hamming", "hamming")):
        bundles.append({"name": bundle, "metric": metric})
        names = f"laion2B-en-{bundle}v2-n=100K.h5", f"public-queries-10k-{bundle}v2.h5"
        key = "emb" if bundle == "clip768" else bundle
        kinds: list[dict[str, Any]] = [{"kind": "database", "subset": "100K"}, {"kind": "queries", "queries": "public"}]
        for name, array, kind in zip(names, vectors(bundle), kinds, strict=True):
            made = as_jld2(key, array)
            files[name] = made
            shape = {"rows": len(array), "dims": array.shape[1], "dtype": str(array.dtype), "key": key}
            rows.append({"name": name, "bundle": bundle, **kind, **shape, "bytes": len(made), "md5": md5_of(made)})
    with serving(files) as web:
        write_catalogue(web.url, rows, bundles)
        yield web
