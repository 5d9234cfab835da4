"""Files of answers, as a Python program writes them: what they keep, say and refuse."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gpuknn
from gpuknn.cli.main import main
from gpuknn.engine.neighbors import Certificate, Neighbors
from gpuknn.errors import InputError
from gpuknn.gold import Gold, compare, evaluate, write_gold
from gpuknn.gold.certificate import certificate_said, said_of_certificate
from gpuknn.gold.gold import JOB
from tests.test_evaluate import ASKED, DISTS, EXACT, IDS, NQ, RNG, ROWS


@pytest.mark.parametrize("metric", ["ip", "cosine"])
@pytest.mark.parametrize("numbers", [[[1.5], [1.0]], [[0.5, 0.5], [1.0, 1.0]], [[0.5, 1.0], [1.0, 0.5]]])
def test_a_sign_that_no_line_tells_is_not_guessed(metric: str, numbers: list[list[float]], tmp_path: Path) -> None:
    pair = np.arange(2 * len(numbers[0])).reshape(2, -1), np.array(numbers)
    for said in ({"metric": metric}, {"distance": metric}):
        with pytest.raises(InputError, match=r"the answer: its lines do not tell .* pass gpuknn.Gold\(ids, dists\)"):
            write_gold(tmp_path / "g.h5", pair, attributes=said)
    assert not list(tmp_path.iterdir())
    known = Gold(pair[0], -pair[1] if metric == "ip" else pair[1], metric)
    if metric == "ip":
        for a, b, name in ((pair, known, "a"), (known, pair, "b")):
            with pytest.raises(InputError, match=f"^{name}: its lines do not tell whether"):
                compare(a, b)
    assert evaluate(pair, Gold(pair[0]), ks=1)[1].by_ids == 1
    if pair[1].shape[1] == 1:
        assert evaluate(pair, known, ks=1)[1].by_distances is None
        assert evaluate(pair, pair, ks=1)[1].by_distances is None
    write_gold(tmp_path / "g.h5", Gold(*pair), attributes={"metric": metric})
    write_gold(tmp_path / "pair.h5", pair, attributes={"metric": "l2"})
    for name in ("g.h5", "pair.h5"):
        assert gpuknn.read_gold(tmp_path / name) == Gold(*pair)


@pytest.mark.parametrize("sign", [1, -1])
def test_a_sign_that_the_lines_tell_is_taken(sign: int, tmp_path: Path) -> None:
    """Products fall, and products times -1 rise."""
    nearest = gpuknn.exact_knn(ROWS, ASKED, k=4, metric="ip")
    write_gold(tmp_path / "g.h5", (nearest.ids, -sign * nearest.dists), attributes={"metric": "ip"})
    assert gpuknn.read_gold(tmp_path / "g.h5") == nearest


@pytest.mark.parametrize("metric", ["cosine", "ip", "l2", "hamming"])
def test_a_written_answer_is_what_the_command_would_have_written(metric: str, tmp_path: Path) -> None:
    rows = RNG.integers(0, 2**63, (300, 2), dtype=np.uint64) if metric == "hamming" else ROWS + 1
    for name, values in (("rows", rows), ("asked", rows[:NQ] + rows[1])):
        np.save(tmp_path / f"{name}.npy", values)
    database, queries, gold, ours = (str(tmp_path / name) for name in ("rows.npy", "asked.npy", "gold.h5", "ours.h5"))
    words = ["exact", database, queries, "-o", gold, "-k", "4", "--metric", metric, "--device", "cpu", "--quiet"]
    assert main(words) == 0
    found = gpuknn.exact_knn(database, queries, k=4, metric=metric, device="cpu")
    write_gold(ours, found)
    here, there = gpuknn.read_gold(ours), gpuknn.read_gold(gold)
    assert here == there
    assert here.distance == there.distance == metric
    assert compare(ours, gold).equal
    assert found.certificate is not None
    assert certificate_said(here.said) == found.certificate
    names = [name for name in there.said if name.startswith("certificate") or name in ("metric", "distance")]
    assert len(names) == 6
    assert {type(here.said[name]) for name in names} == {type(there.said[name]) for name in names}
    if metric == "hamming":
        assert found.bits == 128
        for name, ann in ((ours, "ours.hdf5"), (gold, "gold.hdf5")):
            assert main(["convert", name, f"{tmp_path}/{ann}", "--to", "ann-benchmarks"]) == 0
        assert gpuknn.read_gold(tmp_path / "ours.hdf5") == gpuknn.read_gold(tmp_path / "gold.hdf5")
    for command in (["compare", ours, gold], ["eval", ours, gold, "-k", "4"], ["convert", ours, f"{ours}.ivecs"]):
        assert main(command) == 0


def test_what_a_file_has_a_place_for_is_kept(tmp_path: Path) -> None:
    answer = Neighbors(
        IDS,
        DISTS,
        "l2",
        np.where(IDS < 0, -1, IDS + 1000),
        np.arange(NQ)[::-1] + 7,
        certificate=Certificate("f", 0.5, 3, 1.0),
    )
    write_gold(tmp_path / "g.h5", answer, attributes={"algo": "HNSW", "certificate": "mine"})
    again = gpuknn.read_gold(tmp_path / "g.h5")
    assert again == Gold(IDS, DISTS, "l2", answer.own_ids, answer.query_ids)
    assert (again.said["algo"], again.said["certificate"], again.said["metric"]) == ("HNSW", "mine", "l2")
    write_gold(tmp_path / "g.parquet", answer)
    ids, dists = gpuknn.read_gold(tmp_path / "g.parquet")
    assert np.array_equal(ids, np.where(IDS < 0, -1, IDS + 1000)[::-1])
    assert dists is None
    for name in ("g.ibin", "g.ivecs"):
        with pytest.raises(InputError, match="its lines are not in the order of the queries' ids, for which"):
            write_gold(tmp_path / name, tmp_path / "g.parquet")
    for name, words in (
        ("no/g.h5", "there is no such folder"),
        ("g.txt", "its name tells no format"),
        ("", "no name|no"),
    ):
        with pytest.raises(InputError, match=words):
            write_gold(tmp_path / name, answer)
    with pytest.raises(InputError, match="holds distances, and the source has none"):
        write_gold(tmp_path / "ids.h5", IDS)
    with pytest.raises(InputError, match=r"the path is Neighbors; it stands first here: write_gold\(path, answer\)"):
        write_gold(answer, tmp_path / "g.h5")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="positional"):
        write_gold(tmp_path / "g.h5", answer, {"algo": "HNSW"})  # type: ignore[call-arg]
    certificate = Certificate("float32, int8", 0.25, 12, 0.125)
    assert certificate_said(said_of_certificate(certificate)) == certificate


def test_a_file_is_replaced_only_if_that_is_asked_for(tmp_path: Path) -> None:
    np.save(tmp_path / "rows.npy", ROWS)
    gpuknn.convert(tmp_path / "rows.npy", tmp_path / "rows.h5")
    before = (tmp_path / "rows.h5").read_bytes()
    with pytest.raises(InputError, match=r"rows.h5: exists already; force=True replaces it"):
        write_gold(tmp_path / "rows.h5", EXACT)
    assert (tmp_path / "rows.h5").read_bytes() == before
    write_gold(tmp_path / "rows.h5", EXACT, force=True)
    assert gpuknn.read_gold(tmp_path / "rows.h5") == EXACT


def test_what_a_file_says_is_written_again(tmp_path: Path) -> None:
    np.save(tmp_path / "rows.npy", ROWS)
    gpuknn.exact(tmp_path / "rows.npy", None, tmp_path / "a.h5", k=3, metric="l2", device="cpu")
    gold = gpuknn.read_gold(tmp_path / "a.h5")
    assert {"metric", "certificate", "certificate_bound", JOB} <= set(gold.said)
    for answer in (gold, tmp_path / "a.h5"):
        write_gold(tmp_path / "b.h5", answer, attributes={"algo": "HNSW", "k": 4}, force=True)
        again = gpuknn.read_gold(tmp_path / "b.h5")
        assert again == gold
        plain = {name: value for name, value in gold.said.items() if isinstance(value, str | int | float)}
        expected = plain | {"algo": "HNSW", "k": 4, "dists_are": "|x - q|^2, the square of the Euclidean distance"}
        assert again.said == {name: value for name, value in expected.items() if name != JOB}
    unknown = Gold(IDS, DISTS, said={"metric": "cosine", "algo": "HNSW", "sizes": [1, 2]})
    write_gold(tmp_path / "c.h5", unknown, attributes={"distance": "l2"})
    said = gpuknn.read_gold(tmp_path / "c.h5").said
    assert (said["distance"], said["algo"], "metric" in said, "sizes" in said) == ("l2", "HNSW", False, False)


@pytest.mark.parametrize(
    ("answer", "said", "distance", "metric"),
    [
        ((IDS, DISTS), {}, None, None),
        ((IDS, DISTS), {"metric": "l2"}, "l2", "l2"),
        ((IDS, DISTS), {"metric": "sqeuclidean"}, "l2", "sqeuclidean"),
        ((IDS, DISTS), {"distance": "l2"}, "l2", None),
        ((IDS, np.sqrt(DISTS)), {"metric": "l2", "distance": "euclidean"}, "euclidean", "l2"),
        (Neighbors(IDS, DISTS, "l2"), {"metric": "l2"}, "l2", "l2"),
        (Neighbors(IDS, -DISTS), {"metric": "dot"}, "ip", "dot"),
        ((IDS, -DISTS), {"metric": "ip"}, "ip", "ip"),
    ],
)
def test_attributes_tell_the_distance(
    answer: Any, said: dict[str, str], distance: str | None, metric: str | None, tmp_path: Path
) -> None:
    write_gold(tmp_path / "g.h5", answer, attributes=said)
    again = gpuknn.read_gold(tmp_path / "g.h5")
    assert (again.distance, again.said.get("metric")) == (distance, metric)


@pytest.mark.parametrize(
    ("answer", "said", "words"),
    [
        (
            Neighbors(IDS, DISTS, "l2"),
            {"metric": "euclidean"},
            "metric is euclidean, which is the name of a distance; call it distance",
        ),
        (Neighbors(IDS, DISTS, "l2"), {"metric": "cosine"}, "metric is cosine, but the distances are .*the square"),
        (
            Gold(IDS, DISTS, "hamming"),
            {"distance": "mean-hamming"},
            "distance is mean-hamming, but .*hamming .the number of",
        ),
        ((IDS, DISTS), {"metric": "cosine"}, "which is not 1 - x.q .*: that is from 0 to 2"),
        (Gold(IDS, DISTS, "euclidean"), {"distance": "l2"}, "distance is l2, but the distances are .*the root"),
        ((IDS, DISTS), {"metric": "nonsense"}, 'metric="nonsense": there are cosine, ip '),
        ((IDS, DISTS), {"distance": "foo"}, 'distance="foo": there are cosine, ip, l2, euclidean, hamming, mean-ham'),
        (Gold(IDS, DISTS, "l2"), {"distance": "foo"}, 'distance="foo": there are'),
        (
            Gold(IDS, DISTS),
            {"distance": "l2", "metric": "cosine"},
            "metric is cosine, but the attribute distance is l2",
        ),
        (Gold(IDS, DISTS), {"distance": "euclidean", "metric": "nonsense"}, 'metric="nonsense": there are'),
        (EXACT, {"algo": None}, r"attributes=\{'algo': None\}: names are text, values text or numbers"),
        (EXACT, {3: "algo"}, r"attributes=\{3: 'algo'\}: names are text"),
        (EXACT, {"algo": "a\0b"}, "names are text, values text or numbers"),
        (EXACT, {"size": 2**63}, "names are text, values text or numbers"),
        (EXACT, "g.h5", "attributes='g.h5': is no dict"),
        (EXACT, ["algo"], r"attributes=\['algo'\]: is no dict"),
        ((IDS, DISTS), {"metric": "angular"}, "angular.*cosine"),
    ],
)
def test_attributes_that_contradict_the_answer_are_refused(answer: Any, said: Any, words: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=words):
        write_gold(tmp_path / "g.h5", answer, attributes=said)
    assert not list(tmp_path.iterdir())
