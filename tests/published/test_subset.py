"""A subset's gold standard, or its conversion, in one command."""

import os
from pathlib import Path

import h5py
import numpy as np
import pytest

import gpuknn
from gpuknn.gold import read_gold
from gpuknn.jobs.download import server
from gpuknn.vectors import open_vectors
from tests.published.files import HERE, breaks_off, lay, md5_of, refused, run, there, told, vectors, write_catalogue
from tests.web import Web, serving

SUBSET = ["exact", "--subset", "100K", *HERE, "-k", "7"]
OUTPUT = "laion2B-en-{}v2-n=100K-public-k=7-gpuknn.h5"


@pytest.mark.parametrize(("bundle", "metric"), [("clip768", "cosine"), ("pca32", "l2"), ("hamming", "hamming")])
def test_from_nothing_to_the_gold_standard(
    bundle: str, metric: str, laion: Web, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [*SUBSET, *([] if bundle == "clip768" else ["--bundle", bundle]), "--quiet"]
    output = Path(OUTPUT.format(bundle))
    said = refused(capsys, *words)
    assert f"is missing (md5 {md5_of(laion.files[f'laion2B-en-{bundle}v2-n=100K.h5'])}" in said  # type: ignore[arg-type]
    assert laion.asked == []
    assert run(*words, "--download") == 0
    assert sorted(p.name for p in Path().iterdir()) == sorted(["c.toml", "data", output.name])
    fetched = [f"laion2B-en-{bundle}v2-n=100K.h5", f"public-queries-10k-{bundle}v2.h5"]
    assert [one.name for one in laion.asked] == fetched
    assert there() == {name: laion.files[name] for name in fetched}
    ids, dists = gpuknn.exact_knn(*vectors(bundle), k=7, metric=metric)
    gold = read_gold(output)
    assert gold.dists is not None
    assert np.array_equal(gold.ids, ids)
    assert gold.dists.tobytes() == dists.tobytes()
    with h5py.File(output) as file:
        assert file.attrs["metric"] == metric
        assert np.array_equal(file["knns"], ids + 1)
    laion.asked.clear()
    assert run(*words, "--download", "-o", "again.h5") == 0
    assert laion.asked == []
    with h5py.File(output) as file, h5py.File("again.h5") as again:
        assert np.array_equal(file["knns"], again["knns"])
        assert np.array_equal(file["dists"], again["dists"])


def test_a_plan_fetches_nothing(laion: Web, capsys: pytest.CaptureFixture[str]) -> None:
    plan = told(capsys, *SUBSET, "--download", "--dry-run")
    assert plan["to_fetch"] == ["laion2B-en-clip768v2-n=100K.h5", "public-queries-10k-clip768v2.h5"]
    assert plan["bytes"] == sum(len(made) for made in map(laion.files.get, plan["to_fetch"]) if isinstance(made, bytes))
    assert run(*SUBSET, "--download", "--dry-run") == 0
    assert "gpuknn data: 2 files in data, 2 of them to fetch" in capsys.readouterr().out
    assert laion.asked == []
    assert there() == {}
    assert run(*SUBSET, "--download", "--quiet") == 0
    assert told(capsys, *SUBSET, "--download", "--dry-run", "-o", "o.h5")["rows"] == 300
    assert not Path("o.h5").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["-o", "taken.h5"], "taken.h5: exists already; --force replaces it"),
        (["-o", "no/o.h5"], "no: there is no such folder"),
        (["-o", "o.npz"], "o.npz: its name tells no format"),
        (["-o", "d.h5"], "d.h5: is not a file; name one"),
        (["-k", "301"], "-k 301: the database has only 300 rows"),
        (["-k", "0"], "-k 0: must be at least 1"),
        (["--metric", "l2"], "--metric l2: this subset is searched under cosine"),
        (["--bundle", "pca32", "--metric", "cosine"], "this subset is searched under l2"),
        (["--bundle", "pca64"], "--bundle pca64: there are clip768, pca32, hamming"),
        (["--queries", "private"], "--queries private: there are public"),
        (["--subset", "10M"], "--subset 10M: there are sample, 100K"),
        (["--self"], "has its own queries"),
        (["db.npy", "q.npy"], "--subset 100K names the files; leave out db.npy"),
        (["--catalogue", "none.toml"], "none.toml: cannot be read as a catalogue"),
        (["--base-url", "ftp://h"], "the mirror: 'ftp://h' is refused"),
    ],
)
def test_what_is_wrong_is_said_before_anything_is_fetched(
    words: list[str], said: str, laion: Web, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("taken.h5").write_text("precious")
    Path("d.h5").mkdir()
    assert said in refused(capsys, *SUBSET, "--download", *words)
    assert laion.asked == []
    assert sorted(os.listdir()) == ["c.toml", "d.h5", "taken.h5"]
    assert Path("taken.h5").read_text() == "precious"


@pytest.mark.parametrize("verb", [["exact", "db.npy", "q.npy", "-o", "o.h5"], ["convert", "db.npy", "o.h5"]])
@pytest.mark.parametrize(
    "words", [["--download"], ["--bundle", "pca32"], ["--data-dir", "d"], ["--base-url", "http://h"]]
)
def test_options_of_a_subset_go_with_one(verb: list[str], words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert f"{words[0]}: goes with --subset; leave it out" in refused(capsys, *verb, *words)


def test_an_output_that_may_be_replaced(laion: Web) -> None:
    Path("taken.h5").write_text("old")
    assert run(*SUBSET, "--download", "-o", "taken.h5", "--force", "--quiet") == 0
    assert read_gold("taken.h5").shape == (9, 7)


def test_a_download_that_breaks_off_is_gone_on_with(laion: Web, capsys: pytest.CaptureFixture[str]) -> None:
    name = "laion2B-en-clip768v2-n=100K.h5"
    made = laion.files[name]
    assert isinstance(made, bytes)
    laion.faults[name] = breaks_off(laion, name)
    assert run(*SUBSET, "--download", "--quiet") == 3
    assert "the connection broke" in capsys.readouterr().err
    assert not Path(OUTPUT.format("clip768")).exists()
    laion.faults.clear()
    laion.asked.clear()
    assert run("runs", "--resume", f"data/{name}.run") == 0
    assert sum(one.sent for one in laion.asked if one.name == name) == len(made) - len(made) // 2
    assert read_gold(OUTPUT.format("clip768")).shape == (9, 7)


def test_wrong_bytes_are_not_searched(laion: Web, capsys: pytest.CaptureFixture[str]) -> None:
    name = "laion2B-en-clip768v2-n=100K.h5"
    made = laion.files[name]
    assert isinstance(made, bytes)
    lay(**{name: made[:-1] + b"X"})
    assert run(*SUBSET, "--download", "--quiet") == 2
    assert f"data/{name}: its md5 sum is {md5_of(made[:-1] + b'X')}" in capsys.readouterr().err
    assert Path("data", name).read_bytes() == made[:-1] + b"X"
    assert not Path(OUTPUT.format("clip768")).exists()


def test_from_a_mirror(laion: Web) -> None:
    with serving({f"m/{name}": made for name, made in laion.files.items()}) as mirror:
        assert run(*SUBSET, "--download", "--base-url", f"{mirror.url}/m", "--quiet") == 0
        assert len(mirror.asked) == 2
    assert laion.asked == []


@pytest.mark.parametrize("bundle", ["clip768", "pca32", "hamming"])
def test_convert(bundle: str, laion: Web) -> None:
    words = ["convert", "--subset", "100K", *HERE, "--bundle", bundle, "o.npy", "--quiet"]
    assert run(*words) == 2
    assert laion.asked == []
    assert run(*words, "--download") == 0
    rows, _ = vectors(bundle)
    assert open_vectors("o.npy")[:].tobytes() == rows.tobytes()
    assert np.load("o.npy").dtype == rows.dtype
    assert [one.name for one in laion.asked] == [f"laion2B-en-{bundle}v2-n=100K.h5"]


@pytest.mark.parametrize("to", ["taken.npy", "no/o.npy", "o.unknown"])
def test_convert_says_what_is_wrong_before_anything_is_fetched(to: str, laion: Web) -> None:
    Path("taken.npy").write_text("precious")
    assert run("convert", "--subset", "100K", *HERE, "--download", to, "--quiet") == 2
    assert laion.asked == []


def test_convert_leaves_what_is_there(laion: Web, capsys: pytest.CaptureFixture[str]) -> None:
    Path("taken.npy").write_text("precious")
    said = refused(capsys, "convert", "--subset", "100K", *HERE, "--download", "taken.npy", "--quiet")
    assert "taken.npy: exists already; --force replaces it" in said
    assert Path("taken.npy").read_text() == "precious"


def test_a_server_that_cannot_be_reached(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    with serving({}) as web:
        url = web.url
    monkeypatch.setattr(server, "CONNECT_SECONDS", 1.0)
    write_catalogue(url)
    assert f"failed: {url}/db-S.bin: the server cannot be reached" in refused(capsys, "data", "get", "S", *HERE, code=3)
    assert there() == {}
