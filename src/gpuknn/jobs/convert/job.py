"""What is to be converted, and into what."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any

from gpuknn.errors import given, refuse_given
from gpuknn.gold import holds_gold
from gpuknn.jobs.rewrite.formats import choose_format
from gpuknn.storage.location import is_url
from gpuknn.vectors.written import Missing


@dataclass(frozen=True)
class Job:
    """What decides the bytes that are written, under the names of the command line's options."""

    source: str
    missing: Missing = "refuse"
    ignore_ids: bool = False
    rows: str | None = None
    """A:B."""
    dtype: str | None = None
    normalize: bool = False
    scale: float | None = None
    round: bool = False
    to: str | None = None
    """A format's name."""
    dst_key: str | None = None
    queries_file: str | None = None
    gold: str | None = None
    distance: str | None = None
    dists_as: str | None = None
    """One of `gold.distances.DISTS_AS`."""
    compression: str | None = None
    zarr_format: int | None = None
    shard_rows: int | None = None
    chunk_rows: int | None = None

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> "Job":
        """From options by their names; others are left alone."""
        return cls(**{field.name: options[field.name] for field in fields(cls) if field.name in options})

    def given(self) -> dict[str, Any]:
        """The options that were given, by their names."""
        return given({field.name: getattr(self, field.name) for field in fields(self)})

    def refuse(self, options: Iterable[str], why: str) -> None:
        """Raise InputError if one of the options, by their names, was given."""
        refuse_given({name: getattr(self, name) for name in options}, why)

    def is_gold(self, destination: str) -> bool:
        """Whether a gold standard is converted: the format holds some, and either the source does or nothing else fits.

        Raises InputError if the destination's name tells no format.
        """
        target = choose_format(destination, self.to)
        holds = not is_url(self.source) and holds_gold(self.source)
        return target.gold and (holds or not target.vectors)
