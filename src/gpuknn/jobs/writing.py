"""A target that is written piece by piece: which pieces there are, which are on disk, and the rest by workers."""

from collections.abc import Generator, Sequence
from contextlib import closing, suppress
from dataclasses import asdict
from pathlib import Path

from gpuknn.jobs.pieces import read_receipts, work_through, write_receipt
from gpuknn.vectors.derived import Derived
from gpuknn.vectors.target import Piece, Target, write_piece
from gpuknn.workers.feed import Feeder


def pieces_of(target: Target) -> list[range]:
    """The rows of each piece."""
    n, size = target.shape[0], target.piece_rows
    return [range(a, min(a + size, n)) for a in range(0, n, size)]


def pieces_written(target: Target, folder: Path) -> dict[range, Piece]:
    """The pieces that are on disk, by the receipts in a job's folder."""
    known, found = set(pieces_of(target)), {}
    for rows, said in read_receipts(folder).items():
        with suppress(TypeError, ValueError):  # of somebody else's making
            piece = Piece(**said)
            crc, counted = int(piece.crc32c, 16), float(piece.counted)
            sound = (piece.first, piece.stop, f"{crc:08x}", counted) == (
                rows.start,
                rows.stop,
                piece.crc32c,
                piece.counted,
            )
            if sound and rows in known:
                found[rows] = piece
    return found


def write_pieces(
    feeder: Feeder, pieces: Sequence[range], rows: Derived, target: Target, folder: Path
) -> Generator[tuple[range, Piece], None, None]:
    """Have the pieces written; each with its receipt, which is in the job's `folder` then, as they end."""
    with closing(work_through(feeder, pieces, write_piece, rows, target)) as written:
        for piece, receipt in written:
            write_receipt(folder, piece, asdict(receipt))
            yield piece, receipt
