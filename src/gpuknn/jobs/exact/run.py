"""The main job: shards to workers, partial results to the run directory, the answer to a gold-standard file."""

import dataclasses
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from itertools import pairwise
from operator import add
from pathlib import Path

import numpy as np

import gpuknn
from gpuknn.engine.check import check_content
from gpuknn.engine.device import Certificate
from gpuknn.engine.metric import Metric
from gpuknn.engine.self_join import put_self_first
from gpuknn.errors import InputError, RunError
from gpuknn.gold.distances import BITS, DISTANCES
from gpuknn.gold.formats import WRITERS, gold_format
from gpuknn.gold.gold import Gold
from gpuknn.gold.hdf5 import read_attributes
from gpuknn.gold.writer import GoldWriter, Outline, check_outline, written
from gpuknn.jobs.events import Event
from gpuknn.jobs.exact.feed import Block, Feed
from gpuknn.jobs.exact.merge import Tree, merge_some, queries_at_once
from gpuknn.jobs.exact.partial import Damaged, Partial, find_partial, find_partials
from gpuknn.jobs.exact.plan import Job, SelfJoin, blocks, cut
from gpuknn.jobs.exact.run_directory import RunDirectory
from gpuknn.jobs.exact.shard import changed
from gpuknn.jobs.watch import page_address, watched
from gpuknn.vectors import content_fingerprint
from gpuknn.workers.cluster import cluster
from gpuknn.workers.workers import LOCAL, Workers

JOB = "job_fingerprint"
"""The attribute of a gold-standard file that tells which job it answers."""


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
    happened: Callable[[Event], None]
    """What the workers tell."""


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
    block_size: int,
    rows_per_shard: int,
    fresh: bool = False,
    replace: bool = True,
    progress: Progress | None = None,
    where: str = LOCAL,
    check_threads: int | None = None,
    command: Sequence[str] = (),
    report: Path | None = None,
) -> Outcome:
    """Compute the job's gold standard and write it to `output`; goes on from what `run_dir` holds.

    `where` the workers are: `cluster.cluster`.  `check_threads`: of this process; by default one for each core.
    `replace` an output that is there.  `command`: the words that go on with the run, for `gpuknn runs`.  `report`: a
    file for Dask's performance report.

    The question has been checked (`exact.check.check_question`); the rows are read and checked here.  Raises
    InputError where they cannot be measured or `run_dir` belongs to another job, RunError where the run failed: the
    same call goes on from there.
    """
    progress = progress or Progress(*(5 * [lambda _: None]))
    started = time.monotonic()
    directory = RunDirectory(run_dir)
    nq, n = len(job.queries), len(job.database)
    state = job.file_state()  # before the fingerprint: a change between the two is noticed by the first shard
    fingerprint = job.fingerprint()
    with directory.held(fingerprint, _description(job), block_size, fresh, command, progress.said) as claim:
        if output.exists() and not replace:  # looked at before, but another client may have been at work since
            return _finished(output, fingerprint, n, directory)
        _check(job, directory, check_threads or workers.cores, progress)
        found: dict[range, dict[range, np.ndarray]] = {}
        for block in blocks(nq, claim.block):
            found[block], damaged = find_partials(claim.partials, block)
            for rows in damaged:
                progress.said(str(Damaged(rows)))
        rows_done = RowsDone(found, progress)
        parts = {block: list(done) for block, done in found.items()}
        shards = [(block, rows) for block, done in parts.items() for rows in cut(n, done, rows_per_shard)]
        if shards:
            known = {block: Block(_floor(block, done), Tree(rows_per_shard)) for block, done in found.items()}
            with cluster(where, dataclasses.replace(workers, count=min(workers.count, len(shards)))) as client:
                progress.happened({"event": "watch", "address": page_address(client)})
                folder = claim.partials.absolute()
                work = _everywhere(job), state, workers, folder, rows_per_shard, known
                with watched(client, folder, _title(job), shards, report):
                    parts = Feed(client, *work, claim.held, rows_done.hear).run(parts, shards)
        # By their names, since network folders list new files late.
        every = {block: [find_partial(claim.partials, block, rows) for rows in done] for block, done in parts.items()}
        if job.file_state() != state:
            raise RunError(changed(job))
        certificate = reduce(add, (p.certificate for partials in every.values() for p in partials))
        devices = sorted({name for partials in every.values() for p in partials for name in p.device.split(", ")})
        said: dict[str, str | int | float] = {JOB: fingerprint}

        def whole(part: Path) -> None:
            directory.note_answer(part, said)
            claim.held.check()

        with written(output, WRITERS[gold_format(output)], outline(job), whole) as gold:
            for block, partials in every.items():
                _write(job, block, partials, gold)
            seconds = time.monotonic() - started
            said |= _attributes(job, certificate, devices, seconds)
            gold.describe(said)
        directory.remove()
    return Outcome(certificate, ", ".join(devices), len(shards), rows_done.resumed, seconds)


def outline(job: Job) -> Outline:
    """What a writer of the answer must know."""
    own_id = None if job.ids is None else job.ids.highest
    highest = len(job.database) - 1
    return Outline((len(job.queries), job.k), highest, np.dtype(job.dists), own_id, job.query_ids is not None)


