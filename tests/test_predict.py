"""What a job will take, and from which rates that is told."""

import json
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest

from gpuknn.bench.kept import Rates, keep_rates, rates_for
from gpuknn.bench.reading import reading_rate
from gpuknn.cli.main import main
from gpuknn.engine.cpu.device import CpuDevice
from gpuknn.engine.metric import Metric
from gpuknn.errors import InputError
from gpuknn.jobs.exact import run
from gpuknn.jobs.exact.job import Job
from gpuknn.jobs.exact.plan import Plan, Wishes, shard_rows
from gpuknn.jobs.exact.predict import START, START_OF_PROCESSES, predict
from gpuknn.vectors import Vectors, open_vectors
from gpuknn.workers.crew import Crew
from gpuknn.workers.workers import Workers


class Gpu:
    units = 1
    resources: ClassVar = {"GPU": 1}


STARTS = [(1, CpuDevice(2)), (2, CpuDevice(1)), (1, Gpu())]


@pytest.fixture
def vectors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Vectors:
    """1,000 rows of 100 float16: 200,000 bytes."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    np.save("db.npy", np.ones((1000, 100), np.float16))
    return open_vectors("db.npy")


def test_the_slowest_thing_limits(vectors: Vectors) -> None:
    job = Job(vectors, vectors, 10, Metric.L2, "float32")  # 2e8 operations
    cpus = Workers(3, 6, CpuDevice(2))
    found = predict(job, cpus, 2, Rates(product=1e6, reading=1e5))
    assert (found.checking, found.reading, found.product, found.upload) == pytest.approx((2, 4, 2e8 / 6e6, 0))
    assert found.limit == "product"
    assert found.seconds == pytest.approx(START_OF_PROCESSES + 2 + 2e8 / 6e6)
    gpus = Workers(4, 6, Gpu())  # type: ignore[arg-type]
    found = predict(job, gpus, 1, Rates(product=1e9, reading=1e6, upload=1e4))
    assert (found.product, found.upload, found.limit) == (0.05, 5.0, "upload")
    assert predict(job, gpus, 1, Rates(1e9, 1e3, 1e9)).limit == "reading"
    starts = [predict(job, Workers(count, 6, device), 1, Rates(1e9, 1e6, 1e4)).start for count, device in STARTS]  # type: ignore[arg-type]
    assert starts == [START, START_OF_PROCESSES, START_OF_PROCESSES]


class Gpus(Gpu):
    kind = "some GPU"


@pytest.mark.parametrize(
    ("rate", "k", "workers", "rows"),
    [
        (1e5, 1, 1, 200),  # 20 s of two cores at 20,000 operations a row
        (2e5, 1, 1, 400),
        (1e5, 1, 10, 100),  # one for each worker
        (1e9, 1, 1, 1000),
        (1e3, 1, 1, 120),  # 1,200 bytes of answers, 200 of a row: the partial result is a twentieth
        (1e3, 2, 1, 240),
        (None, 1, 1, 1000),
    ],
)
def test_rows_of_a_shard(rate: float | None, k: int, workers: int, rows: int, vectors: Vectors) -> None:
    job = Job(vectors, vectors[:100], k, Metric.L2, "float32")  # type: ignore[arg-type]
    cpus = Workers(workers, 2 * workers, CpuDevice(2))
    known = rate and Rates(rate, 1e6)
    assert shard_rows(job, cpus, 100, known or None) == rows


def test_rows_of_a_shard_of_a_gpu(vectors: Vectors, monkeypatch: pytest.MonkeyPatch) -> None:
    """A shard is as much work as ever, whatever the rate, and however large the answers are."""
    monkeypatch.setattr("gpuknn.jobs.exact.plan.SHARD_OPERATIONS", 1e7)
    job = Job(vectors, vectors, 1000, Metric.L2, "float32")
    assert shard_rows(job, Workers(2, 6, Gpus()), 1000, Rates(1e3, 1.0)) == 50  # type: ignore[arg-type]
    assert shard_rows(job, Workers(2, 6, Gpus()), 500, None) == 100  # type: ignore[arg-type]
    assert shard_rows(job, Workers(50, 6, Gpus()), 500, None) == 20  # type: ignore[arg-type]


def test_rates_that_were_kept_go_before_measuring_and_those_given_before_both(vectors: Vectors) -> None:
    Path("rates.yaml").write_text("NVIDIA H100: {product: 3.0e+14, upload: 5.0e+10}\ncpu: {product: 7.0}\n")
    measured = rates_for("cpu", vectors, None)
    assert measured is not None
    assert measured.product > 1e6
    assert rates_for("NVIDIA H100", vectors, None) is None
    keep_rates("cpu", product=5.0)
    keep_rates("cpu", reading=2.0)
    assert rates_for("cpu", vectors, None) == Rates(5.0, 2.0)
    assert rates_for("cpu", vectors, Path("rates.yaml")) != Rates(5.0, 2.0)
    given = rates_for("NVIDIA H100", vectors, Path("rates.yaml"))
    assert given is not None
    assert (given.product, given.upload) == (3e14, 5e10)
    assert given.reading > 0
    for wrong in ("[1]", "cpu: 3", "cpu: {products: 3}", "cpu: {product: -1}", "cpu: {product: true}", "{"):
        Path("rates.yaml").write_text(wrong)
        with pytest.raises(InputError, match=r'rates="rates\.yaml": '):
            rates_for("cpu", vectors, Path("rates.yaml"))
    (Path("cache") / "gpuknn" / "rates.yaml").write_text("{")
    measured = rates_for("cpu", vectors, None)
    assert measured is not None
    assert measured.product > 1e6


def test_a_long_run_tells_the_rate_for_the_next(vectors: Vectors) -> None:
    job = Job(vectors, vectors, 10, Metric.L2, "float32")  # 2e8 operations, 200,000 bytes to be read
    crew = Crew("made up", Workers(1, 2, CpuDevice(2)))

    def learned(rates: Rates | None, seconds: float) -> bool:
        run._learn(Plan(job, Path("out.h5"), crew, Wishes(), rates, 1000, 1000, 1), seconds)
        return Path("cache").exists()

    assert not learned(Rates(product=1e8, reading=1e6), 30)  # computing for a second would tell nothing
    assert not learned(Rates(product=1e7, reading=1e4), 60)  # reading took longer
    assert not learned(None, 30)
    assert learned(Rates(product=5e6, reading=2e5), START + 1 + 10)
    known = rates_for("cpu", vectors, None)
    assert known is not None
    assert known.product == pytest.approx(2e8 / 10 / 2)


def test_reading_is_tried_on_rows_of_all_the_file(vectors: Vectors, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[int] = []
    monkeypatch.setattr(type(vectors), "read", lambda _, first, out: read.append(first))
    monkeypatch.setattr("gpuknn.bench.reading.RUN_BYTES", 2000)
    monkeypatch.setattr("gpuknn.bench.reading.TRIED_BYTES", 20_000)
    assert reading_rate(vectors) > 0
    assert read == [0, 110, 220, 330, 440, 550, 660, 770, 880, 990]


def test_the_plan_and_the_outcome_tell_the_prediction(vectors: Vectors, capsys: pytest.CaptureFixture[str]) -> None:
    Path("rates.yaml").write_text("cpu: {product: 2.0e+5, reading: 1.0e+4}\n")
    np.save("q.npy", vectors[:])
    words = ["exact", "db.npy", "q.npy", "-k", "3", "--metric", "l2", "-o", "out.h5", "--threads", "1"]
    assert main([*words, "--rates", "rates.yaml", "--dry-run", "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert (plan["predicted_seconds"], plan["limited_by"]) == (START + 20 + 1000, "product")
    assert plan["memory_per_worker"] > 2**28
    assert main([*words, "--shard-rows", "300", "--dry-run", "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert (plan["shards"], plan["shard_rows"]) == (4, 250), "as they are cut"
    assert main([*words, "--rates", "rates.yaml"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "predicted: 1020.1 s, limited by product"
