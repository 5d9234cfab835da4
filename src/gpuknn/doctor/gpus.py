"""The GPUs, as the driver tells, and the device that will be used."""

import os
import subprocess
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from gpuknn.engine.choose import count_gpus, open_device
from gpuknn.engine.device import Device
from gpuknn.errors import InputError, pip_install

CUDA13_DRIVER, CUDA12_DRIVER = 580, 525
"""The lowest driver branches that CUDA 13 and CUDA 12 run on."""


@dataclass(frozen=True)
class Gpu:
    """One GPU of this machine."""

    name: str
    memory: int


@dataclass(frozen=True)
class Gpus:
    """The GPUs that were found, whether CuPy can use them or not."""

    found: list[Gpu]
    driver: str | None
    told_by: str
    libraries: dict[str, str]
    """Versions of what CuPy was built with and loads; empty where it is not installed."""

    @property
    def remedy(self) -> str:
        """How to install CuPy, as far as the driver's version tells."""
        branch = int(self.driver.partition(".")[0]) if self.driver and self.driver[:1].isdigit() else CUDA12_DRIVER
        if branch < CUDA12_DRIVER:
            return f"install a driver of at least {CUDA12_DRIVER} (this is {self.driver}), then {pip_install('cuda12')}"
        return f"install CuPy with: {pip_install('cuda13' if branch >= CUDA13_DRIVER else 'cuda12')}"


def find_gpus() -> Gpus:
    """All GPUs of this machine: by NVML, which the cuda extras bring, else by nvidia-smi, else by CuPy."""
    libraries = cuda_libraries() if find_spec("cupy") else {}
    for way, look in {"NVML": _by_nvml, "nvidia-smi": _by_nvidia_smi, "CuPy": _by_cupy}.items():
        with suppress(Exception):  # what is missing, or badly installed, shows in many ways; another may work
            found, driver = look()
            if found:
                return Gpus(found, driver, way, libraries)
    return Gpus([], None, "", libraries)


def choose_device(name: str, number: int | None, gpus: Gpus) -> tuple[Device, str | None]:
    """The device for `--device` auto, cpu or cuda, and where a GPU is left unused for a reason, a line that says why.

    Raises InputError where cuda, or a GPU by its number, cannot be had.
    """
    if name == "cpu":
        if number is not None:
            raise InputError(f"--gpu {number}: does not go with --device cpu")
        return open_device("cpu"), None
    if number is not None and not 0 <= number < max(1, len(gpus.found)):
        raise InputError(f"--gpu {number}: this machine has {len(gpus.found)}, counted from 0")
    try:
        return open_device("cuda", number=number or 0), None
    except InputError as error:
        if name == "cuda" or number is not None:
            raise
        why = str(error).removeprefix("--device cuda: ") if find_spec("cupy") else gpus.remedy
        if os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1"):
            why = "CUDA_VISIBLE_DEVICES hides them"
        return open_device("cpu"), f"the GPUs are not used: {why}" if gpus.found else None


def cuda_libraries() -> dict[str, str]:
    """Versions by name, of those that can be asked."""
    ways: dict[str, Callable[[], str]] = {
        "CuPy": lambda: str(import_module("cupy").__version__),
        "CUDA of the driver": lambda: _dotted(_runtime().driverGetVersion()),
        "CUDA runtime": lambda: _dotted(_runtime().runtimeGetVersion()),
        "NVRTC": lambda: ".".join(map(str, import_module("cupy.cuda").nvrtc.getVersion())),
        "cuBLAS": _cublas_version,
        "compute capability": lambda: ".".join(import_module("cupy.cuda").Device().compute_capability),
    }
    found = {}
    for name, ask in ways.items():
        try:
            found[name] = ask()
        except Exception as error:  # what is missing shows in many ways, and is a finding
            found[name] = f"cannot be used ({type(error).__name__}: {error})"
    return found


def _runtime() -> Any:
    return import_module("cupy.cuda").runtime


def _cublas_version() -> str:
    handle = import_module("cupy.cuda.device").get_cublas_handle()
    return str(import_module("cupy_backends.cuda.libs.cublas").getVersion(handle))


def _dotted(number: int) -> str:
    return f"{number // 1000}.{number % 1000 // 10}"


def _by_nvml() -> tuple[list[Gpu], str | None]:
    import pynvml

    pynvml.nvmlInit()
    handles = [pynvml.nvmlDeviceGetHandleByIndex(i) for i in range(pynvml.nvmlDeviceGetCount())]
    found = [Gpu(pynvml.nvmlDeviceGetName(h), pynvml.nvmlDeviceGetMemoryInfo(h).total) for h in handles]
    return found, pynvml.nvmlSystemGetDriverVersion()


def _by_nvidia_smi() -> tuple[list[Gpu], str | None]:
    query = ["nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader,nounits"]
    done = subprocess.run(query, capture_output=True, text=True, timeout=30)
    lines = [line.rsplit(", ", 2) for line in done.stdout.splitlines() if done.returncode == 0]
    return [Gpu(name, int(memory) * 2**20) for name, memory, _ in lines], lines[0][2] if lines else None


def _by_cupy() -> tuple[list[Gpu], str | None]:
    properties = [_runtime().getDeviceProperties(i) for i in range(count_gpus())]
    return [Gpu(p["name"].decode(), p["totalGlobalMem"]) for p in properties], None
