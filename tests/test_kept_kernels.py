"""Kernels: compiled once for a type of rows, and kept for the next process in files that may be damaged."""

import inspect
import os
import resource
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import llvmlite.binding as llvm
import numba
import numpy as np
import pytest
from numba import config, f8
from numba.core.caching import InTreeCacheLocator
from numba.core.codegen import JITCodeLibrary

from gpuknn.engine.cpu import needed
from gpuknn.engine.cpu.kernels import kernel as kernel_module
from gpuknn.engine.cpu.kernels.files import Files
from gpuknn.engine.cpu.kernels.kernel import ORDERED, ROWS, Kernel
from gpuknn.engine.cpu.kernels.place import private_folder
from gpuknn.engine.cpu.needed import NOT_KEPT, Needed, compile_kernels
from gpuknn.progress import Event


def double(rows: np.ndarray, out: np.ndarray) -> None:
    for j in range(len(rows)):
        out[j] = 2 * rows[j, 0]


def doubling() -> Kernel:
    """A kernel as a new process has it: nothing is loaded."""
    return Kernel(double, (ROWS, f8[::1]), ORDERED)  # type: ignore[arg-type]


def doubled(kernel: Kernel, dtype: str) -> float:
    out = np.empty(1)
    kernel(np.full((1, 1), 21, dtype), out)
    return float(out[0])


def test_what_is_compiled_is_told_once_and_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(config, "CACHE_DIR", str(tmp_path))
    wanted: list[np.dtype] = [np.dtype("float32"), np.dtype("int8")]
    events: list[Event] = []
    kernel = doubling()
    assert compile_kernels([Needed(kernel, dtype) for dtype in wanted * 2], events.append) == 2
    step, *rest = events
    assert (step["name"], step["rows"]) == ("compiling", 2)
    assert step["title"] == "compiling kernels (once on this machine)"
    assert [(event["event"], event["kernels"]) for event in rest] == [("compiled", 1), ("compiled", 2)]
    folder, size = needed.kept([Needed(kernel, dtype) for dtype in wanted])
    assert folder is not None
    assert folder.parent == tmp_path
    assert size > 10_000
    for again in (kernel, doubling()):
        assert compile_kernels([Needed(again, dtype) for dtype in wanted], events.append) == 0
        assert [doubled(again, dtype.name) for dtype in wanted] == [42, 42]
    assert len(events) == 3
    assert len(list(folder.glob("*.nbi"))) == len({file.name for file in folder.glob("*.nbc")}) == 2


def test_two_types_have_files_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Numba would number them in one index, which two processes that compile at once write one after the other."""
    monkeypatch.setattr(config, "CACHE_DIR", str(tmp_path))
    for dtype in ("uint8", "int8"):
        doubling().compiled(np.dtype(dtype))
    (of_int8,), (of_uint8,) = (list(tmp_path.glob(f"*/*.double-{dtype}-*.nbc")) for dtype in ("int8", "uint8"))
    assert of_int8.name.endswith(".1.nbc")
    assert of_uint8.name.endswith(".1.nbc")


def piped(file: Path) -> None:
    file.unlink()
    os.mkfifo(file)


@pytest.mark.parametrize("ending", ["nbi", "nbc", "sha256"])
@pytest.mark.parametrize(
    "damage",
    [
        lambda file: file.write_bytes(b""),
        lambda file: file.write_bytes(file.read_bytes()[:40]),
        lambda file: file.write_bytes(bytes(file.stat().st_size)),
        lambda file: file.write_bytes(file.read_bytes()[:-4096] + bytes(min(4096, file.stat().st_size))),
        lambda file: file.write_bytes(bytes([file.read_bytes()[0] ^ 1]) + file.read_bytes()[1:]),
        lambda file: file.unlink(),
        piped,
        lambda file: (file.unlink(), file.mkdir(), (file / "x").touch()),
        lambda file: (file.unlink(), file.symlink_to("/dev/zero")),
    ],
    ids=["emptied", "cut off", "zeros", "a page of zeros", "a bit", "gone", "a pipe", "a folder", "a device"],
)
def test_what_is_damaged_is_compiled_again_and_kept(
    damage: Callable[[Path], object], ending: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Numba would run it, or compile it in every process and say nothing."""
    monkeypatch.setattr(config, "CACHE_DIR", str(tmp_path))
    wanted = np.dtype("float32")
    assert doubled(doubling(), "float32") == 42
    (file,) = tmp_path.glob(f"*/*.{ending}")
    damage(file)
    assert not doubling().is_compiled(wanted)
    kernel, events = doubling(), list[Event]()
    assert compile_kernels([Needed(kernel, wanted)], events.append) == 1
    assert [event["event"] for event in events] == ["step", "compiled"]
    assert doubled(kernel, "float32") == 42
    loaded = doubling()
    assert loaded.is_compiled(wanted)
    assert doubled(loaded, "float32") == 42
    assert loaded.compiled(wanted).stats.cache_hits
    assert len(list(tmp_path.glob("*/*"))) == 3


