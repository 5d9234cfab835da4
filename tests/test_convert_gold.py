"""Gold standards of other tools: read, written, and of the same recall before and after."""

import struct
from importlib.util import find_spec
from pathlib import Path

import h5py
import numpy as np
import pytest

from gpuknn.cli.main import main
from gpuknn.gold import Gold, evaluate, read_gold, recall, save_gold, write_gold
from tests.answers import dists_of

NQ, K, ROWS = 30, 8, 1_000
SHARED = Path(__file__).parents[2] / "shared"
needs_pyarrow = pytest.mark.skipif(not find_spec("pyarrow"), reason="needs pyarrow")
WITH_DISTANCES = ["b.ibin", "b.bin", "b.h5", "ann.hdf5", "sisap.h5"]
IDS_ONLY = ["b.ivecs", pytest.param("neighbors.parquet", marks=needs_pyarrow)]


@pytest.fixture(autouse=True)
def gold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Gold:
    """A gold standard `gold.h5`, and a result `result.h5` that finds some of it."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(5)
    ids = np.array([rng.permutation(ROWS)[:K] for _ in range(NQ)])
    dists = np.sort(rng.random((NQ, K), np.float32), axis=1)
    made = Gold(ids, dists, "l2")
    save_gold(made, "h5", Path("gold.h5"), None, {"metric": "l2"})
    found = ids.copy()
    found[::2, 3] = -(np.arange(NQ // 2) + 1) + ROWS * 2
    write_gold("result.h5", Gold(found, dists))
    return made


def words(source: str, name: str) -> list[str]:
    to = {"ann.hdf5": ["--to", "ann-benchmarks"], "sisap.h5": ["--to", "sisap"]}.get(name, [])
    return ["convert", source, name, "--quiet", *to]


@pytest.mark.parametrize("name", WITH_DISTANCES)
def test_the_same_recall_before_and_after(name: str, gold: Gold) -> None:
    assert main(words("gold.h5", name)) == 0
    there = read_gold(name)
    assert np.array_equal(there.ids, gold.ids)
    as_stored = np.sqrt(dists_of(gold).astype("f8")).astype("f4") if name == "ann.hdf5" else dists_of(gold)
    assert dists_of(there).tobytes() == as_stored.tobytes()
    result = read_gold("result.h5")
    assert recall(result, there) == evaluate(result, there, ks=K)[K].tie_aware == 1 - 1 / 2 / K
    assert main(words(name, "back.h5")) == 0
    back = read_gold("back.h5")
    assert np.array_equal(back.ids, gold.ids)
    assert dists_of(back).tobytes() == as_stored.tobytes()
    assert main(["compare", "gold.h5", "back.h5"]) == 0


def test_a_part_of_an_answer_is_not_taken_for_the_whole(capsys: pytest.CaptureFixture[str]) -> None:
    """What a conversion, or `write_gold`, has made of a job's file is not the job's own."""
    np.save("rows.npy", np.random.default_rng(0).standard_normal((50, 4)).astype(np.float32))
    job = ["exact", "rows.npy", "--self", "-k", "3", "-o"]
    assert main([*job, "whole.h5"]) == 0
    assert main(["convert", "whole.h5", "part.h5", "--rows", "0:9"]) == 0
    whole = read_gold("whole.h5")
    write_gold("first.h5", whole.first(2), attributes=whole.said)
    for name in ("part.h5", "first.h5"):
        assert main([*job, name]) == 2
        assert f"{name}: exists already" in capsys.readouterr().err


@pytest.mark.parametrize("name", IDS_ONLY)
def test_formats_without_distances(name: str, gold: Gold, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([word for word in words("gold.h5", name) if word != "--quiet"]) == 0
    assert capsys.readouterr().out == f"{name}: {NQ} x {K} neighbours; distances are left out\n"
    there = read_gold(name)
    assert np.array_equal(there.ids, gold.ids)
    assert there.dists is None
    assert recall(read_gold("result.h5"), there) == 1 - 1 / 2 / K
    by_ids = evaluate(read_gold("result.h5"), there, ks=K)[K]
    assert by_ids.tie_aware == by_ids.by_ids == 1 - 1 / 2 / K
    assert by_ids.by_distances is None
    assert main(["compare", "gold.h5", name]) == 0
    assert capsys.readouterr().out == f"equal: {NQ * K} ids; one of the two has no distances\n"
    assert main(["compare", "result.h5", name]) == 1
    assert f"not equal: of {NQ * K} entries {NQ // 2} are other ids; one of" in capsys.readouterr().out
    assert main(words(name, "back.ibin")) == 0  # cuVS's, without distances
    assert Path("back.ibin").stat().st_size == 8 + 4 * NQ * K
    assert np.array_equal(read_gold("back.ibin").ids, gold.ids)
    assert main(words(name, "back.h5")) == 2
    assert "holds distances, and the source has none" in capsys.readouterr().err
    assert not Path("back.h5").exists()


def test_what_others_write_by_hand(gold: Gold) -> None:
    ids, dists = gold.ids.astype("<u4"), dists_of(gold)
    Path("truth.bin").write_bytes(struct.pack("<II", NQ, K) + ids.tobytes() + dists.tobytes())  # DiskANN's
    Path("truth.ivecs").write_bytes(b"".join(struct.pack(f"<i{K}i", K, *line) for line in gold.ids.tolist()))
    with h5py.File("ann.hdf5", "w") as file:
        file["train"], file["test"] = np.zeros((ROWS, 4), np.float32), np.zeros((NQ, 4), np.float32)
        file["neighbors"], file["distances"] = gold.ids.astype(np.int32), dists
    for name in ("truth.bin", "truth.ivecs", "ann.hdf5"):
        assert np.array_equal(read_gold(name).ids, gold.ids)
        target = f"{name}.ibin"
        assert main(["convert", name, target, "--quiet"]) == 0
        assert Path(target).read_bytes().startswith(struct.pack("<II", NQ, K) + ids.tobytes())
    assert Path("truth.bin.ibin").read_bytes() == Path("truth.bin").read_bytes()
    assert main(["convert", "ann.hdf5:train", "train.npy", "--quiet"]) == 0
    assert np.load("train.npy").shape == (ROWS, 4)


def test_some_queries_and_rounding(gold: Gold, capsys: pytest.CaptureFixture[str]) -> None:
    exact = dists_of(gold).astype(np.float64) + 1e-9
    write_gold("wide.h5", Gold(gold.ids, exact))
    assert main(["convert", "wide.h5", "part.ibin", "--rows", "10:15"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("part.ibin: 5 x 8 neighbours; rounding has changed distances by up to ")
    there = read_gold("part.ibin")
    assert np.array_equal(there.ids, gold.ids[10:15])
    assert dists_of(there).tobytes() == exact[10:15].astype(np.float32).tobytes()
    assert main(["compare", "wide.h5", "part.ibin", "--rows", "10:15", "--dtype", "float32"]) == 0
    assert main(["compare", "wide.h5", "part.ibin", "--rows", "11:16", "--dtype", "float32"]) == 1
    assert main(["convert", "wide.h5", "narrow.h5", "--dtype", "float32", "--quiet"]) == 0
    with h5py.File("narrow.h5") as file:
        assert file["dists"].dtype == np.float32


def test_compare_knows_gold_standards_from_vectors(gold: Gold, capsys: pytest.CaptureFixture[str]) -> None:
    rows = np.zeros((ROWS, 4), np.float32)
    np.save("rows.npy", rows)
    for name in ("set.hdf5", "same.hdf5"):
        with h5py.File(name, "w") as file:
            file["train"], file["neighbors"], file["distances"] = rows, gold.ids.astype(np.int32), dists_of(gold)
    assert main(["compare", "set.hdf5", "same.hdf5"]) == 0
    assert capsys.readouterr().out == f"equal: {NQ * K} ids and distances\n"
    assert main(["compare", "set.hdf5", "gold.h5"]) == 0
    for words in (["set.hdf5:train", "same.hdf5:train"], ["rows.npy", "set.hdf5"], ["set.hdf5", "rows.npy"]):
        capsys.readouterr()
        assert main(["compare", *words]) == 0
        assert capsys.readouterr().out == f"equal: {ROWS:,} x 4 float32\n"
    for words, line in (
        (["gold.h5", "rows.npy"], "rows.npy: holds float32 (1000, 4); a result is a matrix of ids"),
        (["gold.h5", "set.hdf5", "--scale", "0"], "--scale: gold.h5 is a gold standard, not vectors; leave it out"),
        (["set.hdf5", "gold.h5", "--dtype", "uint8"], "--dtype uint8: distances are float32 or float64"),
        (["gold.h5"], "gold.h5: holds no checksums of gpuknn convert; name its source, too, to compare"),
        (["rows.npy", "none.npy"], "none.npy: there is no such file"),
    ):
        assert main(["compare", *words]) == 2
        assert line in capsys.readouterr().err


def test_bad_files_are_refused(gold: Gold, capsys: pytest.CaptureFixture[str]) -> None:
    Path("huge.ibin").write_bytes(struct.pack("<II", 2**31, 100) + bytes(100))
    Path("empty.bin").write_bytes(b"")
    Path("uneven.ivecs").write_bytes(struct.pack("<i2i", 2, 5, 6) + struct.pack("<i2i", 1, 5, 2))
    Path("short.ivecs").write_bytes(struct.pack("<i2i", 2, 5, 6)[:-1])
    Path("negative.ivecs").write_bytes(struct.pack("<ii", -1, 5))
    for name in ("huge.ibin", "empty.bin", "uneven.ivecs", "short.ivecs", "negative.ivecs", "none.ibin"):
        assert main(["convert", name, "out.ibin"]) == 2
        said = capsys.readouterr().err
        assert said.startswith(f"gpuknn: error: {name}")
        assert said.count("\n") == 1
    far = gold.ids.copy()
    far[3, 3] = 2**31
    write_gold("far.h5", Gold(far, dists_of(gold)))
    assert main(["convert", "far.h5", "out.ivecs"]) == 2
    assert "out.ivecs: files of this kind hold ids below 2,147,483,648" in capsys.readouterr().err
    assert main(["convert", "far.h5", "out.ibin", "--quiet"]) == 0
    assert main(["convert", "gold.h5", "out.ibin"]) == 2
    assert "exists already" in capsys.readouterr().err
    assert main(["convert", "gold.h5", "out2.ibin", "--normalize"]) == 2
    assert "--normalize: gold.h5 is a gold standard" in capsys.readouterr().err
    for options, line in (
        (["out2.ibin", "--dst-key", "x"], "--dst-key: ibin files have a place"),
        (["out2.h5", "--to", "sisap", "--dst-key", "/"], "--dst-key '/': is no name"),
        (["out2.ibin", "--cluster", "tcp://nowhere:1"], "--cluster: gold.h5 is a gold standard"),
        (["out2.ibin", "--dtype", "float64"], "ibin holds float32 only"),
        (["out2.ivecs", "--dtype", "float32"], "ivecs holds no distances"),
        (["s3://bucket/out2.ibin"], "into an object store only Zarr is written"),
    ):
        assert main(["convert", "gold.h5", *options]) == 2
        assert line in capsys.readouterr().err
    huge = dists_of(gold).astype(np.float64)
    huge[3, K - 1] = 1e300
    write_gold("huge.h5", Gold(gold.ids, huge))
    for target in (["out2.ibin"], ["out2.h5", "--dtype", "float32"]):
        assert main(["convert", "huge.h5", *target]) == 2
        assert "query 3 has a distance of 1e+300, which float32 cannot hold" in capsys.readouterr().err
    assert main(["convert", "huge.h5", "out.ivecs", "--quiet"]) == 0
    assert main(["convert", "huge.h5", "out3.ibin", "--rows", "4:9", "--quiet"]) == 0
    assert not [*Path().glob("*.part"), *Path().glob("out2*")]


@pytest.mark.slow
def test_real_gold_standard() -> None:
    if not SHARED.is_dir():
        pytest.skip("needs ../shared")
    published = str(SHARED / "data/debian/public-gold-standard-60K-F64-IEEE754.h5")
    expected = read_gold(published)
    for name in ("b.ibin", "ann.hdf5", "b.ivecs"):
        assert main([*words(published, name), "--distance", "cosine"]) == 0
        assert recall(read_gold(name), expected) == 1
        assert main(["compare", published, name]) == 0
