"""Gold standards with other distances: asked for, written, said, and read again."""

import json
import math
import struct
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

import gpuknn
from gpuknn.cli import options
from gpuknn.cli.main import main
from gpuknn.errors import InputError
from gpuknn.gold import Gold, compare, distances, evaluate, read_gold, write_gold
from tests.answers import dists_of

IDS = np.array([[4, 2, 7, 0], [1, 0, 5, -1]])
HELD: dict[str, list[list[float]]] = {
    "cosine": [[0, 0.5, 1, 1.5], [2e-12, 0.5, 2, np.inf]],
    "ip": [[-3, -2, 0, 5], [-1, 0, 1, np.inf]],
    "l2": [[0, 1, 4, 9], [1e-12, 2, 6.25, np.inf]],
}
BECOME: dict[str, tuple[str, list[list[float]]]] = {
    "angle": (
        "cosine",
        [[0, math.pi / 3, math.pi / 2, 2 * math.pi / 3], [2 * math.asin(1e-6), math.pi / 3, math.pi, np.inf]],
    ),
    "dot": ("ip", [[3, 2, 0, -5], [1, 0, -1, -np.inf]]),
    "euclidean": ("l2", [[0, 1, 2, 3], [1e-6, math.sqrt(2), 2.5, np.inf]]),
}
"""What is made of what, and the values, by hand; 1 - cos a is 2 sin^2(a / 2)."""
BACK = {"angle": ["--dists-as", "cosine"], "dot": [], "euclidean": ["--dists-as", "sqeuclidean"]}


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One gold standard of each distance."""
    monkeypatch.chdir(tmp_path)
    for name, values in HELD.items():
        write_gold(f"{name}.h5", Gold(IDS, np.array(values, np.float32), name))
    write_gold("hamming.h5", Gold(IDS, np.array([[0, 1, 2, 3], [0, 1, 1, 9]], np.float32), "hamming"))
    write_gold("untold.h5", Gold(IDS, np.array(HELD["cosine"])))
    np.save("rows.npy", np.eye(8, 3, dtype=np.float32))
    Path("ids.ivecs").write_bytes(struct.pack("<iii", 2, 3, 4))


def convert(*words: str) -> int:
    return main(["convert", *words, "--quiet"])


def stored(path: str) -> tuple[np.ndarray, dict[str, Any]]:
    with h5py.File(path) as file:
        name = "dists" if "dists" in file else "distances"
        return file[name][:], dict(file.attrs)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("asked", BECOME)
def test_the_values_are_right_and_the_file_says_which_they_are(asked: str, dtype: str) -> None:
    source, values = BECOME[asked]
    write_gold("s.h5", Gold(IDS, np.array(HELD[source], dtype), source))
    assert convert("s.h5", "new.h5", "--dists-as", asked) == 0
    dists, said = stored("new.h5")
    assert dists.dtype == dtype
    np.testing.assert_allclose(dists, values, rtol=4e-16 if dtype == "float64" else 6e-8, atol=0)
    assert not np.signbit(dists[dists == 0]).any()
    assert (said["distance"], said["dists_are"]) == (asked, distances.DISTANCES[asked])
    assert np.array_equal(read_gold("new.h5").ids, IDS)
    assert compare("s.h5", "new.h5").equal
    assert compare("new.h5", "s.h5").equal
    assert convert("new.h5", "back.h5", *BACK[asked]) == 0
    again, said = stored("back.h5")
    assert said["distance"] == source
    np.testing.assert_allclose(again, np.array(HELD[source], dtype), rtol=1e-15 if dtype == "float64" else 3e-7, atol=0)


def test_a_file_of_dot_is_ip_when_it_is_read() -> None:
    assert convert("ip.h5", "dot.h5", "--dists-as", "dot") == 0
    gold, ip = read_gold("dot.h5"), read_gold("ip.h5")
    assert (gold.distance, gold.were_similarities, gold == ip) == ("ip", True, True)
    assert not np.signbit(dists_of(gold)[0, 2])
    for name, source in (("a.ibin", "ip.h5"), ("b.ibin", "dot.h5")):
        assert convert(source, name) == 0
    assert convert("ip.h5", "c.ibin", "--dists-as", "dot") == 0
    assert Path("a.ibin").read_bytes() == Path("b.ibin").read_bytes() == Path("c.ibin").read_bytes()
    (line,) = np.fromfile("a.ibin", "<f4")[-8:-4][None]
    assert line.tolist() == [3, 2, 0, -5]
    assert not np.signbit(line[2])
    # One number in a line, and lines that are in no order, tell no direction: the name does.
    for values in ([[2.0], [-3.0]], [[2.0, 5.0], [1.0, 2.0]]):
        answer = Gold(IDS[:, : len(values[0])], np.array(values), "ip")
        write_gold("some.h5", answer, attributes={"distance": "dot"}, force=True)
        assert stored("some.h5")[0].tolist() == (-np.array(values)).tolist()
        assert dists_of(read_gold("some.h5")).tolist() == values


def test_dot_is_taken_from_python_and_told() -> None:
    products = -np.array(HELD["ip"])[:, :3]
    faiss, gold = Gold(IDS[:, :3], products, "dot"), read_gold("ip.h5")
    assert evaluate(faiss, gold, ks=3)[3].by_distances == 1
    assert compare(faiss, gold.first(3)).equal
    np.savez("faiss.npz", I=IDS[:, :3], D=products)
    assert convert("faiss.npz", "told.h5", "--distance", "dot", "--dists-as", "dot") == 0
    write_gold("pair.h5", (IDS[:, :3], products), attributes={"metric": "ip", "distance": "dot"})
    for name in ("told.h5", "pair.h5"):
        assert stored(name)[0].tolist() == products.tolist()
        assert stored(name)[1]["distance"] == "dot"
    np.savez("rising.npz", I=IDS[:, :3], D=-products)
    with pytest.raises(InputError, match=r"holds distances, the smallest first, and not x\.q, the largest"):
        gpuknn.convert("rising.npz", "bad.h5", distance="dot")


def test_a_small_distance_keeps_its_digits() -> None:
    """The arccos of 1 - d would be 0 below 1e-16, and wrong in its fifth digit at 1e-12."""
    small = np.array([[1e-300, 1e-30, 1e-17, 1e-12]])
    found = distances.as_distance(Gold(IDS[:1], small, "cosine"), "angle", "g")
    np.testing.assert_allclose(dists_of(found), np.sqrt(2 * small), rtol=4e-13)
    np.testing.assert_allclose(dists_of(distances.as_distance(found, "cosine", "g")), small, rtol=1e-15)
    rounded = Gold(IDS[:1], np.array([[-1e-7, 0, 2, 2.0000002]], np.float32), "cosine")
    angles = dists_of(distances.as_distance(rounded, "angle", "g"))
    assert angles.tolist() == [[0, 0, np.float32(np.pi), np.float32(np.pi)]]
    assert dists_of(distances.as_distance(Gold(IDS[:1], angles, "angle"), "cosine", "g")).tolist() == [[0, 0, 2, 2]]


def test_lines_that_ascend_still_do() -> None:
    """Neighbouring numbers in float64 may become equal, but never change places."""
    rng = np.random.default_rng(0)
    for held, made, highest in (("cosine", "angle", 2), ("angle", "cosine", np.pi), ("l2", "euclidean", 9)):
        first = np.append(rng.random(20_000), rng.random(20_000) * 1e-8) * highest
        line = np.sort(np.append(first, np.nextafter(first, 0)))[None]
        gold = Gold(np.arange(line.size)[None], line, held)
        assert np.all(np.diff(dists_of(distances.as_distance(gold, made, "g"))) >= 0)


def test_padding_and_what_is_no_number_stay() -> None:
    ids = np.array([[0, 1, -1, -1, -1]])
    for held, made in (("cosine", "angle"), ("angle", "cosine"), ("l2", "euclidean"), ("euclidean", "l2")):
        gold = Gold(ids, np.array([[0, np.nan, np.inf, -1, np.nan]], np.float32), held)
        found = dists_of(distances.as_distance(gold, made, "g"))
        assert np.array_equal(found, dists_of(gold), equal_nan=True)
    dots = distances.as_distance(Gold(ids, np.array([[0, np.nan, np.inf, -1, np.nan]]), "ip"), "dot", "g")
    assert np.array_equal(dists_of(dots), [[0, np.nan, -np.inf, 1, np.nan]], equal_nan=True)


def test_rounding_is_told_and_no_more_than_once(capsys: pytest.CaptureFixture[str]) -> None:
    def said(*words: str) -> str:
        assert main(["convert", *words]) == 0
        return capsys.readouterr().out

    wide = np.arccos(1 - np.array(HELD["cosine"][0][:3], np.float64))
    write_gold("short.h5", read_gold("cosine.h5").first(3).queries(slice(1)))
    assert "rounding has changed distances by up to 4.37e-08" in said("short.h5", "a.h5", "--dists-as", "angle")
    assert abs(np.abs(wide - stored("a.h5")[0]).max() - 4.37e-08) < 1e-10
    assert "by up to 4.44e-16" in said("short.h5", "b.h5", "--dists-as", "angle", "--dtype", "float64")
    np.testing.assert_allclose(stored("b.h5")[0], [wide], rtol=4e-16)
    assert said("ip.h5", "c.h5", "--dists-as", "dot").endswith("nothing was rounded\n")
    for name, asked in (("cosine", "cosine"), ("l2", "sqeuclidean")):
        assert "nothing was rounded" in said(f"{name}.h5", f"same-{name}.h5", "--dists-as", asked)
        assert read_gold(f"same-{name}.h5") == read_gold(f"{name}.h5")
    assert said("l2.h5", "part.h5", "--dists-as", "euclidean", "--rows", "0:1").startswith("part.h5: 1 x 4 ")
    assert stored("part.h5")[0].tolist() == [[0, 1, 2, 3]]


def test_ann_benchmarks_gets_what_it_counts_by() -> None:
    assert convert("cosine.h5", "angle.h5", "--dists-as", "angle") == 0
    write_gold("whole.h5", read_gold("angle.h5").first(3))
    for n, words in enumerate((["--dists-as", "cosine"], [])):
        assert convert("whole.h5", f"{n}.hdf5", "--to", "ann-benchmarks", *words) == 0
        dists, said = stored(f"{n}.hdf5")
        assert said["distance"] == "angular"
        np.testing.assert_allclose(dists, np.array(HELD["cosine"])[:, :3], rtol=3e-7)
    write_gold("squares.h5", read_gold("l2.h5").first(3))
    assert convert("squares.h5", "roots.hdf5", "--to", "ann-benchmarks", "--dists-as", "euclidean") == 0
    assert stored("roots.hdf5")[1]["distance"] == "euclidean"
    np.testing.assert_allclose(stored("roots.hdf5")[0], np.array(BECOME["euclidean"][1])[:, :3], rtol=6e-8)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ["cosine.h5", "x.h5", "--dists-as", "dot"],
            "cosine.h5: holds cosine (1 - x.q .*, it would for vectors of length 1",
        ),
        (
            ["cosine.h5", "x.h5", "--dists-as", "euclidean"],
            "does not become euclidean (|x - q|, the root); it would for vectors",
        ),
        (["ip.h5", "x.h5", "--dists-as", "angle"], "ip.h5: holds ip (-x.q), which does not become angle (arccos"),
        (["l2.h5", "x.h5", "--dists-as", "cosine"], "it would for vectors of length 1 only"),
        (["l2.h5", "x.h5", "--dists-as", "dot"], "does not become dot (x.q, the largest first); it would for vectors"),
        (
            ["hamming.h5", "x.h5", "--dists-as", "angle"],
            "hamming.h5: holds hamming (the number of differing bits), which does",
        ),
        (["hamming.h5", "x.h5", "--dists-as", "euclidean"], "bits have no such distance"),
        (["ids.ivecs", "x.h5", "--dists-as", "angle"], "ids.ivecs: holds no distances; leave out --dists-as"),
        (["untold.h5", "x.h5", "--dists-as", "angle"], "not tell which distances it holds; say it with --distance"),
        (["cosine.h5", "x.ibin", "--dists-as", "angle"], "x.ibin: readers of ibin files expect other numbers than arc"),
        (["l2.h5", "x.ibin", "--dists-as", "euclidean"], "write an h5 file, which says what it holds"),
        (["l2.h5", "x.ivecs", "--dists-as", "euclidean"], "--dists-as: ivecs holds no distances; leave it out"),
        (["l2.h5", "x.parquet", "--dists-as", "euclidean"], "--dists-as: parquet holds no distances; leave it out"),
        (["ip.h5", "x.h5", "--to", "ann-benchmarks", "--dists-as", "dot"], "readers of ann-benchmarks files expect"),
        (["l2.h5", "x.h5", "--to", "ann-benchmarks", "--dists-as", "sqeuclidean"], "numbers than |x - q|^2"),
        (["cosine.h5", "x.h5", "--to", "ann-benchmarks", "--dists-as", "angle"], "other numbers than arccos"),
        (["rows.npy", "x.h5", "--dists-as", "angle"], "--dists-as: rows.npy holds vectors; a gold standard is"),
        (["cosine.h5", "x.h5", "--distance", "angle"], "holds cosine (1 - x.q"),
        (["l2.h5", "x.h5", "--dists-as", "angle", "--distance", "cosine"], "holds l2 (|x - q|^2"),
    ],
)
def test_what_has_no_way_is_refused_in_one_line(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["convert", *words]) == 2
    shown = capsys.readouterr().err
    assert all(part in shown for part in said.split(" .*, "))
    assert shown.count("\n") == 1
    assert not list(Path().glob("x.*"))


@pytest.mark.parametrize(
    ("values", "held", "asked", "said"),
    [
        ([0, 2.5], "cosine", "angle", "holds 2.5, which is not 1 - x.q .*: that is from 0 to 2$"),
        ([-0.5, 1], "cosine", "angle", "holds -0.5, which is not 1 - x.q"),
        ([0, np.inf], "cosine", "angle", "holds inf, which is not 1 - x.q"),
        ([0, 90], "angle", "cosine", "holds 90, which is not arccos.*: that is from 0 to 3.14$"),
        ([-3, 1], "euclidean", "sqeuclidean", "holds the distance -3, which is no root"),
        ([0, 1e20], "euclidean", "sqeuclidean", "query 0 has a distance of 1e\\+40, which float32 cannot hold"),
        ([0, 1e-30], "euclidean", "sqeuclidean", "distance of 1e-60, which float32 would make zero"),
    ],
)
def test_numbers_that_are_no_such_distances_are_refused(values: list[float], held: str, asked: str, said: str) -> None:
    write_gold("bad.h5", Gold(np.array([[0, 1]]), np.array([values], np.float32), held))
    with pytest.raises(InputError, match=said):
        gpuknn.convert("bad.h5", "x.h5", dists_as=asked)
    assert not Path("x.h5").exists()


def test_an_angle_goes_into_no_file_that_cannot_say_so() -> None:
    angles = Gold(IDS, np.array(BECOME["angle"][1]), "angle")
    for name in ("x.ibin", "x.bin"):
        with pytest.raises(InputError, match=f"{name}: readers of ibin files expect other numbers than arccos"):
            write_gold(name, Gold(IDS, dists_of(angles).astype(np.float32), "angle"))
        assert not Path(name).exists()
    write_gold("x.ivecs", angles)
    assert np.array_equal(read_gold("x.ivecs").ids, IDS)
    np.savez("angles.npz", I=IDS, D=dists_of(angles))
    assert convert("angles.npz", "told.h5", "--distance", "angle") == 0
    assert read_gold("told.h5") == read_gold("angles.npz")
    assert read_gold("told.h5").distance == "angle"
    with pytest.raises(InputError, match="metric is angle, which is the name of a distance; call it distance"):
        write_gold("y.h5", (IDS, dists_of(angles)), attributes={"metric": "angle"})
    write_gold("y.h5", (IDS, dists_of(angles)), attributes={"metric": "cosine", "distance": "angle"})
    assert read_gold("y.h5").distance == "angle"


def test_epsilon_is_in_the_distances_that_are_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    """By hand: the result's k-th is 0.0004 farther as 1 - cosine, 0.0175 farther as an angle, and so on."""
    gold = Gold(np.array([[0, 1, 3]]), np.array([[0, 1e-4, 0.5]]), "cosine")
    found = (np.array([[0, 2, 3]]), np.array([[0, 5e-4, 0.5]]))
    result = Gold(*found, "cosine")
    for dists_as, expected in (("cosine", 1), ("angle", 0.5), (None, 1)):
        said = evaluate(result, gold, ks=2, dists_as=dists_as)
        assert (said[2].by_distances, said.dists_as) == (expected, dists_as)
        assert evaluate(found, gold, ks=2, dists_as=dists_as)[2].by_distances == expected  # which pairs have shown
        angles = distances.as_distance(result, "angle", "r")
        assert evaluate(angles, gold, ks=2, dists_as=dists_as)[2].by_distances == expected
        true = distances.as_distance(gold, "angle", "g")
        assert evaluate(result, true, ks=2, dists_as=dists_as)[2].by_distances == expected
    squares = Gold(np.array([[0, 1]]), np.array([[0, 1e-6]]), "l2")
    far = Gold(np.array([[0, 2]]), np.array([[0, 9e-4]]), "l2")
    for asked, expected in (("sqeuclidean", 1), ("euclidean", 0.5), (None, 0.5)):
        assert evaluate(far, squares, ks=2, dists_as=asked)[2].by_distances == expected
        roots = distances.as_distance(far, "euclidean", "r")
        assert evaluate(roots, squares, ks=2, dists_as=asked)[2].by_distances == expected
    write_gold("result.h5", result)
    write_gold("gold.h5", distances.as_distance(gold, "angle", "g"))
    assert main(["eval", "result.h5", "gold.h5", "-k", "2", "--dists-as", "angle"]) == 0
    words = "recall@2: 0.500000 by ids, 0.500000 tie-aware, 0.500000 by distances (angle) to within 0.001\n"
    assert capsys.readouterr().out == words
    for given, told in (([], None), (["--dists-as", "angle"], "angle")):
        assert main(["eval", "result.h5", "gold.h5", "-k", "2", "--json", *given]) == 0
        assert json.loads(capsys.readouterr().out)["dists_as"] == told


