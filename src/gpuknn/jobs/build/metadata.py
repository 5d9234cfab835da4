"""A part's metadata, read once: which rows a rule keeps, and the lines of captions that belong to them."""

import base64
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np

from gpuknn.errors import InputError, RunError, in_our_words, option, same_again
from gpuknn.laion.raw import Rule
from gpuknn.storage.durable import read_sealed, write_sealed
from gpuknn.vectors.parquet import pyarrow_parquet
from gpuknn.vectors.parquet_rows import READ_BYTES

BATCH_ROWS = 2**15
"""Read and written at once: some MB of captions."""
DELIMITER, QUOTED = "\t", '["\t\n]'
"""Between cells; and letters for which CSV.jl, with which the organisers wrote their captions, quotes a cell."""
COPY_BYTES = 2**24
"""Of lines that are copied or compared at once."""
STAGE = f"{1:010d}-{1:010d}"
"""What the names of these receipts begin with."""


@dataclass(frozen=True)
class Metadata:
    """What is read of a part."""

    path: str
    rows: range
    """Those of the part among the rows of all parts."""
    rule: Rule | None
    """None keeps all."""
    columns: tuple[str, ...]
    """Of the captions; none if no captions are wanted."""
    most: int | None
    """Rows that are kept at most: the first."""


def read_metadata(parts: tuple[Metadata, ...], folder: str, piece: range) -> int:
    """Read the part whose rows are `piece`, and leave its lines and a receipt in the record's `folder`.

    Does nothing if they are there already.  Returns how many rows are kept.  Raises InputError if the file is damaged.
    """
    kept_before = _kept_before(folder, piece)
    if kept_before is not None:
        return kept_before
    part = next(part for part in parts if part.rows == piece)
    checksum, masks, kept = 0, [], 0
    lines = lines_of(folder, piece)
    unfinished = lines.with_name(f"{lines.name}.{os.urandom(4).hex()}.part")
    with open(unfinished, "wb") as file:
        for columns in batches(part):
            mask = kept_rows(columns, part.rule)
            if part.most is not None and kept + np.count_nonzero(mask) > part.most:
                mask[np.flatnonzero(mask)[part.most - kept :]] = False
            masks.append(mask)
            kept += int(np.count_nonzero(mask))
            if part.columns:
                text = as_lines([columns[name] for name in part.columns], mask)
                file.write(text.data)
                checksum = google_crc32c.extend(checksum, text)
    # The lines are not synced: they are soon read, and removed.  Their checksum tells whether they were lost.
    os.replace(unfinished, lines)
    every = np.concatenate(masks)
    if len(every) != len(piece):
        raise InputError(f"{part.path}: has {len(every):,} rows where {len(piece):,} were promised; it is damaged")
    packed = base64.b64encode(np.packbits(every).tobytes()).decode()
    said = {"kept": kept, "mask": packed, "crc32c": checksum}
    write_sealed(receipt_of(folder, piece), said)
    return kept


def receipt_of(folder: str, piece: range) -> Path:
    """Where the receipt of the part with these rows lies in a record's folder."""
    return Path(folder) / f"{STAGE}.{piece.start:012d}-{piece.stop:012d}.json"


def lines_of(folder: str, piece: range) -> Path:
    """Where the captions of the part with these rows lie: lines without a header."""
    return receipt_of(folder, piece).with_suffix(".bin")


def _kept_before(folder: str, piece: range) -> int | None:
    """How many rows an earlier call has kept, if its receipt and its lines are those that were written."""
    path, lines = receipt_of(folder, piece), lines_of(folder, piece)
    said = read_sealed(path) if path.exists() else {}
    whole = bool(said) and lines.exists() and _checksum(lines) == said["crc32c"]
    return int(said["kept"]) if whole else None


def _checksum(path: Path) -> int:
    """CRC-32C of a file."""
    checksum = 0
    with open(path, "rb") as file:
        while block := file.read(COPY_BYTES):
            checksum = google_crc32c.extend(checksum, block)
    return checksum


