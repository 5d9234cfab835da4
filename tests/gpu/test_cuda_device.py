"""The device itself: its memory, its place among others, and what it says when something is wrong."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from gpuknn.engine import bound
from gpuknn.engine.choose import open_device
from gpuknn.engine.device import Search
from gpuknn.engine.metric import Metric
from gpuknn.engine.scan import scan
from gpuknn.errors import InputError, RunError
from gpuknn.vectors import ArrayVectors
from tests import oracle
from tests.gpu.support import Room, assert_exact, cp, cuda, cuda_kernels, random_rows, search_on_gpu

Pieces = Callable[..., None]

two_devices = pytest.mark.skipif(cp.cuda.runtime.getDeviceCount() < 2, reason="needs two GPUs")


@pytest.fixture
def memory() -> Iterator[Callable[[int], None]]:
    """Sets how many bytes CuPy may take from this GPU."""
    pool = cp.get_default_memory_pool()

    def limit(size: int) -> None:
        pool.free_all_blocks()
        pool.set_limit(size=pool.total_bytes() + size)

    yield limit
    pool.set_limit(size=0)


def test_what_a_person_is_told() -> None:
    device = open_device("cuda")
    assert device.name == f"cuda ({cp.cuda.runtime.getDeviceProperties(0)['name'].decode()})"
    assert open_device("auto") == device
    assert (device.kind, device.units, device.resources) == (device.name, 1, {"GPU": 1})
    assert [each.number for each in cuda.open_all()] == list(range(cp.cuda.runtime.getDeviceCount()))
    assert device.memory(2000, 10, 96) > device.memory(1000, 10, 96) > 3 * cuda.EPOCH_BYTES


def test_no_such_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="CuPy cannot use this GPU"):
        cuda.open_cuda(cp.cuda.runtime.getDeviceCount())
    monkeypatch.setattr(cp.cuda, "is_available", lambda: False)
    with pytest.raises(InputError, match="no NVIDIA GPU or driver was found"):
        cuda.open_cuda()


@pytest.mark.usefixtures("small_pieces")
@pytest.mark.parametrize("slots", [2, 5])
def test_any_number_of_slots(slots: int, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    """With two, the reader must wait for uploads; with three, `feed` has done so before."""
    monkeypatch.setattr(cuda, "SLOTS", slots)
    for dtype in ("float16", "float32"):
        assert_exact(random_rows(rng, 300, 20, dtype), random_rows(rng, 5, 20, "float32"), 7, "l2")


@two_devices
def test_other_devices_give_the_same_answer(rng: np.random.Generator, pieces: Pieces) -> None:
    pieces(epoch=2**12, tile=16, sweep=32, spare=4)
    rows, queries = random_rows(rng, 500, 20, "float32"), random_rows(rng, 9, 20, "float32")
    ids, _ = oracle.knn(rows, queries, 12, "l2", "float32")

    def ids_from(number: int) -> np.ndarray:
        return search_on_gpu(rows, queries, 12, number=number)[0].ids

    assert np.array_equal(ids_from(1), ids)
    with ThreadPoolExecutor(2) as threads:  # both at once
        for found in threads.map(ids_from, (0, 1)):
            assert np.array_equal(found, ids)


@pytest.mark.parametrize("metric", ["l2", "hamming"])
def test_epochs_are_as_long_as_memory_allows(
    metric: str, rng: np.random.Generator, pieces: Pieces, memory: Callable[[int], None]
) -> None:
    pieces(epoch=2**20, tile=16, sweep=16, spare=8)
    dtype = "uint64" if metric == "hamming" else "float32"
    rows, queries = random_rows(rng, 1500, 20, dtype), random_rows(rng, 5, 20, dtype)
    search = Search(queries, 7, Metric(metric), np.dtype("float32"))
    with cuda.open_cuda().begin(search, rows.dtype) as state:
        assert len(state.epochs(range(1500))) == 1
    del state  # and with it its memory
    memory(200_000)
    with cuda.open_cuda().begin(search, rows.dtype) as state:
        assert 1 < len(state.epochs(range(1500))) < 100
    assert_exact(rows, queries, 7, metric)


def test_too_little_memory_for_any_epoch(rng: np.random.Generator, memory: Callable[[int], None]) -> None:
    rows, queries = random_rows(rng, 50, 8, "float16"), random_rows(rng, 10, 8, "float32")
    memory(100_000)
    with pytest.raises(RunError, match="too little free memory for 10 queries"):
        search_on_gpu(rows, queries, 10)
    memory(1_500_000)
    assert_exact(rows, queries, 10, "l2")


def test_as_many_queries_as_are_said_to_fit(
    rng: np.random.Generator, pieces: Pieces, memory: Callable[[int], None]
) -> None:
    pieces(epoch=2**13, tile=16, sweep=16, spare=8)
    free, k, d = 300_000, 20, 16
    device = cuda.CudaDevice(0, "a small one", free)
    nq = device.most_queries(k, d)
    assert nq > 30
    rows, queries = random_rows(rng, 300, d, "float32"), random_rows(rng, nq, d, "float32")
    memory(free)
    search = Search(queries, k, Metric.COSINE, np.dtype("float32"))
    found, _ = scan(ArrayVectors.of(rows, "rows"), range(300), search, device)
    assert np.array_equal(found.ids, oracle.knn(rows, queries, k, "cosine", "float32")[0])
    assert cuda.CudaDevice(0, "none left", 0).most_queries(k, d) == 1


def hostile_rows() -> tuple[np.ndarray, np.ndarray]:
    """An honest row first; last a slightly better one, whose score rounding to float16 lowers by almost the bound."""
    d = 64
    lost = np.float32(1 + 0.99 * 2.0**-11)  # nearly half a unit in the last place of float16
    rows = np.full((200, d), 0.5, np.float32)
    rows[0], rows[-1] = 1, lost
    rows[0, 0] += 31 * 2.0**-10
    return rows, np.full((3, d), lost, np.float32)


@pytest.mark.usefixtures("small_pieces")
def test_the_row_that_rounding_hides_is_found() -> None:
    rows, queries = hostile_rows()
    assert (oracle.knn(rows, queries, 1, "ip", "float32")[0] == 199).all()
    assert (search_on_gpu(rows, queries, 1, "ip")[0].ids == 199).all()


@pytest.mark.usefixtures("small_pieces")
def test_with_half_the_bound_it_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = bound.Halved.error
    monkeypatch.setattr(bound.Halved, "error", lambda *arguments: whole(*arguments) / 2)
    assert (search_on_gpu(*hostile_rows(), 1, "ip")[0].ids == 0).all()


@pytest.mark.usefixtures("small_pieces")
def test_a_violated_bound_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bound.Halved, "error", lambda self, d, query, rows: np.zeros_like(rows))
    with pytest.raises(RunError, match="more than its proven error"):
        search_on_gpu(*hostile_rows(), 1, "ip")


class Narrow(Room):
    """None is known to be far before all 200 are scored, so 50 of each query are lost."""

    def __init__(self, *sizes: Any) -> None:
        super().__init__(*sizes)
        self.room = 150


def test_candidates_without_room_are_noticed(rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda, "Room", Narrow)
    rows, queries = random_rows(rng, 200, 16, "float16"), random_rows(rng, 5, 16, "float16")
    with cuda.open_cuda().begin(Search(queries, 10, Metric.IP, np.dtype("float32")), rows.dtype) as state:
        state.epochs(range(200))
        buffer = state.buffer(0)
        buffer[:] = rows
        state.feed(buffer, 0)
        with pytest.raises(RunError, match="250 candidates found no room"):
            state.result()


@pytest.mark.parametrize("metric", ["cosine", "hamming"])
def test_rows_that_lie_on_the_device(metric: str, rng: np.random.Generator, pieces: Pieces) -> None:
    pieces(epoch=2**11, tile=16, sweep=32, spare=4)
    d, dtype = (3, "uint64") if metric == "hamming" else (20, "float32")
    rows, queries = random_rows(rng, 300, d, dtype), random_rows(rng, 5, d, dtype)
    resident = cp.asarray(rows)
    cp.cuda.get_current_stream().synchronize()
    with cuda.open_cuda().begin(Search(queries, 10, Metric(metric), np.dtype("float64")), rows.dtype) as state:
        for run in state.epochs(range(300)):
            state.feed_resident(resident[run.start : run.stop], run.start)
        found, _ = state.result()
    ids, dists = oracle.knn(rows, queries, 10, metric, "float64")
    assert np.array_equal(found.ids, ids)
    assert np.array_equal(found.dists, dists)


class Unreadable(ArrayVectors):
    """Rows of which the last cannot be read."""

    def read(self, first: int, out: np.ndarray) -> None:
        if first + len(out) == len(self):
            raise OSError("the disk is broken")
        super().read(first, out)


@pytest.mark.usefixtures("small_pieces")
def test_a_reading_error_ends_one_search_and_not_the_next(rng: np.random.Generator) -> None:
    rows, queries = random_rows(rng, 300, 16, "float32"), random_rows(rng, 5, 16, "float32")
    search = Search(queries, 10, Metric.L2, np.dtype("float32"))
    with pytest.raises(OSError, match="the disk is broken"):
        scan(Unreadable.of(rows, "rows"), range(300), search, cuda.open_cuda())
    assert_exact(rows, queries, 10, "l2")


def arguments_of_hamming_scores() -> list[Any]:
    queries, rows = cp.zeros((3, 2), np.uint64), cp.zeros((5, 2), np.uint64)
    return [queries, rows, 3, 5, 2, cp.empty(15, np.float32)]


def test_arguments_a_kernel_takes() -> None:
    kernels = cuda_kernels.Kernels()
    arguments = arguments_of_hamming_scores()
    kernels.launch("hamming_scores", (1, 1), *arguments)
    assert not arguments[-1].get().any()
    for wrong in (arguments[:-1], [*arguments, 1]):
        with pytest.raises(TypeError, match="takes 6 arguments, not"):
            kernels.launch("hamming_scores", (1, 1), *wrong)
    for array in (np.zeros((3, 2), np.uint64), cp.zeros((3, 2), np.int64), cp.zeros((3, 4), np.uint64)[:, ::2], 7):
        with pytest.raises(TypeError, match="expected a contiguous array of uint64"):
            kernels.launch("hamming_scores", (1, 1), array, *arguments[1:])


def test_structs_that_kernels_take() -> None:
    leaves = cp.zeros((1, 2), np.int64)
    values = {"leaves": leaves, "leaf_count": 1, "metric": 2, "single": True, "rounding": 0.5, "more": None}
    rule = cuda_kernels.fill("Rule", values)
    assert rule.value.item() == (leaves.data.ptr, 1, 2, 1, 0.5)
    assert cuda_kernels.fill("Rule", values | {"leaves": None}).value["leaves"] == 0
    for array in (leaves.astype(np.int32), cp.zeros((3, 4), np.int64)[:, ::2], leaves.get(), 7):
        with pytest.raises(TypeError, match=r"Rule\.leaves: expected a contiguous array of int64"):
            cuda_kernels.fill("Rule", values | {"leaves": array})
    with pytest.raises(KeyError, match="rounding"):
        cuda_kernels.fill("Rule", {name: value for name, value in values.items() if name != "rounding"})
    for wrong in (rule, rule.value, None):
        with pytest.raises(TypeError, match="settle_float32: expected a struct of norms, bias, error, d, first"):
            cuda_kernels.Kernels().launch("settle_float32", (1,), None, wrong, rule, rule, rule, 0)


@two_devices
def test_workers_count_gpus_round() -> None:
    gpus = cuda.open_all()
    assert [gpus[0].here(threads=1, number=number) for number in range(len(gpus) + 1)] == [*gpus, gpus[0]]


@two_devices
def test_arrays_of_another_device_are_refused() -> None:
    arguments = arguments_of_hamming_scores()
    with cp.cuda.Device(1), pytest.raises(TypeError, match="lies on device 0, the kernel runs on 1"):
        cuda_kernels.Kernels().launch("hamming_scores", (1, 1), *arguments)
    epoch = cuda_kernels.fill("Epoch", {"norms": None, "bias": None, "error": None, "d": 1, "first": 0})
    with cp.cuda.Device(1), pytest.raises(TypeError, match="a struct lies on device 0, the kernel runs on 1"):
        cuda_kernels.Kernels().launch("settle_float32", (1,), None, epoch, epoch, epoch, epoch, 0)
