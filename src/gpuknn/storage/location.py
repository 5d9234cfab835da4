"""Where files are: on this machine's disks, or in an object store by URL."""

import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from gpuknn.errors import InputError, RunError, one_line, pip_install

if TYPE_CHECKING:
    from obstore.store import ObjectStore

SCHEMES = ("s3", "gs", "az")
REFUSED = re.compile(r"status code: 40[0134]|configured region|//169\.254\.")
"""How obstore tells of what will be refused the next time, too: a bad request, one that is not allowed, no such bucket,
the wrong region, and no credentials in the environment (it then asks a cloud's own machines at 169.254.169.254)."""


@dataclass(frozen=True)
class Stored:
    """A file or an object, as a listing shows it."""

    name: str
    """Relative to where the listing began."""
    size: int
    stamp: str
    """Not equal once something was written to it."""


def is_url(path: str | Path) -> bool:
    """Whether `path` names something in an object store."""
    return isinstance(path, str) and "://" in path


def location(path: str | Path) -> str | Path:
    """A URL as it is, anything else as a Path; `Path` itself would make s3:/ of s3://."""
    return path if is_url(path) else Path(path)


def split_key(name: str | Path) -> tuple[str | Path, str | None]:
    """`FILE:KEY` as its place and its key; a name without a key, or of a file that has a colon in it, as its place."""
    place, text = location(name), str(name)
    if _there(place):
        return place, None
    colons = [
        at
        for at, letter in enumerate(text)
        if letter == ":" and 0 < at < len(text) - 1 and text[at + 1 : at + 3] != "//"
    ]
    if not colons:
        return place, None
    local = [] if is_url(text) else [at for at in colons if _there(Path(text[:at]))]
    at = (local or colons[-1:])[0]
    return location(text[:at]), text[at + 1 :]


def absolute(path: str) -> str:
    """The same place where the working folder is another."""
    return path if is_url(path) else str(Path(path).absolute())


def is_folder(path: Path) -> bool:
    """Whether `path` is a folder; raises InputError if there is nothing, or nothing that may be looked at."""
    try:
        mode = path.stat().st_mode
    except FileNotFoundError as error:
        raise InputError(f"{path}: there is no such file") from error
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read ({getattr(error, 'strerror', error)})") from error
    if not stat.S_ISDIR(mode) and not stat.S_ISREG(mode):
        raise InputError(f"{path}: is neither a file nor a folder, but a pipe or device; copy it to a file")
    return stat.S_ISDIR(mode)


def listing(path: str) -> list[Stored]:
    """The file `path`, or all files below a folder or a URL's prefix, by name.

    Raises InputError where something there cannot be looked at, or the object store refuses or knows no such bucket;
    RunError where it does not answer, as it may the next time.
    """
    return sorted(_objects(path) if is_url(path) else _files(Path(path)), key=lambda stored: stored.name)


def object_store(url: str) -> "ObjectStore":
    """The object store at a URL's bucket and prefix; credentials come from the environment (AWS_... and so on).

    Raises InputError where there is no such kind of store, or obstore is not installed.
    """
    scheme = url.partition("://")[0]
    if scheme not in SCHEMES:
        known = ", ".join(f"{name}://" for name in SCHEMES)
        raise InputError(f"{url}: there are object stores at {known}; download anything else")
    try:
        from obstore.store import from_url
    except ImportError as error:
        raise InputError(f"{url}: object stores need obstore; install it with: {pip_install('cloud')}") from error
    try:
        return from_url(url)
    except Exception as error:  # obstore's own kinds, and ValueError
        raise InputError(f"{url}: {one_line(error)}") from error


def _there(place: str | Path) -> bool:
    """Whether a local file has this very name; nothing is asked of an object store."""
    try:
        return isinstance(place, Path) and place.exists()
    except (OSError, ValueError):
        return False


def _objects(url: str) -> Iterator[Stored]:
    store = object_store(url)
    try:
        for page in store.list():
            for found in page:
                stamp = found["e_tag"] or f"{found['last_modified']:%s.%f}"
                yield Stored(found["path"], found["size"], stamp)
    except Exception as error:  # obstore has one kind for all that goes wrong in a listing
        said = f"{url}: cannot be listed ({one_line(error)})"
        if REFUSED.search(str(error)):
            raise InputError(said) from error
        raise RunError(f"{said}; try again") from error


def _files(path: Path) -> Iterator[Stored]:
    for file in path.rglob("*") if path.is_dir() else [path]:
        try:
            status = file.stat()
        except OSError as error:
            raise InputError(f"{file}: cannot be looked at ({error.strerror})") from error
        yield Stored(str(file.relative_to(path)), status.st_size, str(status.st_mtime_ns))
