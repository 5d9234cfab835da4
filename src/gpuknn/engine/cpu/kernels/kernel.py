"""What a kernel is: a Python function that is compiled once for each type of rows, and kept for the next process."""

import hashlib
import pickle
import threading
from collections.abc import Callable
from pathlib import Path
from types import FunctionType
from typing import Any

import llvmlite.binding as llvm
import numba
import numpy as np
from numba import config, njit, types

from gpuknn.engine.cpu.kernels.place import private_folder

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

    def __repr__(self) -> str:
        return f"<kernel {self._function.__name__}>"

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

    def is_compiled(self, rows: np.dtype | None) -> bool:
        """Whether it is compiled for rows of that type, by this process or by an earlier one."""
        return rows in self._compiled or self.kept(rows)[1] > 0

    def kept(self, rows: np.dtype | None) -> tuple[Path | None, int]:
        """The folder in which it is kept, compiled for rows of that type, and its bytes there.

        No folder if none can be written to, no bytes if it is not compiled yet.
        """
        cached = _keeping(self._named(rows), self._options)
        if cached is None:
            return None, 0
        folder = Path(cached.stats.cache_path)
        files = folder.glob(f"*.{cached.py_func.__qualname__}-*.nbc")
        return folder, sum(file.stat().st_size for file in files)

    def _compile(self, rows: np.dtype | None) -> Any:
        function, arguments = self._named(rows), self._arguments
        if rows is not None:
            arguments = tuple(_stored_as(_bits(rows), argument) for argument in arguments)
        compiled = _keeping(function, self._options) or njit(**self._options)(function)
        try:
            compiled.compile(arguments)
        except (OSError, EOFError, pickle.UnpicklingError):  # no room for it, or a file that a crash has cut off
            compiled = njit(**self._options)(function)
            compiled.compile(arguments)
        compiled.disable_compile()
        return compiled

    def _named(self, rows: np.dtype | None) -> FunctionType:
        """The function with a name of its own for rows of that type.

        Numba names the files in its cache after the function.  If two processes compiled one function for two types at
        once, their files would have one name, and one process would run the other's code.
        """
        function = self._function
        copy = FunctionType(function.__code__, function.__globals__, function.__name__, None, function.__closure__)
        copy.__qualname__ = f"{function.__name__}-{'any' if rows is None else rows.name}-{VERSION}"
        copy.__module__ = function.__module__
        return copy


def _keeping(function: FunctionType, options: dict[str, Any]) -> Any:
    """A function of Numba's that is kept when it is compiled: where Numba keeps it, or in a folder of this user's.

    None if there is no folder.
    """
    try:
        return njit(**options, cache=True)(function)
    except RuntimeError:
        folder = private_folder()
    if folder is None:
        return None
    before, config.CACHE_DIR = config.CACHE_DIR, str(folder)
    try:
        return njit(**options, cache=True)(function)
    except RuntimeError:
        return None
    finally:
        config.CACHE_DIR = before


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
