"""One database in many files: the same bytes as of a single file, and every change among them is noticed."""

import os
import re
import shutil
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

import gpuknn
from gpuknn.cli.main import main
from gpuknn.errors import InputError, RunError
from gpuknn.gold import read_gold
from gpuknn.jobs.exact import run as exact_run
from gpuknn.jobs.exact.plan import cut
from gpuknn.jobs.exact.shard import scan_shard
from gpuknn.vectors import content_fingerprint, file_state, open_vectors
from gpuknn.vectors.ids import own_ids
from gpuknn.vectors.joined import JoinedVectors

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")
N, NQ, D, K = 900, 9, 8, 7
RNG = np.random.default_rng(0)
ROWS, ASKED = RNG.standard_normal((N, D)).astype("f2"), RNG.standard_normal((NQ, D)).astype("f4")
ROWS[500:520] = ROWS[3]  # ties across files


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    np.save("all.npy", ROWS)
    np.save("q.npy", ASKED)
    return tmp_path


def cuts(count: int) -> list[range]:
    """Files of different lengths."""
    inner = sorted(np.random.default_rng(count).choice(np.arange(1, N), count - 1, replace=False).tolist())
    edges = [0, *inner, N]
    return [range(a, b) for a, b in pairwise(edges)]


def write(path: str, rows: range) -> None:
    Path(path).parent.mkdir(exist_ok=True, parents=True)
    part = ROWS[rows.start : rows.stop]
    if path.endswith(".npy"):
        np.save(path, part)
    elif path.endswith(".npz"):
        np.savez_compressed(path, emb=part)
    elif path.endswith(".h5"):
        with h5py.File(path, "w") as file:
            file["emb"] = part
    elif path.endswith(".fbin"):
        Path(path).write_bytes(np.array(part.shape, "<u4").tobytes() + part.astype("<f4").tobytes())
    else:
        ids = np.arange(rows.start, rows.stop)
        pq.write_table(pa.table({"id": ids, "emb": list(part)}), path, row_group_size=40)


NAMES: dict[str, tuple[str, Callable[[int, int], str]]] = {
    "natural": ("parts", lambda i, n: f"parts/part{i}.npy"),
    "clip-retrieval": ("img_emb/img_emb_*.npy", lambda i, n: f"img_emb/img_emb_{i:04d}.npy"),
    "VectorDBBench": ("train-*.parquet", lambda i, n: f"train-{i:02d}-of-{n}.parquet"),
    "Hugging Face": ("train/*.parquet", lambda i, n: f"train/train-{i:05d}-of-{n:05d}-{i:016x}.parquet"),
    "bundles": ("bundles:emb", lambda i, n: f"bundles/b{i}.h5"),
    "archives": ("npz", lambda i, n: f"npz/{i}-emb.npz"),
}


def written(kind: str, count: int) -> str:
    name, file = NAMES[kind]
    for i, rows in enumerate(cuts(count)):
        write(file(i, count), rows)
    return name


def exact(database: str, output: str, *words: str) -> int:
    return main(["exact", database, "q.npy", "-k", str(K), "-o", output, "--quiet", *words])


def same_arrays(a: str, b: str) -> bool:
    with h5py.File(a) as one, h5py.File(b) as two:
        return sorted(one) == sorted(two) and all(one[x][:].tobytes() == two[x][:].tobytes() for x in one)


@pytest.mark.parametrize("count", [1, 7, 40])
@pytest.mark.parametrize("kind", NAMES)
def test_the_answer_is_that_of_a_single_file(kind: str, count: int) -> None:
    name = written(kind, count)
    rows = open_vectors(name)
    assert isinstance(rows, JoinedVectors)
    assert (rows.shape, len(rows.files)) == ((N, D), count)
    assert np.array_equal(rows[:], ROWS)
    assert np.array_equal(rows[100:777], ROWS[100:777])
    assert content_fingerprint(rows) == content_fingerprint(open_vectors("all.npy"))
    assert exact("all.npy", "gold.h5") == exact(name, "many.h5", "--shard-rows", "50") == 0
    assert same_arrays("gold.h5", "many.h5")
    assert main(["compare", "gold.h5", "many.h5"]) == main(["compare", name, "all.npy", "--ignore-ids"]) == 0
    assert main(["convert", name, "joined.h5", "--quiet"]) == main(["compare", "joined.h5", "all.npy"]) == 0
    with h5py.File("many.h5") as file:
        assert f"{count} file" in file.attrs["database_files"]
        assert "by the numbers in their names" in file.attrs["database_files"]