def test_ties_are_those_of_the_file() -> None:
    """Two cosines whose angles are one in float32 are no tie."""
    near = np.nextafter(np.float32(1.9e-3), np.float32(1))
    pair = np.array([[near, np.nextafter(near, np.float32(1))]])
    gold = Gold(np.array([[0, 1]]), pair, "cosine")
    assert len(set(dists_of(distances.as_distance(gold, "angle", "g"))[0].tolist())) == 1
    result = Gold(np.array([[1, 0]]), pair, "cosine")
    assert evaluate(result, gold, ks=1, dists_as="angle")[1].tie_aware == 0
    assert evaluate(result, gold, ks=1, dists_as="angle")[1].by_distances == 1


def test_dot_counts_as_ip() -> None:
    gold, ip = read_gold("ip.h5").queries(slice(1)), [[-3.0, -1.9995, -1.0, 5]]
    result = Gold(np.array([[4, 9, 8, 0]]), np.array(ip), "ip")
    for dists_as in ("dot", None):
        assert evaluate(result, gold, ks=2, dists_as=dists_as)[2].by_distances == 1
        assert evaluate(result, gold, ks=2, dists_as=dists_as, epsilon=1e-4)[2].by_distances == 0.5
    write_gold("dot.h5", result, attributes={"distance": "dot"})
    assert evaluate("dot.h5", gold, ks=2, dists_as="dot")[2].by_distances == 1


