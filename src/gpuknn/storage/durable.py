"""Files that survive: they appear under their names when they are whole and on disk, and tell when they are damaged."""

import contextlib
import glob
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any


@contextlib.contextmanager
def appearing(path: Path, whole: Callable[[Path], None] = lambda _: None) -> Iterator[Path]:
    """A name to write a file under, which gets the name `path` when the context is left without an error.

    `whole` is called with the unfinished name when all is on disk.  If it raises an error, the file does not appear.
    """
    part = path.with_name(f"{path.name}.{os.urandom(4).hex()}.part")
    try:
        yield part
        sync(part)
        whole(part)
        os.replace(part, path)
        sync(path.parent)
    finally:
        part.unlink(missing_ok=True)


def sweep(path: Path) -> None:
    """Remove what processes that were killed have left of a file; nobody else may be writing it."""
    for stale in path.parent.glob(f"{glob.escape(path.name)}.{8 * '[0-9a-f]'}.part"):
        stale.unlink(missing_ok=True)


def remove(path: Path) -> None:
    """Remove a file, a link or a folder, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def write_sealed(path: Path, said: dict[str, Any]) -> None:
    """Write JSON with its own checksum."""
    with appearing(path) as part:
        part.write_text(json.dumps(said | {"seal": digest(_plain(said))}, indent=1))


def read_sealed(path: Path) -> dict[str, Any]:
    """What `write_sealed` wrote; empty if it is damaged.

    Raises OSError if it cannot be read: that may pass, and is no reason to throw anything away.
    """
    if path.exists() and not path.is_file():  # a pipe would keep us waiting
        return {}
    content = path.read_bytes()
    try:
        said: dict[str, Any] = json.loads(content)
        return said if said.pop("seal") == digest(_plain(said)) else {}
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return {}


def sync(path: Path) -> None:
    """Wait until a file's or folder's content is on disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def digest(data: Any) -> str:
    """32 hexadecimal digits that tell bytes from others."""
    return hashlib.blake2b(data, digest_size=16).hexdigest()


def _plain(said: dict[str, Any]) -> bytes:
    return json.dumps(said, sort_keys=True).encode()
