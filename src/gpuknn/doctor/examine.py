"""All that the doctor looks at, in order, and the report that comes of it."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from gpuknn.bench.kept import keep_rates
from gpuknn.bench.rate import HOST_BUILD, Rate, Resident
from gpuknn.doctor import selftest
from gpuknn.doctor.gpus import Gpus, choose_device, find_gpus
from gpuknn.doctor.machine import Machine, look_around
from gpuknn.doctor.selftest import Check, Size, check_answers
from gpuknn.engine.choose import usable_cores
from gpuknn.engine.cpu.device import CpuDevice
from gpuknn.engine.cpu.int8 import int8_product
from gpuknn.engine.cpu.needed import compile_kernels, for_everything
from gpuknn.engine.device import Device
from gpuknn.errors import InputError, pip_install
from gpuknn.progress import Event

Say = Callable[[str], None]
QUICK, FULL = Size(500, 16, 136, (10,)), Size(1500, 20, 136, (1, 200))
ON_HOST_BUILD = Size(300, 6, 20, (10,))
DISK_BYTES = {False: 2**26, True: 2**29}
"""Written and read back, quickly and in full."""


@dataclass
class Report:
    """What was found; `page.py` shows it, `dataclasses.asdict` makes JSON of it."""

    date: str
    machine: Machine
    gpus: Gpus
    device: str
    notes: list[str]
    """What a person should know: what slows this machine, why a GPU is not used, what was left out."""
    checks: list[Check] = field(default_factory=list)
    sums: dict[str, float] = field(default_factory=dict)
    """The largest error of float16 sums of each kind, as a share of the proven error."""
    rates: list[Rate] = field(default_factory=list)
    resident: list[Resident] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)
    """That each part of the examination took."""

    @property
    def passed(self) -> bool:
        """Whether every check said yes."""
        return all(check.passed for check in self.checks)


def examine(device_name: str, number: int | None, folder: Path, full: bool, say: Say) -> Report:
    """Look at the machine, check answers on the device that will be used, and, if `full`, all there is to be tried.

    `say` is told what is done at the moment.  What is measured is kept for predictions.  Raises InputError if the
    device or the folder cannot be had.
    """
    gpus = find_gpus()
    device, note = choose_device(device_name, number, gpus)
    if not folder.is_dir():
        raise InputError(f"--data-dir {folder}: there is no such folder")
    started = time.perf_counter()
    say("looking around")
    machine = look_around(folder, DISK_BYTES[full])
    date = datetime.now().astimezone().isoformat(timespec="seconds")
    report = Report(date, machine, gpus, device.name, machine.warnings)
    report.notes += [note] if note else []
    report.seconds["machine"] = time.perf_counter() - started
    keep_rates("cpu", product=machine.product / machine.cores)
    cpus = cpu_devices()
    on_gpu = device.kind != "cpu"
    emulated = HOST_BUILD in device.name
    if emulated:
        report.notes.append("this is CuPy's host build: kernels run on the processor, rates say nothing about a GPU")
    devices = (cpus if full or not on_gpu else {}) | ({"GPU": device} if on_gpu else {})
    size = ON_HOST_BUILD if emulated else FULL if full else QUICK
    if devices.keys() & cpus.keys():
        with _part("kernels", report, say):
            _compile(report, say)
    with _part("answers", report, say):
        report.checks += check_answers(devices, selftest.ALL if full else selftest.QUICK, size)
    if full and on_gpu:
        _examine_gpu(device, report, say)
    elif full:
        why = "--device cpu" if device_name == "cpu" else "there is none to use"
        report.notes.append(f"no GPU was examined: {why}")
    if full and len(cpus) == 1:
        report.notes.append(
            f"no int8 filter was checked: 8-bit products need ONNX Runtime; install it with: {pip_install('int8')}"
        )
    return report


def cpu_devices() -> dict[str, Device]:
    """The processor with each filter that it can have, by what to call it."""
    filters = ["float32", "int8"] if int8_product() else ["float32"]
    return {f"CPU {name}": CpuDevice(usable_cores(), name) for name in filters}


def _examine_gpu(device: Device, report: Report, say: Say) -> None:
    """What only a GPU can get wrong, and its rates."""
    from gpuknn.bench import gpu as rates
    from gpuknn.doctor import gpu
    from gpuknn.engine.cuda.device import CudaDevice

    assert isinstance(device, CudaDevice)
    probed = 0.0
    with _part("product", report, say):
        probed = rates.product_probe(device)
    if not probed:
        return
    with _part("GPU and CPU", report, say):
        report.checks.append(gpu.check_against_cpu(device, CpuDevice(usable_cores()), probed))
    with _part("float16 sums", report, say):
        check, report.sums = gpu.check_sums(device, probed)
        report.checks.append(check)
    for name, look in {"races": gpu.check_races, "memory": gpu.check_memory}.items():
        with _part(name, report, say):
            report.checks.append(look(device, probed))
    with _part("rates", report, say):
        report.rates = rates.measure_rates(device, probed)
    if report.rates:
        with _part("resident rows", report, say):
            report.resident, rows, found = rates.measure_resident(device, report.rates[0].value)
            report.checks.append(gpu.check_resident(rows, found))


def _compile(report: Report, say: Say) -> None:
    """Compile the kernels first, so that what is timed below is the checks alone."""

    def told(event: Event) -> None:
        if event["event"] == "step":
            say(event["title"])
        elif event["event"] == "said":
            report.notes.append(event["line"])

    compile_kernels(for_everything(), told)


@contextmanager
def _part(name: str, report: Report, say: Say) -> Iterator[None]:
    """One part of the examination: timed; what it raises is a check that failed, and the next part follows."""
    say(name)
    started = time.perf_counter()
    try:
        yield
    except Exception as error:  # a machine that cannot go through with it is not well
        report.checks.append(Check(name, False, f"{type(error).__name__}: {error}"))
    report.seconds[name] = time.perf_counter() - started
