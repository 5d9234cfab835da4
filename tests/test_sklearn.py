import doctest
import pickle
import subprocess
import sys
from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

sklearn = pytest.importorskip("sklearn")

from scipy.sparse import csr_array, csr_matrix  # noqa: E402
from sklearn.base import BaseEstimator, clone  # noqa: E402
from sklearn.cluster import DBSCAN, SpectralClustering  # noqa: E402
from sklearn.exceptions import NotFittedError  # noqa: E402
from sklearn.manifold import TSNE, Isomap  # noqa: E402
from sklearn.model_selection import GridSearchCV  # noqa: E402
from sklearn.neighbors import KNeighborsClassifier, KNeighborsTransformer, NearestNeighbors  # noqa: E402
from sklearn.pipeline import make_pipeline  # noqa: E402
from sklearn.utils.estimator_checks import parametrize_with_checks  # noqa: E402

import gpuknn.sklearn  # noqa: E402
from gpuknn.sklearn import ExactNeighbors  # noqa: E402

RNG = np.random.default_rng(14)
X = RNG.standard_normal((300, 20))
Y = RNG.standard_normal((40, 20))
BITS = RNG.random((300, 70)) < 0.3

NOT_THEIRS = {"check_estimators_dtypes": "has a row of zeros, for which cosine is not defined and which is refused"}
"""Checks of scikit-learn that do not apply to metric="cosine".

To metric="hamming" most do not: their data are neither booleans nor 0 and 1.
"""


@parametrize_with_checks([ExactNeighbors()])
def test_what_scikit_learn_asks_of_an_estimator(
    estimator: ExactNeighbors, check: Callable[[ExactNeighbors], None]
) -> None:
    check(estimator)


@pytest.mark.slow
@parametrize_with_checks(
    [ExactNeighbors(metric=metric) for metric in ("sqeuclidean", "cosine", "ip")],
    expected_failed_checks=lambda estimator: NOT_THEIRS if estimator.metric == "cosine" else {},
)
def test_what_scikit_learn_asks_of_an_estimator_of_another_metric(
    estimator: ExactNeighbors, check: Callable[[ExactNeighbors], None]
) -> None:
    check(estimator)


def test_examples() -> None:
    failed, tried = doctest.testmod(gpuknn.sklearn)
    assert failed == 0
    assert tried > 10


def test_it_is_loaded_only_if_asked_for_and_says_what_it_needs() -> None:
    code = (
        "import sys, gpuknn; dir(gpuknn); gpuknn.exact_knn; assert 'sklearn' not in sys.modules\n"
        "sys.modules['sklearn'] = None\n"
        "try: import gpuknn.sklearn\n"
        "except ImportError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "needs scikit-learn, 1.6 or later: pip install" in done.stdout


@pytest.mark.parametrize("metric", ["euclidean", "sqeuclidean", "cosine"])
@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-12), ("float32", 1e-4)])
def test_the_neighbours_are_scikit_learns(metric: str, dtype: str, tolerance: float) -> None:
    rows, queries = X.astype(dtype), Y.astype(dtype)
    ours = ExactNeighbors(7, metric=metric).fit(rows)
    theirs = NearestNeighbors(n_neighbors=7, metric=metric, algorithm="brute").fit(rows)
    for asked in (queries, None):
        (dists, ids), (their_dists, their_ids) = ours.kneighbors(asked), theirs.kneighbors(asked)
        assert [dists.dtype, ids.dtype] == [np.dtype(np.float64), np.dtype(np.int64)]
        np.testing.assert_array_equal(ids, their_ids)
        np.testing.assert_allclose(dists, their_dists, rtol=tolerance)
        np.testing.assert_array_equal(ours.kneighbors(asked, return_distance=False), their_ids)
        for mode in ("connectivity", "distance"):
            graph, their_graph = (nn.kneighbors_graph(asked, n_neighbors=3, mode=mode) for nn in (ours, theirs))
            _assert_same_graph(graph, their_graph, tolerance)


@pytest.mark.parametrize("name", ["ip", "inner_product", "dot"])
def test_inner_products_are_negated(name: str) -> None:
    dists, ids = ExactNeighbors(3, metric=name).fit(X).kneighbors(Y)
    expected = -(Y @ X.T)
    np.testing.assert_array_equal(ids, expected.argsort(axis=1)[:, :3])
    np.testing.assert_allclose(dists, np.sort(expected, axis=1)[:, :3], rtol=1e-12)


