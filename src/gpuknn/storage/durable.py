"""Files that survive: they appear under their names when they are whole and on disk, and tell when they are damaged."""

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO


@contextlib.contextmanager
def appearing(path: Path) -> Iterator[BinaryIO]:
    """A file to write to, which appears under its name once it is whole and on disk."""
    part = path.with_name(f"{path.name}.{os.urandom(8).hex()}.part")
    try:
        with open(part, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
        sync(path.parent)
    finally:
        part.unlink(missing_ok=True)


def write_sealed(path: Path, said: dict[str, Any]) -> None:
    """Write JSON with its own checksum."""
    with appearing(path) as file:
        file.write(json.dumps(said | {"seal": digest(_plain(said))}, indent=1).encode())


def read_sealed(path: Path) -> dict[str, Any]:
    """What `write_sealed` wrote; empty where it is damaged.

    Raises OSError where it cannot be read: that may pass, and is no reason to throw anything away.
    """
    content = path.read_bytes()
    try:
        said: dict[str, Any] = json.loads(content)
        return said if said.pop("seal") == digest(_plain(said)) else {}
    except (ValueError, TypeError, KeyError, AttributeError):
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
