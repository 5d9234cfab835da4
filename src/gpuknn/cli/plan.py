"""How `gpuknn exact` will go about a job: what `--dry-run` prints, and what is held against what happened."""

import json
import os
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gpuknn.errors import InputError

if TYPE_CHECKING:
    from gpuknn.jobs.exact.plan import Job
    from gpuknn.jobs.exact.predict import Prediction
    from gpuknn.workers.workers import Workers

LONG_ENOUGH = 5.0
"""Seconds of computing that tell a rate: the start weighs little then."""


@dataclass(frozen=True)
class Plan:
    """How the work is cut, and what it will take."""

    block: int
    """Queries at once; each block is a pass over the database."""
    shard_rows: int
    check_threads: int
    """That check the rows before work begins."""
    prediction: "Prediction | None"
    """None where nobody has measured the device."""
    facts: dict[str, Any]
    """For a person or a program."""


def make_plan(
    job: "Job",
    workers: "Workers",
    local: bool,
    memory: str | None,
    shard_rows: int | None,
    rates: Path | None,
    run_dir: Path,
    output: Path,
) -> Plan:
    """Cut the work so that it fits into `memory`; raises InputError where it cannot, or `rates` is no file of rates."""
    from gpuknn.bench.kept import rates_for
    from gpuknn.engine.metric import Metric
    from gpuknn.jobs.exact import plan
    from gpuknn.jobs.exact.predict import predict
    from gpuknn.workers.memory import memory_budget

    database, device = job.database, workers.device
    budget = workers.memory if workers.memory and not memory else memory_budget(memory)
    block = plan.queries_at_once(job, budget, workers.count if local else 1, device)
    rows = shard_rows or plan.shard_rows(job, workers.count, block)
    passes = -(-len(job.queries) // block)
    known = None if job.metric is Metric.HAMMING else rates_for(device.kind, database, rates)
    prediction = predict(job, workers, passes, known) if known else None
    facts = {
        "database": database.where,
        "rows": len(database),
        "components": database.shape[1],
        "dtype": database.dtype.name,
        "queries": len(job.queries),
        "k": job.k,
        "metric": job.metric.value,
        "device": device.name,
        "workers": workers.count,
        "memory_per_worker": plan.worker_bytes(job, block, device),
        "passes": passes,
        "shards": -(-len(database) // rows),
        "shard_rows": rows,
        "bytes_read": database.nbytes * (passes + 1),
        "operations": plan.operations(job, len(database)),
        "answer_bytes": job.answer_bytes,
        "predicted_seconds": prediction and round(prediction.seconds, 1),
        "limited_by": prediction and prediction.limit,
        "run_dir": str(run_dir),
        "output": str(output),
    }
    return Plan(block, rows, plan.check_threads(job, budget, workers.cores), prediction, facts)


def check_space(job: "Job", workers: "Workers", plan: Plan, run_dir: Path, output: Path) -> None:
    """Raise InputError where the disks cannot hold the partial results still to come, or the answer."""
    from gpuknn.jobs.exact.merge import most_parts

    kept = sum(file.stat().st_size for file in run_dir.glob("*/*.bin")) if run_dir.is_dir() else 0
    partial = max(0, job.answer_bytes * most_parts(plan.facts["shards"], workers.count) - kept)
    parent = next(folder for folder in (run_dir, *run_dir.absolute().parents) if folder.is_dir())
    same = os.stat(parent).st_dev == os.stat(output.parent).st_dev
    for folder, need in ((parent, partial + job.answer_bytes * same), (output.parent, job.answer_bytes)):
        free = shutil.disk_usage(folder).free
        if free < need:
            raise InputError(f"{folder}: {free / 2**20:,.0f} MiB are free, {need / 2**20:,.0f} MiB are needed")


def learn(plan: Plan, workers: "Workers", seconds: float) -> None:
    """Keep the product's rate that a long run on this machine has had, for the next prediction."""
    from gpuknn.bench.kept import keep_rates
    from gpuknn.jobs.exact.predict import devices

    prediction = plan.prediction
    if prediction is None or prediction.limit != "product" or prediction.product < LONG_ENOUGH:
        return
    computing = seconds - (prediction.seconds - prediction.product)
    if computing > LONG_ENOUGH / 2:
        keep_rates(workers.device.kind, product=plan.facts["operations"] / computing / devices(workers))


def show(facts: dict[str, Any], as_json: bool) -> None:
    """Write a plan or an outcome for a program or a person."""
    if as_json:
        sys.stdout.write(json.dumps(facts) + "\n")
        return
    width = max(map(len, facts))
    for name, value in facts.items():
        shown = f"{value:,}" if isinstance(value, int) else f"{value:.3g}" if isinstance(value, float) else value
        shown = "unknown: gpuknn doctor --full measures it" if value is None else shown
        sys.stdout.write(f"{name.replace('_', ' '):<{width}}  {shown}\n")
