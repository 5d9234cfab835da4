"""The GPU device without a GPU: its tests on the host build of CuPy, its kernels under sanitizers and NVRTC.

tests/gpu/README.md says what each of them can find.
"""

import re
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest

from gpuknn.engine.cuda import table
from tests.gpu import tools

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not tools.TOOLS.exists(), reason="needs shared/cuda-on-cpu, beside the repository"),
]


@pytest.fixture(scope="module")
def host_build() -> str:
    return tools.host_build()


@pytest.mark.parametrize(
    ("seed", "settings"),
    [(1, {"STREAMS": "late"}), (2, {"DEVICES": "2"})],
    ids=["one device, streams as late as they may", "two devices, streams in random order"],
)
def test_on_the_host_build(seed: int, settings: dict[str, str], host_build: str) -> None:
    launched, _ = run_gpu_tests("", host_build, SEED=str(seed), **settings)
    assert launched == set(table.SIGNATURES)


def test_on_the_host_build_with_little_memory(host_build: str) -> None:
    launched, refused = run_gpu_tests("test_cuda_answers.py", host_build, SEED="3", MEMORY="2M")
    projecting = ("unit_halves", "compare_references")
    assert launched == {name for name in table.SIGNATURES if not name.startswith(projecting)}
    assert refused > 0


def run_gpu_tests(which: str, host_build: str, **settings: str) -> tuple[set[str], int]:
    """Run tests/gpu; the kernels that were launched and how often memory was refused."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"tests/gpu/{which}"]
    environment = tools.with_paths(host_build, **{f"CUDA_ON_CPU_{name}": value for name, value in settings.items()})
    done = subprocess.run(command, cwd=tools.ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-1000:]
    launched, refused = re.findall("kernels launched: (.*)\nallocations refused: (.*)\n", done.stdout)[0]
    return set(launched.split()), int(refused)


def test_kernels_under_sanitizers(tmp_path: Path) -> None:
    done = tools.sanitize(table.source(), tmp_path, "--seeds", "2")
    assert done.returncode == 0, done.stdout + done.stderr
    ran = [line.split() for line in done.stdout.splitlines()]
    assert {(name.removeprefix("flat_"), mode) for name, mode, _ in ran} == {
        (name, mode) for name in table.SIGNATURES for mode in ("plain", "thread", "address")
    }


def test_kernels_compiled_by_nvrtc(tmp_path: Path) -> None:
    # NVRTC's own word for what `offsetof` is made of.
    layouts = "".join(
        f'static_assert((u64)__INTADDR__(&(({name}*)0)->{field}) == {offset}, "{name}.{field}");\n'
        for name, layout in table.LAYOUTS.items()
        for field, (_, offset, *_) in (layout.fields or {}).items()
    )
    done = tools.check_kernels(table.source() + layouts, tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    sizes, spills = {}, {}
    for name, parameters, *compiled in re.findall(
        r"^  (\w+)\n    parameters \(bytes\): (.*)\n    (.*)\n    (.*)\n    (.*)\n", done.stdout, re.M
    ):
        sizes[name] = [int(size) for size in parameters.split()]
        spills[name] = [line.split(", ")[1] for line in compiled]
    expected = {
        name: [8 if "*" in type_ else (table.LAYOUTS.get(type_) or np.dtype(type_)).itemsize for type_ in types.split()]
        for name, types in table.SIGNATURES.items()
    }
    assert sizes == expected
    assert all(each == ["0 B spilled"] * 3 for each in spills.values()), spills


def test_the_command_writes_the_same_file(tmp_path: Path, host_build: str) -> None:
    rng = np.random.default_rng(1)
    rows, queries = rng.standard_normal((3000, 64)).astype(np.float16), rng.standard_normal((20, 64)).astype(np.float32)
    rows[2000:] = rows[:1000]  # ties
    for name, array in (("rows", rows), ("queries", queries)):
        with h5py.File(tmp_path / f"{name}.h5", "w") as file:
            file["emb"] = array
    written = {}
    for device in ("cpu", "cuda"):
        command = [
            *(sys.executable, "-m", "gpuknn", "exact", "rows.h5", "queries.h5", "-o", f"{device}.h5"),
            *("-k", "10", "--metric", "cosine", "--device", device, "--shard-rows", "1000"),
        ]
        environment = tools.with_paths(host_build, CUDA_ON_CPU_DEVICES="2")
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        with h5py.File(tmp_path / f"{device}.h5") as file:
            written[file.attrs["device"]] = file["knns"][:].tobytes(), file["dists"][:].tobytes()
    assert "cuda (cuda-on-cpu)" in written
    assert len(written) == 2
    assert len(set(written.values())) == 1
