"""The command `gpuknn`, which is also `python -m gpuknn`: a process that runs one command, and ends."""

import os
import signal
import sys
from typing import NoReturn


def command() -> NoReturn:
    """Run the command that the process was started with, and end; once its outcome is told, no signal changes that."""
    code = interrupt = None
    try:
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        from gpuknn.cli.main import main  # here: it takes a while, in which an interrupt may come

        code = main()
        _hear_no_more()
    except KeyboardInterrupt as caught:
        _hear_no_more()
        interrupt = caught
    from gpuknn.errors import INTERRUPTED, what_was_told

    if code is None:  # or else the outcome is told
        kept, code = what_was_told(interrupt), INTERRUPTED
        sys.stderr.write(f"gpuknn: interrupted{f'; {kept}' if kept else ' before the command began'}\n")
    if code == INTERRUPTED:  # whoever is impatient has cut off what Python would wait for as it ends
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


def _hear_no_more() -> None:
    """Ignore signals: while Python ends, which Dask's threads may delay, they would kill the process."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


if __name__ == "__main__":  # not in the processes that a job starts
    command()
