"""What is to be built, from what."""

from dataclasses import dataclass

SEED = 2023
"""Of the draw of public queries."""
QUERIES = 10_000
"""Public queries that are drawn if nobody says how many."""


@dataclass(frozen=True)
class Job:
    """What decides the bytes that are written, under the names of the command line's options."""

    raw: str
    """The folder of raw parts."""
    subset: str | None = None
    """None: all parts that there are."""
    rule: str | None = None
    """As `laion.raw.rule_named` reads it; None: the subset's."""
    columns: str | None = None
    """Of the captions, with commas between them; None: `laion.raw.COLUMNS`."""
    public_queries: int | None = None
    """How many; None: QUERIES, if a subset is built."""
    catalogue: str | None = None
    """A dataset's, in place of LAION2B's."""
