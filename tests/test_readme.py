"""The commands of README and of each `--help`, typed in their order."""

import argparse
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from hashlib import md5
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import h5py
import numpy as np
import pytest
from distributed import Client, LocalCluster

from gpuknn.cli import main as cli
from gpuknn.doctor import examine, selftest
from gpuknn.engine.neighbors import Neighbors
from gpuknn.engine.scan import exact_knn
from gpuknn.gold import read_gold, write_gold
from gpuknn.laion import SAMPLE, catalogue
from tests.build.parts import made, write_raw
from tests.project.models import unit_rows, write_published
from tests.web import serving

README = (Path(__file__).parents[1] / "README.md").read_text()
LEFT_OUT = {
    "s3://": "needs an object store; tests/test_object_store.py has one",
    "--cluster": "needs a cluster; tests/test_cluster.py has one",
}
"""Words of commands that are not run, and why."""
STAND_INS = ("10M", "100K")
"""Subsets of LAION2B that are small here, from a web server on this machine."""
Published = tuple[str, str, str, dict[str, str | int], bytes]
"""Name, bundle, kind, further fields and content of a file."""
D = 768
"""Components: as many as the published model of sketches takes."""
SHORT = {"bench": ["--components", "32", "--repeat", "1", "--rows", "1500", "--queries", "20"]}
"""Options that make a command quicker and nothing else."""
SAYS_NO = {"compare"}
"""Commands for which 1 is an answer."""


def readme_commands() -> list[str]:
    """Of the indented blocks, with a prompt or without; what a command prints begins with its name and a colon."""
    unfenced = re.sub(r"^```.*?^```$", "", README, flags=re.MULTILINE | re.DOTALL)
    return re.findall(r"^    (?:\$ )?(gpuknn \w+(?!\w*:).*)$", unfenced, re.MULTILINE)


def help_commands() -> dict[str, list[str]]:
    """Of the examples at the end of each command's help."""
    commands = argparse.ArgumentParser().add_subparsers()
    cli.add_verbs(commands)
    return {name: re.findall(r"^  (gpuknn .*)$", p.epilog or "", re.MULTILINE) for name, p in commands.choices.items()}


