"""`--cluster`: what may stand there, and the YAML files that describe a cluster."""

from dataclasses import MISSING, Field, dataclass, field, fields
from pathlib import Path
from typing import Any

import yaml
from dask.utils import parse_bytes

from gpuknn.engine.choose import usable_cores
from gpuknn.engine.cpu.device import CpuDevice
from gpuknn.engine.device import Device
from gpuknn.errors import InputError, no_cupy, option
from gpuknn.workers.workers import Workers

ASSUMED_GPU_BYTES = 16 * 2**30
"""Free memory of a GPU that nobody has seen yet, for `--dry-run`: more can only mean fewer passes."""


def read_cluster(where: str) -> "Running | Ssh | Slurm":
    """The cluster that `--cluster` names: a scheduler's address, its file (.json), or a file of ours (.yaml).

    Raises InputError where it is none of these, or where the file's settings are not those of its kind.
    """
    if where.endswith((".yaml", ".yml")):
        return _read(Path(where))
    if "://" in where or where.endswith(".json"):
        return Running(where, where)
    raise InputError(
        f"{option('cluster', where)}: is none of local, a scheduler's address (tcp://HOST:PORT), "
        f"its file (.json) or a cluster file (.yaml); {option('device', 'cuda')} takes this machine's GPUs"
    )


@dataclass(frozen=True)
class Running:
    """A scheduler that is there already, and goes on when the run is over."""

    name: str
    """As the person at the terminal calls it."""
    where: str
    """Its address, or its scheduler file."""
    workers: int = 1
    """How many to wait for before the work is cut; others may join later."""
    wait: float = 30
    """Seconds to wait for them; the run begins with those that are there by then, and needs one."""
    given_as: str = "cluster"
    """The option that names it."""
    hint: str = ""
    """What to do if there is none; by default, to start some."""


@dataclass(frozen=True)
class Address:
    """`kind: address`; one of the two is given."""

    address: str = ""
    scheduler_file: str = ""
    workers: int = 1
    wait: float = 30

    def running(self, name: str) -> Running:
        """The scheduler meant."""
        if bool(self.address) == bool(self.scheduler_file):
            raise InputError(f"{name}: address, scheduler-file: give one of the two")
        return Running(name, self.address or self.scheduler_file, self.workers, self.wait)


@dataclass(frozen=True)
class Kubernetes:
    """`kind: kubernetes`: the Service of a scheduler, as seen by a pod of the same cluster.

    Nothing is started through Kubernetes' API: `cluster/kubernetes/` has manifests of scheduler, workers and job, so
    that no credentials come near gpuknn, and `kubectl` shows and ends what there is.
    """

    service: str
    namespace: str = ""
    """By default that of the pod."""
    port: int = 8786
    workers: int = 1
    wait: float = 30

    def running(self, name: str) -> Running:
        """The scheduler meant."""
        host = f"{self.service}.{self.namespace}" if self.namespace else self.service
        return Running(name, f"tcp://{host}:{self.port}", self.workers, self.wait)


@dataclass(frozen=True)
class Ssh:
    """`kind: ssh`: scheduler and workers started over SSH for the run, and ended with it."""

    name: str = field(metadata={"given": False})
    hosts: tuple[str, ...] = field(metadata={"least": 2})
    """The first runs the scheduler, each other one workers; a host may be named again."""
    gpus: int = 0
    """Of each host, one worker for each; with 0, one worker on the processor."""
    cores: int = 0
    """Of a worker without a GPU; 0: all that its host has."""
    python: str = ""
    """The interpreter over there; by default at the same path as here."""
    interface: str = ""
    """The network to listen on, as eth0; by default all."""
    connect: dict[str, Any] = field(default_factory=dict)
    """Options of asyncssh.connect (username, port, client_keys, known_hosts), beside those of ~/.ssh/config."""
    wait: float = 30

    given_as = "cluster"
    hint = ""
    planned_memory = None

    @property
    def workers(self) -> int:
        """How many there will be."""
        return (len(self.hosts) - 1) * max(1, self.gpus)

    def planned(self, device: str) -> Workers:
        """The workers that a plan counts on before any is started, on cpu, cuda or auto."""
        cores = usable_cores()
        gpus = self.gpus and device != "cpu"
        return Workers(self.workers, cores, _assumed_gpu() if gpus else CpuDevice(self.cores or cores))


