"""What importing costs, and what it must not bring."""

import subprocess
import sys

import gpuknn

HEAVY = {"dask", "distributed", "zarr", "h5py", "numba", "cupy", "dask_cuda"}


def loaded_after(code: str) -> set[str]:
    out = subprocess.run(
        [sys.executable, "-c", f"{code}\nimport sys; print(*sys.modules)"], capture_output=True, text=True, check=True
    )
    return set(out.stdout.split())


def test_importing_the_package_loads_nothing_heavy() -> None:
    assert not loaded_after("import gpuknn") & HEAVY


def test_help_loads_nothing_heavy() -> None:
    code = "from gpuknn.cli.main import main\ntry: main(['exact', '--help'])\nexcept SystemExit: pass"
    assert not loaded_after(code) & HEAVY


def test_no_room_but_jobs_loads_dask_and_none_loads_cupy() -> None:
    code = "import numpy as np, gpuknn\ngpuknn.exact_knn(np.eye(3), np.eye(3), 1)\ngpuknn.read_gold"
    assert not loaded_after(code) & {"dask", "distributed", "zarr", "cupy"}


def test_every_public_name_is_there() -> None:
    assert all(getattr(gpuknn, name) is not None for name in gpuknn.__all__)