def python_blocks() -> list[str]:
    return re.findall(r"^```python\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


@pytest.fixture(autouse=True)
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Small files under the names that the examples use, and a `gpuknn doctor` that is soon done."""
    for pairs in ("QUICK", "ALL"):
        monkeypatch.setattr(selftest, pairs, getattr(selftest, pairs)[:1])
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(examine, "DISK_BYTES", {False: 2**22, True: 2**22})
    monkeypatch.setattr(examine, "QUICK", selftest.Size(200, 4, 20, (10,)))
    monkeypatch.setattr(examine, "FULL", selftest.Size(200, 4, 20, (10,)))
    rng = np.random.default_rng(0)
    rows, queries = rng.standard_normal((1_500, D), np.float32), rng.standard_normal((20, D), np.float32)
    for name, values in (("database", rows.astype(np.float16)), ("queries", queries)):
        np.save(f"{name}.npy", values)
        with h5py.File(f"{name}.h5", "w") as file:
            file["emb"] = values
    with h5py.File("sketches.h5", "w") as file:
        file["hamming"] = rng.integers(0, 2**64, (1_500, 16), np.uint64)
    Path("vectors.fbin").write_bytes(np.array(rows.shape, "<u4").tobytes() + rows.tobytes())
    Path("parts").mkdir()
    for n, part in enumerate(np.array_split(rows.astype(np.float16), 3), 1):
        np.save(f"parts/part{n}.npy", part)
        np.save(f"part{n}.npy", part)
    Path("parts.txt").write_text("parts/part1.npy\nparts/part2.npy\n")
    if find_spec("pyarrow"):
        write_raw(Path("raw"), made(parts=4, d=D))
    lengths = np.full((len(rows), 1), rows.shape[1], "<i4").view("<f4")
    Path("vectors.fvecs").write_bytes(np.hstack([lengths, rows]).tobytes())
    shutil.copy(SAMPLE / "gold.h5", "result.h5")
    dists = np.sort(rng.random((20, 5), np.float32), axis=1)
    for name, first in (("a.h5", 0), ("b.h5", 1)):
        write_gold(name, Neighbors(np.arange(100).reshape(20, 5) + first, dists))


@pytest.fixture(autouse=True)
def web(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: None) -> Iterator[None]:
    """The published files that the examples fetch, small and under their names, where the catalogues look for them."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    rng = np.random.default_rng(1)
    vectors, sketches = Path("database.h5").read_bytes(), Path("sketches.h5").read_bytes()
    rows: list[Published] = [("meta-10M.tsv", "meta", "meta", {"subset": "10M"}, b"caption\n")]
    for subset in STAND_INS:
        for bundle, content in (("clip768", vectors), ("hamming", sketches)):
            fields: dict[str, str | int] = {"subset": subset, "rows": 1_500}
            row = (f"laion2B-en-{bundle}v2-n={subset}.h5", bundle, "database", fields, content)
            rows.insert(0, row)
        gold: dict[str, str | int] = {"subset": subset, "queries": "public", "gold": "f64"}
        rows.append((f"gold-{subset}.h5", "clip768", "gold", gold, (SAMPLE / "gold.h5").read_bytes()))
    for bundle, content in (("clip768", Path("queries.h5").read_bytes()), ("hamming", sketches)):
        rows.append((f"public-queries-10k-{bundle}v2.h5", bundle, "queries", {"queries": "public"}, content))
    rows += [(f"img_emb_{n:04}.npy", "raw", "part", {"subset": "10M"} if n else {}, b"") for n in range(4)]
    sift: Published = (
        "sift-128-euclidean.hdf5",
        "sift-128-euclidean",
        "database",
        {},
        vectors,
    )
    write_published(Path("binwalk.jld2"), unit_rows(rng, 128, D), rng.permutation(128).reshape(2, 64))
    rows.append(
        ("binwalk-model-nrefs=1024-permsize=64.jld2", "binwalk", "model", {}, Path("binwalk.jld2").read_bytes())
    )
    metrics = {"clip768": "cosine", "hamming": "hamming", "meta": None, "raw": None, "binwalk": None}
    with serving({name: content for name, _, _, _, content in [*rows, sift]}) as served:
        laion, other = tmp_path / "laion.toml", tmp_path / "configs" / "catalogues" / "ann-benchmarks.toml"
        other.parent.mkdir(parents=True)
        write_catalogue(laion, served.url, metrics, rows)
        write_catalogue(other, served.url, {"sift-128-euclidean": "l2"}, [sift])
        monkeypatch.setattr(catalogue, "LAION", laion)
        yield


def write_catalogue(path: Path, url: str, metrics: dict[str, str | None], rows: list[Published]) -> None:
    def row(fields: dict[str, str | int | None]) -> str:
        said = {name: value if isinstance(value, int) else f'"{value}"' for name, value in fields.items() if value}
        return "{" + ", ".join(f"{name} = {value}" for name, value in said.items()) + "}"

    bundles = [row({"name": name, "metric": metric}) for name, metric in metrics.items()]
    files = [
        row({"name": name, "bundle": bundle, "kind": kind, "md5": md5(content).hexdigest(), **fields})
        for name, bundle, kind, fields, content in rows
    ]
    path.write_text(f'base_url = "{url}"\nbundles = [{", ".join(bundles)}]\nfiles = [{", ".join(files)}]\n')


@pytest.fixture
def unfinished_runs(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    """What `gpuknn runs` lists, each left by a command whose disk was full at its end."""

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    for name in ("gold.h5", "other.h5"):
        with monkeypatch.context() as patch:
            patch.setattr("gpuknn.jobs.exact.run.written", full)
            assert cli.main(["exact", "database.h5", "queries.h5", "-k", "5", "-o", name]) == 3
        assert Path(f"{name}.run").is_dir()


def test_readme() -> None:
    shutil.copy(SAMPLE / "gold.h5", "sample-gold-standard.h5")  # the first of the sh blocks has been run
    commands = readme_commands()
    assert len(commands) > 12
    run_in_order(commands)


@pytest.mark.parametrize("name", ["exact", "eval", "compare", "convert", "data", "build", "project", "bench", "doctor"])
def test_help(name: str) -> None:
    if name == "eval":
        shutil.copy(SAMPLE / "gold.h5", "gold.h5")
    if name == "compare":
        assert cli.main(["convert", "database.h5", "database.zarr"]) == 0
    if name == "convert":
        write_gold("gold.h5", read_gold("a.h5"), attributes={"metric": "cosine"})
    run_in_order(help_commands()[name])


@pytest.mark.usefixtures("unfinished_runs")
def test_help_of_runs() -> None:
    run_in_order(help_commands()["runs"])
    assert Path("gold.h5").is_file()
    assert not list(Path().glob("*.run"))


GPUKNN = """#!/bin/sh
exec {python} -c 'import sys
from pathlib import Path
from gpuknn.cli.main import main
from gpuknn.laion import catalogue
catalogue.LAION = Path("{catalogue}"); sys.exit(main(sys.argv[1:]))' "$@"
"""
"""The command, with the catalogue of the small files."""


@pytest.mark.slow
@pytest.mark.skipif(not find_spec("pyarrow"), reason="raw parts are Parquet")
def test_from_raw_parts(tmp_path: Path) -> None:
    bin_ = tmp_path / "bin"
    bin_.mkdir()
    (bin_ / "gpuknn").write_text(GPUKNN.format(python=sys.executable, catalogue=catalogue.LAION))
    (bin_ / "gpuknn").chmod(0o755)
    script = Path(__file__).parents[1] / "notebooks" / "from_raw_parts.sh"
    variables = os.environ | {"PATH": f"{bin_}:{os.environ['PATH']}"}
    for _ in range(2):  # what is there is not made again
        words = ["sh", str(script), "raw", "out", "10M"]
        done = subprocess.run(words, env=variables, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        recalls = [float(found) for found in re.findall(r"recall@10: ([\d.]+) by ids", done.stdout)]
        pca32, pca96, hamming = recalls  # of rows that vary alike in all directions
        assert 0 < pca32 < pca96 < 1
        assert 0 < hamming < 1
    assert "neighbours in" not in done.stdout


def test_every_command_has_examples_and_no_reason_is_stale() -> None:
    everywhere = help_commands()
    assert set(everywhere) == {
        "exact",
        "runs",
        "eval",
        "compare",
        "convert",
        "data",
        "build",
        "project",
        "bench",
        "doctor",
    }
    assert all(everywhere.values())
    for words in LEFT_OUT:
        assert any(words in command for command in readme_commands())


def run_in_order(commands: list[str]) -> None:
    for command in commands:
        _, name, *words = shlex.split(command, comments=True)
        needs_peer = "--peers faiss" in command and not find_spec("faiss")
        if needs_peer or any(left_out in command for left_out in LEFT_OUT):
            continue
        code = cli.main([name, *words, *SHORT.get(name, [])])
        assert code in ((0, 1) if name in SAYS_NO else (0,)), command


class Umap:
    """Stands in for umap-learn, which takes long to install."""

    def __init__(self, n_neighbors: int, precomputed_knn: tuple[np.ndarray, np.ndarray]) -> None:
        ids, dists = precomputed_knn
        assert ids.shape == dists.shape == (1_500, n_neighbors)
        assert np.array_equal(ids[:, 0], np.arange(1_500))

    def fit_transform(self, rows: np.ndarray) -> np.ndarray:
        return rows


def test_python_in_the_readme_runs() -> None:
    """One block after another, as in a notebook, with rows, an index's ids, a result file and a client at hand."""
    rows, queries = np.load("database.npy").astype(np.float32), np.load("queries.npy")
    with LocalCluster(processes=False, dashboard_address="127.0.0.1:0") as cluster, Client(cluster) as client:
        ids = np.zeros((20, 10), np.int64)
        there = {"rows": rows, "queries": queries, "ids_of_an_index": ids, "client": client}
        there["umap"] = SimpleNamespace(UMAP=Umap)
        for block in python_blocks():
            Path("gold.h5").unlink(missing_ok=True)
            if "gpuknn.evaluate" in block:
                write_gold("result.h5", exact_knn(rows, queries, k=100), force=True)
            exec(block, there)
        assert there["outcome"].shards == 1
        assert there["graph"].shape == (1_500, 1_500)
        assert there["found"].ids.shape == (1_500, 15)
