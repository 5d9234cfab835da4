"""The one place that launches the kernels of `kernels.cu`: their names and the types of their parameters.

CuPy knows neither and checks nothing: a number of the wrong width, or an array of another type, would be read as
garbage.  So every launch goes through `Kernels.launch`, which converts and checks by the table below.
"""

from importlib.resources import files
from typing import Any

import cupy as cp
import numpy as np

THREADS = 256
OPTIONS = ("-std=c++17",)

ROWS = {"float16": "*f2", "float32": "*f4", "float64": "*f8", "uint8": "*u1", "int8": "*i1"}
_SETTLE = (
    " *f8 *f4 *f4 i8 i8"  # norms, bias, error, d, first id of the epoch
    " *f8 *f8 *f8 *f4"  # queries, their norms, to_score, slack
    " i8 i8 i4 i4 f8 *i8 i4"  # nq, k, metric, single, rounding, leaves
    " i8 i8 *f4 *i4 *f4 *i4 *f8"  # most, room, threshold, held, score, row, exact
    " *f8 *i8 *i4 *f8 *i8 *u8"  # dists, ids, filled, room for both, sums
)
SIGNATURES = {
    "begin_epoch": "*f8 *i4 *f8 *f8 i8 i8 f8 *f4 *i4",
    "select_passing": "*f4 i8 i8 i8 *f4 *f4 *f4 *i8 i8 i8 *i4 *f4 *i4 *u8",
    "hamming_scores": "*u8 *u8 i8 i8 i8 *f4",
    "settle_uint64": "*u8" + _SETTLE,
    **{f"settle_{name}": rows + _SETTLE for name, rows in ROWS.items()},
    **{f"squared_norms_{name}": rows + " i8 i8 *i8 i4 *f8" for name, rows in ROWS.items()},
}
"""Parameters by NumPy's names of types; with a star, arrays of them."""
PARAMETERS = {
    name: [(type_.startswith("*"), np.dtype(type_.removeprefix("*"))) for type_ in types.split()]
    for name, types in SIGNATURES.items()
}
"""Parsed once: there are launches every few microseconds."""


def source() -> str:
    """CUDA C++ of all kernels."""
    return (files("gpuknn.engine.cuda") / "kernels.cu").read_text()


class Kernels:
    """The kernels, compiled for the current device when they are first used."""

    def __init__(self) -> None:
        self._module = cp.RawModule(code=source(), options=OPTIONS)
        self._functions: dict[str, Any] = {}

    def launch(self, name: str, grid: tuple[int, ...], *arguments: Any) -> None:
        """Launch on the current stream in blocks of THREADS; None is no array.

        Raises TypeError where an argument is not what the kernel takes.
        """
        parameters = PARAMETERS[name]
        if len(parameters) != len(arguments):
            raise TypeError(f"{name} takes {len(parameters)} arguments, not {len(arguments)}")
        if name not in self._functions:
            self._functions[name] = self._module.get_function(name)
        here = cp.cuda.runtime.getDevice()
        converted = tuple(
            _array(name, dtype, value, here) if is_array else dtype.type(value)
            for (is_array, dtype), value in zip(parameters, arguments, strict=True)
        )
        self._functions[name](grid, (THREADS,), converted)


def _array(kernel: str, dtype: np.dtype, value: Any, here: int) -> Any:
    if value is None:
        return None
    if not isinstance(value, cp.ndarray) or value.dtype != dtype or not value.flags.c_contiguous:
        raise TypeError(f"{kernel}: expected a contiguous array of {dtype} on the device")
    if value.device.id != here:
        raise TypeError(f"{kernel}: an array lies on device {value.device.id}, the kernel runs on {here}")
    return value
