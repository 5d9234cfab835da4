"""Imported by every Python process of a run (PYTHONPATH): a slow disk, and one whose reads fail at times.

Workers, also threads of the client, wait SLOW_READS seconds at most for a read, so that a shard takes long enough to
be struck.  While the file FAILING_READS is there, a read fails with the probability written in it.
"""

import errno
import multiprocessing
import os
import random
import threading
import time
from typing import Any

_preadv = os.preadv


def _slow_preadv(*arguments: Any) -> int:
    if multiprocessing.parent_process() is not None or threading.current_thread() is not threading.main_thread():
        time.sleep(random.uniform(0, float(os.environ["SLOW_READS"])))
    try:
        with open(os.environ["FAILING_READS"]) as file:
            fails = random.random() < float(file.read() or 0)
    except FileNotFoundError:
        fails = False
    if fails:
        raise OSError(errno.EIO, os.strerror(errno.EIO))
    return _preadv(*arguments)


os.preadv = _slow_preadv
