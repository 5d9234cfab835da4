"""What one sees of a run: the page, its JSON, the workers' counters, the log lines, the performance report."""

import json
import socket
import struct
import subprocess
import sys
import time
import urllib.request
from argparse import Namespace
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit

import numpy as np
import psutil
import pytest
from distributed import Client

import gpuknn
from gpuknn.cli.main import main
from gpuknn.cli.progress import shown
from gpuknn.engine.cpu.device import CpuDevice
from gpuknn.engine.metric import Metric
from gpuknn.errors import InputError
from gpuknn.jobs import events, watch
from gpuknn.jobs.exact import shard
from gpuknn.jobs.exact.job import Job
from gpuknn.jobs.exact.partial import find_partial
from gpuknn.jobs.exact.plan import blocks
from gpuknn.jobs.own_page import served
from gpuknn.jobs.page import Run, duration
from gpuknn.jobs.watch import check_report, page_address, watched
from gpuknn.progress import Event
from gpuknn.vectors import open_vectors
from gpuknn.workers.cluster import local_cluster
from gpuknn.workers.workers import Workers

ROWS, QUERIES, DIM = 900, 30, 16
Shard = tuple[range, range]


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    with local_cluster(Workers(2, 2, CpuDevice(1))) as client:
        yield client


@pytest.fixture
def job(tmp_path: Path) -> Job:
    rows = np.random.default_rng(0).standard_normal((ROWS, DIM)).astype(np.float16)
    np.save(tmp_path / "db.npy", rows)
    np.save(tmp_path / "q.npy", rows[:QUERIES].astype(np.float32))
    database, queries = open_vectors(tmp_path / "db.npy"), open_vectors(tmp_path / "q.npy")
    return Job(database, queries, 9, Metric.COSINE, "float32")


@pytest.fixture
def shards() -> list[Shard]:
    return [(queries, rows) for queries in blocks(QUERIES, 20) for rows in blocks(ROWS, 250)]


def scan(client: Client, job: Job, folder: Path, shards: list[Shard]) -> None:
    folder.mkdir(exist_ok=True)
    state = job.file_state()
    tasks = [(job, state, *cut, np.full(len(cut[0]), np.inf), folder, CpuDevice(1)) for cut in shards]
    for future in [client.submit(shard.scan_shard, *task, pure=False) for task in tasks]:
        future.result()


def fetch(address: str) -> str:
    with urllib.request.urlopen(address, timeout=30) as answer:
        return str(answer.read().decode())


