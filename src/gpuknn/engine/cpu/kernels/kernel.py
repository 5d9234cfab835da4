"""What a kernel is: a Python function that is compiled once for each type of rows, and kept for the next process."""

import hashlib
import threading
from collections.abc import Callable
from pathlib import Path
from types import FunctionType
from typing import Any

import llvmlite.binding as llvm
import numba
import numpy as np
from numba import njit, types

STORED = types.undefined
"""The type of what is stored, which differs: a kernel with arrays of it is compiled for each type."""
ROWS = types.Array(STORED, 2, "C", readonly=True)
"""Rows (m, d) that are only read."""
ORDERED = {"nogil": True, "error_model": "numpy", "no_cfunc_wrapper": True}
"""Options.  The error model: a division does not test for zero, so loops vectorise.  No fastmath if distances are made:
the order of the additions is part of the answer."""
REORDERED = {**ORDERED, "fastmath": {"nnan", "nsz", "reassoc", "contract"}}
"""For sums that are no part of the answer: they may be added in any order, and hold no NaN."""


class Kernel:
    """A function that is compiled on first use, once for each type of rows that it is called with."""

    def __init__(self, function: FunctionType, arguments: tuple[types.Type, ...], options: dict[str, Any]) -> None:
        self._function, self._arguments, self._options = function, arguments, options
        self._rows = [place for place, argument in enumerate(arguments) if argument is ROWS]
        self._compiled: dict[np.dtype | None, Any] = {}
        self._lock = threading.Lock()
        self.name = function.__name__

    def __call__(self, *arguments: Any) -> Any:
        """Call it; rows may be read-only, and are copied if they do not lie in one piece."""
        if not self._rows:
            return self.compiled(None)(*arguments)
        passed = list(arguments)
        for place in self._rows:
            passed[place] = _as_read(passed[place])
        return self.compiled(arguments[self._rows[0]].dtype)(*passed)

    def compiled(self, rows: np.dtype | None) -> Any:
        """For rows of that type; None for a kernel that takes no rows."""
        try:
            return self._compiled[rows]
        except KeyError:
            pass
        with self._lock:
            if rows not in self._compiled:
                self._compiled[rows] = self._compile(rows)
            return self._compiled[rows]

    def _compile(self, rows: np.dtype | None) -> Any:
        arguments = self._arguments
        if rows is not None:
            arguments = tuple(_stored_as(_bits(rows), argument) for argument in arguments)
        # Numba names the files in its cache after the function.  Two processes that compile the same function for two
        # types at once give their files one name, and one of the two gets the other's code.  So each has its own name.
        function = self._function
        copy = FunctionType(function.__code__, function.__globals__, self.name, None, function.__closure__)
        copy.__qualname__ = f"{self.name}-{'rows' if rows is None else rows.name}-{VERSION}"
        copy.__module__ = function.__module__
        try:
            compiled = njit(**self._options, cache=True)(copy)
        except RuntimeError:  # there is no folder to keep it in
            compiled = njit(**self._options)(copy)
        compiled.compile(arguments)
        compiled.disable_compile()
        return compiled


def kernel(*arguments: types.Type, options: dict[str, Any] = ORDERED) -> Callable[[Any], Kernel]:
    """A decorator: the function is a kernel whose arguments have these types."""
    return lambda function: Kernel(function, arguments, options)


def _stored_as(dtype: np.dtype, argument: types.Type) -> types.Type:
    stands_for_it = isinstance(argument, types.Array) and argument.dtype is STORED
    return argument.copy(dtype=numba.from_dtype(dtype)) if stands_for_it else argument


def _as_read(rows: np.ndarray) -> np.ndarray:
    """The rows as kernels read them, without a copy if that can be: float16 as bits, which Numba can compute with."""
    whole: np.ndarray = np.require(rows, requirements=["C", "A"])
    return whole.view(_bits(rows.dtype))


def _bits(rows: np.dtype) -> np.dtype:
    return np.dtype(np.uint16) if rows == np.float16 else rows


def _version() -> str:
    """Differs for every other kernel, Numba or processor: what is compiled for one does not fit another."""
    files = sorted(Path(__file__).parent.glob("*.py"))
    features = sorted(name for name, there in llvm.get_host_cpu_features().items() if there)
    processor = [llvm.get_host_cpu_name(), *features]
    known = [numba.__version__.encode(), *(file.read_bytes() for file in files), *map(str.encode, processor)]
    return hashlib.sha256(b"\0".join(known)).hexdigest()[:12]


VERSION = _version()