def read_kept(path: str) -> np.ndarray:
    """(n,) int32: the numbers of the rows that are kept, by the receipt at `path`."""
    said = read_sealed(Path(path))
    if not said:
        raise RunError(f"{path}: is damaged; run {same_again()} with {option('fresh', True)}")
    bits = np.unpackbits(np.frombuffer(base64.b64decode(said["mask"]), np.uint8))
    return np.flatnonzero(bits).astype(np.int32)


def batches(part: Metadata) -> Iterator[dict[str, Any]]:
    """The columns that are wanted, as text, some rows at a time; raises InputError at what cannot be read."""
    import pyarrow as pa

    parquet, names = pyarrow_parquet(part.path), wanted(part.rule, part.columns)
    with in_our_words(f"{part.path}: cannot be read"), parquet.ParquetFile(part.path, buffer_size=READ_BYTES) as file:
        for group in range(file.num_row_groups):
            with in_our_words(f"{part.path}: row group {group} (counted from 0) cannot be read"):
                if not names:
                    rows = file.metadata.row_group(group).num_rows
                    yield {"": pa.nulls(rows)}
                for batch in file.iter_batches(BATCH_ROWS, row_groups=[group], columns=names) if names else ():
                    # Of the largest type: a batch of captions may have more than 2 GiB.
                    yield {name: batch.column(name).cast(pa.large_string()) for name in names}


def wanted(rule: Rule | None, columns: tuple[str, ...]) -> list[str]:
    """The columns that are read: those of the captions, and that of the rule."""
    return list(dict.fromkeys([*columns, *([rule.column] if rule else [])]))


def kept_rows(columns: dict[str, Any], rule: Rule | None) -> np.ndarray:
    """(m,) bool: whether the rule keeps each row of a batch."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if rule is None:
        return np.ones(len(next(iter(columns.values()))), bool)
    cells = columns[rule.column]
    among = pc.is_in(cells, pa.array(rule.values, pa.large_string())).to_numpy(zero_copy_only=False)
    there = pc.is_valid(cells).to_numpy(zero_copy_only=False)
    kept: np.ndarray = (among if rule.keeps else ~among) & there
    return kept | ~there if rule.missing else kept


def as_lines(columns: list[Any], mask: np.ndarray) -> np.ndarray:
    """(b,) uint8: the lines of the rows that are kept, as CSV.jl writes them: a cell is quoted if it needs to be."""
    import pyarrow as pa
    import pyarrow.compute as pc

    kept = pa.array(mask)
    cells = [_quoted(column.filter(kept).fill_null("")) for column in columns]
    empty, newline = pa.scalar("", pa.large_string()), pa.scalar("\n", pa.large_string())
    cells[-1] = pc.binary_join_element_wise(cells[-1], empty, newline)
    return content(pc.binary_join_element_wise(*cells, pa.scalar(DELIMITER, pa.large_string())))


def header(columns: tuple[str, ...]) -> bytes:
    """The first line of captions."""
    import pyarrow as pa

    cells = [pa.array([name], pa.large_string()) for name in columns]
    return as_lines(cells, np.ones(1, bool)).tobytes()


def content(text: Any) -> np.ndarray:
    """(b,) uint8: the bytes of an array of text, one after another."""
    offsets = np.frombuffer(text.buffers()[1], np.int64)[text.offset : text.offset + len(text) + 1]
    data = text.buffers()[2]
    return np.frombuffer(b"" if data is None else data, np.uint8)[offsets[0] : offsets[-1]]


def _quoted(cells: Any) -> Any:
    import pyarrow as pa
    import pyarrow.compute as pc

    text = content(cells).tobytes()
    if not any(letter in text for letter in (b'"', b"\n", DELIMITER.encode())):  # a look at each cell takes far longer
        return cells
    needs = pc.match_substring_regex(cells, QUOTED)
    quote, nothing = pa.scalar('"', pa.large_string()), pa.scalar("", pa.large_string())
    doubled = pc.replace_substring(cells.filter(needs), '"', '""')
    return pc.replace_with_mask(cells, needs, pc.binary_join_element_wise(quote, doubled, quote, nothing))