def check_format(job: Job, output: Path) -> None:
    """Raise InputError if the output's name tells no format, or its format cannot hold the answer."""
    check_outline(output, WRITERS[gold_format(output)], outline(job))


def _finished(output: Path, fingerprint: str, rows: int, directory: RunDirectory) -> Outcome:
    """What there is to say where the output is there: perhaps it is this job's, which was killed at its very end."""
    said = read_attributes(output) or directory.answer(output)
    if said.get(JOB) != fingerprint:
        if not directory.has_partials():
            directory.remove()
        raise InputError(f"{output}: exists already; --force replaces it")
    directory.remove()
    proof = (said[f"certificate{name}"] for name in ("", "_bound", "_pairs_refined", "_smallest_margin"))
    return Outcome(Certificate(*proof), said["device"], 0, rows, said["seconds"])


def _check(job: Job, directory: RunDirectory, threads: int, progress: Progress) -> None:
    """Read all rows once before hours are spent on them; a run that has finished shards has passed."""
    if directory.has_partials():
        return
    try:
        check_content(job.database, job.queries, job.metric, job.dists, threads, progress.checked)
    except InputError:
        directory.remove()
        raise


def _floor(block: range, done: dict[range, np.ndarray]) -> np.ndarray:
    """(nq,) float64: the lowest k-th distances of the parts done."""
    return reduce(np.minimum, done.values(), np.full(len(block), np.inf))


class RowsDone:
    """Rows of the database that are done, as if they were scanned once: passes over it count in part."""

    def __init__(self, found: Mapping[range, Iterable[range]], progress: Progress) -> None:
        self._progress, self._passes = progress, len(found)
        self._done = {(block.start, rows.start): len(rows) for block, done in found.items() for rows in done}
        self.resumed = self._total()
        progress.resumed(self.resumed)

    def hear(self, event: Event) -> None:
        """Take note of what a worker tells."""
        self._progress.happened(event)
        if event["event"] in ("progress", "shard"):
            self._done[event["queries"], event["shard"]] = event["rows"]
            self._progress.advanced(self._total())
        elif event["event"] == "damaged":
            start, stop = event["rows"]
            self._progress.said(str(Damaged(range(start, stop))))
            for queries, first in list(self._done):
                if queries == event["queries"] and start <= first < stop:
                    del self._done[queries, first]

    def _total(self) -> int:
        return sum(self._done.values()) // self._passes


def _everywhere(job: Job) -> Job:
    """The same job where the working folder is another."""
    return dataclasses.replace(job, database=job.database.absolute(), queries=job.queries.absolute())


def _write(job: Job, block: range, partials: list[Partial], gold: GoldWriter) -> None:
    """Merge the partial results for a block of queries, some queries at a time, and write their answers."""
    query_ids = None if job.query_ids is None else job.query_ids.all()
    for start, stop in pairwise([*block[:: queries_at_once(partials)], block.stop]):
        found = merge_some(partials, range(start, stop))
        if found.ids.min() < 0:
            raise RunError(f"{job.database.where}: too few rows could be compared; was it changed meanwhile?")
        if job.self_join is SelfJoin.FIRST:
            found = put_self_first(found, job.queries[start:stop], start, job.metric)
        own_ids = None if job.ids is None else job.ids.of(found.ids)
        asked = None if query_ids is None else query_ids[start:stop]
        gold.write(start, Gold(found.ids, found.dists, job.metric.value, own_ids, asked))


def _title(job: Job) -> str:
    return f"{job.database.where}, {len(job.queries):,} queries, k = {job.k}, {job.metric.value}"


def _description(job: Job) -> dict[str, str | int]:
    """The job in words, for the manifest."""
    return {
        "database": job.database.where,
        "rows": len(job.database),
        "queries": job.queries.where,
        "number of queries": len(job.queries),
        "k": job.k,
        "metric": job.metric.value,
        "dists": job.dists,
        "itself": job.self_join.value,
        "ids": "kept" if job.ids or job.query_ids else "none",
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
        "distance": job.metric.value,
        "dists_are": f"{DISTANCES[job.metric.value]}; evaluated in float64, stored as {job.dists}",
        "ties": "to the lowest row number",
        "certificate": f"{certificate.method}; every pair within the proven error of the answer was refined",
        "certificate_bound": certificate.bound,
        "certificate_pairs_refined": certificate.pairs_refined,
        "certificate_smallest_margin": certificate.smallest_margin,
        "device": ", ".join(devices),
        "seconds": seconds,
    }
    if job.metric is Metric.HAMMING:
        said[BITS] = job.queries.bits or 64 * job.queries.shape[1]
    for name, vectors in (("database", job.database), ("queries", job.queries)):
        said[name] = Path(vectors.path).name
        said[f"{name}_key"] = vectors.key or ""
        said[f"{name}_shape"] = " x ".join(map(str, vectors.shape))
        said[f"{name}_dtype"] = vectors.dtype.name
        said[f"{name}_fingerprint"] = content_fingerprint(vectors)
    return said
