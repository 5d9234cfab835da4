"""Rows that are their own queries, in this process: left out of their answers, or first in them."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gpuknn
from gpuknn.cli.main import main
from gpuknn.errors import InputError
from tests import oracle

N = 200


def duplicates(metric: str) -> np.ndarray:
    """Rows of which many are equal, so that the first of equal rows is seldom the row itself."""
    rng = np.random.default_rng(2)
    if metric == "hamming":
        return rng.integers(0, 2**64, (40, 2), np.uint64)[rng.integers(0, 40, N)]
    return rng.standard_normal((40, 6)).astype(np.float16)[rng.integers(0, 40, N)]


@pytest.mark.parametrize("dists", ["float32", "float64"])
@pytest.mark.parametrize("metric", ["cosine", "ip", "l2", "hamming"])
def test_each_row_stands_first_or_is_left_out(metric: str, dists: str) -> None:
    rows = duplicates(metric)
    ids, expected = oracle.knn(rows, rows, N, metric, dists)
    itself = ids == np.arange(N)[:, None]
    other_ids, other_dists = (each[~itself].reshape(N, N - 1) for each in (ids, expected))
    left_out = gpuknn.exact_knn(rows, k=8, metric=metric, dists=dists)
    assert np.array_equal(left_out.ids, other_ids[:, :8])
    assert left_out.dists.tobytes() == other_dists[:, :8].tobytes()
    for k in (2, 9, N):
        first = gpuknn.exact_knn(rows, k=k, metric=metric, dists=dists, self_first=True)
        assert np.array_equal(first.ids, np.column_stack([np.arange(N), other_ids[:, : k - 1]]))
        assert first.dists.tobytes() == np.column_stack([expected[itself], other_dists[:, : k - 1]]).tobytes()
        assert first.certificate is not None


@pytest.mark.parametrize("metric", ["cosine", "ip", "l2", "hamming"])
def test_the_command_gives_the_same(metric: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    np.save("db.npy", duplicates(metric))
    assert main(["exact", "db.npy", "--self-first", "-k", "5", "--metric", metric, "-o", "gold.h5"]) == 0
    gold, found = gpuknn.read_gold("gold.h5"), gpuknn.exact_knn("db.npy", k=5, metric=metric, self_first=True)
    assert np.array_equal(found.ids, gold.ids)
    assert gold.dists is not None
    assert found.dists.tobytes() == gold.dists.tobytes()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"k": 1}, r"k = 1: with self_first=True it must be from 2 to the number of rows, 200"),
        ({"k": 201}, r"k = 201: with self_first=True it must be from 2 to the number of rows, 200"),
        ({"k": "5"}, r"k = '5': must be a whole number"),
        ({"k": 2, "queries": duplicates("l2")[:3]}, "self_first=True: the queries are others than the rows"),
    ],
)
def test_what_is_no_question(options: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        gpuknn.exact_knn(duplicates("l2"), metric="l2", self_first=True, **options)


def test_a_row_that_is_left_out_is_none_of_its_neighbours() -> None:
    with pytest.raises(InputError, match=r"k = 200: must be from 1 to the number of other rows, 199"):
        gpuknn.exact_knn(duplicates("l2"), k=200, metric="l2")
