"""What importing costs, and what it must not bring."""

import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from gpuknn.errors import pip_install

ROOT = Path(__file__).parents[1]

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
    code = "import numpy as np, gpuknn\ngpuknn.exact_knn(np.eye(3), np.eye(3), k=1)\ngpuknn.read_gold"
    assert not loaded_after(code) & {"dask", "distributed", "zarr", "cupy"}


EVERYTHING = """
import pkgutil, types
from importlib import import_module
import numpy as np, gpuknn
loaded = []
for module in pkgutil.walk_packages(gpuknn.__path__, "gpuknn."):
    try:
        loaded.append(import_module(module.name))
    except ImportError as error:
        assert error.name in ("cupy", "cupyx", "cupy_backends"), error
for _ in range(2):
    for name in gpuknn.__all__:
        assert not isinstance(getattr(gpuknn, name), types.ModuleType), name
    rows = np.eye(3, dtype="f4")
    found = gpuknn.exact_knn(rows, rows, k=1)
    gpuknn.write_gold("g.h5", found, force=True)
    gold = gpuknn.read_gold("g.h5")
    assert gpuknn.recall(found, gold) == 1
    np.save("rows.npy", rows)
    assert isinstance(gpuknn.open_vectors("rows.npy"), gpuknn.Vectors)
    assert isinstance(found, gpuknn.Neighbors) and isinstance(gold, gpuknn.Gold)
    for error in (gpuknn.InputError, gpuknn.RunError):
        assert issubclass(error, Exception)
print(len(loaded))
"""


@pytest.mark.slow
def test_public_names_stay_what_they_are_once_everything_is_imported(tmp_path: Path) -> None:
    """A module of the same name would take the place of a function as soon as somebody imports it."""
    done = subprocess.run(
        [sys.executable, "-c", EVERYTHING], capture_output=True, text=True, check=True, cwd=tmp_path, timeout=300
    )
    assert int(done.stdout) > 100


def test_what_is_missing_is_installed_by_its_own_name() -> None:
    """An extra of gpuknn finds nothing where gpuknn is on no index."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    sources = "".join(path.read_text() for path in (ROOT / "src").rglob("*.py"))
    named = set(re.findall(r"pip_install\(['\"](\w+)['\"]", sources)) | {"cuda12"}
    assert named == set(extras) - {"test", "slow", "manifests", "lint"}
    assert "gpuknn[" not in sources
    for extra in named:
        words = shlex.split(pip_install(extra))
        assert words[:2] == ["pip", "install"]
        assert {Requirement(word) for word in words[2:]} == {Requirement(word) for word in extras[extra]}
