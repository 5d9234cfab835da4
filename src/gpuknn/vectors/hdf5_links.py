"""Whether what a name stands for lies in the HDF5 file itself."""

import h5py

from gpuknn.errors import InputError

MOST_LINKS = 16
"""Soft links that are followed one after another; HDF5 follows as many."""


def refuse_outside(item: h5py.Dataset | h5py.Group, file: h5py.File, where: str) -> None:
    """Raise InputError if a link led out of the file, or an array keeps its content in others."""
    elsewhere = isinstance(item, h5py.Dataset) and (item.external is not None or item.is_virtual)
    if elsewhere or item.file.filename != file.filename:
        raise InputError(f"{where}: keeps its rows in another file; name that file instead")


def refuse_links_out(group: h5py.Group, key: str, where: str, links: int = 0) -> None:
    """Raise InputError if a link on the way to `key` leads out of the file, or links lead in a circle.

    To follow it would open what it names: another file, or a pipe, which waits for ever.  `links`: those followed so
    far.
    """
    if links > MOST_LINKS:
        raise InputError(f"{where}: leads from link to link and to no array")
    for part in filter(None, key.split("/")):
        link = group.get(part, getlink=True)
        if isinstance(link, h5py.ExternalLink):
            raise InputError(f"{where}: keeps its rows in another file; name that file instead")
        if isinstance(link, h5py.SoftLink):
            refuse_links_out(group.file if link.path.startswith("/") else group, link.path, where, links + 1)
        item = group.get(part)
        if not isinstance(item, h5py.Group):
            return
        group = item
