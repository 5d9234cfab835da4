"""Exact nearest neighbours as an estimator of scikit-learn: for pipelines, clustering, UMAP and scanpy.

A graph for whatever takes one is made by `transform`, as scikit-learn's `KNeighborsTransformer` makes it:

    make_pipeline(ExactNeighbors(15), KNeighborsClassifier(15, metric="precomputed"))
    TSNE(metric="precomputed", init="random", perplexity=5).fit_transform(ExactNeighbors(16).fit_transform(X))
    scanpy.pp.neighbors(data, transformer=ExactNeighbors(15))

UMAP takes two arrays, ids first, in which each row stands first in its own answer.  `kneighbors(X)` gives a row among
its own neighbours only if it has fewer duplicates of lower index than there are places; `exact_knn` puts it first:

    ids, squares = gpuknn.exact_knn(X, k=15, metric="l2", self_first=True)
    umap.UMAP(n_neighbors=15, precomputed_knn=(ids, np.sqrt(squares))).fit_transform(X)

HDBSCAN and UMAP refuse the graph itself, as metric="precomputed": it is not symmetric, for a row need not be among the
neighbours of its neighbours.
"""

from numbers import Integral
from typing import Literal, Self, overload

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gpuknn.engine.choose import open_device
from gpuknn.engine.metric import FLOAT_TYPES, Metric
from gpuknn.engine.scan import exact_knn
from gpuknn.errors import InputError, option, pip_install
from gpuknn.vectors import Vectors, as_vectors
from gpuknn.vectors.bits import PackedBits

try:
    from scipy.sparse import csr_array, csr_matrix
    from sklearn import get_config
    from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
    from sklearn.utils.validation import check_is_fitted, validate_data
except ImportError as error:
    raise ImportError(
        f"gpuknn.sklearn needs scikit-learn, 1.6 or later: {pip_install('sklearn')}", name=error.name
    ) from error

METRICS = {
    "euclidean": Metric.L2,
    "sqeuclidean": Metric.L2,
    "cosine": Metric.COSINE,
    "hamming": Metric.HAMMING,
    "ip": Metric.IP,
    "inner_product": Metric.IP,
    "dot": Metric.IP,
}
"""The engine's metric of each name."""
REFUSED = {
    "l2": 'scikit-learn means metric="euclidean", gpuknn means metric="sqeuclidean"; write one of these',
    "minkowski": 'write metric="euclidean", which is minkowski with p=2; there is no other p',
}
"""Names that could mean several metrics, and what to write."""