def test_numbers_in_names_count_as_numbers(capsys: pytest.CaptureFixture[str]) -> None:
    for i in range(12):
        write(f"parts/part{i}.npy", range(i * 75, i * 75 + 75))
    assert np.array_equal(open_vectors("parts")[:], ROWS)
    assert np.array_equal(open_vectors("parts/*.npy")[:], ROWS)
    assert exact("parts", "gold.h5", "--dry-run") == 0
    assert "12 files by the numbers in their names: part0.npy, part1.npy, ..., part11.npy" in capsys.readouterr().out


def test_ways_to_name_many(tmp_path: Path) -> None:
    write("a.npy", range(500))
    write("b.h5", range(500, 700))
    write("c.parquet", range(700, N))
    names = ["a.npy", "b.h5", "c.parquet"]
    Path("sub").mkdir()
    Path("sub/list.txt").write_text("\ufeff# a list\n  # more\n../a.npy\n\n../b.h5:emb\n" + f"{tmp_path}/c.parquet\n")
    (tmp_path / "x,y.npy").write_bytes((tmp_path / "all.npy").read_bytes())  # a name that is there is that file
    for name in (names, tuple(map(Path, names)), ",".join(names), "a.npy,b.h5:emb,c.parquet:emb", "sub/list.txt"):
        rows = open_vectors(name)
        assert np.array_equal(rows[:], ROWS)
        assert "3 files in the order given: a.npy, b.h5, c.parquet" in str(rows.files_told)
    assert open_vectors("x,y.npy").files_told is None
    assert np.array_equal(open_vectors("b.h5,a.npy")[:200], ROWS[500:700])
    found = gpuknn.exact_knn(names, "q.npy", k=K, ignore_ids=True)
    assert np.array_equal(found.ids, gpuknn.exact_knn(ROWS, ASKED, k=K).ids)
    outcome = gpuknn.exact(names, "q.npy", "gold.h5", k=K, ignore_ids=True)
    assert np.array_equal(read_gold(outcome.output).ids, found.ids)
    with pytest.raises(InputError, match=r"all\.npy: is named as the database and as the queries"):
        gpuknn.exact(["all.npy"], "all.npy", "g.h5")


def test_keys_in_names_with_commas() -> None:
    for name, rows in (("a.h5", ROWS[:400]), ("b.h5", ROWS[400:])):
        with h5py.File(name, "w") as file:
            file["x"], file["emb"] = rows, rows[::-1]
    np.save("c,d.npy", ROWS[:5])
    assert np.array_equal(open_vectors("a.h5:x,b.h5:x")[:], ROWS)
    assert np.array_equal(open_vectors("a.h5:x, b.h5:x")[:], ROWS)
    assert np.array_equal(open_vectors(["a.h5:x", "b.h5:x"])[:], ROWS)
    named = open_vectors("a.h5,b.h5", key="x")
    assert np.array_equal(named[:], ROWS)
    assert np.array_equal(open_vectors(named.asked)[:], ROWS)
    assert np.array_equal(open_vectors(named.absolute().asked)[:], ROWS)
    assert np.array_equal(open_vectors(["c,d.npy", "a.h5:x"])[:5], ROWS[:5])
    with pytest.raises(InputError, match=r"c,d\.npy: has a comma in its name; name such files in a list file"):
        gpuknn.exact(["c,d.npy", "a.h5:x"], "q.npy", "other.h5", k=K)  # a run's command must be told
    with pytest.raises(InputError, match=r"c,d\.npy: has a comma in its name; name such files in a list file"):
        gpuknn.convert(["c,d.npy", "a.h5:x"], "other.h5")
    Path("list.txt").write_text("c,d.npy\na.h5:x\n")
    gold = read_gold(gpuknn.exact("list.txt", "q.npy", "gold.h5", k=K).output)
    assert np.array_equal(gold.ids, gpuknn.exact_knn(np.concatenate([ROWS[:5], ROWS[:400]]), ASKED, k=K).ids)
    with h5py.File("a.h5", "a") as file:
        file["k,l"] = ROWS[:30]
    assert np.array_equal(open_vectors("a.h5:k,l")[:], ROWS[:30])
    assert gpuknn.convert(["a.h5:x", "b.h5:x"], "joined.npy").error == 0
    assert gpuknn.compare(["a.h5:x", "b.h5:x"], "joined.npy").equal
    with h5py.File("gold.h5") as file:
        assert "2 files in the order given: c,d.npy, a.h5" in file.attrs["database_files"]


