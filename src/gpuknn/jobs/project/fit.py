"""A model of a database's rows: exact sums of shards by workers, receipts to the record, the model to its name."""

import time
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from numbers import Integral
from pathlib import Path
from typing import Any

import numpy as np

from gpuknn.engine.cpu.block import CpuBlock
from gpuknn.engine.cpu.needed import compile_kernels, for_axes
from gpuknn.engine.device import BlockOf, Device
from gpuknn.engine.projecting import Block
from gpuknn.errors import InputError, RunError, option, same_again, whole_number
from gpuknn.interrupts import interrupts_told
from gpuknn.jobs.pieces import read_receipts, remove_receipt, work_through, write_receipt
from gpuknn.jobs.project.job import SEED, FitJob
from gpuknn.jobs.project.memory import crew_within
from gpuknn.jobs.standing import JOB, Standing
from gpuknn.progress import Listener, step
from gpuknn.projections.blocks import (
    check_rows_are_numbers,
    checking,
    memory_of,
    over_blocks,
    threads_of,
)
from gpuknn.projections.model import Model, read_model, write_model
from gpuknn.projections.moments import ExactSums, partial_bytes
from gpuknn.projections.pca import SHIFT_ROWS, fit_memory, model_of, rows_at_once, shift_of
from gpuknn.projections.references import check_bits, draw_references
from gpuknn.storage.destination import check_destination
from gpuknn.storage.durable import appearing, digest
from gpuknn.storage.record import TARGET, Claim, Identity, Record
from gpuknn.vectors import Sampled, Vectors, file_state, open_vectors, sampled
from gpuknn.workers.crew import Crew
from gpuknn.workers.here import AT_WORK, device_here
from gpuknn.workers.stop import is_to_stop

VERSION = 1
"""Raised when the same job comes to write other bytes."""
PARTIAL_SHARE = 20
"""A shard has this many times the bytes of its sums, at least."""
MANY = 1_000
"""Components of which the axes take more than some seconds."""
MOST_SHARDS = 128
"""Their sums lie on disk together."""


@dataclass(frozen=True)
class FitPlan:
    """How a model will be made."""

    job: FitJob
    model: Path
    """The file to write."""
    vectors: Vectors
    crew: Crew
    fresh: bool
    """Whether what an earlier call has left is thrown away."""
    force: bool
    """Whether a file that is there may go."""
    command: Sequence[str]
    """Words of a command line that go on with it."""
    shard_rows: int

    @property
    def record(self) -> Record:
        """Where finished sums are kept."""
        return Record.beside(self.model)

    @property
    def shards(self) -> list[range]:
        """Rows that are added up together; none for references, of which a few rows are drawn."""
        n = len(self.vectors) if self.job.pca else 0
        return [range(a, min(a + self.shard_rows, n)) for a in range(0, n, self.shard_rows)]

    @property
    def title(self) -> str:
        """What is going to be done, in a line."""
        (n, d), what = self.vectors.shape, f"PCA of {self.job.pca} components"
        if self.job.hamming:
            what = f"{self.job.hamming} references of binary sketches"
        return f"gpuknn project fit: {what} from {n:,} rows x {d} {self.vectors.dtype} of {self.vectors.where}"

    @property
    def work(self) -> str:
        """How it is going to be done, in a line."""
        if not self.shards:
            return f"{self.job.hamming} rows are drawn; {self.model} gets their components as float32"
        size, count, workers = self.vectors.nbytes / 2**20, len(self.shards), self.crew.workers
        shards = "one shard" if count == 1 else f"{count} shards"
        return (
            f"{size:,.0f} MiB are read in {shards} by {workers.count} x {workers.device.name}, each in at most "
            f"{self.memory / 2**20:,.0f} MiB of memory beside Python's own"
        )

    @property
    def memory(self) -> int:
        """Bytes that each worker takes at most."""
        return _memory(self.vectors, self.crew.workers.device)

    @property
    def facts(self) -> dict[str, Any]:
        """The plan for a program."""
        n, d = self.vectors.shape
        facts = {"rows": n, "components": d, "pca": self.job.pca, "hamming": self.job.hamming}
        return facts | {"shards": len(self.shards), "memory": self.memory, "workers": self.crew.workers.count}


@dataclass(frozen=True)
class Fitted:
    """What was made."""

    output: Path
    """The model's file."""
    model: Model
    seconds: float


