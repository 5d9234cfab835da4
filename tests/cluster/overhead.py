"""What many workers cost beside their work: `python -m tests.cluster.overhead`; by hand, as it takes minutes.

Shards are made up: a worker sleeps and writes a partial result, so that all that is left is scheduling, writing and
merging.  Prints JSON.
"""

import argparse
import json
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from gpuknn.engine.cpu.device import CpuDevice
from gpuknn.engine.metric import Metric
from gpuknn.engine.neighbors import Certificate, Neighbors
from gpuknn.gold.hdf5 import Hdf5Writer
from gpuknn.gold.writer import Outline, written
from gpuknn.jobs.exact import feed
from gpuknn.jobs.exact import run as exact
from gpuknn.jobs.exact.job import Job
from gpuknn.jobs.exact.partial import find_partial, write_partial
from gpuknn.jobs.exact.shard import ShardDone
from gpuknn.jobs.exact.tree import Tree
from gpuknn.progress import Event
from gpuknn.storage.lock import lock
from gpuknn.vectors import open_vectors
from gpuknn.workers.cluster import local_cluster
from gpuknn.workers.feed import dask_feeder
from gpuknn.workers.workers import Workers


def made_up_shard(
    job: Job, state: str, queries: range, rows: range, floor: np.ndarray, folder: Path, device: Any
) -> ShardDone:
    """Sleep as long as `state` says, then write as many neighbours as a shard has."""
    time.sleep(float(state))
    rng = np.random.default_rng(rows.start)
    ids = np.sort(rng.integers(rows.start, rows.stop, (len(queries), job.k)), axis=1)
    dists = np.sort(rng.random((len(queries), job.k), np.float32), axis=1)
    write_partial(folder, queries, rows, Neighbors(ids, dists), Certificate("", 0, 0, 1), device.name)
    return ShardDone(queries, rows, dists[:, -1].astype(np.float64))


def measure(workers: int, shards: int, nq: int, k: int, seconds: float, folder: Path) -> dict[str, Any]:
    """One run: its time, what it would be without any overhead, and the largest process."""
    rows = shards * 1000
    np.lib.format.open_memmap(folder / "db.npy", "w+", np.uint8, (rows, 1)).flush()
    np.lib.format.open_memmap(folder / "q.npy", "w+", np.uint8, (nq, 1)).flush()
    rows_of, asked = (open_vectors(folder / name, missing="zeros") for name in ("db.npy", "q.npy"))
    job = Job(rows_of, asked, k, Metric.L2, "float32")
    every, queries = [range(1000 * i, 1000 * i + 1000) for i in range(shards)], range(nq)
    blocks = {queries: feed.Block(np.full(nq, np.inf), Tree(1000))}
    who = Workers(workers, workers, CpuDevice(1))
    merges: list[float] = []
    vars(feed)["scan_shard"] = made_up_shard
    with lock(folder / "run" / "gpuknn.lock") as held, local_cluster(who) as client, Peak() as peak:
        began = time.perf_counter()

        def hear(event: Event) -> None:
            if event["event"] == "merged":
                merges.append(event["seconds"])

        work = job, str(seconds), who.device, (folder / "run").absolute(), 1000, blocks, hear
        with dask_feeder(client, who.device.resources, held.check) as feeder:
            parts = feed.Feed(feeder, *work).run({queries: []}, [(queries, r) for r in every])[queries]
        computed = time.perf_counter()
        with written(folder / "gold.h5", Hdf5Writer, Outline((nq, k), rows - 1, np.dtype(np.float32))) as gold:
            exact._write(job, queries, [find_partial(folder / "run", queries, part) for part in parts], gold)
        ended = time.perf_counter()
    ideal = -(-shards // workers) * seconds
    return {
        **{"workers": workers, "shards": shards, "queries": nq, "k": k, "seconds_of_a_shard": seconds},
        "computing": round(computed - began, 2),
        "overhead_per_shard_ms": round(1000 * (computed - began - ideal) * workers / shards, 1),
        "merges": len(merges),
        "seconds_merging": round(sum(merges), 2),
        "parts_left": len(parts),
        "writing_the_answer": round(ended - computed, 2),
        "largest_process_MiB": round(peak.bytes / 2**20),
    }


class Peak:
    """The largest resident size of any process of this tree, looked at every 20 ms."""

    def __init__(self) -> None:
        self.bytes = 0
        self._over = threading.Event()

    def __enter__(self) -> "Peak":
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        tree = [psutil.Process(), *psutil.Process().children(recursive=True)]
        while not self._over.wait(0.02):
            self.bytes = max(self.bytes, *(process.memory_info().rss for process in tree if process.is_running()))


def main() -> None:
    """Small partial results on 1, 2, 4 and 16 workers, and the largest that there are."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--large", action="store_true", help="only 111 partial results of 10,000 x 1,000, 16 GB")
    cases = [(1, 40, 1000, 10, 0.25), (2, 80, 1000, 10, 0.25), (4, 160, 1000, 10, 0.25), (16, 320, 1000, 10, 1.0)]
    for case in [(2, 111, 10_000, 1000, 0.0)] if parser.parse_args().large else cases:
        with tempfile.TemporaryDirectory() as folder:
            print(json.dumps(measure(*case, folder=Path(folder))), flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
