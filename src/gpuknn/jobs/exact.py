"""The main job: shards to workers, partial results to the run directory, the answer to a gold-standard file."""

import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from operator import add
from pathlib import Path

import numpy as np
from distributed import Client, as_completed

import gpuknn
from gpuknn.errors import InputError, RunError
from gpuknn.exact.check import check_content
from gpuknn.exact.device import Certificate
from gpuknn.exact.metric import Metric
from gpuknn.exact.neighbors import merge
from gpuknn.exact.self_join import put_self_first
from gpuknn.gold import GoldWriter
from gpuknn.jobs.cluster import cluster
from gpuknn.jobs.plan import Job, SelfJoin, blocks, cut
from gpuknn.jobs.run_directory import Partial, RunDirectory
from gpuknn.jobs.shard import PROGRESS_TOPIC, ShardDone, scan_shard
from gpuknn.jobs.workers import LOCAL, Workers
from gpuknn.vectors import content_fingerprint

WINDOW = 2
"""Shards assigned to a worker: one at work, one waiting, so that a worker's death blames no others."""
MERGE_BYTES = 2**26
"""Neighbours merged at once."""


@dataclass(frozen=True)
class Progress:
    """Where a run tells how far it is; rows are those of the database."""

    checked: Callable[[int], None]
    """Rows checked before the work begins."""
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
    queries_at_once: int,
    rows_per_shard: int,
    fresh: bool = False,
    progress: Progress | None = None,
    where: str = LOCAL,
    command: Sequence[str] = (),
) -> Outcome:
    """Compute the job's gold standard and write it to `output`; goes on from what `run_dir` holds.

    `where` the workers are: `cluster.cluster`.  `command`: the words that go on with the run, for `gpuknn runs`.

    The question has been checked (`exact.check.check_question`); the rows are read and checked here.  Raises
    InputError where they cannot be measured or `run_dir` belongs to another job, RunError where the run failed: the
    same call goes on from there.
    """
    progress = progress or Progress(*(4 * [lambda _: None]))
    started = time.monotonic()
    directory = RunDirectory(run_dir)
    nq, n = len(job.queries), len(job.database)
    fingerprint = job.fingerprint()
    with directory.held(fingerprint, _description(job), queries_at_once, fresh, command) as size:
        _check(job, directory, workers.cores, progress)
        done: dict[range, list[Partial]] = {}
        for block in blocks(nq, size):
            done[block], damaged = directory.partials(block)
            for name in damaged:
                progress.said(f"partial result {name} is damaged and is computed again")
        # Progress is counted in rows of the database, as if they were scanned once: passes over it count in part.
        rows_done = {(p.queries.start, p.rows.start): len(p.rows) for found in done.values() for p in found}
        resumed = sum(rows_done.values()) // len(done)
        progress.resumed(resumed)
        shards = [
            (block, rows) for block, found in done.items() for rows in cut(n, [p.rows for p in found], rows_per_shard)
        ]
        if shards:
            floors = {block: _floor(block, found) for block, found in done.items()}
            with cluster(where, replace(workers, count=min(workers.count, len(shards)))) as client:
                _compute(client, _everywhere(job), shards, floors, rows_done, run_dir.absolute(), workers, progress)
        partials = {block: _complete(directory, block, n) for block in done}
        if job.fingerprint() != fingerprint:
            raise RunError(f"{job.database.where} or {job.queries.where} was changed while it was searched")
        every = [partial for found in partials.values() for partial in found]
        certificate = reduce(add, (p.certificate for p in every))
        devices = sorted({p.device for p in every})
        with GoldWriter(output, nq, job.k, n, np.dtype(job.dists)) as gold:
            for block, found in partials.items():
                _merge(job, block, found, gold)
            seconds = time.monotonic() - started
            gold.describe(_attributes(job, certificate, devices, seconds))
        directory.remove()
    return Outcome(certificate, ", ".join(devices), len(shards), resumed, seconds)


