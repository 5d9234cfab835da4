"""The two ways in which a command can fail, and words for what is missing.

The command line turns the errors into exit codes.
"""

import re
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import requires


class InputError(ValueError):
    """The input or the command line is wrong: one line that says what, where and what to do (exit code 2)."""


class RunError(RuntimeError):
    """The run failed; the same command goes on from what was finished (exit code 3)."""


def one_line(error: Exception) -> str:
    """What a library says went wrong, without the lines on its inside that may follow."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


@contextmanager
def in_our_words(what: str) -> Iterator[None]:
    """Raises InputError for all that a library raises of damaged files and stores: `what`, and what it says."""
    try:
        yield
    except (InputError, RunError):
        raise
    except Exception as error:  # there is no end of kinds
        raise InputError(f"{what} ({one_line(error)})") from error


def pip_install(extra: str) -> str:
    """The command that installs what an extra of this package brings.

    It names the packages themselves, which works wherever gpuknn was installed from.
    """
    packages = (line.partition(";") for line in requires("gpuknn") or ())
    wanted = [name for name, _, when in packages if re.search(rf"\bextra\s*==\s*['\"]{extra}['\"]", when)]
    return f"pip install {shlex.join(map(str.strip, wanted))}"


def no_cupy() -> InputError:
    """That a GPU is asked for and CuPy is not installed."""
    return InputError(f"--device cuda: CuPy is not installed; use --device cpu, or install it, {install_cupy()}")


def install_cupy() -> str:
    """How, for either version of CUDA."""
    return f"for a driver of CUDA 12: {pip_install('cuda12')}; for one of CUDA 13: {pip_install('cuda13')}"
