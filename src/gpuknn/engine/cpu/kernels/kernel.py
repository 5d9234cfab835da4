"""What a kernel is: a Python function that is compiled once for each type of rows, and kept for the next process."""

import hashlib
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import FunctionType
from typing import Any

import llvmlite.binding as llvm
import numba
import numpy as np
from numba import config, njit, types

from gpuknn.engine.cpu.kernels.files import Files, files_of

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
        self._found: dict[np.dtype | None, Files | None] = {}
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
            if not self._load(rows):
                self._compiled[rows] = self._compile(rows)
            return self._compiled[rows]

    def is_compiled(self, rows: np.dtype | None) -> bool:
        """Whether it is compiled for rows of that type, by this process or by an earlier one; it is then loaded."""
        with self._lock:
            return self._load(rows)

    def kept(self, rows: np.dtype | None) -> tuple[Path | None, int]:
        """The folder in which it is kept, compiled for rows of that type, and its bytes there.

        No folder if none can be written to, no bytes if it is not compiled yet.
        """
        files = self._files(rows)
        return (files.folder, files.size) if files else (None, 0)

    def _load(self, rows: np.dtype | None) -> bool:
        """Whether it is there now: it was, or its files are whole."""
        if rows in self._compiled:
            return True
        files = self._files(rows)
        if files is None or not files.size:
            return False
        try:
            self._compiled[rows] = self._ready(files.function, rows)
        except Exception:  # of what was damaged just now Numba may raise anything
            return False
        return True

    def _compile(self, rows: np.dtype | None) -> Any:
        files = self._files(rows)
        if files is not None and files.remove():
            with suppress(Exception):  # no room, or somebody has damaged a file just now: it is not kept
                self._ready(files.function, rows)
                files.seal()
            if files.function.signatures:
                return self._ready(files.function, rows)
        return self._ready(njit(**self._options)(self._named(rows)), rows)

    def _ready(self, function: Any, rows: np.dtype | None) -> Any:
        """Numba's function, compiled or loaded for the one type of its arguments."""
        arguments = self._arguments
        if rows is not None:
            arguments = tuple(_stored_as(_bits(rows), argument) for argument in arguments)
        if not function.signatures:
            function.compile(arguments)
        function.disable_compile()
        return function

    def _files(self, rows: np.dtype | None) -> Files | None:
        if rows not in self._found:
            self._found[rows] = files_of(self._named(rows), self._options)
        return self._found[rows]

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


def processor_features() -> list[str]:
    """What kernels are compiled for beside the processor's name: as it is, or as Numba's variables say."""
    if config.CPU_NAME not in (None, "host") or config.CPU_FEATURES is not None:
        return sorted(part.removeprefix("+") for part in (config.CPU_FEATURES or "").split(",") if part[:1] != "-")
    return sorted(name for name, there in llvm.get_host_cpu_features().items() if there)


def _version() -> str:
    """Differs for every other kernel, Python, Numba or processor: what is compiled for one does not fit another."""
    files = sorted(Path(__file__).parent.glob("*.py"))
    processor = [llvm.get_host_cpu_name(), str(config.CPU_NAME), *processor_features()]
    known = [
        numba.__version__.encode(),
        str(sys.implementation.cache_tag).encode(),
        *(file.read_bytes() for file in files),
        *map(str.encode, processor),
    ]
    return hashlib.sha256(b"\0".join(known)).hexdigest()[:12]


VERSION = _version()
