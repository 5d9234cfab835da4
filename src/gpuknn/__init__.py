"""Exact nearest neighbours and gold standards, the same to the last bit on any device.

Search, in this process:

>>> import numpy as np, gpuknn
>>> rows = np.random.default_rng(0).standard_normal((1000, 64), np.float32)
>>> ids, dists = gpuknn.exact_knn(rows, rows[:5], k=10, metric="cosine")
>>> ids.shape, ids[:, 0].tolist()  # rows are counted from 0, the nearest comes first
((5, 10), [0, 1, 2, 3, 4])

A gold standard as a file, which a crash cannot undo, by this machine or the workers of a `distributed.Client`:

>>> database, queries = gpuknn.subset_files("sample")  # or paths of your own
>>> outcome = gpuknn.exact(database, queries, "gold.h5", k=100)  # the same call goes on after a crash

Recall of somebody's result, and whether two answers are the same:

>>> found = gpuknn.exact_knn(database, queries, k=10)
>>> gpuknn.evaluate(found, "gold.h5", ks=[1, 10])[10].by_ids
1.0
>>> gpuknn.compare(found, "gold.h5").equal
True

    exact_knn               the neighbours of queries among rows, in this process
    exact, plan_exact       a gold standard file, resumable, on one machine or many
    convert                 vectors and gold standards from one format to another
    recall, evaluate        how much of a gold standard a result has found
    compare                 two gold standards, or two files of vectors
    open_vectors            rows of a file or URL, read as they are needed
    read_gold, write_gold   gold standard files of all formats
    project_fit             a model of a database's rows: PCA, or references of binary sketches
    project_apply           rows through a model
    build                   a bundle, its captions and queries, from raw parts
    download                files of LAION2B, or of another dataset's catalogue, whole and right; resumable
    subset_files            the database and queries of a LAION2B subset, or of the sample that is shipped
    gpuknn.sklearn          an estimator for scikit-learn, UMAP and scanpy

Errors are `InputError` (a ValueError: something given is wrong) and `RunError` (the same call goes on).  After Ctrl-C
the long ones, which go on, raise `Interrupted` (a KeyboardInterrupt that says what is kept).
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gpuknn.engine.neighbors import Certificate, Neighbors
    from gpuknn.engine.scan import exact_knn
    from gpuknn.errors import InputError, Interrupted, RunError
    from gpuknn.gold import (
        Comparison,
        Evaluation,
        Gold,
        Recall,
        RowsComparison,
        compare,
        evaluate,
        read_gold,
        recall,
        write_gold,
    )
    from gpuknn.jobs.build.build import build
    from gpuknn.jobs.convert.convert import Conversion, convert
    from gpuknn.jobs.download.download import download
    from gpuknn.jobs.exact.exact import ExactPlan, exact, plan_exact
    from gpuknn.jobs.exact.run import Outcome
    from gpuknn.jobs.project.fit import Fitted
    from gpuknn.jobs.project.project import Projection, project_apply, project_fit
    from gpuknn.laion import subset_files
    from gpuknn.projections.model import PcaModel, SketchModel
    from gpuknn.vectors import Vectors, open_vectors

_HOMES = {
    "exact_knn": "engine.scan",
    "exact": "jobs.exact.exact",
    "plan_exact": "jobs.exact.exact",
    "build": "jobs.build.build",
    "convert": "jobs.convert.convert",
    "download": "jobs.download.download",
    "project_fit": "jobs.project.project",
    "project_apply": "jobs.project.project",
    "recall": "gold",
    "evaluate": "gold",
    "compare": "gold",
    "open_vectors": "vectors",
    "read_gold": "gold",
    "write_gold": "gold",
    "subset_files": "laion",
    "Neighbors": "engine.neighbors",
    "Certificate": "engine.neighbors",
    "Gold": "gold",
    "Recall": "gold",
    "Evaluation": "gold",
    "Comparison": "gold",
    "RowsComparison": "gold",
    "Conversion": "jobs.convert.convert",
    "Vectors": "vectors",
    "Fitted": "jobs.project.fit",
    "Projection": "jobs.project.project",
    "PcaModel": "projections.model",
    "SketchModel": "projections.model",
    "ExactPlan": "jobs.exact.exact",
    "Outcome": "jobs.exact.run",
    "InputError": "errors",
    "Interrupted": "errors",
    "RunError": "errors",
}
"""Where each public name lives: it is loaded when it is first used, so that importing gpuknn stays quick."""

__all__ = [
    "Certificate",
    "Comparison",
    "Conversion",
    "Evaluation",
    "ExactPlan",
    "Fitted",
    "Gold",
    "InputError",
    "Interrupted",
    "Neighbors",
    "Outcome",
    "PcaModel",
    "Projection",
    "Recall",
    "RowsComparison",
    "RunError",
    "SketchModel",
    "Vectors",
    "build",
    "compare",
    "convert",
    "download",
    "evaluate",
    "exact",
    "exact_knn",
    "open_vectors",
    "plan_exact",
    "project_apply",
    "project_fit",
    "read_gold",
    "recall",
    "subset_files",
    "write_gold",
]


def __dir__() -> list[str]:
    return [*__all__, "__version__"]


if TYPE_CHECKING:
    __version__: str
else:  # for a type checker every name would be there, and be of any type

    def __getattr__(name: str) -> object:
        if name == "sklearn":  # which `import gpuknn` does not load
            return import_module("gpuknn.sklearn")
        if name == "__version__":
            return import_module("importlib.metadata").version("gpuknn")
        if name not in _HOMES:
            raise AttributeError(f"module 'gpuknn' has no attribute {name!r}")
        return getattr(import_module(f"gpuknn.{_HOMES[name]}"), name)