def test_a_missing_number_is_told() -> None:
    for i in (0, 1, 2, 4, 5):
        write(f"parts/img_emb_{i}.npy", range(9))
    assert str(open_vectors("parts").files_told).endswith("img_emb_5.npy; there is no number 3")
    write("parts/img_emb_3.npy", range(9))
    assert str(open_vectors("parts").files_told).endswith("..., img_emb_5.npy")
    for time in (1700000000000, 1700604800000):  # numbers that count something else
        write(f"times/{time}.npy", range(9))
    assert str(open_vectors("times").files_told).endswith("1700604800000.npy")
    write("many/p-0-of-99999999999.npy", range(9))
    with pytest.raises(InputError, match="part 1 is not there"):
        open_vectors("many")
    Path("lines.txt").write_text("parts/img_emb_0.npy\nparts/*.npy\n")
    with pytest.raises(InputError, match=r"lines\.txt: names parts/\*\.npy, and there is no file .* a line names one"):
        open_vectors("lines.txt")


def test_a_file_added_before_it_is_looked_at_is_noticed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for i in range(3):
        write(f"parts/part{i}.npy", range(i * 300, i * 300 + 300))
    planned = exact_run._compile

    def adding(*arguments: Any) -> None:
        write("parts/part3.npy", range(5))
        planned(*arguments)

    monkeypatch.setattr(exact_run, "_compile", adding)
    assert exact("parts", "gold.h5") == 3
    assert "parts: stands for other files than when it was opened (part3.npy)" in capsys.readouterr().err
    assert not Path("gold.h5").exists()


def test_files_that_all_have_left_are_let_go() -> None:
    for i, rows in enumerate(cuts(40)):
        write(f"t/{i}.parquet", rows)
    joined = open_vectors("t")
    assert isinstance(joined, JoinedVectors)
    out = np.empty((1, D), "f2")
    for row in range(0, N, 3):  # which leaves row groups decoded in part
        joined.read(row, out)
        assert len(joined._open._files) <= 2
    assert joined.held_bytes(3) == 2 * max(part.held_bytes(3) for part in joined.parts) > 0


