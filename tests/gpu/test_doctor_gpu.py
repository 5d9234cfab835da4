"""The GPU's part of `gpuknn doctor`: it passes where all is well, and notices what is not."""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

cp = pytest.importorskip("cupy")
if not cp.cuda.is_available():
    pytest.skip("no GPU", allow_module_level=True)

from gpuknn.bench import gpu as rates  # noqa: E402
from gpuknn.cli.main import main  # noqa: E402
from gpuknn.doctor import examine, gpu, selftest  # noqa: E402
from gpuknn.engine.choose import open_device  # noqa: E402
from gpuknn.engine.cpu.device import CpuDevice  # noqa: E402
from gpuknn.engine.cuda.device import CudaDevice, open_cuda  # noqa: E402
from gpuknn.engine.cuda.kernels import Kernels  # noqa: E402
from gpuknn.engine.cuda.product import product  # noqa: E402
from gpuknn.engine.device import Search  # noqa: E402
from gpuknn.engine.metric import Metric  # noqa: E402
from gpuknn.errors import InputError  # noqa: E402

SLOW = 1e8
"""Operations a second of a device for which all sizes are the smallest."""


@pytest.fixture
def device() -> CudaDevice:
    return open_cuda(0)


def test_in_full(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, device: CudaDevice
) -> None:
    if device.free < 2**29:
        pytest.skip("too little memory for rows on the GPU")
    monkeypatch.setattr(examine, "DISK_BYTES", {True: 2**22})
    monkeypatch.setattr(selftest, "ALL", selftest.QUICK)
    monkeypatch.setattr(rates, "SECONDS", 1.0)
    monkeypatch.setattr(rates, "RESERVE", 2**28)
    monkeypatch.setattr(rates, "product_probe", lambda device: SLOW)
    assert main(["doctor", "--full", "--json", "--data-dir", str(tmp_path), "--report", str(tmp_path)]) == 0
    told = json.loads(capsys.readouterr().out)
    names = [check["name"] for check in told["checks"]]
    assert names[-5:] == ["GPU and CPU", "float16 sums", "races", "memory runs out", "resident rows"]
    assert [run["k"] for run in told["resident"]] == [10, 100, 1000]
    assert all(run["seconds"] > 0 and 0 <= run["bound_used"] < 1 for run in told["resident"])
    assert {"product", "select", "refine", "upload"} <= {rate["name"] for rate in told["rates"]}
    assert all(rate["value"] > 0 for rate in told["rates"])
    assert told["gpus"]["found"]
    assert told["gpus"]["libraries"]["CuPy"] == cp.__version__
    assert len(list(tmp_path.iterdir())) == 2


def test_bench(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rates, "product_probe", lambda device: 1e6)
    monkeypatch.setattr(rates, "COMPONENTS", 64)
    words = ["bench", "--device", "cuda", "--queries", "20", "--components", "64", "--repeat", "1"]
    assert main([*words, "-k", "3,7", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["machine"]["device"] == open_cuda(0).name
    assert told["machine"]["product"] > 0
    assert {"product", "select", "refine", "upload"} <= {rate["name"] for rate in told["machine"]["rates"]}
    assert [(m["k"], m["rows"], m["stages"], list(m["peers"])) for m in told["measurements"]] == [
        (k, 2000, {}, ["resident"]) for k in (3, 7)
    ]
    assert all(m["product"] > 0 and m["engine"] > 0 and m["peers"]["resident"] > 0 for m in told["measurements"])
    assert main([*words, "--rows", "300", "-k", "3", "--metric", "hamming"]) == 0
    assert "resident s" in capsys.readouterr().out
    assert main([*words, "--filter", "int8"]) == 2
    assert "--filter int8: is for --device cpu" in capsys.readouterr().err


def test_a_product_that_loses_bits(monkeypatch: pytest.MonkeyPatch, device: CudaDevice) -> None:

    def lossy(queries: Any, rows: Any, out: Any) -> None:
        product(queries, rows, out)
        out[...] = out.astype(np.float16)

    monkeypatch.setattr(gpu, "product", lossy)
    check, shares = gpu.check_sums(device, SLOW)
    assert not check.passed
    assert max(shares.values()) > 1


def test_answers_that_change(monkeypatch: pytest.MonkeyPatch, device: CudaDevice) -> None:
    launch, count = Kernels.launch, 0

    def unsteady(self: Kernels, name: str, *rest: Any) -> None:
        nonlocal count
        launch(self, name, *rest)
        if name.startswith("settle"):
            count += 1
            kept = rest[3]
            kept.arrays["ids"][:, 0] = count  # of the nearest

    monkeypatch.setattr(Kernels, "launch", unsteady)
    assert not gpu.check_races(device, SLOW).passed
    assert not gpu.check_against_cpu(device, CpuDevice(1), SLOW).passed


def test_a_drill_that_does_not_happen(monkeypatch: pytest.MonkeyPatch, device: CudaDevice) -> None:
    monkeypatch.setattr(gpu, "_fill", lambda left: [])
    check = gpu.check_memory(device, SLOW)
    assert not check.passed
    assert "1 runs of rows instead of 1" in check.said


def test_rows_on_the_device_give_the_answer_of_uploaded_ones(rng: np.random.Generator, small_pieces: None) -> None:
    device = open_cuda(0)
    for metric, dtype in (("cosine", "float16"), ("l2", "float32"), ("ip", "int8"), ("hamming", "uint64")):
        rows, queries = selftest.make_data("random", dtype, 300, 5, 24, seed=int(rng.integers(2**31)))
        search = Search(queries, 7, Metric(metric), np.dtype(np.float64))
        resident = cp.asarray(rows)
        cp.cuda.Device().synchronize()
        with device.begin(search, rows.dtype) as state:
            runs = state.epochs(range(len(rows)))
            assert len(runs) > 3
            for run in runs:
                state.feed_resident(resident[run.start : run.stop], run.start)
            found, _ = state.result()
        ids, dists = selftest.nearest(selftest.distances(rows, queries, metric), 7, "float64")
        assert np.array_equal(found.ids, ids)
        assert np.array_equal(found.dists, dists)


def test_missing_libraries_are_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("device", "product"):
        monkeypatch.delitem(sys.modules, f"gpuknn.engine.cuda.{module}")
    monkeypatch.setitem(sys.modules, "cupy_backends.cuda.libs", None)
    with pytest.raises(InputError, match="lacks CUDA's libraries"):
        open_device("cuda")
