"""`gpuknn.project_fit` and `gpuknn.project_apply`: models of rows, and rows through a model, as the commands do it."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gpuknn.errors import InputError
from gpuknn.interrupts import interrupts_told
from gpuknn.jobs.command import command_line
from gpuknn.jobs.project.apply import plan_apply
from gpuknn.jobs.project.fit import Fitted, plan_fit, run_fit
from gpuknn.jobs.project.job import ApplyJob, FitJob
from gpuknn.jobs.rewrite.run import run_rewrite
from gpuknn.laion.subsets import model_path
from gpuknn.progress import Listener, listening
from gpuknn.vectors.in_memory import type_of
from gpuknn.vectors.names import one_name
from gpuknn.vectors.opening import are_paths
from gpuknn.vectors.written import Missing
from gpuknn.workers.crew import hire
from gpuknn.workers.workers import LOCAL

if TYPE_CHECKING:
    from distributed import Client

Source = str | Path | Sequence[str | Path]


@dataclass(frozen=True)
class Projection:
    """What `project_apply` has written."""

    output: str
    """A path or URL."""
    differing_bits: int | None
    """Of sketches made as published: how many differ from those that float64 gives."""
    seconds: float


def project_fit(
    database: Source,
    model: str | Path,
    *,
    pca: int | None = None,
    hamming: int | None = None,
    seed: int | None = None,
    missing: Missing = "refuse",
    device: str = "auto",
    workers: int | None = None,
    threads: int | None = None,
    memory: str | None = None,
    cluster: str | Path = LOCAL,
    client: "Client | None" = None,
    force: bool = False,
    fresh: bool = False,
    progress: bool | Listener = False,
) -> Fitted:
    """Make a model of a database's rows: `gpuknn project fit` as a function, with the same bytes and crash safety.

    Rows are divided by their lengths first.  The model's bytes depend on the rows and on their file's name, and not on
    workers, threads, devices or how often the call was killed.

    Parameters
    ----------
    database
        A path, `FILE:KEY`, or a list of paths, as `open_vectors` takes them.
    model
        The HDF5 file to write.
    pca, hamming
        One of the two: how many principal components, or how many bits, a multiple of 64.  Bits compare a row with
        references, as many rows of the database, which are drawn.
    seed
        Of that draw; by default 2023.
    missing
        As in `exact_knn`.
    device, workers, threads, memory, cluster, client
        As in `exact`.
    force, fresh
        Replace a model that exists; discard what an earlier, unfinished call has left.
    progress
        True for a bar in a terminal or a notebook, or a function that is told what happens.

    Returns
    -------
    Fitted
        `output`, a path; `model`, with `components`, `mean`, `explained_variance` and `shares` of PCA, or
        `references`; `seconds`.

    Raises
    ------
    InputError
        The rows make no such model; nothing was written.
    RunError, OSError
        The same call goes on later.
    Interrupted
        A KeyboardInterrupt that says what is kept.

    Examples
    --------
    >>> import gpuknn
    >>> database, queries = gpuknn.subset_files("sample")
    >>> fitted = gpuknn.project_fit(database, "pca32.h5", pca=32)
    >>> fitted.model.components.shape, round(float(fitted.model.shares.sum()), 2)
    ((32, 384), 0.44)
    """
    job = FitJob(_named("database", database), pca, hamming, seed, missing)
    crew: dict[str, Any] = {"device": device, "workers": workers, "threads": threads, "cluster": cluster}
    command = _command("fit", [job.database], asdict(job), crew, {"memory": memory, "output": model, "force": force})
    with interrupts_told(), listening(progress) as told:
        hired = hire(**crew, client=client)
        return run_fit(plan_fit(job, Path(model), hired, memory, fresh, force, command), told)


def project_apply(
    model: str | Path,
    source: Source,
    output: str | Path,
    *,
    as_published: bool = False,
    missing: Missing = "refuse",
    ignore_ids: bool = False,
    device: str = "auto",
    workers: int | None = None,
    threads: int | None = None,
    memory: str | None = None,
    cluster: str | Path = LOCAL,
    client: "Client | None" = None,
    force: bool = False,
    fresh: bool = False,
    progress: bool | Listener = False,
) -> Projection:
    """Write rows through a model: `gpuknn project apply` as a function, with the same bytes and crash safety.

    Parameters
    ----------
    model
        The file of a model that `project_fit` wrote; or "binwalk", the published one of the SISAP challenges' sketches,
        which `gpuknn.download("binwalk")` fetches.
    source
        A path, `FILE:KEY`, or a list of paths, as `open_vectors` takes them.
    output
        The file or store to write; its name tells the format (.h5, .npy, .zarr, .parquet; coordinates also .fbin).
    as_published
        Sketches of rows that are divided by their lengths in their own type, by distances in float32, as those that
        the challenges published; `differing_bits` says how many bits that changes.
    missing, ignore_ids
        As in `exact_knn`.
    device, workers, threads, memory, cluster, client
        As in `exact`.
    force, fresh
        Replace an output that exists; discard what an earlier, unfinished call has left.
    progress
        True for a bar in a terminal or a notebook, or a function that is told what happens.

    Returns
    -------
    Projection
        `output`; `differing_bits`; `seconds`.

    Raises
    ------
    InputError
        The model does not take these rows; nothing was written.
    RunError, OSError
        The same call goes on later.
    Interrupted
        A KeyboardInterrupt that says what is kept.

    Examples
    --------
    >>> import gpuknn
    >>> database, queries = gpuknn.subset_files("sample")
    >>> model = gpuknn.project_fit(database, "bits.h5", hamming=256).output
    >>> sketches = gpuknn.project_apply(model, queries, "query-sketches.h5").output
    >>> gpuknn.open_vectors(sketches).shape, gpuknn.open_vectors(sketches).dtype
    ((200, 4), dtype('uint64'))
    """
    if not isinstance(model, str | PathLike):
        raise InputError(f"model: is {type_of(model)}, not a path; pass the `output` of what project_fit returned")
    job = ApplyJob(str(model_path(str(model), None)), _named("source", source), as_published, missing, ignore_ids)
    crew: dict[str, Any] = {"device": device, "workers": workers, "threads": threads, "cluster": cluster}
    files, others = [job.model, job.source], {"memory": memory, "output": output, "force": force}
    command = _command("apply", files, asdict(job), crew, others)
    with interrupts_told(), listening(progress) as told:
        hired = hire(**crew, client=client)
        done = run_rewrite(plan_apply(job, str(output), hired, memory, fresh, force, command), told)
    return Projection(str(output), int(done.counted) if as_published else None, done.seconds)


def _named(what: str, source: Source) -> str:
    """The name of the files; raises InputError if it is no name."""
    if are_paths(source):
        return one_name(source)
    if not isinstance(source, str | PathLike):
        raise InputError(f"{what}: is {type_of(source)}, not a path; save an array with np.save first")
    return str(source)


def _command(part: str, files: list[str], job: dict[str, Any], *options: dict[str, Any]) -> list[str]:
    """The words of the command that does the same; what is as it is by default is left out."""
    default = {"missing": "refuse", "device": "auto", "cluster": LOCAL}
    words = {name: value for some in (job, *options) for name, value in some.items() if value not in files}
    chosen = {name: value for name, value in words.items() if str(value) != default.get(name)}
    return command_line("project", [part, *files], chosen)
