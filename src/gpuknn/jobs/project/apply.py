"""A database through a model: planned here, and written by `jobs/rewrite`."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from gpuknn.errors import InputError
from gpuknn.jobs.project.job import ApplyJob
from gpuknn.jobs.project.memory import crew_within
from gpuknn.jobs.rewrite.formats import Format, choose_format
from gpuknn.jobs.rewrite.plan import Plan, record_at, refuse_too_large
from gpuknn.jobs.rewrite.targets import Layout, ids_to_write, target_of
from gpuknn.projections.model import PcaModel, read_model
from gpuknn.projections.projected import Projected
from gpuknn.vectors import open_vectors
from gpuknn.vectors.formats import ONE_TYPE, SUFFIXES
from gpuknn.workers.crew import Crew
from gpuknn.workers.here import device_here
from gpuknn.workers.memory import memory_budget


def plan_apply(
    job: ApplyJob,
    destination: str,
    crew: Crew,
    memory: str | None = None,
    fresh: bool = False,
    force: bool = False,
    command: Sequence[str] = (),
) -> Plan:
    """Read the model, and look at the source's header.

    Raises InputError if the model does not take the source's rows, the format does not hold what becomes of them, or
    nothing can be written to the destination.
    """
    model = read_model(job.model)
    source = open_vectors(job.source, missing=job.missing)
    refuse_too_large(source)

    rows = Projected.of(source, job.model, model, job.as_published, crew.workers.device, device_here)
    crew = crew_within(crew, memory, lambda device: replace(rows, device=device).held_bytes(1))
    rows = replace(rows, device=crew.workers.device)
    kind = _format(destination, rows.dtype.name)
    record = record_at(destination, [*source.sources, job.model], force, fresh)
    key = f"pca{rows.shape[1]}" if isinstance(model, PcaModel) else "hamming"
    keyed = Layout(key if kind.name in ("h5", "parquet") else None)
    target = target_of(kind, destination, rows, ids_to_write(kind, rows, job.ignore_ids), keyed)
    target = replace(target, made_of=source.nbytes // len(source))
    how = crew, record, fresh, force, command, memory_budget(memory)
    return Plan("project apply", job, destination, kind, rows, target, (job.model,), *how)


def _format(destination: str, dtype: str) -> Format:
    """The format that the destination's name tells; raises InputError if it holds no rows of that type."""
    fitting = {suffix: name for suffix, name in SUFFIXES.items() if ONE_TYPE.get(name, dtype) == dtype}
    suffix = Path(destination.rstrip("/")).suffix.lower()
    if suffix not in fitting:
        what = "coordinates (float32)" if dtype == "float32" else "sketches (uint64)"
        raise InputError(f"{destination}: name a file that holds {what}: {', '.join(fitting)}")
    return choose_format(destination, fitting[suffix])
