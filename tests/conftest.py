import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from signal import SIGINT, SIGTERM

import numpy as np
import pytest

from gpuknn.engine.cpu import device as cpu
from gpuknn.engine.cpu.int8 import Int8Product, int8_product
from tests.gpu.tools import TOOLS


@pytest.fixture(autouse=True, scope="session")
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """What is measured in tests is not kept for this machine's user; processes that tests start see this, too.

    A rate is kept there from the beginning, or else each search would measure one.  What `shared/cuda-on-cpu` has built
    stays in the user's cache: that takes minutes.
    """
    cache = tmp_path_factory.mktemp("cache")
    if TOOLS.exists():
        kept = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "cuda-on-cpu"
        kept.mkdir(parents=True, exist_ok=True)
        (cache / "cuda-on-cpu").symlink_to(kept)
    (cache / "gpuknn").mkdir()
    (cache / "gpuknn" / "rates.yaml").write_text("cpu: {product: 2.0e+10}\n")
    os.environ["XDG_CACHE_HOME"] = str(cache)


@pytest.fixture(params=["float32", "int8"])
def filter_name(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Each filter in turn; int8 by a plain product where this machine has no fast one."""
    name: str = request.param
    monkeypatch.setattr(cpu.CpuDevice.__init__, "__defaults__", (name,))
    monkeypatch.setattr(cpu, "int8_product", some_int8_product)
    return name


def some_int8_product() -> Int8Product:
    return int8_product() or plain_int8_product(63)


def plain_int8_product(largest: int) -> Int8Product:
    return Int8Product(lambda a, b: (a.astype(np.int32) - 128) @ b.astype(np.int32), largest)


@pytest.fixture(scope="session")
def holes(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Skips if the file system does not tell what was never written."""
    with open(tmp_path_factory.mktemp("holes") / "probe", "wb") as file:
        file.truncate(2**20)
        if os.lseek(file.fileno(), 0, os.SEEK_HOLE) != 0:
            pytest.skip("this file system does not tell holes")


@pytest.fixture
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tiles, blocks and epochs so small that small data go through every path."""
    monkeypatch.setattr(cpu, "TILE_ROWS", 32)
    monkeypatch.setattr(cpu, "BLOCK_QUERIES", 3)
    monkeypatch.setattr(cpu, "EPOCH_VALUES", 1)


@pytest.fixture(scope="session")
def object_server() -> Iterator[str]:
    """The address of an object store that speaks S3, on loopback."""
    server = Path(sys.executable).with_name("moto_server")
    if not server.exists():
        pytest.skip("needs moto's server")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [str(server), "-H", "127.0.0.1", "-p", str(port)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            while process.poll() is None and not _listens(port):
                time.sleep(0.05)
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()


@pytest.fixture
def bucket(object_server: str, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> str:
    """The URL of an empty bucket, for this process and those that it starts."""
    pytest.importorskip("obstore")
    name = f"b{abs(hash(request.node.nodeid)):x}"
    urllib.request.urlopen(urllib.request.Request(f"{object_server}/{name}", method="PUT")).close()
    settings = {"ENDPOINT_URL": object_server, "ALLOW_HTTP": "true", "REGION": "us-east-1"}
    for setting, value in {**settings, "ACCESS_KEY_ID": "name", "SECRET_ACCESS_KEY": "secret"}.items():
        monkeypatch.setenv(f"AWS_{setting}", value)
    return f"s3://{name}"


@pytest.fixture
def handlers() -> Iterator[None]:
    """As `gpuknn` sets them: both signals raise KeyboardInterrupt; they are found like that afterwards."""
    earlier = {number: signal.signal(number, signal.default_int_handler) for number in (SIGINT, SIGTERM)}
    yield
    after = {number: signal.signal(number, handler) for number, handler in earlier.items()}
    assert set(after.values()) == {signal.default_int_handler}


def _listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port)).close()
    except ConnectionRefusedError:
        return False
    return True
