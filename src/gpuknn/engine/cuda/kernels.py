"""The one place that launches the kernels of `kernels.cu`, and checks what they are given by `table.py`."""

from dataclasses import dataclass
from typing import Any

import cupy as cp
import numpy as np

from gpuknn.engine.cuda.table import LAYOUTS, SIGNATURES, STRUCTS, source

THREADS = 256
OPTIONS = ("-std=c++17",)

PARAMETERS = {
    name: [("*" in type_, LAYOUTS.get(type_) or np.dtype(type_.removeprefix("*"))) for type_ in types.split()]
    for name, types in SIGNATURES.items()
}
"""Parsed once: there are launches every few microseconds."""


@dataclass(frozen=True)
class Struct:
    """A struct of the table as kernels take it, and the arrays that it points at, which live as long."""

    value: np.void
    arrays: dict[str, Any]
    device: int


def fill(name: str, values: dict[str, Any]) -> Struct:
    """The struct of that name from those of the values that bear the names of its fields; None is no array.

    Raises KeyError if a field has no value, TypeError if an array is not of its type, or not on the current device.
    """
    here = cp.cuda.runtime.getDevice()
    members, arrays = [], {}
    for field, type_ in STRUCTS[name].items():
        value = values[field]
        if "*" in type_:
            arrays[field] = _array(f"{name}.{field}", np.dtype(type_[1:]), value, here)
            value = 0 if value is None else value.data.ptr
        members.append(value)
    return Struct(np.void(tuple(members), LAYOUTS[name]), arrays, here)


class Kernels:
    """The kernels, compiled for the current device when they are first used."""

    def __init__(self) -> None:
        self._module = cp.RawModule(code=source(), options=OPTIONS)
        self._functions: dict[str, Any] = {}

    def launch(self, name: str, grid: tuple[int, ...], *arguments: Any) -> None:
        """Launch on the current stream in blocks of THREADS; None is no array, a struct is what `fill` made.

        Raises TypeError where an argument is not what the kernel takes.
        """
        parameters = PARAMETERS[name]
        if len(parameters) != len(arguments):
            raise TypeError(f"{name} takes {len(parameters)} arguments, not {len(arguments)}")
        if name not in self._functions:
            self._functions[name] = self._module.get_function(name)
        here = cp.cuda.runtime.getDevice()
        converted = tuple(
            _argument(name, is_array, dtype, value, here)
            for (is_array, dtype), value in zip(parameters, arguments, strict=True)
        )
        self._functions[name](grid, (THREADS,), converted)


def _argument(kernel: str, is_array: bool, dtype: np.dtype, value: Any, here: int) -> Any:
    if is_array:
        return _array(kernel, dtype, value, here)
    if not dtype.names:
        return dtype.type(value)
    if not isinstance(value, Struct) or value.value.dtype is not dtype:
        raise TypeError(f"{kernel}: expected a struct of {', '.join(dtype.names)}")
    _check_device(kernel, "a struct", value.device, here)
    return value.value


def _array(where: str, dtype: np.dtype, value: Any, here: int) -> Any:
    if value is None:
        return None
    if not isinstance(value, cp.ndarray) or value.dtype != dtype or not value.flags.c_contiguous:
        raise TypeError(f"{where}: expected a contiguous array of {dtype} on the device")
    _check_device(where, "an array", value.device.id, here)
    return value


def _check_device(where: str, what: str, there: int, here: int) -> None:
    if there != here:
        raise TypeError(f"{where}: {what} lies on device {there}, the kernel runs on {here}")
