"""Which device computes: the processor or a GPU of this machine."""

import os
from importlib.util import find_spec
from numbers import Integral

from gpuknn.engine.device import Device
from gpuknn.errors import InputError, check_known, install_cupy, no_cupy

DEVICES = ("auto", "cpu", "cuda")


def open_device(name: str = "auto", threads: int | None = None, number: int = 0) -> Device:
    """The device called `cpu` or `cuda`, or `auto`: a GPU where there is one.

    `threads` bounds the cores that the CPU uses; `number` is the GPU's among those that this process sees.  Raises
    InputError where there is no such device on this machine.
    """
    if threads is not None and (not isinstance(threads, Integral) or threads < 1):
        raise InputError(f"threads = {threads!r}: must be a whole number, at least 1")
    check_known("device", name, DEVICES)
    if name == "cuda" or (name == "auto" and count_gpus()):
        if not find_spec("cupy"):
            raise no_cupy()
        try:
            from gpuknn.engine.cuda.device import open_cuda
        except ImportError as error:  # CuPy looks for cuBLAS as soon as it is mentioned
            missing = f"CuPy lacks CUDA's libraries ({error})"
            raise InputError(f"device cuda: {missing}; use device cpu, or install them, {install_cupy()}") from error
        return open_cuda(number)
    from gpuknn.engine.cpu.device import CpuDevice

    return CpuDevice(threads or usable_cores())


def count_gpus() -> int:
    """GPUs that CuPy sees; 0 where it is not installed."""
    if not find_spec("cupy"):
        return 0
    import cupy

    return int(cupy.cuda.runtime.getDeviceCount()) if cupy.cuda.is_available() else 0


def usable_cores() -> int:
    """Cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
