"""The commands as a user runs them, and every way to be told what is wrong."""

import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
import yaml

from gpuknn.cli.main import main
from gpuknn.laion import SAMPLE
from gpuknn.laion.catalogue import read_catalogue
from gpuknn.laion.subsets import find_subset, gold_name

ROOT = Path(__file__).parents[1]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with a database, queries and some that are not."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((300, 8)).astype(np.float16)
    np.save("db.npy", rows)
    np.save("q.npy", rows[:7].astype(np.float32))
    np.save("narrow.npy", rows[:7, :5])
    np.save("sketches.npy", rng.integers(0, 2**64, (300, 2), dtype=np.uint64))
    for name, value in (("nan", np.nan), ("inf", np.inf)):
        bad = rows.copy()
        bad[[17, 29], 3] = value
        np.save(f"{name}.npy", bad)
    zero = rows.copy()
    zero[41] = 0
    np.save("zero.npy", zero)
    np.save("large.npy", np.full((9, 8), 1e19, np.float32))
    Path("taken.h5").write_text("precious")
    return tmp_path


def run(*arguments: str) -> int:
    try:
        return main([str(a) for a in arguments])
    except SystemExit as left:
        return int(left.code or 0)


def test_the_sample_gives_its_gold_standard(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command = [sys.executable, "-m", "gpuknn", "exact", "--subset", "sample"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=300)
    assert done.returncode == 0, done.stderr
    assert [p.name for p in tmp_path.iterdir()] == ["sample-gold-standard.h5"]
    with h5py.File(tmp_path / "sample-gold-standard.h5") as ours, h5py.File(SAMPLE / "gold.h5") as gold:
        for name in ("knns", "dists"):
            assert ours[name].dtype == gold[name].dtype
            assert np.array_equal(ours[name], gold[name])
        assert ours.attrs["metric"] == "cosine"
        assert ours.attrs["database_shape"] == "10000 x 384"
        assert ours.attrs["certificate_pairs_refined"] >= 200 * 100
        assert 0 < ours.attrs["certificate_smallest_margin"] <= 1
    monkeypatch.chdir(tmp_path)
    files = "sample-gold-standard.h5", str(SAMPLE / "gold.h5")
    assert run("compare", *files) == 0
    capsys.readouterr()
    assert run("eval", *files, "-k", "10,100") == 0
    whole = "1.000000 by ids, 1.000000 tie-aware, 1.000000 by distances to within 0.001"
    assert capsys.readouterr().out == f"recall@10: {whole}\nrecall@100: {whole}\n"


EXACT = ["exact", "db.npy", "q.npy", "-o", "out.h5", "-k", "5"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["exact", "nothing.h5", "q.npy", "-o", "out.h5"], "there is no such file"),
        (["exact", "taken.h5", "q.npy", "-o", "out.h5"], "is not HDF5, .npy, Parquet or Zarr"),
        (["exact", "db.npy:emb", "q.npy", "-o", "out.h5"], "leave out the key"),
        (["exact", "db.npy", "narrow.npy", "-o", "out.h5", "-k", "5"], "queries have 5 components"),
        (["exact", "nan.npy", "q.npy", "-o", "out.h5", "-k", "5"], "rows 17, 29 (counted from 0): NaN, infinite"),
        (["exact", "inf.npy", "q.npy", "-o", "out.h5", "-k", "5", "--metric", "l2"], "rows 17, 29"),
        (["exact", "db.npy", "nan.npy", "-o", "out.h5", "-k", "5"], "nan.npy: rows 17, 29"),
        (["exact", "zero.npy", "q.npy", "-o", "out.h5", "-k", "5"], "row 41 (counted from 0): only zeros"),
        (["exact", "db.npy", "zero.npy", "-o", "out.h5", "-k", "5"], "zero.npy: row 41"),
        (["exact", "large.npy", "q.npy", "-o", "out.h5", "-k", "5", "--metric", "l2"], "use --dists float64"),
        ([*EXACT, "-k", "0"], "k = 0: must be from 1"),
        ([*EXACT, "-k", "301"], "k = 301: must be from 1 to the number of rows, 300"),
        ([*EXACT, "-k", "many"], "invalid int value"),
        ([*EXACT, "--metric", "hamming"], "hamming is not defined on float16"),
        (["exact", "sketches.npy", "q.npy", "-o", "out.h5", "-k", "5"], "cosine is not defined on uint64"),
        (
            [*EXACT, "--metric", "manhattan"],
            "--metric manhattan: there are cosine, ip (dot, inner_product), l2 (sqeuclidean), hamming",
        ),
        ([*EXACT, "-o", "o" * 300], "is no name for a file"),
        ([*EXACT, "-o", "a\0b"], "embedded null"),
        ([*EXACT, "-o", "gold"], "gold: its name tells no format of gold standards; let it end in .h5"),
        ([*EXACT, "-o", "g.npz"], "g.npz: its name tells no format"),
        (
            ["exact", "db.npy", "db.npy", "-o", "out.h5"],
            "db.npy: is named as the database and as the queries; say --self",
        ),
        (["exact", "o" * 300, "q.npy", "-o", "out.h5"], "cannot be read"),
        ([*EXACT, "--run-dir", "."], "is not a run directory, it holds"),
        ([*EXACT, "--run-dir", "taken.h5"], "is in the way and no run directory"),
        ([*EXACT, "-o", "o" * 252], "cannot be written (File name too long)"),
        ([*EXACT, "-o", "nowhere/out.h5"], "there is no such folder"),
        ([*EXACT, "-o", "taken.h5"], "exists already; --force replaces it"),
        ([*EXACT, "-o", "db.npy", "--force"], "is an input of this very command"),
        ([*EXACT, "-o", ".", "--force"], "is no name for a file"),
        (["exact", "db.npy", "q.npy"], "name the file to write"),
        (["exact", "db.npy"], "name a database and a file of queries"),
        (["exact", "db.npy", "q.npy", "--subset", "sample"], "--subset sample names the files"),
        (["exact", "db.npy", "--self", "-o", "out.h5", "-k", "300"], "number of other rows, 299"),
        (["exact", "db.npy", "--self-first", "-o", "out.h5", "-k", "1"], "must be from 2 to the number of rows"),
        (["exact", "db.npy", "q.npy", "--self", "-o", "out.h5"], "the rows are the queries"),
        (["exact", "--subset", "sample", "--self"], "has its own queries"),
        ([*EXACT, "--memory", "much"], "--memory much: expected a size"),
        ([*EXACT, "--memory", "1MiB"], "need at least"),
        (["exact", "--subset", "sample", "--queries", "private"], "has public queries only"),
        (["exact", "--subset", "sample", "--metric", "l2"], "this subset is searched under cosine"),
        ([*EXACT, "--device", "cuda"], "device cuda: "),
        ([*EXACT, "--workers", "0"], "--workers 0: must be at least 1"),
        ([*EXACT, "--shard-rows", "0"], "--shard-rows 0: must be at least 1"),
        ([*EXACT, "--config", "nothing.yaml"], "cannot be read as YAML"),
        (["eval", "nothing.h5", "taken.h5"], "there is no such file"),
        (["eval", "taken.h5", "taken.h5"], "is not a readable HDF5 file"),
        (["eval", "taken.h5", "taken.h5", "-k", "ten"], "expected numbers"),
        (["compare", "taken.h5", "taken.h5"], "is not HDF5, .npy, Parquet or Zarr"),
        (["find"], "invalid choice: 'find'"),
        ([], "required: COMMAND"),
    ],
)
@pytest.mark.usefixtures("folder")
def test_wrong_input_is_one_line_and_exit_code_2(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {p.name: p.stat().st_mtime_ns for p in Path().iterdir()}
    assert run(*arguments) == 2
    shown = capsys.readouterr()
    assert shown.err.count("\n") == 1
    assert said in shown.err
    assert shown.out == ""
    assert {p.name: p.stat().st_mtime_ns for p in Path().iterdir()} == before


def test_a_missing_subset_is_named_with_its_source(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("exact", "--subset", "300K", "--data-dir", str(folder)) == 2
    said = capsys.readouterr().err
    file = find_subset(read_catalogue(), "300K", None, "public").database
    again = f"gpuknn data get 300K --queries public --data-dir {folder}"
    for part in (file.name, file.url, str(file.md5), "440M", "--download", again):
        assert part in said


@pytest.mark.parametrize(
    ("subset", "bundle", "queries", "k", "name"),
    [
        ("100K", None, "public", 100, "laion2B-en-public-gold-standard-v2-100K-gpuknn.h5"),
        ("10M", "clip768", "public", 1000, "laion2B-en-public-gold-standard-v2-10M-F64-IEEE754-gpuknn.h5"),
        ("30M", None, "public", 30, "laion2B-en-clip768v2-n=30M-public-k=30-gpuknn.h5"),
        ("100M", None, "private", 10, "laion2B-en-private-gold-standard-v2-100M-F64-IEEE754-gpuknn.h5"),
        ("10M", "pca96", "private", 100, "laion2B-en-pca96v2-n=10M-private-k=100-gpuknn.h5"),
        ("300K", "hamming", "public", 100, "laion2B-en-hammingv2-n=300K-public-k=100-gpuknn.h5"),
    ],
)
def test_names_of_what_is_computed(subset: str, bundle: str | None, queries: str, k: int, name: str) -> None:
    assert gold_name(find_subset(read_catalogue(), subset, bundle, queries), k) == name


@pytest.mark.usefixtures("folder")
def test_a_run_whose_reader_goes_away_has_not_succeeded() -> None:
    words = [sys.executable, "-m", "gpuknn", *EXACT, "--log-json"]
    with subprocess.Popen(words, stderr=subprocess.PIPE) as process:
        assert process.stderr
        process.stderr.close()
    assert process.returncode == 3
    assert not Path("out.h5").exists()


@pytest.mark.usefixtures("folder")
def test_dry_run_computes_and_writes_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    before = sorted(Path().iterdir())
    assert run(*EXACT, "--dry-run", "--shard-rows", "100") == 0
    said = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["shards", "3"] in said
    assert sorted(Path().iterdir()) == before


@pytest.mark.usefixtures("folder")
def test_options_from_a_file_and_over_it(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    Path("job.yaml").write_text("k: 7\nmetric: l2\nworkers: 2\noutput: out.h5\n")
    command = ["exact", "db.npy", "q.npy", "--config", "job.yaml", "--dry-run", "--json", "-k", "3"]
    assert run(*command) == 0
    plan = json.loads(capsys.readouterr().out)
    assert (plan["k"], plan["metric"], plan["output"]) == (3, "l2", "out.h5")
    for content, said in (
        ("depth: 3", "job.yaml: there is no option 'depth'; gpuknn exact --help lists them\n"),
        ("- 1", "must hold"),
        ("metrc: l2", "job.yaml: there is no option 'metrc'; did you mean 'metric'?\n"),
        ("k: x", "job.yaml: k: invalid int value: 'x'\n"),
        ("device: l3", "job.yaml: device: invalid choice: 'l3'"),
        ("metric: true", "job.yaml: metric: takes a value, not true\n"),
        ("self: 3", "job.yaml: self: takes true or false, not 3\n"),
        ("config: job.yaml", "job.yaml: a config file cannot name another\n"),
        ("help: true", "job.yaml: there is no option 'help'"),
    ):
        Path("job.yaml").write_text(content)
        assert run(*command) == 2
        told = capsys.readouterr().err
        assert told.startswith("gpuknn: error: job.yaml: ")
        assert (said in told, told.count("\n")) == (True, 1)


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(
    ("content", "words", "database", "queries"),
    [
        ("database: db.npy\nqueries: q.npy", [], "db.npy", 7),
        ("database: other.npy\nqueries: other.npy", ["db.npy", "q.npy"], "db.npy", 7),
        ("database: nothing.npy\nqueries: q.npy", ["db.npy"], "db.npy", 7),
        ("queries: q.npy", ["db.npy"], "db.npy", 7),
        ("database: db.npy\nself: true", [], "db.npy", 300),
        ("database: db.npy\nqueries: public", [], "db.npy", 7),
        ("subset: sample\nqueries: public", [], "database.h5:emb", 200),
        ("queries: public", ["--subset", "sample"], "database.h5:emb", 200),
    ],
)
def test_files_from_a_file(
    content: str, words: list[str], database: str, queries: int, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("job.yaml").write_text(content)
    shutil.copy("q.npy", "public")
    assert run("exact", *words, "--config", "job.yaml", "-o", "out.h5", "-k", "3", "--dry-run", "--json") == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["database"].endswith(database)
    assert plan["queries"] == queries


@pytest.mark.usefixtures("folder")
def test_a_subset_leaves_no_file_of_queries_unused(capsys: pytest.CaptureFixture[str]) -> None:
    Path("job.yaml").write_text("queries: q.npy")
    assert run("exact", "--subset", "sample", "--config", "job.yaml", "--dry-run") == 2
    assert "--subset sample names the files; leave out q.npy" in capsys.readouterr().err


def test_the_example_configs_are_valid(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for path in (ROOT / "configs").glob("*.yaml"):
        if "kind" in yaml.safe_load(path.read_text()):  # of a cluster, see test_cluster.py
            continue
        assert run("exact", "--config", str(path), "--dry-run", "-o", "out.h5") == 0


def test_compare_and_eval_tell_programs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with h5py.File(SAMPLE / "gold.h5") as gold, h5py.File(tmp_path / "other.h5", "w") as other:
        other["knns"], other["dists"] = gold["knns"][:], gold["dists"][:]
        other["knns"][3, 4] = 1
        other.attrs["algo"] = "brute"
    assert run("compare", str(SAMPLE / "gold.h5"), str(tmp_path / "other.h5"), "--json") == 1
    found = json.loads(capsys.readouterr().out)
    assert (found["equal"], found["ties"], found["first"]) == (False, 1, [3, 4])
    assert run("compare", str(SAMPLE / "gold.h5"), str(tmp_path / "other.h5")) == 1
    assert "first: query 3, rank 4" in capsys.readouterr().out
    assert run("eval", str(tmp_path / "other.h5"), str(SAMPLE / "gold.h5"), "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert told["algo"] == "brute"
    assert told["recall"][0]["by_ids"] == pytest.approx(1 - 1 / 2000)


def test_a_signal_after_the_outcome_changes_nothing(tmp_path: Path) -> None:
    """Not even while Python ends, which takes a while if Dask has threads."""
    program = """
import atexit, os, signal, sys
from gpuknn.__main__ import command
atexit.register(lambda: [os.kill(os.getpid(), number) for number in (signal.SIGINT, signal.SIGTERM)])
sys.argv = ["gpuknn", "eval", "nothing.h5", "nothing.h5"]
command()
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize(
    ("words", "module", "said"),
    [
        ("exact a.npy b.npy -o c.h5", "gpuknn.cli.main", " before the command began"),
        ("exact a.npy b.npy -o c.h5", "gpuknn.cli.runs", " before the command began"),
        ("exact a.npy b.npy -o c.h5", "numba", "; this command has changed nothing yet, repeat it"),
        ("convert a.npy b.npy", "gpuknn.jobs.convert.plan", "; this command has changed nothing yet, repeat it"),
        ("compare a.npy b.npy", "numpy", "; the same command starts again"),
    ],
)
def test_an_interrupt_while_modules_are_loaded(
    words: str, module: str, said: str, how: signal.Signals, tmp_path: Path
) -> None:
    program = f"""
import os, sys
class Interrupts:
    def find_spec(self, name, *_):
        if name == "{module}":
            os.kill(os.getpid(), {int(how)})
sys.meta_path.insert(0, Interrupts())
from gpuknn.__main__ import command
sys.argv = ["gpuknn", *"{words}".split()]
command()
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (130, f"gpuknn: interrupted{said}\n")
