"""The ways in which work can end early, and words for options and for what is missing.

The command line turns the errors into exit codes.
"""

import errno
import re
import shlex
from collections.abc import Collection, Hashable, Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import requires
from operator import index
from pathlib import Path
from typing import Any


class InputError(ValueError):
    """The input or the command line is wrong: one line that says what, where and what to do (exit code 2)."""


class RunError(RuntimeError):
    """The run failed; the same command goes on from what was finished (exit code 3)."""


PASSING = {
    errno.EIO,
    errno.ENFILE,
    errno.EMFILE,
    errno.ENOMEM,
    errno.EAGAIN,
    errno.ESTALE,
    errno.ETIMEDOUT,
    errno.ENOSPC,
}
"""Numbers of the system's errors that say nothing about a file."""
INTERRUPTED = 130
"""The exit code of an interrupted command."""


class Interrupted(KeyboardInterrupt):
    """A long job was interrupted: one line that says what is kept, and what the same command does (exit code 130)."""


def what_was_told(interrupt: BaseException | None) -> str | None:
    """What was said when a long job was interrupted, also if somebody impatient has interrupted what came then."""
    while interrupt is not None:
        if isinstance(interrupt, Interrupted):
            return str(interrupt)
        interrupt = interrupt.__context__
    return None


_terminal = False
"""Whether this process was asked on the command line, not by a Python program."""


@contextmanager
def at_the_terminal() -> Iterator[None]:
    """Have messages speak of options as the command line writes them, as long as the context lasts."""
    global _terminal
    before, _terminal = _terminal, True
    try:
        yield
    finally:
        _terminal = before


def option(name: str, value: object = None, python: str | None = None) -> str:
    """An option as whoever reads the message would write it: `--shard-rows 5`, or `shard_rows=5` in Python.

    `value`: None if the option is spoken of as such, True if it is one without a value on the command line.  `python`:
    what a Python program writes if that is something else.
    """
    if _terminal:
        return dashed(name) if value is None or value is True else f"{dashed(name)} {value}"
    if python is not None:
        return python
    shown = f'"{value}"' if isinstance(value, str | Path) else value
    return name if value is None else f"{name}={shown}"


def dashed(name: str) -> str:
    """An option's name as the command line writes it."""
    return f"-{name}" if len(name) == 1 else f"--{name.replace('_', '-')}"


def given(options: Mapping[str, Any]) -> dict[str, Any]:
    """Those of the options that somebody gave; None and False are not given."""
    return {name: value for name, value in options.items() if value is not None and value is not False}


def check_known(name: str, value: object, known: Collection[object]) -> None:
    """Raise InputError if an option has none of the values that it may have."""
    if not isinstance(value, Hashable) or value not in list(known):
        raise InputError(f"{option(name, value)}: there are {', '.join(map(str, known))}")


def whole_number(name: str, value: object) -> int:
    """An option's value as Python's own whole number; raises InputError if it is none, or below 1."""
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise InputError(f"{option(name, value)}: must be a whole number")
    number = index(value)
    if number < 1:
        raise InputError(f"{option(name, value)}: must be at least 1")
    return number


def refuse_given(options: Mapping[str, object], why: str) -> None:
    """Raise InputError if one of the options was given: `why` it has no meaning."""
    for name in given(options):
        raise InputError(f"{option(name)}: {why}; leave it out")


def same_again() -> str:
    """What whoever asked has to repeat: `the same command`, or `the same call` in Python."""
    return f"the same {what_asked()}"


def what_asked() -> str:
    """What gpuknn was asked by: a `command`, or a `call` in Python."""
    return "command" if _terminal else "call"


def in_python(words: str) -> str:
    """Words that only a Python program need be told; none on the command line."""
    return "" if _terminal else words


def one_line(error: Exception) -> str:
    """What a library says went wrong, without the lines on its inside that may follow."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


@contextmanager
def in_our_words(what: str) -> Iterator[None]:
    """Raises InputError for all that a library raises of damaged files and stores: `what`, and what it says.

    Errors of the system that may pass stay what they are.
    """
    try:
        yield
    except (InputError, RunError):
        raise
    except OSError as error:  # of damage libraries tell without a number
        if error.errno in PASSING:
            raise
        raise InputError(f"{what} ({one_line(error)})") from error
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
    """That a GPU is asked for and CuPy is not installed.

    The message names no option: a worker cannot know in which language its client was asked.
    """
    return InputError(f"device cuda: CuPy is not installed; use device cpu, or install it, {install_cupy()}")


def install_cupy() -> str:
    """How, for either version of CUDA."""
    return f"for a driver of CUDA 12: {pip_install('cuda12')}; for one of CUDA 13: {pip_install('cuda13')}"
