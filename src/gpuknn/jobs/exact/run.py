"""A planned job at work: shards to workers, partial results to the record, the answer to a gold-standard file."""

import dataclasses
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial, reduce
from importlib.metadata import version
from itertools import pairwise
from operator import add
from pathlib import Path

import numpy as np

from gpuknn.bench.kept import keep_rates
from gpuknn.engine.check import check_content
from gpuknn.engine.metric import Metric
from gpuknn.engine.neighbors import Certificate
from gpuknn.engine.self_join import put_self_first
from gpuknn.errors import InputError, RunError, option
from gpuknn.gold.certificate import certificate_said, said_of_certificate
from gpuknn.gold.distances import BITS, DISTANCES
from gpuknn.gold.formats import WRITERS, gold_format
from gpuknn.gold.gold import JOB, Gold
from gpuknn.gold.hdf5 import read_attributes
from gpuknn.gold.writer import GoldWriter, written
from gpuknn.interrupts import interrupts_told
from gpuknn.jobs.exact.feed import Block, Feed
from gpuknn.jobs.exact.job import Job, SelfJoin
from gpuknn.jobs.exact.merge import merge_some, queries_at_once
from gpuknn.jobs.exact.partial import Damaged, Partial, find_partial, find_partials
from gpuknn.jobs.exact.plan import Plan, blocks, check_room, cut, outline, replanned
from gpuknn.jobs.exact.shard import changed
from gpuknn.jobs.exact.standing import Standing
from gpuknn.jobs.exact.tree import Tree
from gpuknn.jobs.tally import Tally
from gpuknn.jobs.watch import watched
from gpuknn.progress import Event, Listener, step
from gpuknn.storage.durable import sweep
from gpuknn.storage.record import Claim, Identity
from gpuknn.vectors import Sampled

LONG_ENOUGH = 5.0
"""Seconds of computing that tell a rate: the start weighs little then."""


@dataclass(frozen=True, repr=False)
class Outcome:
    """What a run did; `gpuknn.read_gold(outcome.output)` reads the answer."""

    output: Path
    certificate: Certificate
    device: str
    shards: int
    """That were computed."""
    resumed_rows: int
    """That an earlier run had done."""
    seconds: float

    def __repr__(self) -> str:
        return f"Outcome({self.output.name}, {self.shards} shards in {self.seconds:.1f} s on {self.device})"


def run_exact(plan: Plan, tell: Listener = lambda _: None) -> Outcome:
    """Compute the job's gold standard and write it to the plan's output; goes on from what its record holds.

    `tell` is told what happens, in this thread:

        plan        title: in a line, and the plan's facts;  step: of what follows (`gpuknn.progress`)
        said        line: for a person
        compiled    kernels: of this step, which there is on the first run on a machine only
        checked     rows: of the database, read and found right before the work begins
        resumed     done: rows of the database that were found done
        watch       address: where a browser can watch the run
        progress, shard, merged, damaged   what workers tell (`jobs.events`), and done: rows of the database, in all
        written     output, seconds, and the certificate

    Raises InputError if the rows cannot be measured or the record belongs to another job; RunError if the run failed,
    or Interrupted if it was interrupted: the same plan goes on from what is kept.
    """
    standing = Standing(plan)
    with interrupts_told(standing.__str__):
        return _run_exact(standing, tell)


def _run_exact(standing: Standing, tell: Listener) -> Outcome:
    plan = standing.plan
    check_room(plan)

    def say(line: str) -> None:
        tell({"event": "said", "line": line})

    rows, row_bytes = len(plan.job.database), plan.job.database.nbytes // len(plan.job.database)
    tell({"event": "plan", "title": plan.title, **plan.facts})
    for files in dict.fromkeys((plan.job.database, plan.job.queries)):
        if files.files_told:
            say(f"{files.where}: {files.files_told}")
    _compile(plan, tell)
    started = time.monotonic()  # what is done once on a machine is no part of the work
    tell(step("checking", rows, "checked", "rows", row_bytes))
    tell(step("computing", rows, "resumed progress shard damaged", "done", row_bytes, plan.job.operations(1)))
    with plan.crew.started(say) as crew:
        fitted = replanned(plan, crew)
        if fitted is not plan:
            say(f"{crew.name}: {crew.workers.count} x {crew.workers.device.name}; {fitted.shards} shards a pass")
        standing.plan = fitted
        outcome = _run(standing, started, tell, say)
    tell({"event": "written", "output": str(outcome.output), "seconds": outcome.seconds, **vars(outcome.certificate)})
    if plan.crew.local and not outcome.resumed_rows:
        _learn(plan, outcome.seconds)
    return outcome


