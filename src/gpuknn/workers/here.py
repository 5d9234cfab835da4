"""Where a task is done: the device of the worker that does it."""

import sys
import threading

from gpuknn.engine.device import Device
from gpuknn.workers.stop import own_worker

AT_WORK = threading.Lock()
"""A worker with several threads is given several tasks; each uses all its cores, or its GPU, and the memory that the
plan counts, so they take turns."""


def device_here(device: Device) -> Device:
    """That of the worker which asks, with all its cores; the same if the client's process does the task."""
    worker = own_worker()
    return device.here(worker.state.nthreads, _gpu_number(worker.name)) if worker else device


def _gpu_number(worker_name: object) -> int:
    """The number of a worker's GPU among those that it sees.

    The first, as CUDA_VISIBLE_DEVICES has it (dask-cuda turns that); but the workers of a plain local cluster see all
    GPUs, and are numbered themselves.
    """
    if "dask_cuda" in sys.modules or not str(worker_name).isdecimal():
        return 0
    return int(str(worker_name))
