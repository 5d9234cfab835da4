"""Sketches that are kept otherwise than in words of uint64: as booleans, or as bits that are packed in bytes.

ann-benchmarks keeps a matrix of booleans.  FAISS's binary indexes, cuVS and sentence-transformers keep eight bits in a
byte, uint8 or int8.
"""

from abc import abstractmethod
from copy import copy
from dataclasses import dataclass, replace
from typing import ClassVar, Self

import numpy as np

from gpuknn.errors import InputError
from gpuknn.vectors.joined import JoinedVectors
from gpuknn.vectors.vectors import Vectors

PACKED_TYPES = ("uint8", "int8")
"""Of bytes with eight bits of a sketch each."""
READ_BYTES = 2**20
"""Of the source, at once."""


@dataclass(frozen=True)
class Packed(Vectors):
    """Rows of bits as sketches; the last word of a row is filled up with zeros, which differ nowhere."""

    source: Vectors
    each: ClassVar[int]
    """Bits in a component of the source."""

    @classmethod
    def of(cls, source: Vectors) -> Self:
        """Pack the rows of `source`."""
        n, d = source.shape
        shape, dtype = (n, -(-d * cls.each // 64)), np.dtype(np.uint64)
        return cls(source.path, source.key, shape, dtype, source, ids=source.ids, missing=source.missing)

    @property
    def bits(self) -> int:
        """Bits of a row, without those that fill it up."""
        return self.each * self.source.shape[1]

    @property
    def gpu(self) -> int | None:
        """That of the source."""
        return self.source.gpu

    @property
    def in_files(self) -> bool:
        """Whether the source is."""
        return self.source.in_files

    def absolute(self) -> Self:
        """The same rows, for a process with another working folder."""
        source = self.source.absolute()
        return replace(self, path=source.path, source=source)

    def __copy__(self) -> Self:
        """With a source of its own, which keeps what it decodes."""
        return replace(self, source=copy(self.source))

    def locate(self, row: int) -> tuple[str, int]:
        """Where the source has it."""
        return self.source.locate(row)

    def held_bytes(self, readers: int) -> int:
        """Those of the source; the rows being packed are few."""
        return self.source.held_bytes(readers)

    def read(self, first: int, out: np.ndarray) -> None:
        """Fill `out` (m, words); byte j of a row is byte j % 8, the lowest first, of word j // 8."""
        step = max(1, READ_BYTES // self.source.shape[1])
        for start in range(0, len(out), step):
            part = out[start : start + step]
            rows = self.source[first + start : first + start + len(part)]
            packed = np.zeros((len(part), 8 * self.shape[1]), np.uint8)
            packed[:, : -(-self.bits // 8)] = self.octets(rows, first + start)
            part[...] = packed.view("<u8")

    @abstractmethod
    def octets(self, rows: np.ndarray, first: int) -> np.ndarray:
        """(m, bytes) uint8: rows of the source, the first of which has that number, with eight bits in a byte."""


@dataclass(frozen=True)
class PackedBits(Packed):
    """Rows of booleans, which the source has as uint8, each 0 or 1."""

    each = 1

    def octets(self, rows: np.ndarray, first: int) -> np.ndarray:
        """Component j is bit j % 8, the lowest first, of byte j // 8; raises InputError where one is no boolean."""
        wrong = np.argwhere(rows > 1)
        if len(wrong):
            i, j = (int(x) for x in wrong[0])
            raise InputError(f"{self.where}: row {first + i} (counted from 0) holds {rows[i, j]}, which is no boolean")
        return np.packbits(rows, axis=1, bitorder="little")


@dataclass(frozen=True)
class PackedBytes(Packed):
    """Rows of bytes, uint8 or int8, with eight bits in each."""

    each = 8

    def read(self, first: int, out: np.ndarray) -> None:
        """Fill `out`, straight from the source if its rows are whole words."""
        if self.bits % 64:
            super().read(first, out)
        else:
            self.source.read(first, out.view(self.source.dtype))

    def octets(self, rows: np.ndarray, first: int) -> np.ndarray:
        """The same bytes."""
        return rows.view(np.uint8)


def as_sketches(vectors: Vectors) -> Vectors:
    """Rows of bytes as sketches, those of each file by themselves; all other rows as they are."""
    if vectors.dtype.name not in PACKED_TYPES:
        return vectors
    if isinstance(vectors, JoinedVectors):
        parts = tuple(map(PackedBytes.of, vectors.parts))
        return replace(vectors, shape=(len(vectors), parts[0].shape[1]), dtype=parts[0].dtype, parts=parts)
    return PackedBytes.of(vectors)


def kept_as(sketches: Vectors) -> str:
    """The type in which sketches are kept: uint64, uint8, int8 or bool."""
    first = sketches.files[0]
    if isinstance(first, PackedBytes):
        return first.source.dtype.name
    return "bool" if sketches.bits else "uint64"


def unpack_bits(sketches: np.ndarray, bits: int) -> np.ndarray:
    """(m, bits) bool: the components of sketches (m, words) uint64, as `PackedBits` packs them."""
    octets = np.ascontiguousarray(sketches, "<u8").view(np.uint8)
    return np.unpackbits(octets, axis=1, count=bits, bitorder="little").view(bool)