def _compile(plan: Plan, tell: Callable[[Event], None]) -> None:
    """Compile what this process and workers on this machine call, and this machine has not compiled yet."""
    from gpuknn.engine.cpu.needed import compile_kernels, for_check, for_merge  # here: it loads Numba

    job, device = plan.job, plan.crew.workers.device
    if plan.crew.local:
        needed = device.kernels(job.metric, job.database, job.queries, job.searched_k)
    else:
        needed = for_check(job.metric, job.database.dtype, job.queries.dtype)
    compile_kernels(needed + for_merge(np.dtype(job.dists)), tell)


def _run(standing: Standing, started: float, tell: Callable[[Event], None], say: Callable[[str], None]) -> Outcome:
    """The same with the workers that are there."""
    plan = standing.plan
    job, record, output, wishes = plan.job, plan.record, plan.output, plan.wishes
    files = job.sampled()
    state = " ".join(file.state for file in files)
    fingerprint = job.fingerprint(files)
    passes = {"queries_at_once": plan.block}
    rows = plan.passes * len(job.database)
    elsewhere = f", {option('run_dir')} names another folder"
    identity = Identity(fingerprint, job.description(), job.title, rows, passes, wishes.command, elsewhere)
    with record.held(identity, wishes.fresh, say) as claim:
        standing.claim = claim
        # Looked at before, but another client may have been at work since.
        if output.exists() and (not wishes.force or record.noted(output).get(JOB) == fingerprint):
            return _finished(plan, fingerprint)
        sweep(output)
        if record.has_results():  # of rows that were found right
            tell({"event": "checked", "rows": len(job.database)})
        else:
            _check(plan, claim, tell)
        every, shards, resumed = _partials(plan, claim, state, tell, say)
        if job.file_state() != state:
            raise RunError(changed(job))
        certificate = reduce(add, (p.certificate for partials in every.values() for p in partials))
        devices = sorted({name for partials in every.values() for p in partials for name in p.device.split(", ")})
        said: dict[str, str | int | float] = {JOB: fingerprint}

        def whole(part: Path) -> None:
            if output.exists() and not wishes.force:
                raise InputError(f"{output}: exists already; {option('force', True)} replaces it")
            record.note(part, said)
            claim.held.check()
            standing.wrote(part)

        with written(output, WRITERS[gold_format(output)], outline(job), whole) as gold:
            for block, partials in every.items():
                _write(job, block, partials, gold)
            seconds = time.monotonic() - started
            said |= _attributes(job, files, certificate, devices, seconds)
            gold.describe(said)
        record.remove()
    return Outcome(output, certificate, ", ".join(devices), shards, resumed, seconds)


def _finished(plan: Plan, fingerprint: str) -> Outcome:
    """What there is to say if the output is there: perhaps it is this job's, which was killed at its very end."""
    output, record = plan.output, plan.record
    said = read_attributes(output) or record.noted(output)
    if said.get(JOB) != fingerprint:
        if not record.has_results():
            record.remove()
        raise InputError(f"{output}: exists already; {option('force', True)} replaces it")
    record.remove()
    return Outcome(output, certificate_said(said), said["device"], 0, len(plan.job.database), said["seconds"])


def _check(plan: Plan, claim: Claim, tell: Callable[[Event], None]) -> None:
    """Read all rows once before hours are spent on them."""
    job = plan.job

    def checked(rows: int) -> None:
        tell({"event": "checked", "rows": rows})

    try:
        check_content(job.database, job.queries, job.metric, job.dists, plan.check_threads, checked)
    except InputError:
        plan.record.give_up(claim)
        raise


