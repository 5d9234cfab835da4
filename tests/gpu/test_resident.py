"""Rows and queries that lie on the GPU give the same answer, and are searched there if they can be."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import gpuknn
from gpuknn.errors import InputError
from tests import oracle
from tests.gpu.support import ROW_TYPES, cp, cuda, random_rows, resident

N, D = 300, 20


class Capsule:
    """Speaks DLPack and nothing else, as a library of tensors does."""

    def __init__(self, array: Any, **attributes: Any) -> None:
        self._array = array
        vars(self).update(attributes)

    def __dlpack_device__(self) -> tuple[int, int]:
        return self._array.__dlpack_device__()

    def __dlpack__(self, **options: Any) -> Any:
        if getattr(self, "requires_grad", False):
            raise BufferError("no gradients")
        return self._array.__dlpack__(**options)


class Interface:
    """Speaks CUDA's array interface, as Numba does."""

    def __init__(self, array: Any) -> None:
        self._array, self.__cuda_array_interface__ = array, array.__cuda_array_interface__


def strided(array: Any) -> Any:
    wide = cp.zeros((2 * len(array), 2 * array.shape[1]), array.dtype)
    wide[::2, ::2] = array
    return wide[::2, ::2]


HELD: dict[str, Callable[[Any], Any]] = {
    "cupy": lambda x: x,
    "dlpack": Capsule,
    "interface": Interface,
    "columns": lambda x: cp.ascontiguousarray(x.T).T,
    "strided": strided,
    "slice": lambda x: cp.concatenate([x[:3], x])[3:],
}
IN_PLACE = {"cupy", "dlpack", "interface", "slice"}


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The lengths of what is copied to the machine's memory during a search."""
    seen: list[int] = []
    plain = resident.GpuVectors.read

    def see(self: resident.GpuVectors, first: int, out: np.ndarray) -> None:
        seen.append(len(out))
        plain(self, first, out)

    monkeypatch.setattr(resident.GpuVectors, "read", see)
    monkeypatch.setattr("gpuknn.engine.scan.check_content", lambda *args: None)  # it reads all, wherever it lies
    return seen


@pytest.mark.usefixtures("small_pieces")
@pytest.mark.parametrize("kind", HELD)
@pytest.mark.parametrize("dtype", [*ROW_TYPES, "uint64"])
def test_every_kind_gives_the_answer_of_the_plain_array(
    kind: str, dtype: str, rng: np.random.Generator, read: list[int]
) -> None:
    rows, asked = random_rows(rng, N, D, dtype), random_rows(rng, 5, D, dtype)
    metric = "hamming" if dtype == "uint64" else "l2"
    ids, dists = oracle.knn(rows, asked, 7, metric, "float32")
    held = HELD[kind](cp.asarray(rows))
    for device in ("cuda", "cpu"):
        read.clear()
        found = gpuknn.exact_knn(held, HELD[kind](cp.asarray(asked)), k=7, metric=metric, device=device)
        assert isinstance(found.ids, np.ndarray)
        assert np.array_equal(found.ids, ids)
        assert found.dists.tobytes() == dists.tobytes()
        in_place = device == "cuda" and kind in IN_PLACE
        assert sum(read) == 5 + (0 if in_place else N)
    assert max(read) < N or device == "cpu"


@pytest.mark.usefixtures("small_pieces")
def test_rows_against_themselves_and_checked(rng: np.random.Generator) -> None:
    rows = random_rows(rng, N, D, "float32")
    held = cp.asarray(rows)
    assert gpuknn.exact_knn(held, k=3, device="cuda") == gpuknn.exact_knn(rows, k=3, device="cpu")
    held[17] = 0
    with pytest.raises(InputError, match=r"database: row 17 \(counted from 0\): only zeros"):
        gpuknn.exact_knn(held, k=3, device="cuda")


def test_booleans_and_a_single_query(rng: np.random.Generator) -> None:
    rows = rng.random((N, 70)) < 0.5
    expected = gpuknn.exact_knn(rows, rows[:1], k=3, metric="hamming", device="cpu")
    for held in (cp.asarray(rows), Capsule(cp.asarray(rows))):
        assert resident.gpu_vectors(held, "rows").gpu == 0
        assert (
            gpuknn.exact_knn(held, held[0] if isinstance(held, cp.ndarray) else rows[0], k=3, metric="hamming")
            == expected
        )


@pytest.mark.parametrize("width", [9, 16])
@pytest.mark.parametrize("dtype", ["uint8", "int8"])
def test_bits_in_bytes(dtype: str, width: int, rng: np.random.Generator) -> None:
    rows = rng.integers(0, 256, (N, width), np.uint8).view(dtype)
    expected = gpuknn.exact_knn(rows, rows[:3], k=3, metric="hamming", device="cpu")
    for hold in HELD.values():
        for device in ("cuda", "cpu"):
            assert gpuknn.exact_knn(hold(cp.asarray(rows)), rows[:3], k=3, metric="hamming", device=device) == expected
    assert gpuknn.exact_knn(rows, cp.asarray(rows[:3]), k=3, metric="hamming", device="cuda") == expected


def test_rows_that_another_stream_is_still_writing(rng: np.random.Generator) -> None:
    rows = random_rows(rng, N, D, "float32")
    held = cp.zeros((N, D), np.float32)
    cp.cuda.get_current_stream().synchronize()  # the other stream does not wait for the zeros
    with cp.cuda.Stream(non_blocking=True):
        held.set(rows)
        assert gpuknn.exact_knn(held, rows[:3], k=3, device="cuda") == gpuknn.exact_knn(
            rows, rows[:3], k=3, device="cpu"
        )


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda x: x.astype(np.int32), r"holds int32, .* rows\.astype\(np\.float32\)"),
        (lambda x: x[0], r"has 1 dimension\(s\)"),
        (lambda x: Capsule(x, requires_grad=True), r"rows\.detach\(\)"),
    ],
)
def test_what_is_no_rows(make: Callable[[Any], Any], said: str) -> None:
    with pytest.raises(InputError, match=f"database: .*{said}"):
        gpuknn.exact_knn(make(cp.ones((4, 3), np.float32)), np.ones((1, 3)), k=1)


@pytest.mark.skipif(cp.cuda.runtime.getDeviceCount() < 2, reason="needs two GPUs")
def test_the_gpu_that_holds_the_rows_computes(rng: np.random.Generator, read: list[int]) -> None:
    rows = random_rows(rng, N, D, "float32")
    with cp.cuda.Device(1):
        held = cp.asarray(rows)
        booleans = held > 0
    found = gpuknn.exact_knn(held, rows[:3], k=3, device="cuda")
    assert found == gpuknn.exact_knn(rows, rows[:3], k=3, device="cpu")
    assert not read
    vectors = resident.gpu_vectors(held, "rows")
    assert cuda.open_cuda(0).resident(vectors) is None
    assert cuda.open_cuda(1).resident(vectors) is held
    assert resident.gpu_vectors(booleans, "rows").gpu == 1
    expected = gpuknn.exact_knn(rows > 0, k=3, metric="hamming", device="cpu")
    assert gpuknn.exact_knn(booleans, k=3, metric="hamming", device="cuda") == expected