def test_files_of_another_kernel_are_compiled_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(config, "CACHE_DIR", str(tmp_path))
    for name in ("int8", "uint8"):
        doubling().compiled(np.dtype(name))
    for ending in ("nbi", "nbc", "sha256"):
        (mine,), (other,) = (list(tmp_path.glob(f"*/*double-{name}-*.{ending}")) for name in ("int8", "uint8"))
        mine.write_bytes(other.read_bytes())
    assert not doubling().is_compiled(np.dtype("int8"))
    assert doubled(doubling(), "int8") == 42


def test_damage_between_the_look_and_the_loading(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(config, "CACHE_DIR", str(tmp_path))
    doubling().compiled(np.dtype("float32"))
    (index,) = tmp_path.glob("*/*.nbi")
    index.write_bytes(index.read_bytes()[:-9])
    with monkeypatch.context() as patched:
        patched.setattr(Files, "size", 1)
        assert doubled(doubling(), "float32") == 42
    assert doubling().is_compiled(np.dtype("float32"))


def test_without_room_nothing_is_compiled_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(config, "CACHE_DIR", str(tmp_path))
    kernel, events, wanted = doubling(), list[Event](), np.dtype("float32")
    optimised: list[str] = []
    finalize = JITCodeLibrary.finalize

    def seen(library: JITCodeLibrary) -> None:
        optimised.append(library.name)
        finalize(library)

    monkeypatch.setattr(JITCodeLibrary, "finalize", seen)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
    try:
        assert compile_kernels([Needed(kernel, wanted)], events.append) == 1
        assert doubled(kernel, "float32") == 42
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert [event["event"] for event in events] == ["step", "compiled", "said"]
    assert [name.partition("-")[0] for name in optimised] == ["double"]
    assert doubling().kept(wanted)[1] == 0
    assert not list(tmp_path.glob("*/*.part"))


def test_a_name_tells_code_and_processor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Or else one processor would run what another has compiled, or old code would be run."""
    monkeypatch.setattr(kernel_module, "__file__", str(tmp_path / "kernel.py"))
    file = tmp_path / "sums.py"
    file.write_text("1")
    names = [kernel_module._version()]
    file.write_text("2")
    names.append(kernel_module._version())
    for where, name, value in (
        (llvm, "get_host_cpu_name", lambda: "another"),
        (llvm, "get_host_cpu_features", lambda: {"avx9": True}),
        (config, "CPU_NAME", "generic"),
        (numba, "__version__", "0"),
    ):
        monkeypatch.setattr(where, name, value)
        names.append(kernel_module._version())
    assert len(set(names)) == 6


def test_a_processor_that_converts_no_float16(tmp_path: Path) -> None:
    """There LLVM would call a function that nobody has, and end the process."""
    program = """
import gpuknn, numpy as np
from gpuknn.engine.cpu import kernels
rows = np.arange(65536, dtype=np.uint16).view(np.float16)
for many in (rows.reshape(-1, 16), rows.reshape(-1, 1)):
    wide = np.empty(many.shape, np.float32)
    kernels.widen(many, np.ones(len(many)), wide)
    expected = many.astype(np.float32)
    assert np.array_equal(wide, expected, equal_nan=True)
    assert np.array_equal(np.signbit(wide), np.signbit(expected))
halves = np.random.default_rng(0).standard_normal((300, 70)).astype(np.float16)
found = gpuknn.exact_knn(halves, halves[:9], k=4, metric="l2", device="cpu")
expected = ((halves.astype(float)[None] - halves[:9].astype(float)[:, None]) ** 2).sum(axis=2)
assert np.array_equal(found.ids, np.argsort(expected, axis=1, kind="stable")[:, :4])
"""
    variables = os.environ | {"NUMBA_CPU_NAME": "generic", "NUMBA_CACHE_DIR": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=variables)
    assert (done.returncode, done.stderr) == (0, "")


def test_what_an_image_brings_along_is_not_compiled_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its user cannot write where root has compiled, and there Numba would not even look."""
    wanted = np.dtype("float32")
    package, home = tmp_path / "package", tmp_path / "home"
    package.mkdir()
    (package / "double.py").write_text(inspect.getsource(double))
    known: dict[str, Any] = {"np": np, "__name__": "package.double"}
    exec(compile((package / "double.py").read_text(), package / "double.py", "exec"), known)

    def installed() -> Kernel:
        return Kernel(known["double"], (ROWS, f8[::1]), ORDERED)

    monkeypatch.setattr(config, "CACHE_DIR", "")
    assert installed().kept(wanted) == (package / "__pycache__", 0)
    installed().compiled(wanted)
    monkeypatch.setattr(InTreeCacheLocator, "from_function", lambda *_: None)
    monkeypatch.setattr(config, "CACHE_DIR", str(home))
    (code,) = package.glob("*/*.nbc")
    content = code.read_bytes()
    code.write_bytes(content[:-1])
    assert not installed().is_compiled(wanted)
    assert not list(home.glob("*/*"))
    code.write_bytes(content)
    kernel = installed()
    assert kernel.is_compiled(wanted)
    assert doubled(kernel, "float32") == 42
    assert kernel.compiled(wanted).stats.cache_hits
    folder, size = kernel.kept(wanted)
    assert (folder and folder.parent, size > 10_000) == (home, True)


@pytest.mark.usefixtures("handlers")
def test_an_interrupt_waits_for_the_kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Raised while LLVM compiles it would be lost, or end in a traceback of LLVM's."""
    monkeypatch.setattr(config, "CACHE_DIR", str(tmp_path))
    kernel, events = doubling(), list[Event]()
    compiled = Kernel.compiled

    def interrupted(kernel: Kernel, rows: np.dtype | None) -> object:
        os.kill(os.getpid(), signal.SIGINT)
        return compiled(kernel, rows)

    monkeypatch.setattr(Kernel, "compiled", interrupted)
    dtypes = [np.dtype(name) for name in ("float32", "int8")]
    with pytest.raises(KeyboardInterrupt):
        compile_kernels([Needed(kernel, dtype) for dtype in dtypes], events.append)
    assert [event["event"] for event in events] == ["step", "compiled"]
    assert [kernel.is_compiled(dtype) for dtype in dtypes] == [True, False]


def test_no_other_type_is_compiled_by_the_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows that are read-only, or lie apart, do not become a second version; what fits no version is refused."""
    monkeypatch.setattr(config, "CACHE_DIR", str(tmp_path))
    kernel = doubling()
    rows, out = np.arange(8.0).reshape(4, 2), np.empty(4)
    read_only = rows[:]
    read_only.flags.writeable = False
    for some in (rows, read_only, np.asfortranarray(rows), rows[::-1][::-1]):
        kernel(some, out)
        assert out.tolist() == [0, 4, 8, 12]
    assert len(kernel.compiled(rows.dtype).signatures) == 1
    with pytest.raises(TypeError, match="No matching definition"):
        kernel(rows, out.astype(np.float32))


@pytest.fixture
def read_only_installation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Neither the package's folder nor the user's can be written to; a folder for temporary files."""
    (tmp_path / "home").touch()
    temporary = tmp_path / "tmp"
    temporary.mkdir(mode=0o700)
    monkeypatch.setattr(InTreeCacheLocator, "from_function", lambda *_: None)
    monkeypatch.setattr(config, "CACHE_DIR", "")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    return temporary


def test_a_read_only_installation_keeps_kernels_in_a_folder_of_the_users_own(read_only_installation: Path) -> None:
    events: list[Event] = []
    wanted = [Needed(doubling(), np.dtype("float32"))]
    assert compile_kernels(wanted, events.append) == 1
    folder, _ = needed.kept(wanted)
    assert folder is not None
    assert folder.parent.parent == read_only_installation
    assert [event["event"] for event in events] == ["step", "compiled"]
    assert doubling().is_compiled(np.dtype("float32"))
    assert config.CACHE_DIR == ""


def test_if_nothing_can_be_written_the_screen_says_so(
    read_only_installation: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", os.environ["HOME"])
    for _ in range(2):
        kernel, events = doubling(), list[Event]()
        assert compile_kernels([Needed(kernel, np.dtype("float32"))], events.append) == 1
        assert [event["event"] for event in events] == ["step", "compiled", "said"]
        assert events[-1]["line"] == NOT_KEPT
        assert doubled(kernel, "float32") == 42


def linked(folder: Path) -> None:
    other = folder.with_name("another")
    other.mkdir(mode=0o700)
    folder.rmdir()
    folder.symlink_to(other)


@pytest.mark.parametrize(
    "spoil",
    [
        linked,
        lambda folder: folder.chmod(0o770),
        lambda folder: folder.chmod(0o705),
        lambda folder: (folder.rmdir(), folder.touch(0o600)),
        lambda folder: folder.parent.chmod(0o777),
    ],
    ids=["link", "group", "all", "file", "replaceable"],
)
def test_a_folder_that_others_could_write_to_is_refused(
    spoil: Callable[[Path], object], read_only_installation: Path
) -> None:
    folder = private_folder()
    assert folder is not None
    assert folder.stat().st_mode & 0o777 == 0o700
    assert private_folder() == folder
    spoil(folder)
    assert private_folder() is None


def test_a_folder_that_another_user_made_is_refused(
    read_only_installation: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert private_folder() is not None
    other = os.geteuid() + 1
    monkeypatch.setattr(os, "geteuid", lambda: other)
    assert private_folder() is None  # it has that user's name, and is this one's


def test_a_folder_for_temporary_files_that_all_share(read_only_installation: Path) -> None:
    read_only_installation.chmod(0o1777)
    assert private_folder() is not None