@dataclass(frozen=True)
class Slurm:
    """`kind: slurm`: workers in jobs queued for the run and cancelled with it; the scheduler is this process."""

    name: str = field(metadata={"given": False})
    jobs: int = field(metadata={"least": 1})
    cores: int = field(metadata={"least": 1})
    """Of each job."""
    memory: str
    """Of each job, as 16GiB."""
    gpus: int = 0
    """Of each job, one worker for each; with 0, one worker on the processor."""
    gres: str = ""
    """How this SLURM calls the GPUs of a job; by default gpu:N."""
    queue: str = ""
    account: str = ""
    walltime: str = "01:00:00"
    """Of each job; those that end before the run does are not queued again."""
    directives: tuple[str, ...] = ()
    """Other options of sbatch, as --exclusive."""
    prologue: tuple[str, ...] = ()
    """Lines of shell before the worker, as module load cuda."""
    python: str = ""
    """The interpreter over there; by default at the same path as here."""
    interface: str = ""
    """The network to listen on, as ib0; by default all."""
    logs: str = ""
    """The folder for the jobs' output; by default SLURM's choice, the working folder."""
    wait: float = 300
    """Seconds to wait for all of them; the run begins with those that are there by then, and needs one."""

    given_as = "cluster"
    hint = "squeue tells what jobs wait for, their output why they ended"

    @property
    def workers(self) -> int:
        """How many there will be."""
        return self.jobs * max(1, self.gpus)

    @property
    def planned_memory(self) -> int:
        """Bytes of a worker's share of its job's memory."""
        return int(parse_bytes(self.memory)) // max(1, self.gpus)

    def planned(self, device: str) -> Workers:
        """The workers that a plan counts on before any is started, on cpu, cuda or auto."""
        found = _assumed_gpu() if self.gpus and device != "cpu" else CpuDevice(self.cores)
        return Workers(self.workers, usable_cores(), found, self.planned_memory)


def _assumed_gpu() -> Device:
    try:
        from gpuknn.engine.cuda.device import CudaDevice
    except ImportError as error:
        raise no_cupy() from error
    return CudaDevice(0, f"assumed, {ASSUMED_GPU_BYTES >> 30} GiB free", ASSUMED_GPU_BYTES)


KINDS: dict[str, Any] = {"address": Address, "ssh": Ssh, "slurm": Slurm, "kubernetes": Kubernetes}


def _read(path: Path) -> Running | Ssh | Slurm:
    try:
        settings = yaml.safe_load(path.read_text())
    except FileNotFoundError as error:
        raise InputError(f"{option('cluster', path)}: there is no such file") from error
    except Exception as error:  # YAML's constructors raise what they like
        raise InputError(f"{path}: cannot be read as YAML ({error})") from error
    kind = KINDS.get(str(settings.pop("kind", ""))) if isinstance(settings, dict) else None
    if kind is None:
        raise InputError(f"{path}: kind: must be one of {', '.join(KINDS)}")
    known = {f.name.replace("_", "-"): f for f in fields(kind) if f.metadata.get("given", True)}
    for name in settings:
        if name not in known:
            raise InputError(f"{path}: {name}: is no setting of this kind; it has {', '.join(known)}")
    for name, about in known.items():
        if name not in settings and about.default is MISSING and about.default_factory is MISSING:
            raise InputError(f"{path}: {name}: is missing")
    values = {known[name].name: _value(path, name, known[name], value) for name, value in settings.items()}
    if "memory" in values:
        _check_size(path, values["memory"])
    if kind is Ssh:
        return Ssh(name=str(path), **values)
    if kind is Slurm:
        return Slurm(name=str(path), **values)
    running: Running = kind(**values).running(str(path))
    return running


def _value(path: Path, name: str, about: "Field[Any]", value: Any) -> Any:
    """The setting's value, of the type that it must have."""
    least = about.metadata.get("least", 0)
    if about.type is str and isinstance(value, str) and value:
        return value
    if about.type is int and type(value) is int and value >= least:
        return value
    if about.type is float and type(value) in (int, float) and value >= 0:
        return value
    texts = isinstance(value, list) and all(isinstance(entry, str) for entry in value)
    if about.type == tuple[str, ...] and texts and len(value) >= least:
        return tuple(value)
    if about.type == dict[str, Any] and isinstance(value, dict):
        return value
    expected: dict[Any, str] = {
        str: "text, in quotes where it looks like a number or a time",
        int: f"a whole number, at least {least}",
        float: "a number of seconds",
        tuple[str, ...]: f"a list of texts, at least {least}" if least else "a list of texts",
        dict[str, Any]: "lines of `name: value`",
    }
    raise InputError(f"{path}: {name}: {value!r} is not {expected[about.type]}")


def _check_size(path: Path, size: str) -> None:
    try:
        parse_bytes(size)
    except ValueError as error:
        raise InputError(f"{path}: memory: {size} is not a size, as in 16GiB") from error
