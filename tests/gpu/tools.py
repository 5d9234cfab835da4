"""The tools that stand in for a GPU, in `shared/cuda-on-cpu`: where they are and how they are called."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from gpuknn.engine.cuda import table

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
DRIVER = HERE / "drive_kernels.py"
TOOLS = ROOT.parent / "shared/cuda-on-cpu"

# Under ThreadSanitizer, sanitize runs blocks on the stacks of blocks before, and takes the use of a local variable for
# a race with theirs.  Mapped anew, a stack has no past.
_AGAIN = "ok = run_block(b, order); }).join();\n"
_FRESH_STACKS = _AGAIN + (
    "      mmap(stacks, STACK * n, PROT_READ | PROT_WRITE,"
    " MAP_FIXED | MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);\n"
)


def host_build() -> str:
    """The folder that holds the host build of CuPy, which is made the first time."""
    done = subprocess.run(
        [TOOLS / "install"], env={**os.environ, "PYTHON": sys.executable}, stdout=subprocess.PIPE, text=True, check=True
    )
    return done.stdout.strip().partition("=")[2]


def with_paths(*folders: str | Path, **settings: str) -> dict[str, str]:
    """An environment in which Python looks into these folders, the repository, and where it looks already."""
    path = [*map(str, folders), str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(path), **settings}


def sanitize(source: str, work: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """Run the driver's launches; `work` is a folder for a copy of the tool."""
    kernels = work / "flat.cu"
    kernels.write_text(source + flat_kernels())
    tool = work / "cuda-on-cpu"
    if not tool.exists():
        shutil.copytree(TOOLS, tool, copy_function=shutil.copyfile)
        scheduler = tool / "src/scheduler.cpp"
        text = scheduler.read_text()
        if _AGAIN not in text:
            raise RuntimeError("scheduler.cpp has changed: are stacks still used again?")
        scheduler.write_text(text.replace(_AGAIN, _FRESH_STACKS))
    command: list[str | Path] = [sys.executable, tool / "sanitize", kernels, DRIVER, *options]
    return subprocess.run(command, env=with_paths(), capture_output=True, text=True)


def flat_kernels() -> str:
    """For each kernel that takes structs, one that takes their fields: `sanitize` passes arrays and numbers only."""
    made = []
    for name, types in table.SIGNATURES.items():
        if "Kept" in types:
            declared = ", ".join(f"{table.c_type(type_)} {each}" for each, type_ in flat_parameters(name))
            given = ", ".join(
                f"{{{', '.join(f'{type_}_{field}' for field in table.STRUCTS[type_])}}}"
                if type_ in table.STRUCTS
                else type_.strip("*")
                for type_ in types.split()
            )
            made.append(f'extern "C" __global__ void flat_{name}({declared}) {{ {name}({given}); }}\n')
    return "".join(made)


def flat_parameters(kernel: str) -> list[tuple[str, str]]:
    """Name and type of each: of structs STRUCT_FIELD for every field, of others the name is the type's."""
    return [
        (f"{type_}_{field}" if field else type_.strip("*"), of_field)
        for type_ in table.SIGNATURES[kernel].split()
        for field, of_field in table.STRUCTS.get(type_, {"": type_}).items()
    ]


def check_kernels(source: str, work: Path) -> subprocess.CompletedProcess[str]:
    """Compile the kernels with NVRTC."""
    kernels = work / "kernels.cu"
    kernels.write_text(source)
    environment = {**os.environ, "PYTHON": sys.executable}
    return subprocess.run([TOOLS / "check-kernels", kernels], env=environment, capture_output=True, text=True)
