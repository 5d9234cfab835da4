"""All kernels compiled ahead, so that no first run waits for it: in an image, or on a cluster with one home folder."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gpuknn.engine.cpu.needed import compile_kernels, for_everything, kept
from gpuknn.progress import Listener


@dataclass(frozen=True)
class Compiled:
    """What is there now."""

    kernels: int
    compiled: int
    """That were not there before."""
    folder: Path | None
    """Where they are kept; None if nowhere."""
    size: int
    """Bytes."""

    @property
    def facts(self) -> dict[str, Any]:
        """For a program, in plain JSON values."""
        return {**vars(self), "folder": self.folder and str(self.folder)}

    def __str__(self) -> str:
        """For a person."""
        place = f"kept in {self.folder} ({self.size / 1e6:.1f} MB)" if self.folder else "kept nowhere"
        return f"{self.kernels} kernels, {self.compiled} of them compiled now; {place}"


def compile_all(told: Listener) -> Compiled:
    """Compile what any search on this processor may need; `told` as by `engine.cpu.needed.compile_kernels`."""
    needed = for_everything()
    return Compiled(len(needed), compile_kernels(needed, told), *kept(needed))
