"""What every writer offers: pieces of rows, written in any order, each of them brought to disk before it counts."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import google_crc32c
import numpy as np

from gpuknn.vectors.derived import Derived

PIECE_BYTES = 2**29
"""Rows that a crash can cost, at least, where the format does not say.  Smaller pieces would be slower: while one is
brought to disk, writing to the others of the same file all but stops."""
MOST_PIECES = 512
"""Their checksums stand in the target's attributes."""


@dataclass(frozen=True)
class Target(ABC):
    """A file or store that is being written, under a temporary name where it has one."""

    path: str
    """A local path, or the URL of an object store."""
    shape: tuple[int, int]
    dtype: np.dtype
    made_of: int = field(default=0, kw_only=True)
    """Bytes of what a row is made of, if they are more than its own: a piece takes as long as they do."""

    @property
    def piece_rows(self) -> int:
        """Rows of a piece; no two pieces share a file that is written whole."""
        row_bytes = max(self.shape[1] * self.dtype.itemsize, self.made_of)
        return max(1, PIECE_BYTES // row_bytes, -(-self.shape[0] // MOST_PIECES))

    @property
    def nbytes(self) -> int:
        """What it takes on disk, about, before compression."""
        return self.shape[0] * self.shape[1] * self.dtype.itemsize

    @property
    def piece_memory(self) -> int:
        """Bytes that writing a piece takes, beside a few blocks."""
        return 0

    @abstractmethod
    def create(self) -> None:
        """Make it, without rows but with the room for them where that can be had; an earlier one is replaced."""

    def discard(self) -> None:  # noqa: B027 - most have nothing to do
        """Remove what has been written, where it is not in the record's folder, which goes as a whole."""

    @abstractmethod
    def write(self, piece: range, blocks: Iterator[np.ndarray]) -> None:
        """Bring a piece to disk; `blocks` (m, d) follow one another, each is valid until the next is taken."""

    @abstractmethod
    def finish(self, notes: Mapping[str, Any]) -> None:
        """Complete it once all pieces are there; `notes` go to its attributes if it has some.

        Raises RunError where a piece is not there.
        """


@dataclass(frozen=True)
class Piece:
    """The receipt of a piece that is on disk."""

    first: int
    stop: int
    crc32c: str
    """Of its rows' bytes, little-endian, one after another: whatever the format."""
    counted: float
    """What `Derived.take` counts."""


def write_piece(rows: Derived, target: Target, piece: range) -> Piece:
    """Make a piece and bring it to disk.

    Its checksum is that of Zarr's shards and of the object stores, CRC-32C: it costs a tenth of the copy, where SHA-256
    would cost twice the copy.
    """
    checksum, counted = 0, 0.0
    row_bytes = max(rows.shape[1] * rows.dtype.itemsize, rows.source.shape[1] * rows.source.dtype.itemsize)
    step = max(1, rows.block_bytes // row_bytes)
    buffer = np.empty((min(step, len(piece)), target.shape[1]), target.dtype)

    def blocks() -> Iterator[np.ndarray]:
        nonlocal checksum, counted
        for first in piece[::step]:
            block = buffer[: min(step, piece.stop - first)]
            counted = rows.together(counted, rows.take(first, block))
            checksum = google_crc32c.extend(checksum, block.reshape(-1).view(np.uint8))
            yield block

    target.write(piece, blocks())
    return Piece(piece.start, piece.stop, f"{checksum:08x}", counted)
