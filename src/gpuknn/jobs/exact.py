"""The main job: shards to workers, partial results to the run directory, the answer to a gold-standard file."""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import reduce
from itertools import islice
from operator import add
from pathlib import Path

import numpy as np
from distributed import Client, as_completed

import gpuknn
from gpuknn.errors import InputError, RunError
from gpuknn.exact.device import Certificate
from gpuknn.exact.metric import Metric
from gpuknn.exact.neighbors import merge
from gpuknn.gold import GoldWriter
from gpuknn.jobs.cluster import local_cluster
from gpuknn.jobs.plan import Job, cut, shard_rows
from gpuknn.jobs.run_directory import Partial, RunDirectory
from gpuknn.jobs.shard import PROGRESS_TOPIC, ShardDone, scan_shard
from gpuknn.vectors import content_fingerprint

WINDOW = 2
"""Shards assigned to a worker: one at work, one waiting, so that a worker's death blames no others."""
MERGE_BYTES = 2**26
"""Neighbours merged at once."""


@dataclass(frozen=True)
class Workers:
    """Who does the work."""

    count: int
    threads: int
    """Cores of each."""
    device: str


@dataclass(frozen=True)
class Progress:
    """Where a run tells how far it is; rows are those of the database."""

    resumed: Callable[[int], None]
    """Rows that were found done."""
    advanced: Callable[[int], None]
    """Rows done in all."""
    said: Callable[[str], None]
    """A line for the person at the terminal."""


@dataclass(frozen=True)
class Outcome:
    """What a run did."""

    certificate: Certificate
    device: str
    shards: int
    resumed_rows: int
    seconds: float


def run_exact(
    job: Job,
    output: Path,
    run_dir: Path,
    workers: Workers,
    rows_per_shard: int | None = None,
    fresh: bool = False,
    progress: Progress | None = None,
) -> Outcome:
    """Compute the job's gold standard and write it to `output`; goes on from what `run_dir` holds.

    The job has been checked (`exact.check`).  Raises InputError where `run_dir` belongs to another job, RunError where
    the run failed; the same call goes on from there.
    """
    progress = progress or Progress(*(3 * [lambda _: None]))
    started = time.monotonic()
    directory = RunDirectory(run_dir)
    nq, n = len(job.queries), len(job.database)
    with directory.held(job.fingerprint(), _description(job), fresh):
        done, damaged = directory.partials(nq, job.k)
        for name in damaged:
            progress.said(f"partial result {name} is damaged and is computed again")
        resumed = sum(len(p.rows) for p in done)
        progress.resumed(resumed)
        shards = cut(n, [p.rows for p in done], rows_per_shard or shard_rows(job, workers.count))
        if shards:
            with local_cluster(min(workers.count, len(shards))) as client:
                _compute(client, job, shards, done, directory.path, workers, progress)
        partials, damaged = directory.partials(nq, job.k)
        if damaged or cut(n, [p.rows for p in partials], n):
            raise RunError(f"{run_dir}: partial results were damaged while the run went on; run the same command again")
        certificate = reduce(add, (p.certificate for p in partials))
        devices = sorted({p.device for p in partials})
        with GoldWriter(output, nq, job.k, n, np.dtype(job.dists)) as gold:
            _merge(job, partials, gold)
            seconds = time.monotonic() - started
            gold.describe(_attributes(job, certificate, devices, seconds))
        directory.remove()
    return Outcome(certificate, ", ".join(devices), len(shards), resumed, seconds)


def _compute(
    client: Client,
    job: Job,
    shards: list[range],
    done: list[Partial],
    folder: Path,
    workers: Workers,
    progress: Progress,
) -> None:
    """Keep the workers fed until all shards are in the run directory.

    Each new task is given the newest floor: the lowest k-th distance known for every query.
    """
    rows_done = {p.rows.start: len(p.rows) for p in done}
    floor = np.full(len(job.queries), np.inf)
    for partial in done:
        farthest = partial.read(0, len(job.queries)).dists[:, -1].astype(np.float64)
        floor = np.minimum(floor, farthest)

    def hear(event: tuple[float, dict[str, int]]) -> None:
        said = event[1]
        rows_done[said["shard"]] = said["rows"]
        progress.advanced(sum(rows_done.values()))

    client.subscribe_topic(PROGRESS_TOPIC, hear)
    waiting = iter(shards)

    def submit(shard: range) -> object:
        return client.submit(
            scan_shard, job, shard, floor, folder, workers.device, workers.threads, pure=False, retries=1
        )

    running = as_completed([submit(s) for s in islice(waiting, WINDOW * workers.count)], loop=client.loop)
    for future in running:
        finished = _result(future)
        rows_done[finished.rows.start] = len(finished.rows)
        progress.advanced(sum(rows_done.values()))
        floor = np.minimum(floor, finished.farthest)
        following = next(waiting, None)
        if following is not None:
            running.add(submit(following))


def _result(future: object) -> ShardDone:
    """The shard's result; its errors in words for the person at the terminal."""
    try:
        result: ShardDone = future.result()  # type: ignore[attr-defined]
    except (InputError, RunError):
        raise
    except Exception as error:
        raise RunError(
            f"a shard failed: {type(error).__name__}: {error}; finished shards are kept, the same command goes on"
        ) from error
    return result


def _merge(job: Job, partials: list[Partial], gold: GoldWriter) -> None:
    """Merge the partial results, a block of queries at a time."""
    nq = len(job.queries)
    block = max(1, MERGE_BYTES // (job.partial_bytes // nq * len(partials)))
    for first in range(0, nq, block):
        count = min(block, nq - first)
        gold.write(first, merge([p.read(first, count) for p in partials], job.k))


def _description(job: Job) -> dict[str, str | int]:
    """The job in words, for the manifest."""
    return {
        "database": job.database.where,
        "queries": job.queries.where,
        "k": job.k,
        "metric": job.metric.value,
        "dists": job.dists,
    }


def _attributes(
    job: Job, certificate: Certificate, devices: Iterable[str], seconds: float
) -> dict[str, str | int | float]:
    """What a gold-standard file says of itself."""
    said: dict[str, str | int | float] = {
        "gpuknn": gpuknn.__version__,
        "metric": job.metric.value,
        "k": job.k,
        "dists_are": f"{DISTANCES[job.metric]}, evaluated in float64, stored as {job.dists}; ties to the lowest id",
        "certificate": f"{certificate.method}; every pair within the proven error of the answer was refined",
        "certificate_bound": certificate.bound,
        "certificate_pairs_refined": certificate.pairs_refined,
        "certificate_smallest_margin": certificate.smallest_margin,
        "device": ", ".join(devices),
        "seconds": seconds,
    }
    for name, vectors in (("database", job.database), ("queries", job.queries)):
        said[name] = Path(vectors.path).name
        said[f"{name}_key"] = vectors.key or ""
        said[f"{name}_shape"] = " x ".join(map(str, vectors.shape))
        said[f"{name}_dtype"] = vectors.dtype.name
        said[f"{name}_fingerprint"] = content_fingerprint(vectors)
    return said


DISTANCES = {
    Metric.COSINE: "1 - x.q / sqrt(|x|^2 |q|^2)",
    Metric.IP: "-x.q",
    Metric.L2: "|x - q|^2",
    Metric.HAMMING: "the number of differing bits",
}
