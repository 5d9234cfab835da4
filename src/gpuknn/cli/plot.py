"""`--plot`: a picture of what a command has found."""

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from gpuknn.errors import InputError, pip_install

if TYPE_CHECKING:
    from matplotlib.figure import Figure

KINDS = (".png", ".svg", ".pdf")


def check_plot(path: Path, replace: bool = True) -> None:
    """Raise InputError if no picture can be drawn or written there, before there is something to draw."""
    if not find_spec("matplotlib"):
        raise InputError(f"--plot: needs matplotlib; install it with: {pip_install('plot')}")
    if path.suffix.lower() not in KINDS:
        raise InputError(f"--plot {path}: pictures are .png, .svg or .pdf")
    if not path.parent.is_dir():
        raise InputError(f"{path.parent}: there is no such folder to write {path.name} to")
    if path.exists() and not replace:
        raise InputError(f"{path}: exists already; --force replaces it")


def save_plot(figure: "Figure", path: Path) -> None:
    """Write the picture, which has its name when it is whole."""
    from gpuknn.storage.durable import appearing

    with appearing(path) as part:
        figure.savefig(part, format=path.suffix[1:].lower())