def _check(job: Job, directory: RunDirectory, threads: int, progress: Progress) -> None:
    """Read all rows once before hours are spent on them; a run that has finished shards has passed."""
    if any(directory.path.glob("*-*.json")):
        return
    try:
        check_content(job.database, job.queries, job.metric, job.dists, threads, progress.checked)
    except InputError:
        directory.remove()
        raise


def _floor(block: range, done: list[Partial]) -> np.ndarray:
    """(nq,) float64: the lowest k-th distances of the shards done."""
    return reduce(np.minimum, (p.farthest() for p in done), np.full(len(block), np.inf))


def _compute(
    client: Client,
    job: Job,
    shards: list[tuple[range, range]],
    floors: dict[range, np.ndarray],
    rows_done: dict[tuple[int, int], int],
    folder: Path,
    workers: Workers,
    progress: Progress,
) -> None:
    """Keep the workers fed, also those that join late, until all shards (queries, rows) are in the run directory.

    Each new task is given the newest floor.
    """
    waiting = deque(shards)
    running = as_completed(loop=client.loop)

    def advance(queries: int, shard: int, rows: int) -> None:
        rows_done[queries, shard] = rows
        progress.advanced(sum(rows_done.values()) // len(floors))

    def hear(event: tuple[float, dict[str, int]]) -> None:
        advance(event[1]["queries"], event[1]["shard"], event[1]["rows"])

    def submit(block: range, rows: range) -> object:
        task = job, block, rows, floors[block], folder, workers.device
        return client.submit(scan_shard, *task, pure=False, retries=1, resources=workers.need)

    def feed() -> None:
        room = WINDOW * max(1, len(client.nthreads())) - running.count()
        for _ in range(min(room, len(waiting))):
            running.add(submit(*waiting.popleft()))

    client.subscribe_topic(PROGRESS_TOPIC, hear)
    feed()
    for future in running:
        finished = _result(future)
        advance(finished.queries.start, finished.rows.start, len(finished.rows))
        floors[finished.queries] = np.minimum(floors[finished.queries], finished.farthest)
        feed()


def _everywhere(job: Job) -> Job:
    """The same job where the working folder is another."""
    database, queries = (replace(v, path=str(Path(v.path).absolute())) for v in (job.database, job.queries))
    return replace(job, database=database, queries=queries)


def _complete(directory: RunDirectory, block: range, rows: int) -> list[Partial]:
    """The partial results for a block of queries, which must make up all rows."""
    partials, damaged = directory.partials(block)
    if damaged or cut(rows, [p.rows for p in partials], rows):
        raise RunError(f"{directory.path}: partial results were damaged meanwhile; run the same command again")
    return partials


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


def _merge(job: Job, block: range, partials: list[Partial], gold: GoldWriter) -> None:
    """Merge the partial results for a block of queries, some queries at a time."""
    at_once = max(1, MERGE_BYTES // (job.answer_bytes // len(job.queries) * len(partials)))
    for first in block[::at_once]:
        some = range(first, min(first + at_once, block.stop))
        found = merge([p.read(some) for p in partials], job.searched_k)
        if found.ids.min() < 0:
            raise RunError(f"{job.database.where}: too few rows could be compared; was it changed meanwhile?")
        if job.self_join is SelfJoin.FIRST:
            found = put_self_first(found, job.queries[some.start : some.stop], first, job.metric)
        gold.write(first, found)


def _description(job: Job) -> dict[str, str | int]:
    """The job in words, for the manifest."""
    return {
        "database": job.database.where,
        "rows": len(job.database),
        "queries": job.queries.where,
        "k": job.k,
        "metric": job.metric.value,
        "dists": job.dists,
        "itself": job.self_join.value,
    }


def _attributes(
    job: Job, certificate: Certificate, devices: Iterable[str], seconds: float
) -> dict[str, str | int | float]:
    """What a gold-standard file says of itself."""
    said: dict[str, str | int | float] = {
        "gpuknn": gpuknn.__version__,
        "metric": job.metric.value,
        "k": job.k,
        "self_join": job.self_join.value,
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
