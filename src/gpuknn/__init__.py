"""Exact nearest neighbours, the same to the last bit on any device.

>>> import numpy as np, gpuknn
>>> rows = np.eye(4, dtype=np.float32)
>>> gpuknn.exact_knn(rows, rows[:2], k=1).ids.tolist()
[[0], [1]]
"""

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gpuknn.engine.neighbors import Neighbors
    from gpuknn.engine.scan import exact_knn
    from gpuknn.errors import InputError, RunError
    from gpuknn.gold import Gold, read_gold, recall, write_gold
    from gpuknn.vectors import Vectors, open_vectors

__all__ = [
    "Gold",
    "InputError",
    "Neighbors",
    "RunError",
    "Vectors",
    "exact_knn",
    "open_vectors",
    "read_gold",
    "recall",
    "write_gold",
]

__version__ = version("gpuknn")

_HOMES = {
    "InputError": "gpuknn.errors",
    "RunError": "gpuknn.errors",
    "Gold": "gpuknn.gold",
    "Neighbors": "gpuknn.engine.neighbors",
    "exact_knn": "gpuknn.engine.scan",
    "read_gold": "gpuknn.gold",
    "recall": "gpuknn.gold",
    "write_gold": "gpuknn.gold",
    "Vectors": "gpuknn.vectors",
    "open_vectors": "gpuknn.vectors",
}


def __getattr__(name: str) -> Any:
    """Load a public name when it is first used: importing gpuknn stays quick."""
    if name not in _HOMES:
        raise AttributeError(f"module 'gpuknn' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
