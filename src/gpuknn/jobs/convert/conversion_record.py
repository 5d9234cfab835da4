"""What a conversion has finished, beside the unfinished target, in DST.part.

    manifest.json    whose it is: the conversion's fingerprint, and for a reader what it was
    pieces           a line for each piece that is on disk, its rows and their checksum; only the client writes it
    gpuknn.lock      held while a client is at work
    target           what is being written; in an object store it is at its place, and the folder, whose name has a
                     hash of the URL, in the working folder
    replaced         what had the final name before, while the target is given it

A piece that is not in the list is written again.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from gpuknn.errors import InputError
from gpuknn.storage.durable import sync
from gpuknn.storage.location import is_url
from gpuknn.storage.lock import LOCK, lock
from gpuknn.vectors.target import Piece

MANIFEST = "manifest.json"
PIECES = "pieces"
TARGET = "target"
REPLACED = "replaced"
OURS = {LOCK, MANIFEST, f"{MANIFEST}.new", PIECES, TARGET, REPLACED}


class ConversionRecord:
    """One conversion's folder."""

    def __init__(self, destination: str) -> None:
        self._destination = Path(destination)
        if is_url(destination):
            url = destination.rstrip("/")
            told = hashlib.blake2b(url.encode(), digest_size=4).hexdigest()
            self.folder = Path(f"{url.rpartition('/')[2]}.{told}.part")
        else:
            self.folder = self._destination.with_name(f"{self._destination.name}.part")
        self.unfinished = destination if is_url(destination) else str(self.folder / TARGET)
        """Where the target is written."""

    @property
    def begun(self) -> bool:
        """Whether there is a conversion to go on with."""
        return bool(self._manifest())

    @property
    def published(self) -> bool:
        """Whether what has the final name is this conversion's target; never so in an object store."""
        with suppress(OSError):
            return bool(self._manifest().get("published") == os.stat(self._destination).st_ino)
        return False

    @contextmanager
    def held(self, fingerprint: str, description: dict[str, Any], fresh: bool) -> Iterator[list[Piece]]:
        """Make or take over the folder for the conversion of this fingerprint; the pieces that are on disk.

        With `fresh` what is there is thrown away.  Raises InputError where the folder holds another conversion or
        somebody else's files, RunError where another client is at work in it.
        """
        strangers = {file.name for file in self.folder.iterdir()} - OURS if self.folder.is_dir() else set()
        if strangers or (self.folder.exists() and not self.folder.is_dir()):
            raise InputError(f"{self.folder}: is in the way and not of gpuknn's making; remove it, or name another DST")
        with lock(self.folder / LOCK):
            if fresh:
                self._clear()
            found = self._manifest()
            if found and found["fingerprint"] != fingerprint:
                other = [name for name, value in description.items() if found["conversion"].get(name, value) != value]
                what = ", ".join(other) or "a source, or gpuknn, was changed since"
                raise InputError(
                    f"{self.folder}: holds what another conversion has left (other: {what}); --fresh discards it"
                )
            if not found:
                self._clear()
                self._claim({"fingerprint": fingerprint, "conversion": description})
            yield self._pieces()

    def add(self, piece: Piece) -> None:
        """A piece is on disk."""
        with open(self.folder / PIECES, "a") as file:
            file.write("\n" + json.dumps(asdict(piece)))  # first, so that a torn line spoils no other
            file.flush()
            os.fsync(file.fileno())

    def begin_anew(self) -> None:
        """Forget all pieces and remove the unfinished target."""
        for name in (PIECES, TARGET):
            _remove(self.folder / name)

    def publish(self) -> None:
        """Give the finished target its name; what had it before goes."""
        target, destination = self.folder / TARGET, self._destination
        sync(target)
        self._claim(self._manifest() | {"published": target.stat().st_ino})  # which a new name does not change
        if os.path.lexists(destination) and (destination.is_dir() or target.is_dir()):
            _remove(self.folder / REPLACED)
            os.rename(destination, self.folder / REPLACED)
        os.replace(target, destination)
        sync(destination.absolute().parent)

    def remove(self) -> None:
        """Delete the folder; the manifest last if it says that the target has its name, else first."""
        if self.published:
            for name in sorted(OURS - {MANIFEST, LOCK}):
                _remove(self.folder / name)
        self._clear()
        _remove(self.folder / LOCK)
        with suppress(OSError):
            self.folder.rmdir()

    def _pieces(self) -> list[Piece]:
        pieces: dict[int, Piece] = {}
        with suppress(FileNotFoundError):
            for line in (self.folder / PIECES).read_text(errors="replace").splitlines():
                with suppress(ValueError, TypeError):
                    piece = Piece(**json.loads(line))
                    pieces[piece.first] = piece
        return list(pieces.values())

    def _manifest(self) -> dict[str, Any]:
        """Empty where there is none or it is damaged, so that the conversion begins anew."""
        try:
            found = json.loads((self.folder / MANIFEST).read_text())
            return found if {"fingerprint", "conversion"} <= set(found) else {}
        except (OSError, ValueError, TypeError):
            return {}

    def _claim(self, manifest: dict[str, Any]) -> None:
        new = self.folder / f"{MANIFEST}.new"
        new.write_text(json.dumps(manifest, indent=1))
        sync(new)
        os.replace(new, self.folder / MANIFEST)
        sync(self.folder)

    def _clear(self) -> None:
        """The manifest goes first: without it nothing else is believed.

        What a conversion killed while it published had put aside gets its name back.
        """
        if os.path.lexists(self.folder / REPLACED) and not os.path.lexists(self._destination):
            os.rename(self.folder / REPLACED, self._destination)
        for name in (MANIFEST, *sorted(OURS - {MANIFEST, LOCK})):
            _remove(self.folder / name)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
