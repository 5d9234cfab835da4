"""Rows through a model."""

from collections.abc import Callable
from copy import copy
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from gpuknn.engine.cpu.device import CpuDevice
from gpuknn.engine.cpu.needed import compile_kernels, for_axes, for_sketches
from gpuknn.engine.device import BlockOf, Device
from gpuknn.engine.projecting import POOL, Axes, Block, References
from gpuknn.errors import InputError, RunError, same_again
from gpuknn.progress import Listener
from gpuknn.projections.blocks import check_rows_are_numbers, checking, memory_of, over_blocks, threads_of
from gpuknn.projections.model import Model, PcaModel, read_model
from gpuknn.storage.durable import digest
from gpuknn.storage.location import absolute
from gpuknn.vectors.derived import Derived
from gpuknn.vectors.vectors import Vectors

PUBLISHED_FOR = ("float16", "float32")
"""Types of the rows that the published sketches were made of."""


COORDINATES_VALUES = 2**19
"""Components of a block: with its copies it stays in a core's second cache or the third."""


@dataclass(frozen=True)
class Projected(Derived):
    """Coordinates (n, D) float32, or sketches (n, words) uint64, of rows."""

    model: str
    """The path of its file."""
    content: str
    """What tells the model's bytes from others."""
    as_published: bool
    device: Device
    here: Callable[[Device], Device]
    """The device for whoever reads the rows."""
    counts = "differing_bits"

    @classmethod
    def of(
        cls, source: Vectors, path: str, model: Model, as_published: bool, device: Device, here: Callable[..., Device]
    ) -> "Projected":
        """The rows of `source` through the model at `path`; raises InputError if it takes other rows."""
        check_rows_are_numbers(source)
        if source.shape[1] != model.input_width:
            raise InputError(
                f"{source.where}: has {source.shape[1]} components, and the model {path} takes {model.input_width}"
            )
        if as_published and isinstance(model, PcaModel):
            raise InputError(f"{path}: is a PCA model; as published, there are sketches only")
        if as_published and source.dtype.name not in PUBLISHED_FOR:
            made_of = " and ".join(PUBLISHED_FOR)
            raise InputError(f"{source.where}: holds {source.dtype}; the published sketches were made of {made_of}")
        n, kind = len(source), np.dtype(np.float32 if isinstance(model, PcaModel) else np.uint64)
        width = len(model.components) if isinstance(model, PcaModel) else model.bits // POOL
        content = digest(Path(path).read_bytes())
        how = 0, path, content, as_published, device, here
        return cls(source.path, source.key, (n, width), kind, source, *how, missing=source.missing)

    @property
    def block_bytes(self) -> int:  # type: ignore[override]
        """Some blocks for each thread."""
        return 16 * threads_of(self.device) * 2**20

    @property
    def said(self) -> dict[str, Any]:
        """The model."""
        return {"model": Path(self.model).name, "model_digest": self.content, "as_published": self.as_published}

    def together(self, some: float, others: float) -> float:
        """The sum: bits that differ from those of float64."""
        return some + others

    def absolute(self) -> "Projected":
        """The same rows, for a process with another working folder."""
        return replace(self, source=self.source.absolute(), model=absolute(self.model))

    def __copy__(self) -> "Projected":
        """With a source of its own, which keeps what it decodes."""
        return replace(self, source=copy(self.source))

    def held_bytes(self, readers: int) -> int:
        """Those of the source, and the blocks in hand."""
        width = 8 * self.shape[1] if self.dtype == np.float32 else POOL * 4 * self.shape[1]
        blocks = memory_of(self.source, self.device, rows_at_once(self.source), width) + self.block_bytes
        return self.source.held_bytes(readers * threads_of(self.device)) + readers * blocks

    def prepare(self, told: Listener) -> None:
        """Compile kernels."""
        if isinstance(self.device, CpuDevice):
            kind = self.source.dtype
            compile_kernels(for_axes(kind) if self.dtype == np.float32 else for_sketches(kind), told)

    def take(self, first: int, out: np.ndarray) -> float:
        """Fill `out`; how many bits differ from those that float64 gives, if they are made as published."""
        model, differing = _loaded(self.model, self.content), list[int]()
        published = (
            References(model.vectors, single=True) if self.as_published and isinstance(model, References) else None
        )

        def fill(block: Block, stored: np.ndarray, start: int, block_of: BlockOf) -> None:
            here = out[start - first : start - first + len(stored)]
            if isinstance(model, Axes):
                here[...] = block.coordinates(model)
                return
            here[...] = block.sketches(model)
            if published:
                divided = self._divided(stored, start)
                with block_of(divided, checking(self.source, start)) as again:
                    sketches = again.sketches(published)
                differing.append(int(np.bitwise_count(here ^ sketches).sum()))
                here[...] = sketches

        rows = range(first, first + len(out))
        over_blocks(self.source, rows, self.here(self.device), rows_at_once(self.source), fill)
        return float(sum(differing))

    def _divided(self, stored: np.ndarray, start: int) -> np.ndarray:
        """The rows (m, d) float16 or float32 divided by their lengths in their own arithmetic.

        Squares are added in float64.  (Of float32, BLAS decides in Julia how they are added.)  As Julia's `normalize!`
        divides them, unless their squares overflow or vanish in their type: Julia scales such rows first, and here they
        are refused.
        """
        one = stored.dtype.type
        with np.errstate(over="ignore", under="ignore", divide="ignore", invalid="ignore"):
            largest = np.abs(stored).max(axis=1)
            odd = np.flatnonzero(~np.isfinite(one(stored.shape[1]) * largest * largest) | (largest * largest == 0))
            if len(odd):
                where, row = self.source.locate(start + int(odd[0]))
                raise InputError(
                    f"{where}: row {row} (counted from 0) has squares that {stored.dtype} does not hold, so that it "
                    "cannot be divided as the published rows were"
                )
            lengths = np.sqrt(np.square(stored).sum(axis=1, dtype=np.float64)).astype(stored.dtype)
            found: np.ndarray = stored * (1 / lengths)[:, np.newaxis]
        return found


def rows_at_once(source: Vectors) -> int:
    """Rows of a block."""
    return max(1, COORDINATES_VALUES // source.shape[1])


@lru_cache(maxsize=4)
def _loaded(path: str, content: str) -> Axes | References:
    """A model as devices take it; raises RunError if the file is not the one that was looked at first."""
    try:
        same = digest(Path(path).read_bytes()) == content
    except OSError as error:
        raise RunError(f"{path}: cannot be read ({error.strerror}); {same_again()} goes on") from error
    if not same:
        raise RunError(f"{path}: was changed while rows went through it")
    model = read_model(path)
    return model.axes() if isinstance(model, PcaModel) else References(model.references)
