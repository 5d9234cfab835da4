"""The command `gpuknn`, which is also `python -m gpuknn`: a process that runs one command, and ends."""

import os
import signal
import sys
import threading
from typing import NoReturn

INTERRUPTED = 130
"""The exit code."""


def command() -> NoReturn:
    """Run the command that the process was started with, and end; once its outcome is told, no signal changes that."""
    try:
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        from gpuknn.cli.main import main  # here: it takes a while, in which an interrupt may come

        code = main()
    except KeyboardInterrupt:
        sys.stderr.write("gpuknn: interrupted before the command began\n")
        code = INTERRUPTED
    # While Python ends, which Dask's threads may delay, a signal would kill the process.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    if code == INTERRUPTED and _still_at_work():  # a second Ctrl-C, which waits for nothing
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


def _still_at_work() -> bool:
    """Whether Python would wait for other threads before it ends."""
    return any(not thread.daemon for thread in threading.enumerate() if thread is not threading.main_thread())


if __name__ == "__main__":  # not in the processes that a job starts
    command()
