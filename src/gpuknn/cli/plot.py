"""`--plot`: a picture of what a command has found."""

from importlib.util import find_spec
from pathlib import Path

from gpuknn.errors import InputError, pip_install


def check_plot(path: Path) -> None:
    """Raise InputError if no picture can be drawn or written there, before there is something to draw."""
    if not find_spec("matplotlib"):
        raise InputError(f"--plot: needs matplotlib; install it with: {pip_install('plot')}")
    if path.suffix.lower() not in (".png", ".svg", ".pdf"):
        raise InputError(f"--plot {path}: pictures are .png, .svg or .pdf")
    if not path.parent.is_dir():
        raise InputError(f"{path.parent}: there is no such folder to write {path.name} to")
