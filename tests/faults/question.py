"""The job that faults are done to: its files, and the oracle's answer."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tests import oracle

ROWS, QUERIES, DIM, K = 40_000, 200, 64, 50
SHARD = 1_000
"""Rows: 40 shards."""


@dataclass(frozen=True)
class Question:
    """Files, and the right answer."""

    database: Path
    queries: Path
    answer: tuple[bytes, bytes]


def make_question(folder: Path) -> Question:
    """A database in which many rows are twice, at far places, so that ties must be decided.

    The queries are float32 that float16 can say: sums do not round, so the oracle is met to the bit.
    """
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((ROWS, DIM)).astype(np.float16)
    rows[::7] = rows[::-7][: len(rows[::7])]
    queries = rng.standard_normal((QUERIES, DIM)).astype(np.float16).astype(np.float32)
    np.save(folder / "db.npy", rows)
    np.save(folder / "q.npy", queries)
    return Question(folder / "db.npy", folder / "q.npy", answer(folder / "db.npy", folder / "q.npy"))


def answer(database: Path, queries: Path) -> tuple[bytes, bytes]:
    """What `knns` and `dists` must hold, says the oracle."""
    ids, dists = oracle.knn(np.load(database), np.load(queries), K, "cosine", "float32")
    return (ids + 1).astype(np.int32).tobytes(), dists.tobytes()
