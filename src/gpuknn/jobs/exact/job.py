"""The question, by file, and what tells it from others."""

import os
from dataclasses import dataclass
from enum import StrEnum
from os import PathLike

import numpy as np

from gpuknn.engine.check import check_question
from gpuknn.engine.metric import Metric, metric_named
from gpuknn.engine.rows import under
from gpuknn.errors import InputError, option
from gpuknn.storage.durable import digest
from gpuknn.storage.location import is_url, split_key
from gpuknn.vectors import Rows, Sampled, Vectors, as_vectors, file_state, sampled
from gpuknn.vectors.hdf5 import arrays_of_queries
from gpuknn.vectors.ids import RowIds, own_ids
from gpuknn.vectors.written import Missing

RESULT_VERSION = 1
"""Raised when the answer's bytes change, so that older partial results are not taken for today's."""


class SelfJoin(StrEnum):
    """What becomes of a row in its own answer, if the queries are the rows of the database."""

    NO = "no"
    LEFT_OUT = "left out"
    FIRST = "first"


@dataclass(frozen=True)
class Job:
    """The question, by file."""

    database: Vectors
    queries: Vectors
    k: int
    metric: Metric
    dists: str
    self_join: SelfJoin = SelfJoin.NO
    ids: RowIds | None = None
    """What the database's file calls its rows, if that is not their numbers; written beside the answer."""
    query_ids: RowIds | None = None

    @property
    def searched_k(self) -> int:
        """Neighbours to search for: a row that stands first in its own answer need not be found."""
        return self.k - (self.self_join is SelfJoin.FIRST)

    @property
    def title(self) -> str:
        """The job in one line."""
        return f"{self.database.where}, queries {self.queries.where}, k = {self.k}, {self.metric.value}"

    @property
    def answer_bytes(self) -> int:
        """Size of all neighbours, as one partial result keeps them."""
        return len(self.queries) * self.k * (8 + np.dtype(self.dists).itemsize)

    def operations(self, rows: int) -> float:
        """Multiplications and additions to score all queries with so many rows (for hamming, bits compared)."""
        components = self.database.shape[1] * (32 if self.metric is Metric.HAMMING else 1)
        return 2.0 * rows * len(self.queries) * components

    def file_state(self) -> str:
        """Differs once something was written to the files."""
        return f"{file_state(self.database)} {file_state(self.queries)}"

    def sampled(self) -> tuple[Sampled, Sampled]:
        """What the database and the queries hold; the rows of a self-join are sampled once."""
        database = sampled(self.database)
        return database, database if self.queries is self.database else sampled(self.queries)

    def fingerprint(self, files: tuple[Sampled, Sampled]) -> str:
        """32 hexadecimal digits of everything that decides the answer: equal for equal answers."""
        named = ("ids",) * (self.ids is not None or self.query_ids is not None)
        identities = (file.identity for file in files)
        parts = RESULT_VERSION, *identities, self.k, self.metric.value, self.dists, self.self_join.value, *named
        return digest(repr(parts).encode())

    def description(self) -> dict[str, str | int]:
        """The job in words, for its record."""
        return {
            "database": self.database.where,
            "rows": len(self.database),
            "queries": self.queries.where,
            "number of queries": len(self.queries),
            "k": self.k,
            "metric": self.metric.value,
            "dists": self.dists,
            "itself": self.self_join.value,
            "ids": "kept" if self.ids or self.query_ids else "none",
        }


def ask(
    database: Rows,
    queries: Rows | None,
    k: int,
    metric: str = "cosine",
    dists: str = "float32",
    self_join: SelfJoin = SelfJoin.NO,
    missing: Missing = "refuse",
    ignore_ids: bool = False,
) -> Job:
    """The job of finding each query's k nearest rows; headers are read, rows are not.

    `queries`: None if the rows are the queries.  `missing`: what becomes of rows that nobody wrote.  `ignore_ids`: the
    answer holds row numbers alone.  Raises InputError if the files cannot be read or make no question together.
    """
    kind = metric_named(metric)
    rows = under(kind, _opened(database, "database", missing))
    asked = rows if queries is None else under(kind, _opened(queries, "queries", missing))
    if queries is not None:
        named = not isinstance(queries, str | PathLike) or split_key(str(queries))[1] is not None
        refuse_rows_as_queries(rows, asked, named)
    ids = (None, None) if ignore_ids else (own_ids(rows.ids), own_ids(asked.ids))
    check_question(rows, asked, k, kind, dists, queries is None, self_join is SelfJoin.FIRST)
    return Job(rows, asked, int(k), kind, str(dists), self_join, *ids)


def _opened(rows: Rows, what: str, missing: Missing) -> Vectors:
    """The rows of a file; those of an array cannot be found again after a crash, nor by workers."""
    opened = as_vectors(rows, what, missing)
    if not opened.in_files:
        raise InputError(
            f"{what}: is in memory, and a run that can be resumed needs a file; save it (np.save), or search it with "
            "gpuknn.exact_knn"
        )
    return opened


def refuse_rows_as_queries(database: Vectors, queries: Vectors, named: bool) -> None:
    """Raise InputError if the queries are the very rows of the database, or rows of a file that holds queries, too.

    `named`: whether the command line names the array of queries.
    """
    b = queries.path
    alone = len(queries.files) == 1 and not is_url(b) and os.path.isfile(b)
    others = [f"{b}:{key}" for key in arrays_of_queries(b) if key != queries.key] if alone else []
    if _places(database) == _places(queries):
        offer = f"name its queries ({', '.join(others)}), or " if others else ""
        itself = option("self", True, "queries=None")
        raise InputError(
            f"{queries.where}: is named as the database and as the queries; {offer}say {itself} to find every row's "
            "neighbours among the others"
        )
    if others and not named and queries.key == "train":
        raise InputError(f"{b}: holds rows and queries; name the queries: {', '.join(others)} (or {queries.where})")


def _places(rows: Vectors) -> list[tuple[str, str]]:
    """Where each file of the rows is, and which array of it is meant."""
    return [(f.path if is_url(f.path) else os.path.realpath(f.path), (f.key or "").strip("/")) for f in rows.files]
