"""How much memory a run may take."""

import os
import resource
from contextlib import suppress
from pathlib import Path

from gpuknn.errors import InputError, option

CGROUP_LIMITS = (
    "/sys/fs/cgroup/memory.max",  # version 2
    "/sys/fs/cgroup/memory.high",
    "/sys/fs/cgroup/memory/memory.limit_in_bytes",  # version 1
    "/sys/fs/cgroup/memory/memory.soft_limit_in_bytes",
)
"""Where Linux says what a container may take; it says `max` or a huge number if there is no limit."""


def machine_memory() -> int:
    """Bytes that this machine or container has.  (Dask would tell, but it takes half a second to load.)"""
    limits = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"), resource.getrlimit(resource.RLIMIT_RSS)[1]]
    for path in CGROUP_LIMITS:
        with suppress(OSError, ValueError):
            limits.append(int(Path(path).read_text()))
    return min(limit for limit in limits if limit > 0)


def memory_budget(asked: str | None) -> int:
    """Bytes for all processes together: what is asked for ("8GiB"), or half of what this machine or container has."""
    if asked is None:
        return machine_memory() // 2
    from dask.utils import parse_bytes

    try:
        size = int(parse_bytes(asked))
    except (ValueError, OverflowError) as error:
        raise InputError(f"{option('memory', asked)}: expected a size, as in 8GiB or 500MB") from error
    if size < 1:
        raise InputError(f"{option('memory', asked)}: must be more than 0")
    return size
