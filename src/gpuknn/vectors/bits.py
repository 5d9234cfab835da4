"""Sketches that a file keeps as a matrix of booleans, as ann-benchmarks does: 64 components become a uint64."""

from copy import copy
from dataclasses import dataclass, replace

import numpy as np

from gpuknn.errors import InputError
from gpuknn.vectors.vectors import Vectors


@dataclass(frozen=True)
class PackedBits(Vectors):
    """Rows of booleans as sketches; the last word of a row is filled up with zeros, which differ nowhere."""

    source: Vectors
    """Rows of uint8, each 0 or 1."""

    @classmethod
    def of(cls, source: Vectors) -> "PackedBits":
        """Pack the rows of `source` (n, bits)."""
        n, bits = source.shape
        shape, dtype = (n, -(-bits // 64)), np.dtype(np.uint64)
        return cls(source.path, source.key, shape, dtype, source, ids=source.ids, missing=source.missing)

    @property
    def bits(self) -> int:
        """Bits of a row, without those that fill it up."""
        return self.source.shape[1]

    @property
    def gpu(self) -> int | None:
        """That of the source."""
        return self.source.gpu

    @property
    def in_files(self) -> bool:
        """Whether the source is."""
        return self.source.in_files

    def absolute(self) -> "PackedBits":
        """The same rows, for a process with another working folder."""
        source = self.source.absolute()
        return replace(self, path=source.path, source=source)

    def __copy__(self) -> "PackedBits":
        """With a source of its own, which keeps what it decodes."""
        return replace(self, source=copy(self.source))

    def locate(self, row: int) -> tuple[str, int]:
        """Where the source has it."""
        return self.source.locate(row)

    def held_bytes(self, readers: int) -> int:
        """Those of the source, and the booleans of the rows being read."""
        return self.source.held_bytes(readers)

    def read(self, first: int, out: np.ndarray) -> None:
        """Fill `out` (m, words); component j is bit j % 64, the lowest first, of word j // 64."""
        step = max(1, 2**20 // self.bits)
        for start in range(0, len(out), step):
            part = out[start : start + step]
            rows = self.source[first + start : first + start + len(part)]
            wrong = np.argwhere(rows > 1)
            if len(wrong):
                i, j = (int(x) for x in wrong[0])
                raise InputError(
                    f"{self.where}: row {first + start + i} (counted from 0) holds {rows[i, j]}, which is no boolean"
                )
            packed = np.zeros((len(part), 8 * self.shape[1]), np.uint8)
            packed[:, : -(-self.bits // 8)] = np.packbits(rows, axis=1, bitorder="little")
            part[...] = packed.view("<u8")


def unpack_bits(sketches: np.ndarray, bits: int) -> np.ndarray:
    """(m, bits) bool: the components of sketches (m, words) uint64, as `PackedBits` packs them."""
    octets = np.ascontiguousarray(sketches, "<u8").view(np.uint8)
    return np.unpackbits(octets, axis=1, count=bits, bitorder="little").view(bool)