class ExactNeighbors(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):
    """The exact nearest neighbours of rows: searched for, or as a sparse graph.

    The same neighbours on any device.  Of rows that are equally near, those of lowest index come first.

    Parameters
    ----------
    n_neighbors : int, default=5
        Neighbours of each row.  `transform` gives one more, because a row is among its own.
    metric : str, default="euclidean"
        euclidean, sqeuclidean (its square), cosine (1 - cos), hamming (the share of differing components; rows hold
        booleans, or 0 and 1) or ip (also inner_product, dot: the negative of the inner product).  minkowski is refused,
        because there is no p.  l2 is refused, because it is the root in scikit-learn and the square in gpuknn.

        Inner products are no distances: a row need not be its own nearest neighbour, and weights of a graph may be
        negative.  scikit-learn's tools with metric="precomputed" refuse such a graph; use `kneighbors` instead.
    device : {"auto", "cpu", "cuda"}, default="auto"
        What computes; auto takes a GPU if there is one.
    threads : int, default=None
        Cores to use; all that this process may use by default.

    Attributes
    ----------
    n_samples_fit_ : int
        Rows seen in `fit`.
    n_features_in_ : int
        Components of a row.
    feature_names_in_ : ndarray of shape (n_features_in_,)
        Names of the components, if `fit` was given a data frame whose columns all have strings for names.
    effective_metric_ : str
        The metric at the time of `fit`.

    Examples
    --------
    >>> from gpuknn.sklearn import ExactNeighbors
    >>> from sklearn.neighbors import KNeighborsClassifier
    >>> from sklearn.pipeline import make_pipeline
    >>> X = [[0, 0], [3, 4], [6, 8], [7, 9]]
    >>> near = make_pipeline(ExactNeighbors(2), KNeighborsClassifier(2, metric="precomputed"))
    >>> near.fit(X, ["low", "low", "high", "high"]).predict([[1, 1], [8, 8]])
    array(['low', 'high'], dtype='<U4')
    """

    def __init__(
        self, n_neighbors: int = 5, *, metric: str = "euclidean", device: str = "auto", threads: int | None = None
    ) -> None:
        self.n_neighbors = n_neighbors
        self.metric = metric
        self.device = device
        self.threads = threads

    def fit(self, X: ArrayLike, y: object = None) -> Self:
        """Keep the rows that are searched later.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows.  float16, float32, float64, uint8 and int8 are searched as they are, other types as float64.
        y : ignored

        Returns
        -------
        self : ExactNeighbors

        Raises
        ------
        InputError
            A parameter or X cannot be used; it is a ValueError.

        Examples
        --------
        >>> ExactNeighbors(n_neighbors=1, metric="cosine").fit([[1, 0], [0, 1]])
        ExactNeighbors(metric='cosine', n_neighbors=1)
        """
        _check_metric(self.metric)
        _check_number(self.n_neighbors)
        open_device(self.device, self.threads)
        self._rows = self._validated(X, self.metric, reset=True)
        self.effective_metric_ = self.metric
        self.n_samples_fit_ = len(self._rows)
        return self

    @overload
    def kneighbors(
        self, X: ArrayLike | None = None, n_neighbors: int | None = None, return_distance: Literal[True] = True
    ) -> tuple[NDArray[np.float64], NDArray[np.int64]]: ...
    @overload
    def kneighbors(
        self, X: ArrayLike | None = None, n_neighbors: int | None = None, *, return_distance: Literal[False]
    ) -> NDArray[np.int64]: ...
    @overload
    def kneighbors(
        self, X: ArrayLike | None, n_neighbors: int | None, return_distance: Literal[False]
    ) -> NDArray[np.int64]: ...
    def kneighbors(
        self, X: ArrayLike | None = None, n_neighbors: int | None = None, return_distance: bool = True
    ) -> tuple[NDArray[np.float64], NDArray[np.int64]] | NDArray[np.int64]:
        """The nearest rows of each query, nearest first: distances, then indices.

        Parameters
        ----------
        X : array-like of shape (n_queries, n_features), default=None
            Queries.  If there are none, each row of `fit` is a query and is left out of its own answer.
        n_neighbors : int, default=None
            Neighbours of each query; the estimator's own `n_neighbors` by default.
        return_distance : bool, default=True
            False: indices alone.

        Returns
        -------
        dists : ndarray of shape (n_queries, n_neighbors), float64
        ids : ndarray of shape (n_queries, n_neighbors), int64

        Raises
        ------
        InputError
            There are fewer rows than neighbours, or X or a row of `fit` cannot be used; it is a ValueError.

        Examples
        --------
        >>> near = ExactNeighbors(n_neighbors=1).fit([[0, 0], [3, 4], [3, 5]])
        >>> near.kneighbors([[0, 1]])
        (array([[1.]]), array([[0]]))
        >>> near.kneighbors()
        (array([[5.],
               [1.],
               [1.]]), array([[1],
               [2],
               [1]]))
        """
        check_is_fitted(self)
        queries = None if X is None else self._validated(X, self.effective_metric_, reset=False)
        number = self.n_neighbors if n_neighbors is None else n_neighbors
        _check_number(number)
        most = self.n_samples_fit_ - (X is None)
        if number > most:
            asked = self._rows if queries is None else queries
            raise InputError(
                f"{number} neighbours of {most}{' other' if X is None else ''} rows: take a smaller n_neighbors, to "
                f"which transform adds 1 (n_samples_fit = {self.n_samples_fit_}, n_samples = {len(asked)})"
            )
        metric = METRICS[self.effective_metric_]
        ids, dists = exact_knn(
            self._rows, queries, k=number, metric=metric, device=self.device, dists="float64", threads=self.threads
        )
        return (self._as_here(dists), ids) if return_distance else ids

    def kneighbors_graph(
        self,
        X: ArrayLike | None = None,
        n_neighbors: int | None = None,
        mode: Literal["connectivity", "distance"] = "connectivity",
    ) -> csr_matrix:
        """The nearest rows of each query as a sparse matrix.

        Parameters
        ----------
        X : array-like of shape (n_queries, n_features), default=None
            Queries.  If there are none, each row of `fit` is a query and is left out of its own answer.
        n_neighbors : int, default=None
            Neighbours of each query; the estimator's own `n_neighbors` by default.
        mode : {"connectivity", "distance"}, default="connectivity"
            What stands where a row is a neighbour: 1, or the distance.

        Returns
        -------
        graph : CSR matrix of shape (n_queries, n_samples_fit_), float64
            `n_neighbors` entries a query, nearest first; distances of 0 are entries, too.

        Raises
        ------
        InputError
            As `kneighbors`; it is a ValueError.

        Examples
        --------
        >>> near = ExactNeighbors(n_neighbors=1).fit([[0, 0], [3, 4], [3, 5]])
        >>> near.kneighbors_graph([[0, 1], [3, 6]]).toarray()
        array([[1., 0., 0.],
               [0., 0., 1.]])
        >>> near.kneighbors_graph(mode="distance").toarray()
        array([[0., 5., 0.],
               [0., 0., 1.],
               [0., 1., 0.]])
        """
        if mode not in ("connectivity", "distance"):
            raise InputError(f'{option("mode", mode)}: there are "connectivity" and "distance"')
        dists, ids = self.kneighbors(X, n_neighbors)
        weights = dists if mode == "distance" else np.ones_like(dists)
        ends = np.arange(0, ids.size + 1, ids.shape[1])
        kind = csr_array if get_config().get("sparse_interface") == "sparray" else csr_matrix
        return kind((weights.ravel(), ids.ravel(), ends), shape=(len(ids), self.n_samples_fit_))

    def transform(self, X: ArrayLike) -> csr_matrix:
        """The distances of the `n_neighbors` + 1 nearest rows of each row of X, as a sparse matrix.

        One more than `n_neighbors`, because a row that was in `fit` finds itself, at a distance of 0 (but for inner
        products, and rows with so many duplicates of lower index that these take all places).  scikit-learn's
        `KNeighborsTransformer` does the same.

        Parameters
        ----------
        X : array-like of shape (n_queries, n_features)
            Rows, of `fit` or others.

        Returns
        -------
        graph : CSR matrix of shape (n_queries, n_samples_fit_), float64
            `n_neighbors` + 1 entries a row, nearest first; distances of 0 are entries, too.

        Raises
        ------
        InputError
            As `kneighbors`; it is a ValueError.

        Examples
        --------
        >>> X = [[0, 0], [3, 4], [3, 5]]
        >>> graph = ExactNeighbors(n_neighbors=1).fit(X).transform(X)
        >>> graph.nnz
        6
        >>> graph.toarray()
        array([[0., 5., 0.],
               [0., 0., 1.],
               [0., 1., 0.]])
        """
        check_is_fitted(self)
        _check_number(self.n_neighbors)
        return self.kneighbors_graph(X, self.n_neighbors + 1, mode="distance")

    @property
    def _n_features_out(self) -> int:
        """Columns of a graph, which `get_feature_names_out` names."""
        return self.n_samples_fit_

    def _validated(self, X: ArrayLike, metric: str, reset: bool) -> Vectors:
        """Rows (n, d) as the engine takes them; `reset`: in `fit`, which says what later rows must look like."""
        binary = METRICS[metric] is Metric.HAMMING
        # scikit-learn takes the first type for what has none of them.
        types = ["float64", *FLOAT_TYPES, *(["bool"] if binary else [])]
        if np.ma.is_masked(X):
            raise InputError("X: has masked entries, which are no values; fill them, or leave those rows out")
        values = validate_data(self, X, reset=reset, dtype=list(map(np.dtype, types)))
        if not binary:
            return as_vectors(values, "X")
        bits = values.astype(np.bool_)
        if (bits != values).any():
            raise InputError(
                'X: metric="hamming" takes booleans, or 0 and 1; packed bits and uint64 sketches go to gpuknn.exact_knn'
            )
        return PackedBits.of(as_vectors(bits.view(np.uint8), "X"))

    def _as_here(self, dists: NDArray[np.float64]) -> NDArray[np.float64]:
        """The engine's distances (n, k) float64 as scikit-learn defines them."""
        match self.effective_metric_:
            case "euclidean":
                return np.sqrt(dists)
            case "cosine":  # rounding may take 1 - cos below 0, and graphs with negative distances are refused
                return np.maximum(dists, 0)
            case "hamming":
                return dists / int(self.n_features_in_)
        return dists


def _check_metric(name: object) -> None:
    """Raise InputError if there is no metric of that name."""
    if str(name) not in METRICS:
        there_are = f"there are {', '.join(METRICS)}"
        raise InputError(f"{option('metric', name)}: {REFUSED.get(str(name), there_are)}")


def _check_number(n_neighbors: object) -> None:
    """Raise InputError if it is no number of neighbours."""
    if isinstance(n_neighbors, bool) or not isinstance(n_neighbors, Integral) or n_neighbors < 1:
        raise InputError(f"{option('n_neighbors', n_neighbors)}: must be a whole number, at least 1")
