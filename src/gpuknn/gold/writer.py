"""Writing a gold standard, block by block of queries: it appears under its name when all is written and on disk."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gpuknn.errors import InputError
from gpuknn.gold.gold import Gold
from gpuknn.storage.durable import appearing

Attributes = Mapping[str, str | int | float]


@dataclass(frozen=True)
class Outline:
    """What a writer must know before the first block comes."""

    shape: tuple[int, int]
    """Queries, and neighbours for each."""
    highest: int
    """No row number, counted from 0, is higher."""
    dists: np.dtype | None
    """None if only ids are written."""
    highest_own_id: int | None = None
    """No id that the database's file gives is higher; None if it gives none."""
    query_ids: bool = False

    @classmethod
    def of(cls, gold: Gold) -> "Outline":
        """Of a whole gold standard."""
        dists = None if gold.dists is None else gold.dists.dtype
        own = None if gold.own_ids is None else int(gold.own_ids.max(initial=0))
        return cls(gold.shape, int(gold.ids.max(initial=0)), dists, own, gold.query_ids is not None)


class GoldWriter(ABC):
    """An open file of a format; blocks come in the order of their queries."""

    LIMIT: int | None = None
    """Every id that the format holds is below it; None: whatever is 64 bits wide."""
    DISTS: str | None = None
    """The only type of distances that it holds; None: any."""
    HOLDS_DISTS = True
    HOLDS_OWN_IDS = False
    """Whether row numbers and the ids that the database's file gives have a place each; else only the latter has."""
    HOLDS_QUERY_IDS = False

    def __init__(self, part: Path, outline: Outline) -> None:
        """Create `part` for an answer of this outline."""
        self.part, self.outline = part, outline

    @abstractmethod
    def write(self, first: int, gold: Gold) -> None:
        """Write the answers to the queries from `first` on."""

    def describe(self, attributes: Attributes) -> None:  # noqa: B027 - most formats have no place for it
        """Add what the file shall say of itself, if the format has a place for it."""

    @abstractmethod
    def close(self) -> None:
        """Complete the file; raises OSError if that cannot be."""


@contextmanager
def written(
    path: Path, kind: type[GoldWriter], outline: Outline, whole: Callable[[Path], None] = lambda _: None, **more: Any
) -> Iterator[GoldWriter]:
    """A writer of `kind`, whose file gets its name when the context is left without an error.

    `whole` is called with the unfinished name when all is on disk.  If it raises an error, the file does not appear.
    """
    check_outline(path, kind, outline)
    with appearing(path, whole) as part:
        writer = kind(part, outline, **more)
        try:
            yield writer
        except BaseException:
            writer.close()
            raise
        writer.close()


def check_outline(path: Path, kind: type[GoldWriter], outline: Outline) -> None:
    """Raise InputError if the format cannot hold an id, or not the distances as they are."""
    if kind.HOLDS_DISTS and kind.DISTS and outline.dists is not None and outline.dists != kind.DISTS:
        raise InputError(f"{path}: files of this kind hold {kind.DISTS} distances, not {outline.dists}; choose .h5")
    highest = outline.highest if outline.highest_own_id is None else outline.highest_own_id
    if kind.LIMIT is not None and highest >= kind.LIMIT:
        raise InputError(f"{path}: files of this kind hold ids below {kind.LIMIT:,}, not {highest:,}; choose .h5")
