import numpy as np
import pytest

from gpuknn.exact import cpu
from gpuknn.exact.int8 import Int8Product, int8_product


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


@pytest.fixture
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tiles, blocks and epochs so small that small data go through every path."""
    monkeypatch.setattr(cpu, "TILE_ROWS", 32)
    monkeypatch.setattr(cpu, "BLOCK_QUERIES", 3)
    monkeypatch.setattr(cpu, "EPOCH_VALUES", 1)
