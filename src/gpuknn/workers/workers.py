"""Who does the work: workers that share this machine's cores, or one for each of its GPUs."""

import json
import subprocess
import sys
from dataclasses import dataclass
from importlib.util import find_spec

from gpuknn.engine.cpu.device import CpuDevice
from gpuknn.engine.device import Device
from gpuknn.errors import InputError, no_cupy, option

LOCAL = "local"
"""Of `--cluster`: this machine."""


@dataclass(frozen=True)
class Workers:
    """Who does the work."""

    count: int
    cores: int
    """Of this machine, which checks the rows before work begins, and where local workers share them."""
    device: Device
    """What each computes on; of several GPUs the one with the least free memory."""
    memory: int | None = None
    """Bytes that each may take, where its source says so."""

    @property
    def units(self) -> int:
        """What rates are of: GPUs, or cores."""
        return self.count * self.device.units


def choose_workers(device: str, count: int | None, cores: int) -> Workers:
    """The workers for `--device` auto, cpu or cuda: `count` processes that share the cores, or one for each GPU.

    auto takes GPUs where there are any.  Raises InputError where cuda is asked for and cannot be had.
    """
    if device == "cuda" or (device == "auto" and find_spec("cupy")):
        try:
            gpus = find_gpus()
            least = min(gpus, key=lambda gpu: gpu.most_queries(1, 1))
            return Workers(min(count or len(gpus), len(gpus)), cores, least)
        except InputError:
            if device == "cuda":
                raise
    count = min(count or 1, cores)
    return Workers(count, cores, CpuDevice(cores // count))


def find_gpus() -> list[Device]:
    """The GPUs that this process would see, at least one; raises InputError where CuPy cannot use them."""
    if not find_spec("cupy"):
        raise no_cupy()
    done = subprocess.run([sys.executable, "-c", SEARCH], capture_output=True, text=True)
    try:
        found = json.loads(done.stdout.splitlines()[-1])
    except (IndexError, ValueError) as error:
        last = (done.stderr.splitlines() or ["no word why"])[-1]
        raise InputError(f"{option('device', 'cuda')}: looking for GPUs failed ({last})") from error
    if isinstance(found, str):
        raise InputError(found)
    from gpuknn.engine.cuda.device import CudaDevice

    return [CudaDevice(**gpu) for gpu in found]


SEARCH = """
import json
from dataclasses import asdict
from gpuknn.errors import InputError
from gpuknn.engine.cuda.device import open_all
try:
    print(json.dumps([asdict(gpu) for gpu in open_all()]))
except InputError as error:
    print(json.dumps(str(error)))
"""
"""Run by another process: a CUDA context here would take memory on a GPU and stand in the way of the workers'.  NVML
would tell the number of GPUs, but not whether CuPy can use them, nor is it in every container."""