def plan_fit(
    job: FitJob,
    model: Path,
    crew: Crew,
    memory: str | None = None,
    fresh: bool = False,
    force: bool = False,
    command: Sequence[str] = (),
) -> FitPlan:
    """Look at the database's header.

    Raises InputError if its rows make no such model, or nothing can be written to the model's file.
    """
    if (job.pca is None) == (job.hamming is None):
        which = "one of the two, not both" if job.pca is not None else "what to fit"
        raise InputError(f"say {which}: {option('pca', 32)}, or {option('hamming', 1024)}")
    if job.pca is not None and job.seed is not None:
        raise InputError(f"{option('seed', job.seed)}: PCA draws nothing; leave it out")
    if job.seed is not None and not (isinstance(job.seed, Integral) and 0 <= job.seed < 2**32):
        raise InputError(f"{option('seed', job.seed)}: must be a whole number from 0 to 2^32 - 1")
    vectors = open_vectors(job.database, missing=job.missing)
    check_rows_are_numbers(vectors)
    n, d = vectors.shape
    if job.pca is not None and not whole_number("pca", job.pca) <= min(d, n - 1):
        raise InputError(
            f"{option('pca', job.pca)}: {vectors.where} has {d} components and {n:,} rows, so at most {min(d, n - 1)}"
        )
    if job.hamming is not None and check_bits(job.hamming) > n:
        raise InputError(f"{option('hamming', job.hamming)}: {vectors.where} has {n:,} rows, too few to draw from")
    if model.suffix.lower() not in (".h5", ".hdf5"):
        raise InputError(f"{model}: a model is an HDF5 file; call it {model.stem}.h5")
    job = replace(job, seed=SEED if job.seed is None and job.hamming is not None else job.seed)
    crew = crew_within(crew, memory, lambda device: _memory(vectors, device))
    least = PARTIAL_SHARE * partial_bytes(d) // (vectors.nbytes // n)
    plan = FitPlan(job, model, vectors, crew, fresh, force, command, max(1, least, -(-n // MOST_SHARDS)))
    going_on = plan.record.exists and not fresh
    check_destination(str(model), vectors.sources, force or going_on, stores=False)
    return plan


def _memory(vectors: Vectors, device: Device) -> int:
    threads = threads_of(device)
    blocks = memory_of(vectors, device, rows_at_once(vectors.shape[1]), 0)
    return blocks + fit_memory(vectors.shape[1], threads) + vectors.held_bytes(threads)


def run_fit(plan: FitPlan, on_event: Listener = lambda _: None) -> Fitted:
    """Make the model; goes on from what an earlier call has finished.

    `on_event` is told what happens:

        plan        title: in a line, and the plan's facts;  step: of what follows (`gpuknn.progress`)
        said        line: for a person
        progress    done: rows that are added up
        written     output, seconds

    Raises InputError if the rows make no model; RunError or OSError if the same plan goes on later; Interrupted, which
    says what is kept.
    """

    def kept(rows: int) -> str:
        return f"{rows:,} of {len(plan.vectors):,} rows are added up and kept"

    standing = Standing(plan.record, str(plan.model), plan.model, plan.fresh, kept)
    with interrupts_told(standing.__str__):
        return _run(plan, standing, on_event)


def _run(plan: FitPlan, standing: Standing, on_event: Listener) -> Fitted:
    started = time.monotonic()
    record, vectors = plan.record, plan.vectors

    def say(line: str) -> None:
        on_event({"event": "said", "line": line})

    on_event({"event": "plan", "title": plan.title, **plan.facts})
    if vectors.files_told:
        say(f"{vectors.where}: {vectors.files_told}")
    sample = sampled(vectors)
    fingerprint = digest(repr((VERSION, replace(plan.job, database=""), sample.identity)).encode())
    title = f"{vectors.where} to {plan.model}"
    settings = {"shard_rows": plan.shard_rows}
    identity = Identity(fingerprint, asdict(plan.job), title, len(vectors), settings, plan.command)
    with record.held(identity, plan.fresh, say) as claim:
        standing.fingerprint, standing.claim = fingerprint, claim
        plan = replace(plan, shard_rows=claim.settings.get("shard_rows", plan.shard_rows))
        if record.noted(plan.model).get(JOB) != fingerprint:
            if plan.model.exists() and not plan.force:
                if not record.has_results():
                    record.give_up(claim)
                raise InputError(f"{plan.model}: exists already; {option('force', True)} replaces it")
            try:
                model = _fit(plan, claim, sample, on_event, say)
                write_model(claim.folder / TARGET, model, _notes(plan, sample))
            except BaseException as error:
                if isinstance(error, InputError) or not record.has_results():
                    record.give_up(claim)
                raise
            record.publish(claim, {JOB: fingerprint}, plan.force)
        standing.finished = True
        record.remove()  # also if an earlier call was killed when only that was left to do
    done = Fitted(plan.model, read_model(plan.model), time.monotonic() - started)
    on_event({"event": "written", "output": str(plan.model), "seconds": done.seconds})
    return done


def _fit(plan: FitPlan, claim: Claim, sample: Sampled, on_event: Listener, say: Callable[[str], None]) -> Model:
    """The model of all rows."""
    vectors, job = plan.vectors, plan.job
    if job.hamming is not None:
        assert job.seed is not None  # the plan has given it one
        drawn = draw_references(vectors, job.hamming, job.seed)
        _check_unchanged(vectors, sample.state)
        return drawn
    compile_kernels(for_axes(vectors.dtype), on_event)
    shift = _shift(vectors)
    shards, done = plan.shards, _sound(claim.folder, shift)
    on_event(step("adding up", len(vectors), "progress", "done", vectors.nbytes // len(vectors)))
    rows = sum(map(len, done))
    on_event({"event": "progress", "done": rows})
    todo = [shard for shard in shards if shard not in done]
    if todo:
        with plan.crew.started(say) as crew, crew.feeder(len(todo), claim.held.check) as feeder:
            what = vectors.absolute(), sample.state, shift, crew.workers.device, claim.folder.absolute()
            with closing(work_through(feeder, todo, add_up, *what)) as added:
                for shard, _ in added:
                    rows += len(shard)
                    on_event({"event": "progress", "done": rows})
    _check_unchanged(vectors, sample.state)
    sums = ExactSums.none(shift)
    for shard in shards:
        sums.merge(ExactSums.read(_partial(claim.folder, shard), shift))
    if sums.count != len(vectors):
        raise RunError(
            f"{claim.folder}: a part of the sums was removed meanwhile; {same_again()} adds up what is missing"
        )
    assert job.pca is not None  # or references were drawn
    if len(shift) > MANY:
        say(f"all rows are added up; the axes of {len(shift):,} components take a while")
    return model_of(sums, job.pca, vectors.where)


def add_up(vectors: Vectors, state: str, shift: np.ndarray, device: Device, folder: Path, rows: range) -> None:
    """Leave the sums of some rows, and a receipt, in the record's `folder`.

    `state` of the database's files as they were looked at first; raises RunError if they have changed.
    """
    with AT_WORK:
        if is_to_stop():
            return
        sums = ExactSums.none(shift)

        def add(block: Block, stored: np.ndarray, _: int, __: BlockOf) -> None:
            sums.add(len(stored), block.moments(shift))

        over_blocks(vectors, rows, device_here(device), rows_at_once(vectors.shape[1]), add)
        _check_unchanged(vectors, state)
        path = _partial(folder, rows)
        with appearing(path) as part:
            sums.write(part)
        write_receipt(folder, rows, _receipt(path, shift))


def _shift(vectors: Vectors) -> np.ndarray:
    """(d,) float64: about the mean of the rows, to be taken from all of them."""
    some = vectors[: min(SHIFT_ROWS, rows_at_once(vectors.shape[1]))]
    return shift_of(CpuBlock(some, checking(vectors, 0)).unit())


def _sound(folder: Path, shift: np.ndarray) -> set[range]:
    """The shards whose sums are on disk and whole; what is left of others is removed."""
    found = set()
    for shard, said in read_receipts(folder).items():
        with suppress(OSError):
            if said == _receipt(_partial(folder, shard), shift):
                found.add(shard)
                continue
        remove_receipt(folder, shard)
    return found


def _receipt(path: Path, shift: np.ndarray) -> dict[str, Any]:
    """What is kept of sums that are on disk."""
    return {"digest": digest(path.read_bytes()), "shift": digest(shift.tobytes())}


def _partial(folder: Path, rows: range) -> Path:
    return folder / f"{rows.start:012d}-{rows.stop:012d}.bin"


def _check_unchanged(vectors: Vectors, state: str) -> None:
    """Raise RunError if the database is not as it was when it was looked at first."""
    if file_state(vectors) != state:
        raise RunError(
            f"{vectors.where}: was changed while it was read; run {same_again()} with {option('fresh', True)}"
        )


def _notes(plan: FitPlan, sample: Sampled) -> dict[str, Any]:
    """What the model says of itself."""
    job, vectors = plan.job, plan.vectors
    return {
        "version": version("gpuknn"),
        "kind": "pca" if job.pca is not None else "references",
        "source": vectors.name,
        **({"source_files": vectors.files_told} if vectors.files_told else {}),
        "source_key": vectors.key or "",
        "source_shape": list(vectors.shape),
        "source_dtype": vectors.dtype.name,
        "source_fingerprint": sample.content,
        **({"seed": job.seed} if job.hamming is not None else {}),
    }