REFUSED = {
    "nothing": ("none/*.npy", "no file has such a name"),
    "an empty folder": ("empty", r"is not a readable Zarr array or group, and holds no files of vectors \(\.h5"),
    "other columns": ("a.npy,wide.npy", "wide.npy: holds rows of 9 float16, and a.npy rows of 8 float16"),
    "another type": ("a.npy,double.npy", "double.npy: holds rows of 8 float64, and a.npy rows of 8 float16"),
    "twice": ("a.npy,./a.npy", "a.npy: is named twice"),
    "twice by a link": ("a.npy,hard.npy", "hard.npy: is named twice"),
    "an array twice": ("keyed.h5:emb,keyed.h5:/emb", "is named twice"),
    "two kinds in a folder": ("two", r"2 kinds of names \(test.npy, train-0.npy\); say .* 'two/train-\*.npy'"),
    "a part is missing": ("holes", r"its name tells of 3 parts, and part 1 is not there \(.*train-\.\.\.\)"),
    "an empty name": ("a.npy,,all.npy", "a name is missing before or after a comma"),
    "no list": ("empty.txt", "names no files"),
    "one is not there": ("a.npy,b.npy", "b.npy: there is no such file"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_is_no_database(kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    name, words = REFUSED[kind]
    write("a.npy", range(10))
    np.save("wide.npy", np.zeros((4, 9), "f2"))
    np.save("double.npy", np.ones((4, 8)))
    Path("empty.txt").write_text("\n")
    Path("empty").mkdir()
    write("two/train-0.npy", range(10))
    write("two/train-1.npy", range(10))
    write("two/test.npy", range(10))
    os.link("a.npy", "hard.npy")
    write("keyed.h5", range(10))
    for i in (0, 2):
        write(f"holes/train-{i}-of-3.npy", range(10))
    with pytest.raises(InputError, match=words):
        open_vectors(name)
    assert exact(name, "gold.h5") == 2
    assert not Path("gold.h5").exists()
    capsys.readouterr()


def test_ids_are_honoured_or_refused(capsys: pytest.CaptureFixture[str]) -> None:
    ids = RNG.permutation(N) + 5000
    for i, rows in enumerate(cuts(3)):
        part = slice(rows.start, rows.stop)
        pq.write_table(pa.table({"id": ids[part], "emb": list(ROWS[part])}), f"p{i}.parquet")
    found = own_ids(open_vectors("p*.parquet").ids)
    assert found is not None
    assert np.array_equal(found.all(), ids)
    assert exact("p*.parquet", "gold.h5") == 0
    gold = read_gold("gold.h5")
    assert gold.own_ids is not None
    assert np.array_equal(gold.own_ids, ids[gold.ids])
    for i, rows in enumerate(cuts(3)):  # each file counts from 0
        pq.write_table(
            pa.table({"id": np.arange(len(rows)), "emb": list(ROWS[rows.start : rows.stop])}), f"r{i}.parquet"
        )
    capsys.readouterr()
    assert exact("r*.parquet", "again.h5") == 2
    assert "the id 0 belongs to more than one row; --ignore-ids" in capsys.readouterr().err
    write("tail.npy", range(100))
    assert exact("p0.parquet,tail.npy", "again.h5") == 2
    assert "tail.npy: gives its rows no ids, and p0.parquet:id does; --ignore-ids" in capsys.readouterr().err
    assert exact("r*.parquet", "again.h5", "--ignore-ids") == 0
    assert exact("p0.parquet,tail.npy", "third.h5", "--ignore-ids") == 0


def interrupted_after(shards: int, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[int] = []

    def failing(*arguments: Any) -> Any:
        if len(done) == shards:
            raise OSError("the node is gone")
        done.append(1)
        return scan_shard(*arguments)

    monkeypatch.setattr("gpuknn.jobs.exact.feed.scan_shard", failing)


CHANGES: dict[str, tuple[Callable[[], object], str]] = {
    "replaced": (lambda: np.save("parts/part3.npy", np.load("parts/part3.npy")[::-1].copy()), "files were changed"),
    "missing": (lambda: os.remove("parts/part3.npy"), "other: rows|files were changed"),
    "of other width": (lambda: np.save("parts/part3.npy", np.zeros((3, 9), "f2")), "holds rows of 9 float16"),
    "added": (lambda: write("parts/part12.npy", range(5)), "other: rows"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_failed_run_goes_on_unless_a_file_changed(
    change: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for i, rows in enumerate(cuts(12)):
        write(f"parts/part{i}.npy", rows)
    with monkeypatch.context() as patch:
        interrupted_after(4, patch)
        assert exact("parts", "gold.h5", "--shard-rows", "60") == 3
    shutil.copytree("gold.h5.run", "kept.run")
    assert exact("parts", "gold.h5", "--shard-rows", "60", "--json") == 0
    assert '"resumed_rows": 0' not in capsys.readouterr().out
    assert exact("all.npy", "single.h5") == 0
    assert same_arrays("gold.h5", "single.h5")
    os.remove("gold.h5")
    os.rename("kept.run", "gold.h5.run")
    act, words = CHANGES[change]
    act()
    assert exact("parts", "gold.h5", "--shard-rows", "60") == 2
    assert re.search(words, capsys.readouterr().err)
    assert not Path("gold.h5").exists()


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_while_it_runs_is_noticed(
    change: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for i, rows in enumerate(cuts(12)):
        write(f"parts/part{i}.npy", rows)

    def changing(*arguments: Any) -> Any:
        found = scan_shard(*arguments)
        if not Path("done").exists():
            Path("done").touch()
            CHANGES[change][0]()
        return found

    monkeypatch.setattr("gpuknn.jobs.exact.feed.scan_shard", changing)
    assert exact("parts", "gold.h5", "--shard-rows", "60") == 3
    assert re.search("was changed while|stands for other files|holds rows of 9", capsys.readouterr().err)
    assert not Path("gold.h5").exists()


@pytest.mark.parametrize("name", ["parts", "parts/*.npy", "list.txt"])
def test_a_state_is_that_of_all_files(name: str) -> None:
    for i, rows in enumerate(cuts(7)):
        write(f"parts/part{i}.npy", rows)
    Path("list.txt").write_text("".join(f"parts/part{i}.npy\n" for i in range(7)))
    opened = open_vectors(name)
    state = file_state(opened)
    assert file_state(opened.absolute()) == state  # as workers elsewhere see it
    shutil.copy("parts/part6.npy", "parts/part7.npy")
    if name == "list.txt":
        assert file_state(opened) == state
    else:
        with pytest.raises(RunError, match=r"stands for other files than when it was opened \(part7\.npy\)"):
            file_state(opened)
    os.remove("parts/part7.npy")
    assert file_state(opened) == state
    os.rename("parts/part6.npy", "aside")
    with pytest.raises(RunError, match=r"part6\.npy"):
        file_state(opened)
    os.rename("aside", "parts/part6.npy")
    os.utime("parts/part6.npy", ns=(1, 1))
    assert file_state(opened) != state


def test_shards_are_whole_files_or_lie_within_one() -> None:
    assert cut(100, [], 30, (0, 10, 20, 90, 95, 100)) == [
        range(0, 20),
        range(20, 43),
        range(43, 66),
        range(66, 90),
        range(90, 100),
    ]
    assert cut(100, [range(15, 40)], 30, (0, 10, 20, 90, 95, 100)) == [
        range(0, 15),
        range(40, 65),
        range(65, 90),
        range(90, 100),
    ]
    assert cut(10, [], 4) == [range(0, 3), range(3, 6), range(6, 10)]
    for seed in range(50):
        rng = np.random.default_rng(seed)
        edges = [0, *np.unique(rng.integers(1, 500, 20)).tolist(), 500]
        length = int(rng.integers(1, 200))
        shards = cut(500, [], length, edges)
        assert [row for shard in shards for row in shard] == list(range(500))
        assert max(map(len, shards)) <= length
        for shard in shards:
            inner = [edge for edge in edges if shard.start < edge < shard.stop]
            assert not inner or {shard.start, shard.stop} <= set(edges)


def test_an_output_among_the_files_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    for i, rows in enumerate(cuts(3)):
        write(f"bundles/b{i}.h5", rows)
    assert exact("bundles/*.h5", "bundles/gold.h5") == 2
    assert "would itself be one of the files that bundles/*.h5 stands for" in capsys.readouterr().err
    assert exact("bundles", "bundles/gold.h5") == 2
    assert exact("bundles/b0.h5,bundles/b1.h5", "bundles/b0.h5", "--force") == 2
    assert exact("bundles/b*.h5", "bundles/gold.h5") == 0
    assert main(["convert", "bundles/b?.h5", "bundles/b9.h5", "--quiet"]) == 2


def test_faults_name_the_file_and_its_row(capsys: pytest.CaptureFixture[str]) -> None:
    for i, rows in enumerate(cuts(3)):
        write(f"p/part{i}.npy", rows)
    part = np.load("p/part1.npy")
    part[5, 3] = np.nan
    np.save("p/part1.npy", part)
    assert exact("p", "gold.h5") == 2
    assert "p/part1.npy: row 5 (counted from 0): NaN" in capsys.readouterr().err
    part[5] = 0
    np.save("p/part1.npy", part)
    assert exact("p", "gold.h5") == 2
    assert "p/part1.npy: row 5 (counted from 0): only zeros" in capsys.readouterr().err
    assert main(["convert", "p", "c.h5", "--normalize", "--quiet"]) == 2
    assert "p/part1.npy: row 5 (counted from 0) is zero" in capsys.readouterr().err
