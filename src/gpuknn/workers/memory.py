"""How much memory a run may take."""

from dask.utils import parse_bytes
from distributed.system import MEMORY_LIMIT

from gpuknn.errors import InputError, option


def machine_memory() -> int:
    """Bytes that this machine or container has."""
    return int(MEMORY_LIMIT)


def memory_budget(asked: str | None) -> int:
    """Bytes for all processes together: what is asked for ("8GiB"), or half of what this machine or container has."""
    if asked is None:
        return machine_memory() // 2
    try:
        size = int(parse_bytes(asked))
    except (ValueError, OverflowError) as error:
        raise InputError(f"{option('memory', asked)}: expected a size, as in 8GiB or 500MB") from error
    if size < 1:
        raise InputError(f"{option('memory', asked)}: must be more than 0")
    return size