@pytest.mark.parametrize(
    ("result", "gold", "dists_as", "said"),
    [
        ("cosine.h5", "cosine.h5", "dot", r"cosine.h5: holds cosine \(1 - x.q .*, which does not become dot \(x.q"),
        ("l2.h5", "cosine.h5", "angle", r"l2.h5: holds l2 \(\|x - q\|\^2, .* does not become angle \(arccos"),
        ("untold.h5", "untold.h5", "angle", "untold.h5: does not tell which distances it holds; gpuknn convert with"),
        (IDS, "cosine.h5", "angle", "the result: holds no distances; leave out dists_as"),
        ("cosine.h5", IDS, "angle", "the gold standard: holds no distances; leave out dists_as"),
        ("cosine.h5", "cosine.h5", "degrees", 'dists_as="degrees": there are angle, cosine, dot, euclidean, sqeu'),
    ],
)
def test_what_cannot_be_compared_so_is_refused(result: Any, gold: Any, dists_as: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        evaluate(result, gold, ks=2, dists_as=dists_as)


def test_names_that_may_be_asked_for_are_those_of_the_command_line() -> None:
    assert tuple(distances.DISTS_AS) == options.DISTS_AS
    with pytest.raises(InputError, match='dists_as="degrees": there are angle, '):
        gpuknn.convert("cosine.h5", "x.h5", dists_as="degrees")