@pytest.mark.parametrize("dtype", ["bool", "float32", "int64", "uint8"])
def test_hamming_is_the_share_of_differing_components(dtype: str) -> None:
    rows = BITS.astype(dtype)
    dists, ids = ExactNeighbors(5, metric="hamming").fit(rows).kneighbors(rows[:20])
    expected = (BITS[:20, None] != BITS[None]).mean(axis=2)
    nearest = expected.argsort(axis=1, kind="stable")[:, :5]
    np.testing.assert_array_equal(ids, nearest)
    np.testing.assert_array_equal(dists, np.take_along_axis(expected, nearest, axis=1))
    theirs = NearestNeighbors(n_neighbors=5, metric="hamming", algorithm="brute").fit(BITS).kneighbors(BITS[:20])
    np.testing.assert_allclose(dists, theirs[0], rtol=1e-15)


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_a_graph_is_that_of_scikit_learns_transformer(metric: str) -> None:
    ours, theirs = ExactNeighbors(6, metric=metric), KNeighborsTransformer(n_neighbors=6, metric=metric)
    graph = ours.fit_transform(X)
    their_graph = theirs.fit_transform(X)
    their_graph.data[::7] = 0  # they compute a row's distance to itself, and round
    _assert_same_graph(graph, their_graph, 1e-12)
    assert isinstance(graph, csr_matrix)
    assert graph.nnz == 300 * 7
    np.testing.assert_array_equal(graph.indices[::7], np.arange(300))
    assert not graph.data[::7].any()
    _assert_same_graph(ours.transform(Y), theirs.transform(Y), 1e-12)


def test_sparse_arrays_where_scikit_learn_is_set_to_them() -> None:
    if "sparse_interface" not in sklearn.get_config():
        pytest.skip("this scikit-learn has sparse matrices only")
    with sklearn.config_context(sparse_interface="sparray"):
        assert isinstance(ExactNeighbors().fit_transform(X), csr_array)


def test_a_row_leaves_out_itself_and_not_its_duplicates() -> None:
    rows = np.repeat(X[:5], 4, axis=0)
    near = ExactNeighbors(2).fit(rows)
    dists, ids = near.kneighbors()
    np.testing.assert_array_equal(ids[:4], [[1, 2], [0, 2], [0, 1], [0, 1]])
    np.testing.assert_array_equal(ids[4:8], ids[:4] + 4)
    assert not dists.any()
    np.testing.assert_array_equal(near.kneighbors(rows, return_distance=False)[:, 0], np.arange(20) // 4 * 4)


def test_no_cosine_is_negative() -> None:
    rows = X[:100] * np.array([[3.0], [7.0]])[:, None]
    rows = rows.reshape(200, 20)
    raw = gpuknn.exact_knn(rows, X[:100], k=2, metric="cosine", dists="float64")
    assert raw.dists.min() < 0, "the case is not met"
    dists, ids = ExactNeighbors(2, metric="cosine").fit(rows).kneighbors(X[:100])
    assert dists.min() == 0
    np.testing.assert_array_equal(ids, raw.ids)


def test_tools_that_take_a_graph() -> None:
    blobs = np.concatenate([X[:60] + 1, X[60:120] - 1, X[120:150]])
    ours, theirs = (t.fit_transform(blobs) for t in (ExactNeighbors(20), KNeighborsTransformer(n_neighbors=20)))
    for tool in (
        DBSCAN(eps=4.5, metric="precomputed"),
        SpectralClustering(3, affinity="precomputed_nearest_neighbors", n_neighbors=20, random_state=0),
    ):
        labels = clone(tool).fit_predict(ours)
        np.testing.assert_array_equal(labels, tool.fit_predict(theirs))
        assert len(set(labels)) > 1
    for placed in (
        Isomap(n_neighbors=20, metric="precomputed"),
        TSNE(metric="precomputed", init="random", perplexity=6, max_iter=250, random_state=0),
    ):
        places = clone(placed).fit_transform(ours)
        assert places.shape == (150, 2)
        if isinstance(placed, Isomap):
            np.testing.assert_allclose(np.abs(places), np.abs(placed.fit_transform(theirs)), atol=1e-8)


def test_a_pipeline_with_a_classifier() -> None:
    labels = (X[:, 0] > 0).astype(int)
    piped = make_pipeline(ExactNeighbors(9), KNeighborsClassifier(9, metric="precomputed")).fit(X, labels)
    alone = KNeighborsClassifier(9).fit(X, labels)
    np.testing.assert_array_equal(piped.predict(Y), alone.predict(Y))
    np.testing.assert_array_equal(piped.predict_proba(X), alone.predict_proba(X))
    search = GridSearchCV(piped, {"exactneighbors__metric": ["euclidean", "cosine"]}, cv=3).fit(X, labels)
    assert search.best_score_ > 0.6


def test_data_frames_keep_their_names() -> None:
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(X, columns=[f"c{i}" for i in range(20)])
    near = ExactNeighbors(3).fit(frame)
    assert list(near.feature_names_in_) == list(frame.columns)
    assert list(near.get_feature_names_out())[::299] == ["exactneighbors0", "exactneighbors299"]
    np.testing.assert_array_equal(near.kneighbors(frame)[1], ExactNeighbors(3).fit(X).kneighbors(X)[1])
    with pytest.raises(ValueError, match="feature names"):
        near.transform(frame.rename(columns={"c0": "other"}))
    with pytest.raises(ValueError, match="sparse"):
        near.set_output(transform="pandas").transform(frame)


@pytest.mark.parametrize(("metric", "rows"), [("euclidean", X), ("hamming", BITS)])
def test_copies_and_parameters(metric: str, rows: NDArray) -> None:
    near = ExactNeighbors(4, metric=metric, device="cpu", threads=1).fit(rows)
    same = pickle.loads(pickle.dumps(near))
    for ours, theirs in zip(near.kneighbors(), same.kneighbors(), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    unfitted = clone(near)
    assert unfitted.get_params() == {"n_neighbors": 4, "metric": metric, "device": "cpu", "threads": 1}
    with pytest.raises(NotFittedError):
        unfitted.kneighbors()
    before = near.kneighbors()[0]
    near.set_params(metric="sqeuclidean")  # counts from the next fit on
    np.testing.assert_array_equal(near.kneighbors()[0], before)
    assert near.effective_metric_ == metric


def test_integers_are_searched_as_they_are() -> None:
    rows = RNG.integers(0, 256, (100, 16))
    near = ExactNeighbors(3, metric="sqeuclidean").fit(rows.astype(np.uint8))
    assert near._rows.dtype == np.uint8
    dists, ids = near.kneighbors(rows[:10])
    expected = ((rows[:10, None] - rows[None]) ** 2).sum(axis=2)
    np.testing.assert_array_equal(ids, expected.argsort(axis=1, kind="stable")[:, :3])
    np.testing.assert_array_equal(dists, np.sort(expected, axis=1)[:, :3])


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"metric": "l2"}, 'metric="l2": scikit-learn means metric="euclidean", gpuknn means metric="sqeuclidean"'),
        ({"metric": "minkowski"}, 'write metric="euclidean"'),
        ({"metric": "manhattan"}, "there are euclidean, sqeuclidean, cosine, hamming, ip"),
        ({"metric": ["euclidean"]}, "there are euclidean"),
        ({"metric": None}, "there are euclidean"),
        ({"n_neighbors": 0}, "n_neighbors=0: must be a whole number, at least 1"),
        ({"n_neighbors": 2.0}, "n_neighbors=2.0: must be a whole number"),
        ({"n_neighbors": None}, "must be a whole number"),
        ({"n_neighbors": True}, "n_neighbors=True: must be a whole number"),
        ({"device": "tpu"}, "there are auto, cpu, cuda"),
        ({"threads": 0}, "threads"),
        ({"metric": "hamming"}, 'metric="hamming" takes booleans, or 0 and 1'),
    ],
)
def test_fit_refuses(parameters: dict[str, object], message: str) -> None:
    with pytest.raises(gpuknn.InputError) as caught:
        ExactNeighbors(**parameters).fit(X)  # type: ignore[arg-type]
    assert message in str(caught.value)


