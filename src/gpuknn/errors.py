"""The two ways in which a command can fail; the command line turns them into exit codes."""


class InputError(ValueError):
    """The input or the command line is wrong: one line that says what, where and what to do (exit code 2)."""


class RunError(RuntimeError):
    """The run failed; the same command goes on from what was finished (exit code 3)."""


def one_line(error: Exception) -> str:
    """What a library says went wrong, without the lines on its inside that may follow."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
