"""One mistake at a time in kernels.cu, cuda/device.py and its neighbours: which of the checks notices it?

    python -m tests.gpu.planted [WORD ...]      only the mistakes whose names hold one of the words

Says what noticed it, or that nothing did; exit code 1 if one goes unnoticed, or if something is said of the control.
By hand, after the GPU device or its checks have changed.
"""

import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from gpuknn.engine.cuda import table
from tests.gpu import tools

CONTROL = "control: only a comment"
# Name: file, text, what is put in its place (at its first occurrence).
BUGS = {
    CONTROL: ("cuda/device.py", "# the host needs the norms", "# the host needs them"),
    "kernels: no barrier after places are counted": (
        "cuda/kernels.cu",
        "      base = before[blockDim.x / 32];\n    }\n    __syncthreads();",
        "      base = before[blockDim.x / 32];\n    }",
    ),
    "kernels: no barrier before places are written": (
        "cuda/kernels.cu",
        "    __syncthreads();  // all have read: places up to here may be written\n",
        "",
    ),
    "kernels: no barrier between the steps of the sort": (
        "cuda/kernels.cu",
        "? size / 4 : apart / 2)) {\n      __syncthreads();",
        "? size / 4 : apart / 2)) {",
    ),
    "kernels: no barrier before a digit is chosen": (
        "cuda/kernels.cu",
        "    }\n    __syncthreads();\n    if (threadIdx.x == 0) {\n      unsigned digit",
        "    }\n    if (threadIdx.x == 0) {\n      unsigned digit",
    ),
    "kernels: appended without regard to lower lanes": (
        "cuda/kernels.cu",
        "leader) + __popc(passing & ((1u << lane) - 1));",
        "leader);",
    ),
    "kernels: the last place is not used": ("cuda/kernels.cu", "if (place < room) {", "if (place < room - 1) {"),
    "kernels: held is not set to zero": ("cuda/kernels.cu", "    held[q] = 0;\n", ""),
    "kernels: the counter of a block is not set to zero": (
        "cuda/kernels.cu",
        "  if (threadIdx.x == 0) base = 0;\n",
        "",
    ),
    "kernels: > for >= in the selection": (
        "cuda/kernels.cu",
        "passes = upper >= limit;",
        "passes = upper > limit;",
    ),
    "kernels: ties are decided by no id": ("cuda/kernels.cu", "x > y || (x == y && i > j)", "x > y"),
    "kernels: float64 sums in another order": (
        "cuda/kernels.cu",
        "apart = 1; apart < LANES; apart *= 2",
        "apart = 4; apart; apart /= 2",
    ),
    "bound: half of it": (
        "bound.py",
        "        return error\n\n\ndef float32_error",
        "        return error / 2\n\n\ndef float32_error",
    ),
    "bound: none": (
        "bound.py",
        "        return error\n\n\ndef float32_error",
        "        return 0 * error\n\n\ndef float32_error",
    ),
    "table: i4 for i8": ("cuda/table.py", '"*u8 *u8 i8 i8 i8 *f4"', '"*u8 *u8 i8 i4 i8 *f4"'),
    "table: i8 for i4": ("cuda/table.py", '" i8 i8 *i8 i4 *f8"', '" i8 i8 *i8 i8 *f8"'),
    "table: f4 for f8": ("cuda/table.py", '"*f8 *i4 *f8 *f8 i8 i8 f8', '"*f8 *i4 *f8 *f8 i8 i8 f4'),
    "table: f4 for f8 in a struct": ("cuda/table.py", '"Epoch": "norms:*f8', '"Epoch": "norms:*f4'),
    "table: structs are packed": ("cuda/table.py", "align=True", "align=False"),
    "waits: neither host nor compute stream waits for an upload": (
        "cuda/device.py",
        "        slot.loaded.synchronize()  # the host needs the norms\n"
        "        self._compute.wait_event(slot.loaded)\n",
        "",
    ),
    "waits: an upload does not wait for the search of what lies there": (
        "cuda/device.py",
        "        self._copy.wait_event(slot.used)\n",
        "",
    ),
    "waits: pinned rows are overwritten before their upload": (
        "cuda/device.py",
        "            slot.loaded.synchronize()\n        rows",
        "            pass\n        rows",
    ),
    "waits: norms are not computed on the copy stream": (
        "cuda/device.py",
        "            with self._copy:\n                self._squared_norms(rows, slot.norms)",
        "            self._squared_norms(rows, slot.norms)",
    ),
    "waits: the answer is read from another stream": (
        "cuda/device.py",
        "        with self._compute:\n            dists, ids = pool.dists.get()",
        "        with cp.cuda.Stream(non_blocking=True):\n            dists, ids = pool.dists.get()",
    ),
    "sizes: candidates are not settled before there is no room": (
        "cuda/device.py",
        "if stop == m or stop % pool.sweep == 0:",
        "if stop == m or stop % (2 * pool.sweep) == 0:",
    ),
    "sizes: leading dimension of the wrong matrix": ("cuda/device.py", "single, t),", "single, nq),"),
}


def complaint(site: str, name: str, work: Path) -> str:
    """What the first check says that notices the mistake; "" if none does."""
    file, old, new = BUGS[name]
    folder = work / "src"
    shutil.copytree(tools.ROOT / "src", folder, ignore=shutil.ignore_patterns("__pycache__"))
    planted = folder / "gpuknn/engine" / file
    text = planted.read_text()
    if old not in text:
        raise SystemExit(f"{name}: {file} no longer holds {old!r}")
    planted.write_text(text.replace(old, new, 1))
    for mode in ("plain", "thread", "address") if file == "cuda/kernels.cu" else ():
        done = tools.sanitize(table.structs() + planted.read_text(), work, "--seeds", "2", "--modes", mode)
        for line in done.stdout.splitlines():
            kernel, _, what = line.split(maxsplit=2)
            if what != "ok":
                return f"sanitize, {mode}: {kernel}: {what}"
    checks = {
        "NVRTC": (["tests/test_gpu_without_gpu.py", "-k", "nvrtc"], {}),
        "host build, late": (["tests/gpu"], {"CUDA_ON_CPU_STREAMS": "late"}),
        "host build, random": (["tests/gpu"], {"CUDA_ON_CPU_STREAMS": "random"}),
    }
    for check, (tests, settings) in checks.items():
        environment = tools.with_paths(*([folder] if check == "NVRTC" else [folder, site]), **settings)
        command = [sys.executable, "-m", "pytest", "-qx", "--tb=line", "-p", "no:cacheprovider", *tests]
        done = subprocess.run(command, cwd=tools.ROOT, env=environment, capture_output=True, text=True)
        if done.returncode:
            return f"{check}: {re.findall('(?:FAILED|ERROR) .*', done.stdout)[0]}"
    return ""


def main() -> int:
    """Plant every mistake that is asked for."""
    words, site, wrong = sys.argv[1:], tools.host_build(), 0
    for name in BUGS:
        if words and not any(word in name for word in words):
            continue
        with tempfile.TemporaryDirectory() as work:
            noticed = complaint(site, name, Path(work))
        wrong += bool(noticed) == (name == CONTROL)
        sys.stdout.write(f"{name}\n    {noticed[:200] or 'not noticed'}\n")
        sys.stdout.flush()
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