def seen(client: Client, run: Path, shown: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    """The run on the page, once it shows what is waited for: events take their time."""
    deadline = time.monotonic() + 30
    while True:
        runs = json.loads(fetch(page_address(client).split()[0] + ".json"))["runs"]
        found: dict[str, Any] = next(r for r in runs if r["run"] == str(run))
        if shown(found):
            return found
        assert time.monotonic() < deadline, found
        time.sleep(0.05)


def test_the_page_shows_what_is_done(client: Client, job: Job, shards: list[Shard], tmp_path: Path) -> None:
    run, other = tmp_path / "a.run", tmp_path / "b.run"
    title = "<script>alert('db')</script>.npy"
    heard: list[Event] = []
    with (
        watched(client, run, title, shards, heard.append) as address,
        watched(client, other, "another", shards[:1], print),
    ):
        scan(client, job, run, shards[:3])
        scan(client, job, run, shards[2:3])  # computed twice, counted once
        scan(client, job, other, shards[:1])
        half = seen(client, run, lambda r: r["done"]["shards"] == 3 and len(r["events"]) == 5)
        assert half["state"] == "at work"
        assert half["seconds_left"] > 0
        assert half["done"]["rows"] == sum(len(rows) for _, rows in shards[:3])
        scan(client, job, run, shards[3:])
    run_seen = seen(client, run, lambda r: r["state"] == "done" and r["done"]["shards"] == len(shards))
    assert run_seen["shards"] == len(shards)
    assert run_seen["rows"] == 2 * ROWS
    assert run_seen["seconds_left"] is None
    pairs = sum(find_partial(run, *cut).certificate.pairs_refined for cut in shards)
    expected = {
        "rows": 2 * ROWS,  # two blocks of queries, so two passes
        "bytes": 2 * ROWS * DIM * 2,
        "operations": 2 * ROWS * QUERIES * DIM,
        "pairs": pairs,
        "shards": len(shards),
    }
    assert run_seen["done"] == pytest.approx(expected)
    assert run_seen["per_second"]["rows"] == pytest.approx(2 * ROWS / run_seen["seconds"])
    for amount in expected:
        assert sum(w["done"][amount] for w in run_seen["workers"]) == pytest.approx(expected[amount])
    assert {w["worker"] for w in run_seen["workers"]} <= {"0", "1"}
    assert all(w["here"] and w["per_second"]["rows"] > 0 and not w["at"] for w in run_seen["workers"])
    assert seen(client, other, lambda r: r["state"] == "done")["done"]["rows"] == 250
    assert address == page_address(client)
    assert {event["run"] for event in heard} == {str(run)}
    page = fetch(page_address(client).split()[0])
    assert "<script" not in page
    assert "&lt;script&gt;alert(&#x27;db&#x27;)&lt;/script&gt;.npy" in page.replace("&#39;", "&#x27;")
    assert f"{len(shards)} of {len(shards)}" in page
    assert f"{pairs:,}" in page


@pytest.mark.usefixtures("job")
def test_a_run_of_this_process_alone_shows_its_page(tmp_path: Path) -> None:
    seen: dict[str, Any] = {}
    told: list[str] = []

    def look(event: Event) -> None:
        told.append(event["event"])
        if event["event"] == "watch":
            seen["address"] = event["address"]
        if event["event"] == "shard" and event["shard"] > 0:
            seen["json"] = json.loads(fetch(seen["address"] + ".json"))
            seen["page"] = fetch(seen["address"])
            seen["counters"] = fetch(seen["address"].removesuffix("/gpuknn") + "/metrics")
            seen["listening"] = [c for c in psutil.Process().net_connections("inet") if c.status == psutil.CONN_LISTEN]
            with pytest.raises(HTTPError, match="404"):
                fetch(seen["address"] + "/../etc/passwd")

    files = tmp_path / "db.npy", tmp_path / "q.npy", tmp_path / "gold.h5"
    gpuknn.exact(*files, k=9, device="cpu", shard_rows=500, progress=look)
    (run,) = seen["json"]["runs"]
    assert (run["rows"], run["shards"], run["state"]) == (ROWS, 2, "at work")
    assert run["done"]["shards"] >= 1
    assert [(worker["worker"], worker["here"]) for worker in run["workers"]] == [("0", True)]
    assert f"of {ROWS // 450}" in seen["page"]
    assert "Dask" not in seen["page"]
    if events.COUNTERS:
        assert "gpuknn_rows_total" in seen["counters"]
    assert {connection.laddr.ip for connection in seen["listening"]} == {"127.0.0.1"}
    assert told.count("shard") == 2
    with pytest.raises(URLError, match="refused"):
        fetch(seen["address"])


def test_a_browser_that_goes_away_is_not_told_of(capfd: pytest.CaptureFixture[str]) -> None:
    with served() as (address, _):
        place = urlsplit(address)
        for _ in range(5):
            browser = socket.create_connection((place.hostname or "", place.port or 0))
            browser.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # it ends with a reset
            browser.sendall(b"GET /gpuknn HTTP/1.1\r\n\r\n")
            browser.close()
        assert "gpuknn" in fetch(address)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(
    ("asked", "host", "status"),
    [
        ("GET /gpuknn", "127.0.0.1:9", 200),
        ("GET /gpuknn.json?now=1", "localhost", 200),
        ("HEAD /gpuknn", "127.0.0.1", 200),
        ("GET /nothing", "127.0.0.1", 404),
        ("GET /gpuknn", "example.org", 403),
        ("GET /gpuknn", "", 403),
        ("GET /gpuknn", "[::1", 400),
        ("GET http://[x/gpuknn", "localhost", 400),
        ("POST /gpuknn", "127.0.0.1", 501),
    ],
)
def test_what_the_page_answers(asked: str, host: str, status: int) -> None:
    """A page of another site, whose name was made to mean this machine, is not told of runs."""
    with served() as (address, _):
        place = urlsplit(address)
        with socket.create_connection((place.hostname or "", place.port or 0), timeout=30) as browser:
            browser.sendall(f"{asked} HTTP/1.0\r\nHost: {host}\r\n\r\n".encode())
            answer = browser.makefile("rb").read()
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.split()[1] == str(status).encode()
    if status == 200:
        length = next(line for line in head.splitlines() if line.lower().startswith(b"content-length")).split()[1]
        assert len(body) == (0 if "HEAD" in asked else int(length))
        assert int(length) > 0


def test_a_run_of_this_process_alone_loads_no_dask(tmp_path: Path) -> None:
    code = (
        "import sys; from gpuknn.cli.main import main; assert main(['exact', '--subset', 'sample', '-k', '3', "
        "'-o', 'x.h5', '--device', 'cpu']) == 0; print({'dask', 'distributed', 'zarr'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=True)
    assert done.stdout.splitlines()[-1] == "set()"


def test_a_run_that_its_client_left_has_stopped(client: Client, tmp_path: Path) -> None:
    with Client(client.scheduler.address, set_as_default=False) as second:  # noqa: SIM117
        with pytest.raises(KeyError), watched(second, tmp_path / "x.run", "x", [(range(3), range(9))], print):
            raise KeyError
    seen(client, tmp_path / "x.run", lambda r: r["state"] == "stopped")


def test_nothing_listens_beyond_this_machine(client: Client, tmp_path: Path) -> None:
    with watched(client, tmp_path / "x.run", "x", [], print):
        processes = [psutil.Process(), *psutil.Process().children(recursive=True)]
        listening = [c for p in processes for c in p.net_connections("inet") if c.status == psutil.CONN_LISTEN]
    assert len(listening) >= 5
    assert {c.laddr.ip for c in listening} == {"127.0.0.1"}


def test_workers_count(client: Client, job: Job, shards: list[Shard], tmp_path: Path) -> None:
    pytest.importorskip("prometheus_client")

    def counted() -> dict[str, float]:
        total: dict[str, float] = {}
        for worker in client.scheduler_info(n_workers=-1)["workers"].values():
            page = fetch(f"http://127.0.0.1:{worker['services']['dashboard']}/metrics")
            for line in page.splitlines():
                if line.startswith("gpuknn_"):
                    name, value = line.rsplit(" ", 1)
                    total[name] = total.get(name, 0) + float(value)
        return total

    before = counted()
    scan(client, job, tmp_path / "x.run", shards)
    after = {name: value - before.get(name, 0) for name, value in counted().items()}
    assert after["gpuknn_shards_total"] == len(shards)
    assert after["gpuknn_rows_total"] == 2 * ROWS
    assert after["gpuknn_bytes_read_total"] == 2 * ROWS * DIM * 2
    assert after["gpuknn_operations_total"] == pytest.approx(2 * ROWS * QUERIES * DIM)
    assert after["gpuknn_pairs_refined_total"] >= QUERIES * 9
    assert after['gpuknn_seconds_total{phase="scan"}'] > 0
    assert after['gpuknn_seconds_total{phase="write"}'] > 0


def shard_event(event: str, shard: int, rows: int, name: str) -> Event:
    amounts = {"rows": rows, "bytes": 2 * rows, "operations": 3.0 * rows, "seconds": 0.5, "device": "cpu"}
    return {"event": event, "queries": 0, "shard": shard, "name": name} | amounts


def test_shards_that_are_computed_again() -> None:
    run = Run("run", "title", "client", 2, 20)
    run.hear(shard_event("progress", 0, 4, "a"))
    run.hear(shard_event("progress", 0, 3, "b"))  # a has died
    assert run.summary({"b"})["done"]["rows"] == 3
    run.hear({**shard_event("shard", 0, 10, "b"), "pairs": 7})
    run.hear(shard_event("progress", 0, 5, "a"))  # it had not
    run.hear(shard_event("progress", 10, 5, "a"))
    run.hear({"event": "merged", "queries": 0, "rows": [0, 10], "parts": 2, "seconds": 0.25})
    summary = run.summary({"b"})
    assert (summary["done"]["rows"], summary["done"]["shards"], summary["done"]["pairs"]) == (15, 1, 7)
    assert summary["merges"] == {"merges": 1, "parts": 2, "seconds": 0.25}
    assert [(w["worker"], w["here"], w["at"]) for w in summary["workers"]] == [
        ("a", False, [[0, 10]]),
        ("b", True, []),
    ]
    run.began -= 30
    assert run.summary(set())["seconds_left"] == pytest.approx(10, rel=0.2)  # 15 rows took 30 s, 5 are left
    run.hear({"event": "damaged", "queries": 0, "rows": [0, 10]})
    assert run.summary(set())["done"]["rows"] == 5
    assert run.summary(set())["done"]["shards"] == 0


def test_what_is_told_and_counted_of_a_shard(job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[Event] = []
    counted: list[dict[str, float]] = []
    monkeypatch.setattr(shard, "tell", lambda run, event, **facts: told.append({"event": event, **facts}))
    monkeypatch.setattr(shard, "count", lambda phase, seconds, **amounts: counted.append(amounts))
    monkeypatch.setattr(shard, "SECONDS_BETWEEN_REPORTS", 60)
    report = shard.Report(job, range(20, 30), range(250, 500), tmp_path, "cpu")
    report.begun()
    for rows in (100, 101, 250):
        report.at(rows)
    report.scanned()
    report.finished(7)
    assert [(event["event"], event["rows"]) for event in told] == [("progress", 0), ("progress", 100), ("shard", 250)]
    assert (told[-1]["queries"], told[-1]["shard"], told[-1]["pairs"]) == (20, 250, 7)
    total = {name: sum(amounts.get(name, 0) for amounts in counted) for name in ("rows", "bytes", "pairs", "shards")}
    assert total == {"rows": 250, "bytes": 250 * DIM * 2, "pairs": 7, "shards": 1}


def test_durations() -> None:
    assert [duration(s) for s in (None, 0, 59.4, 59.6, 3600)] == ["unknown", "0 s", "59 s", "1 min 00 s", "1 h 00 min"]


@pytest.mark.usefixtures("job")
def test_a_report_without_bokeh(
    client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(watch, "find_spec", lambda _: None)
    with pytest.raises(InputError, match=r"needs Bokeh; install it with: pip install 'bokeh"):
        check_report(tmp_path / "report.html")
    monkeypatch.setattr(watch, "_draws", lambda _: False)
    with (
        pytest.raises(InputError, match="at the scheduler"),
        watched(client, tmp_path, "x", [], print, tmp_path / "report.html"),
    ):
        pytest.fail("work began")
    assert page_address(client) == client.dashboard_link.replace("/status", "/gpuknn")
    monkeypatch.chdir(tmp_path)
    assert main(["exact", "db.npy", "q.npy", "-k", "9", "-o", "x.h5", "--performance-report", "report.html"]) == 2
    told = capsys.readouterr().err
    assert told.startswith("gpuknn: error: --performance-report report.html: needs Bokeh; install it with: pip install")
    assert told.count("\n") == 1
    assert sorted(file.name for file in tmp_path.iterdir()) == ["db.npy", "q.npy"]


def test_a_report_is_written_whole_or_not_at_all(client: Client, tmp_path: Path) -> None:
    pytest.importorskip("bokeh")
    with pytest.raises(InputError, match="names no file"):
        check_report(tmp_path / "missing" / "report.html")
    report = tmp_path / "report.html"
    check_report(report)
    with pytest.raises(KeyError), watched(client, tmp_path, "x", [], print, report):
        raise KeyError
    assert not list(tmp_path.iterdir())
    with watched(client, tmp_path, "<script>x", [], print, report):
        assert client.submit(sum, [1]).result() == 1
        assert not report.exists()
    assert "</html>" in report.read_text()
    assert "<script>x" not in report.read_text()
    assert [file.name for file in tmp_path.iterdir()] == ["report.html"]


@pytest.mark.usefixtures("job")
def test_log_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["exact", "db.npy", "q.npy", "-k", "9", "-o", "x.h5", "--shard-rows", "300", "--log-json"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert all(datetime.fromisoformat(line["time"]).utcoffset() is not None for line in lines)
    events = [line["event"] for line in lines]
    assert events[0] == "plan"
    assert events[-1] == "written"
    assert (lines[0]["rows"], lines[-1]["output"]) == (ROWS, "x.h5")
    assert events.count("shard") == 3
    with shown(Namespace(log_json=True)) as log:
        log({"event": "said", "line": "a line"})
    assert json.loads(capsys.readouterr().err)["line"] == "a line"
    steps = {line["event"]: line["rows"] for line in lines if line["event"] in ("checking", "computing")}
    assert steps == {"checking": ROWS, "computing": ROWS}
