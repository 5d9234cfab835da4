import os
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import numpy as np
import pytest

# The host build's own module; a real GPU has none.
cuda_on_cpu = import_module("cuda_on_cpu") if find_spec("cuda_on_cpu") else None

SEEN: Counter[str] = Counter()
"""Kernels launched, and `refused`: times that a device had too little memory."""


@pytest.fixture(autouse=True)
def no_errors() -> Iterator[None]:
    """Makes a test answer for its own mistakes."""
    yield
    if cuda_on_cpu:
        cuda_on_cpu.check()


@pytest.fixture
def rng(request: pytest.FixtureRequest) -> np.random.Generator:
    """Other data in each test and for each seed of the host build: memory pools keep the last right answer."""
    seed = int(os.environ.get("CUDA_ON_CPU_SEED", "1"))
    return np.random.default_rng([seed, zlib.crc32(request.node.name.encode())])


@pytest.fixture
def pieces(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Sets the lengths of epochs (in bytes), tiles and sweeps, and the room for candidates."""

    def set_pieces(epoch: int, tile: int, sweep: int, spare: int) -> None:
        sizes = {"EPOCH_BYTES": epoch, "LARGEST_TILE": tile, "SMALLEST_TILE": 4, "SWEEP_ROWS": sweep, "SPARE": spare}
        for name, size in sizes.items():
            monkeypatch.setattr(f"gpuknn.engine.cuda.device.{name}", size)

    return set_pieces


@pytest.fixture
def small_pieces(pieces: Callable[..., None]) -> None:
    """So small that a few hundred rows go through many epochs, slots, tiles and sweeps."""
    pieces(epoch=2**11, tile=16, sweep=16, spare=4)


@pytest.fixture(scope="session", autouse=True)
def witness() -> Iterator[None]:
    """Writes down what `pytest_terminal_summary` tells."""
    from gpuknn.engine.cuda import device as cuda
    from gpuknn.engine.cuda import kernels as cuda_kernels

    launch, allocate = cuda_kernels.Kernels.launch, cuda.CudaScan._allocate

    def seen_launch(self: Any, name: str, *rest: Any) -> None:
        launch(self, name, *rest)
        SEEN[name] += 1

    def seen_allocate(self: Any, length: int) -> bool:
        enough = allocate(self, length)
        SEEN["refused"] += not enough
        return enough

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cuda_kernels.Kernels, "launch", seen_launch)
        patch.setattr(cuda.CudaScan, "_allocate", seen_allocate)
        yield


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if SEEN:
        refused = SEEN.pop("refused")
        terminalreporter.line(f"kernels launched: {' '.join(sorted(SEEN))}")
        terminalreporter.line(f"allocations refused: {refused}")
