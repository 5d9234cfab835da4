"""On how many cores a job may work, so that all of it fits in memory."""

from collections.abc import Callable
from dataclasses import replace

from gpuknn.engine.cpu.device import CpuDevice
from gpuknn.engine.device import Device
from gpuknn.errors import InputError, option
from gpuknn.workers.crew import Crew
from gpuknn.workers.memory import memory_budget


def crew_within(crew: Crew, asked: str | None, need: Callable[[Device], int]) -> Crew:
    """The same workers, with fewer cores each if their share of the memory is too small for all.

    `asked`: for all of this machine's workers, or for each of a cluster's; None: half of this machine's, or what a
    cluster's worker says that it has.  `need`: bytes on a device.  Raises InputError if one core is too many.
    """
    workers = crew.workers
    budget = memory_budget(asked)
    if crew.local:
        budget //= workers.count
    elif asked is None:
        budget = workers.memory or budget
    device = workers.device
    while need(device) > budget:
        if not isinstance(device, CpuDevice) or device.threads == 1:
            size = f"{need(device) / 2**20:,.0f} MiB"
            raise InputError(f"{option('memory')}: each worker needs {size}, and may take {budget / 2**20:,.0f} MiB")
        device = replace(device, threads=device.threads // 2)
    return replace(crew, workers=replace(workers, device=device))
