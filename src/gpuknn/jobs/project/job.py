"""What is to be fitted, or projected: what decides the bytes, under the names of the command line's options."""

from dataclasses import dataclass

from gpuknn.vectors.written import Missing

SEED = 2023
"""Of the draw of references."""


@dataclass(frozen=True)
class FitJob:
    """A model of a database's rows."""

    database: str
    pca: int | None = None
    """How many components."""
    hamming: int | None = None
    """How many bits; of the two, one is given."""
    seed: int | None = None
    """Of the draw of references; None: SEED."""
    missing: Missing = "refuse"


@dataclass(frozen=True)
class ApplyJob:
    """A database's rows through a model."""

    model: str
    source: str
    as_published: bool = False
    missing: Missing = "refuse"
    ignore_ids: bool = False
