"""Rows that a library must decode, a band of rows at a time.

However finely rows are asked for and by however many threads, a band is decoded once for those that read in it at the
same time, and again only for one that comes when they have all gone on and there was no room to keep it.
"""

from abc import abstractmethod
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice
from threading import Lock, Thread, current_thread
from weakref import WeakKeyDictionary

import numpy as np

from gpuknn.errors import InputError
from gpuknn.vectors.vectors import Vectors

HELD_BYTES = 2**27
"""Of bands that have been read in part; those that no thread is reading in are kept only within it."""
HELD_EACH = 2
"""Bands kept for each thread: threads that read side by side leave a band in part at either end of what they read."""


class Held:
    """Decoded bands of which some rows have not been asked for yet; any number of threads may ask."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._bands: OrderedDict[range, Future[np.ndarray]] = OrderedDict()
        self._left: dict[range, int] = {}
        self._read_in: WeakKeyDictionary[Thread, range] = WeakKeyDictionary()
        """Where each thread asked last; a thread that has ended is forgotten."""

    def rows(self, band: range, wanted: int, most: int, decode: Callable[[range], np.ndarray]) -> np.ndarray:
        """The band's rows, decoded unless they are here; threads that ask meanwhile wait.

        The band is let go once as many rows were `wanted` as it has, or when every thread that read in it has gone on
        to another and it is the oldest of more than `most`, or of more than `HELD_EACH` for each thread.
        """
        with self._lock:
            self._read_in[current_thread()] = band
            found = self._bands.pop(band, None)
            rows = Future[np.ndarray]() if found is None else found
            left = self._left.pop(band, len(band)) - wanted
            if left > 0:
                self._bands[band], self._left[band] = rows, left
            if found is None:
                self._make_room(min(most, HELD_EACH * len(self._read_in)))
        if found is None:
            try:
                decoded = decode(band)
            except BaseException as error:
                rows.set_exception(error)
                self._let_go(band)
                raise
            rows.set_result(decoded)
        return rows.result()

    def _make_room(self, most: int) -> None:
        used = set(self._read_in.values())
        unused = (band for band in self._bands if band not in used)
        for band in list(islice(unused, max(0, len(self._bands) - most))):
            del self._bands[band], self._left[band]

    def _let_go(self, band: range) -> None:
        with self._lock:
            self._bands.pop(band, None)
            self._left.pop(band, None)


@dataclass(frozen=True)
class DecodedVectors(Vectors):
    """Rows that are stored in bands (chunks, row groups), of which only the whole can be decoded."""

    held: Held = field(default_factory=Held, init=False, repr=False, compare=False)

    @abstractmethod
    def band(self, row: int) -> range:
        """The rows that are decoded together with `row`."""

    @property
    def band_rows(self) -> int:
        """Rows of the largest band."""
        return len(self.band(0))

    def held_bytes(self, readers: int) -> int:
        """Bytes that are taken at most, beside the callers' buffers, while so many threads read.

        Of decoded rows a band for each, or `HELD_EACH` if `HELD_BYTES` has room; and what the library takes.
        """
        held = max(min(HELD_BYTES, HELD_EACH * readers * self.band_bytes), readers * self.band_bytes)
        return min(self.nbytes, held) + self.decoding_bytes(readers)

    @abstractmethod
    def decoding_bytes(self, readers: int) -> int:
        """Bytes that the library takes at most, beside the rows that it fills, while so many threads decode."""

    @abstractmethod
    def decode(self, rows: range, out: np.ndarray) -> None:
        """Fill `out` with the rows of one or more whole bands; raises InputError where they cannot be decoded."""

    def read(self, first: int, out: np.ndarray) -> None:
        """Fill `out`: whole bands at once and straight into it, what is left of bands at its ends from memory."""
        end = first + len(out)
        if not 0 <= first <= end <= len(self):
            raise IndexError(f"rows {first} to {end} of {len(self)}")
        here = first
        while here < end:
            band = self.band(here)
            stop = self._whole_bands_until(band, here, end)
            into = out[here - first : max(stop, min(band.stop, end)) - first]
            if stop > here:
                self.decode(range(here, stop), into)
            else:
                self._copy_held(band, here, into)
            here += len(into)

    @cached_property
    def band_bytes(self) -> int:
        """Bytes of the largest band's rows."""
        return self.band_rows * self.shape[1] * self.dtype.itemsize

    def _whole_bands_until(self, band: range, here: int, end: int) -> int:
        """Where the last of the whole bands ends that begin at `here` and fit before `end`; `here` if none does."""
        while here == band.start and band.stop <= end:
            here = band.stop
            if here < end:
                band = self.band(here)
        return here

    def _copy_held(self, band: range, here: int, out: np.ndarray) -> None:
        # A function of its own: the band is not to be named here any more while the next one is decoded.
        rows = self.held.rows(band, len(out), HELD_BYTES // self.band_bytes, self._decoded)
        out[...] = rows[here - band.start :][: len(out)]

    def _decoded(self, band: range) -> np.ndarray:
        try:
            rows = np.empty((len(band), self.shape[1]), self.dtype)
        except MemoryError as error:
            raise InputError(
                f"{self.where}: {len(band):,} rows lie in one piece, too large to be decoded here"
            ) from error
        self.decode(band, rows)
        return rows
