"""Folders in which no file can be locked, as on some NFS and Lustre: everything is written all the same."""

import json
import os
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import h5py
import numpy as np
import pytest

from gpuknn.cli.main import main

pytestmark = pytest.mark.slow
SHIM = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdlib.h>

static int refuse(void) { errno = atoi(getenv("REFUSE_LOCKS")); return -1; }

int flock(int file, int operation) { return refuse(); }

static int pass_on(const char *name, int file, int command, void *argument) {
    switch (command) {
    case F_SETLK: case F_SETLKW: case F_OFD_SETLK: case F_OFD_SETLKW: return refuse();
    }
    int (*next)(int, int, ...) = dlsym(RTLD_NEXT, name);
    return next(file, command, argument);
}

#define PASS_ON(name) int name(int file, int command, ...) { \\
    va_list rest; va_start(rest, command); void *argument = va_arg(rest, void *); va_end(rest); \\
    return pass_on(#name, file, command, argument); }
PASS_ON(fcntl)
PASS_ON(fcntl64)
"""
ENOLCK, EOPNOTSUPP, EIO = 37, 95, 5
TO = {"ann.hdf5": ["--to", "ann-benchmarks"], "sisap.h5": ["--to", "sisap"]}
VECTORS = ["a.h5", "a.zarr", "z.zarr", "a.npy", "a.fbin", "a.fvecs", "a.u8bin", "ann.hdf5", "sisap.h5"]
GOLDS = ["b.h5", "b.ibin", "b.ivecs", "b-ann.hdf5", "b-sisap.h5"]
if find_spec("pyarrow"):
    VECTORS += ["a.parquet"]
    GOLDS += ["neighbors.parquet"]


@pytest.fixture(scope="module")
def shim(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A library that refuses locks to the process that loads it first."""
    if sys.platform != "linux" or not shutil.which("gcc"):
        pytest.skip("needs gcc, and Linux's LD_PRELOAD")
    folder = tmp_path_factory.mktemp("shim")
    (folder / "shim.c").write_text(SHIM)
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", "shim.so", "shim.c", "-ldl"], cwd=folder, check=True)
    return str(folder / "shim.so")


@pytest.fixture(autouse=True)
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows, which are whole numbers, and queries."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    np.save("db.npy", rng.integers(1, 200, (500, 16)).astype(np.float32))
    np.save("q.npy", rng.integers(1, 200, (9, 16)).astype(np.float32))


def without_locks(program: str, *words: str, shim: str, refused: int = ENOLCK) -> "subprocess.CompletedProcess[str]":
    environment = os.environ | {"LD_PRELOAD": shim, "REFUSE_LOCKS": str(refused)}
    command = [sys.executable, "-c", program, *words]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)


GPUKNN = "import sys; from gpuknn.cli.main import main; sys.exit(main(sys.argv[1:]))"
EXACT = ["exact", "db.npy", "q.npy", "-k", "5", "--metric", "l2", "--quiet", "-o"]


@pytest.mark.parametrize("refused", [ENOLCK, EOPNOTSUPP, EIO])
def test_the_shim_refuses(refused: int, shim: str) -> None:
    """Or else the other tests show nothing."""
    for lock in ("flock", "lockf"):
        program = f"import fcntl; fcntl.{lock}(open('x', 'w'), fcntl.LOCK_EX)"
        assert f"[Errno {refused}]" in without_locks(program, shim=shim, refused=refused).stderr
    program = "import h5py; h5py.File('x.h5', 'w')"
    assert f"errno = {refused}," in without_locks(program, shim=shim, refused=refused).stderr


@pytest.mark.parametrize(
    ("refused", "options"), [(ENOLCK, []), (EOPNOTSUPP, []), (EIO, []), (ENOLCK, ["--workers", "2"])]
)
def test_exact(refused: int, options: list[str], shim: str) -> None:
    done = without_locks(GPUKNN, *EXACT, "gold.h5", *options, shim=shim, refused=refused)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert main([*EXACT, "expected.h5"]) == 0
    with h5py.File("gold.h5") as ours, h5py.File("expected.h5") as expected:
        for name in ("knns", "dists"):
            assert ours[name][:].tobytes() == expected[name][:].tobytes()
    assert sorted(path.name for path in Path().iterdir()) == ["db.npy", "expected.h5", "gold.h5", "q.npy"]


def test_every_writer(shim: str) -> None:
    assert main([*EXACT, "gold.h5"]) == 0
    commands = [conversion("db.npy", name) for name in VECTORS] + [conversion("gold.h5", name) for name in GOLDS]
    beside = ["--queries-file", "q.npy", "--gold", "gold.h5"]
    commands += [["convert", "db.npy", f"all-{name}", *TO[name], *beside] for name in TO]
    program = "import json, sys; from gpuknn.cli.main import main; print([main(c) for c in json.loads(sys.argv[1])])"
    done = without_locks(program, json.dumps([[*c, "--quiet"] for c in commands]), shim=shim)
    assert done.stderr == ""
    assert json.loads(done.stdout) == [0] * len(commands)
    for _, source, name, *_ in commands[:-2]:
        assert main(["compare", source, name]) == 0
    for name in TO:
        with h5py.File(f"all-{name}") as file, h5py.File("gold.h5") as gold:
            path = "distances" if name == "ann.hdf5" else "itest/dists"
            assert file[path].shape == gold["dists"].shape
            assert np.array_equal(file["train"], np.load("db.npy"))
    assert not list(Path().glob("*.part"))


def conversion(source: str, name: str) -> list[str]:
    options = TO.get(name.removeprefix("b-"), [])
    if name == "z.zarr":
        options = ["--compression", "zstd", "--zarr-format", "2"]
    return ["convert", source, name, *options]
