"""What may be written to: asked before hours are spent."""

import glob
import os
import re
import shutil
import tempfile
from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path, PurePath, PurePosixPath

from gpuknn.errors import InputError, option, what_asked
from gpuknn.storage.location import is_url, listing

ONE_ARRAY = re.compile(r"zarr\.json|\.zarray|\.zattrs|c(/\d+){0,2}|\d+\.\d+")
"""Names in a Zarr store of one matrix: no other folder is ever replaced."""


def check_destination(destination: str, sources: Sequence[str], replace: bool, stores: bool) -> None:
    """Raise InputError if the destination cannot or should not be written; `sources` are read meanwhile.

    `replace`: what is there may go.  `stores`: the destination may be a Zarr store, in a folder or at a URL.
    """
    place = _place(destination)
    if is_url(destination):
        if not stores:
            raise InputError(f"{destination}: is written to a file of this machine, not to a URL; name a file")
        there = [stored.name for stored in listing(destination)]
        _refuse_sources(destination, place, sources)
        if there and not replace:
            raise InputError(
                f"{destination}: {len(there)} objects are there already; {option('force', True)} replaces them"
            )
        _refuse_others(destination, there)
        return
    path = Path(destination)
    if not path.name:
        raise InputError(f"{destination or 'the destination'}: is no name for a file")
    if re.match(r"[a-z0-9]+:/", destination):
        raise InputError(f"{destination}: is written to a file of this machine, not to a URL; name a file")
    if not Path(place.parent).is_dir():
        raise InputError(f"{path.parent}: there is no such folder to write {path.name} to")
    _refuse_sources(destination, place, sources)
    if path.is_dir():
        if not stores:
            raise InputError(f"{path}: is not a file; name one")
        _refuse_others(destination, [stored.name for stored in listing(destination)])
    elif path.exists() and not path.is_file():
        raise InputError(f"{path}: is not a file; name one")
    if path.exists() and not replace:
        raise InputError(f"{path}: exists already; {option('force', True)} replaces it")
    try:
        with tempfile.NamedTemporaryFile(dir=place.parent, prefix=f"{path.name}.", suffix=".part"):
            pass
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be written ({getattr(error, 'strerror', error)})") from error


def lacking(folder: Path, need: int) -> str:
    """What to say if a folder's disk has less than `need` bytes free; nothing if it has enough."""
    free = shutil.disk_usage(folder).free
    return f"{folder}: {free / 2**20:,.0f} MiB are free, {need / 2**20:,.0f} MiB are needed" if free < need else ""


def _place(path: str) -> PurePath:
    """The same for two names of one file or prefix."""
    if is_url(path):
        return PurePosixPath(path)
    try:
        Path(path).exists()
        return Path(path).resolve()
    except (OSError, ValueError, RuntimeError) as error:  # the last of links in a circle
        raise InputError(f"{path}: is no name for a file ({getattr(error, 'strerror', error)})") from error


def _refuse_sources(destination: str, place: PurePath, sources: Sequence[str]) -> None:
    for source in sources:
        if _matches(source, place):
            raise InputError(
                f"{destination}: would itself be one of the files that {source} stands for, an input of this very "
                f"{what_asked()}; name another output"
            )
        origin = _place(source)
        if place.is_relative_to(origin) or origin.is_relative_to(place):
            near = (
                "is"
                if place == origin
                else f"holds {source},"
                if origin.is_relative_to(place)
                else f"lies in {source},"
            )
            raise InputError(f"{destination}: {near} an input of this very {what_asked()}; name another output")


def _matches(pattern: str, place: PurePath) -> bool:
    """Whether a file at that place would be one of those that a pattern of names, if it is one, stands for."""
    if is_url(pattern) or not glob.has_magic(pattern) or os.path.lexists(pattern):
        return False
    names = Path(pattern).absolute().parts
    if "**" in names:
        return fnmatchcase(str(place), os.sep.join(names))
    return len(names) == len(place.parts) and all(map(fnmatchcase, place.parts, names))


def _refuse_others(destination: str, names: Sequence[str]) -> None:
    other = next((name for name in names if not ONE_ARRAY.fullmatch(name)), None)
    if other is not None:
        raise InputError(f"{destination}: is not one Zarr array, it holds {other}; name another output")
