"""The machine without its GPUs: processor, memory, disk, libraries."""

import os
import platform
import socket
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from gpuknn.bench.processor import blas, processor, product_rate
from gpuknn.bench.reading import Disk, try_disk
from gpuknn.engine.choose import usable_cores
from gpuknn.engine.cpu.int8 import int8_product

PACKAGES = (
    *("numpy", "numba", "h5py", "zarr", "dask", "distributed", "onnxruntime", "cupy-cuda12x", "cupy-cuda13x", "cupy"),
    *("dask-cuda", "kvikio-cu12", "kvikio-cu13", "bokeh", "prometheus_client"),
)
SLOWING = ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE")
"""Settings that make OpenBLAS take kernels or blocks for another processor."""


@dataclass(frozen=True)
class Machine:
    """What the process runs on and with."""

    host: str
    platform: str
    python: str
    gpuknn: str
    processor: str
    cores: int
    """That this process may run on."""
    core_limit: float | None
    """Of the container, where it has one."""
    memory: int
    memory_limit: int | None
    blas: str
    int8_levels: int | None
    """127 or 63 where 8-bit products are exact (`engine.cpu.int8`), None where there are none."""
    product: float
    """Multiplications and additions a second of a float32 product on all cores."""
    packages: dict[str, str | None]
    disk: Disk

    @property
    def warnings(self) -> list[str]:
        """What is set in a way that costs time."""
        slowing = [f"{name}={os.environ[name]}" for name in SLOWING if name in os.environ]
        found = [f"{setting} is set: it slows the product; unset it" for setting in slowing]
        if self.core_limit is not None and self.core_limit < self.cores:
            threads = max(1, int(self.core_limit))
            found.append(f"the container grants {self.core_limit:g} of {self.cores} cores: use --threads {threads}")
        return found


def look_around(folder: Path, disk_bytes: int) -> Machine:
    """Find out what is here; writes a file of `disk_bytes` to `folder` and removes it."""
    int8 = int8_product()
    return Machine(
        host=socket.gethostname(),
        platform=platform.platform(),
        python=f"{platform.python_version()} ({platform.python_implementation()})",
        gpuknn=version("gpuknn"),
        processor=processor(),
        cores=usable_cores(),
        core_limit=core_limit(),
        memory=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        memory_limit=memory_limit(),
        blas=blas(),
        int8_levels=int8.largest if int8 else None,
        product=product_rate(),
        packages={name: _version(name) for name in PACKAGES},
        disk=try_disk(folder, disk_bytes),
    )


def memory_limit() -> int | None:
    """Bytes that the container may use, where it has a limit (cgroups, second or first version)."""
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        text = (_read(path) or "max").strip()
        if text != "max" and int(text) < 2**60:  # the first version says a huge number for no limit
            return int(text)
    return None


def core_limit() -> float | None:
    """Cores' worth of time that the container may use, where it has a limit."""
    quota, _, period = (_read("/sys/fs/cgroup/cpu.max") or "max 1").partition(" ")
    return None if quota == "max" else int(quota) / int(period)


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _read(path: str) -> str | None:
    try:
        return Path(path).read_text()
    except OSError:
        return None
