"""Loaded by a scheduler that was started over SSH: it ends, and its workers with it, when the connection does.

A client that is closed in good order ends its cluster itself; one that was killed, or lost its network, cannot.
"""

import os
import signal
import sys
import threading


def dask_setup(scheduler: object) -> None:
    """Called by Dask as the scheduler starts."""
    threading.Thread(target=_wait_for_the_end, daemon=True).start()


def _wait_for_the_end() -> None:
    sys.stdin.buffer.read()  # sshd holds it open, and writes nothing
    os.kill(os.getpid(), signal.SIGTERM)