def _partials(
    plan: Plan, claim: Claim, state: str, tell: Callable[[Event], None], say: Callable[[str], None]
) -> tuple[dict[range, list[Partial]], int, int]:
    """Partial results that cover all rows, by their queries; how many shards that took, and the rows found done."""
    job, n, size = plan.job, len(plan.job.database), claim.settings.get("queries_at_once", plan.block)
    if size > plan.block:
        raise InputError(
            f"{plan.record.path}: was begun with {size:,} queries at once, and there is memory for {plan.block:,} now; "
            f"give it more ({option('memory')}) or, to begin anew, {option('fresh', True)}"
        )
    tally, found = Tally(), {}
    for block in blocks(len(job.queries), size):
        found[block], damaged = find_partials(claim.folder, block)
        for rows in damaged:
            say(str(Damaged(rows)))
        for rows in found[block]:
            tally.hear({"event": "shard", "queries": block.start, "shard": rows.start, "rows": len(rows)})
    resumed = tally.rows // len(found)
    tell({"event": "resumed", "done": resumed})

    def hear(event: Event) -> None:
        tally.hear(event)
        if event["event"] == "damaged":
            say(str(Damaged(range(*event["rows"]))))
        tell({**event, "done": tally.rows // len(found)})

    parts = {block: list(done) for block, done in found.items()}
    shards = [(block, rows) for block, done in parts.items() for rows in cut(n, done, plan.shard_rows, plan.edges)]
    if shards:
        device, folder = plan.crew.workers.device, claim.folder.absolute()
        known = {block: Block(_floor(block, done), Tree(plan.shard_rows)) for block, done in found.items()}
        with plan.crew.feeder(len(shards), claim.held.check) as feeder:
            feed = Feed(feeder, _everywhere(job), state, device, folder, plan.shard_rows, known, hear)

            def hear_of_workers(event: Event) -> None:  # in another thread
                feeder.soon(partial(hear, event))

            report, lent = plan.wishes.performance_report, plan.crew.lent
            with watched(feeder.client, folder, job.title, shards, hear_of_workers, report, lent) as address:
                tell({"event": "watch", "address": address})
                try:
                    parts = feed.run(parts, shards)
                finally:
                    if lent:  # other clients end with their tasks
                        feeder.cancel()
    # By their names, since network folders list new files late.
    every = {block: [find_partial(claim.folder, block, rows) for rows in done] for block, done in parts.items()}
    return every, len(shards), resumed


def _learn(plan: Plan, seconds: float) -> None:
    """Keep the product's rate that a long run on this machine has had, for the next prediction."""
    prediction = plan.prediction
    if prediction is None or prediction.limit != "product" or prediction.product < LONG_ENOUGH:
        return
    computing = seconds - (prediction.seconds - prediction.product)
    if computing > LONG_ENOUGH / 2:
        workers = plan.crew.workers
        keep_rates(workers.device.kind, product=plan.operations / computing / workers.units)


def _floor(block: range, done: dict[range, np.ndarray]) -> np.ndarray:
    """(nq,) float64: the lowest k-th distances of the parts done."""
    return reduce(np.minimum, done.values(), np.full(len(block), np.inf))


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


def _attributes(
    job: Job, files: tuple[Sampled, Sampled], certificate: Certificate, devices: Iterable[str], seconds: float
) -> dict[str, str | int | float]:
    """What a gold-standard file says of itself."""
    said: dict[str, str | int | float] = {
        "gpuknn": version("gpuknn"),
        "metric": job.metric.value,
        "k": job.k,
        "self_join": job.self_join.value,
        "distance": job.metric.value,
        "dists_are": f"{DISTANCES[job.metric.value]}; evaluated in float64, stored as {job.dists}",
        "ties": "to the lowest row number",
        **said_of_certificate(certificate),
        "device": ", ".join(devices),
        "seconds": seconds,
    }
    if job.metric is Metric.HAMMING:
        said[BITS] = job.queries.bits or 64 * job.queries.shape[1]
    for name, vectors, file in zip(("database", "queries"), (job.database, job.queries), files, strict=True):
        said[name] = vectors.name
        if vectors.files_told:
            said[f"{name}_files"] = vectors.files_told
        said[f"{name}_key"] = vectors.key or ""
        said[f"{name}_shape"] = " x ".join(map(str, vectors.shape))
        said[f"{name}_dtype"] = vectors.dtype.name
        said[f"{name}_fingerprint"] = file.content
    return said