def test_zeros_under_cosine_are_refused() -> None:
    rows = X.copy()
    rows[5] = 0
    with pytest.raises(ValueError, match=r"X: row 5 .*only zeros"):
        ExactNeighbors(metric="cosine").fit(rows).kneighbors(Y)


def test_sparse_rows_are_refused() -> None:
    with pytest.raises(TypeError, match="dense data is required"):
        ExactNeighbors().fit(csr_matrix(X))


def test_more_neighbours_than_rows_are_refused() -> None:
    near: BaseEstimator = ExactNeighbors(5).fit(X[:5])
    assert near.kneighbors(X)[1].shape == (300, 5)
    for ask in (lambda: near.kneighbors(X, 6), near.kneighbors, lambda: near.transform(X), near.kneighbors_graph):
        with pytest.raises(ValueError, match=r"take a smaller n_neighbors.*n_samples_fit = 5"):
            ask()
    with pytest.raises(ValueError, match="n_neighbors=-1"):
        near.kneighbors(X, -1)
    for wrong in ("3", None, 2.5):
        with pytest.raises(gpuknn.InputError, match="must be a whole number, at least 1"):
            clone(near).set_params(n_neighbors=2).fit(X).set_params(n_neighbors=wrong).transform(X)
    with pytest.raises(ValueError, match='mode="both": there are "connectivity" and "distance"'):
        near.kneighbors_graph(X, mode="both")


def _assert_same_graph(ours: csr_matrix, theirs: csr_matrix, tolerance: float) -> None:
    """Same shape, same entries in the same order, weights alike."""
    assert ours.shape == theirs.shape
    np.testing.assert_array_equal(ours.indptr, theirs.indptr)
    np.testing.assert_array_equal(ours.indices, theirs.indices)
    np.testing.assert_allclose(ours.data, theirs.data, rtol=tolerance)
