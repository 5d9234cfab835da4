"""The machine without its GPUs: processor, memory, disk, libraries."""

import os
import platform
import socket
import tempfile
import time
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
import threadpoolctl

from gpuknn.engine.choose import usable_cores
from gpuknn.engine.cpu.int8 import int8_product

PACKAGES = (
    *("numpy", "numba", "h5py", "zarr", "dask", "distributed", "onnxruntime", "cupy-cuda12x", "cupy-cuda13x", "cupy"),
    *("dask-cuda", "kvikio-cu12", "kvikio-cu13", "bokeh", "prometheus_client"),
)
SLOWING = ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE")
"""Settings that make OpenBLAS take kernels or blocks for another processor."""
CHUNK = 2**22
"""Bytes written and read at once."""


@dataclass(frozen=True)
class Disk:
    """One file, written and read back."""

    folder: str
    bytes: int
    read: float | None
    """Bytes a second; None where the file could not be written."""
    said: str


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
    """127 or 63 where 8-bit products are exact (`exact.int8`), None where there are none."""
    product: float
    """Multiplications and additions a second of a float32 product on all cores."""
    packages: dict[str, str | None]
    disk: Disk

    @property
    def warnings(self) -> list[str]:
        """What is set in a way that costs time."""
        found = [
            f"{name}={os.environ[name]} is set: it slows the product; unset it"
            for name in SLOWING
            if name in os.environ
        ]
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


def processor() -> str:
    """The processor's name, where the system tells."""
    lines = (_read("/proc/cpuinfo") or "").splitlines()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def blas() -> str:
    """The libraries that NumPy's products may go to, and for which processor they take this one."""
    libraries = [lib for lib in threadpoolctl.threadpool_info() if lib["user_api"] == "blas"]
    names = {f"{lib['internal_api']} {lib['version']} for {lib.get('architecture', 'any')}" for lib in libraries}
    return ", ".join(sorted(names)) or "unknown to threadpoolctl"


def product_rate(rows: int = 4096, queries: int = 1024, components: int = 768) -> float:
    """Multiplications and additions a second of a float32 product, the best of three."""
    rng = np.random.default_rng(0)
    x, q = (rng.random((n, components), np.float32) for n in (rows, queries))
    out = np.empty((queries, rows), np.float32)
    times = []
    with threadpoolctl.threadpool_limits(usable_cores(), user_api="blas"):
        for _ in range(3):
            started = time.perf_counter()
            np.matmul(q, x.T, out=out)
            times.append(time.perf_counter() - started)
    return 2.0 * rows * queries * components / min(times)


def try_disk(folder: Path, size: int) -> Disk:
    """Write a file that goes away by itself, ask the system to forget it, read it."""
    block = np.random.default_rng(0).bytes(CHUNK)
    room = bytearray(CHUNK)
    try:
        with tempfile.TemporaryFile(dir=folder, buffering=0) as file:
            for _ in range(size // CHUNK):
                file.write(block)
            os.fsync(file.fileno())
            if hasattr(os, "posix_fadvise"):
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            file.seek(0)
            started = time.perf_counter()
            while file.readinto(room):
                pass
            seconds = time.perf_counter() - started
    except OSError as error:
        return Disk(str(folder), size, None, f"not measured: {error.strerror}")
    return Disk(str(folder), size, size / seconds, "one thread; a cache may flatter it")


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
