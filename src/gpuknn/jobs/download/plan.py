"""Which files are to be fetched into a data folder, and whether there is room for them."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from gpuknn.errors import InputError
from gpuknn.laion.catalogue import RemoteFile
from gpuknn.laion.held import RECEIPTS, Held, held
from gpuknn.progress import readable
from gpuknn.storage.destination import lacking


@dataclass(frozen=True)
class Plan:
    """What is there, and what is to be done."""

    folder: Path
    files: tuple[Held, ...]
    fresh: bool
    """Throw away what earlier calls have left of unfinished files."""
    command: Sequence[str]
    """Words of the command line that do the same."""

    @cached_property
    def to_fetch(self) -> list[RemoteFile]:
        """The files that are not there."""
        return [each.file for each in self.files if each.state in ("missing", "begun")]

    @cached_property
    def to_do(self) -> list[Held]:
        """These, and those that are there, but that nobody has compared with their md5 sum."""
        return [each for each in self.files if each.file in self.to_fetch or (each.state == "here" and each.file.md5)]

    @property
    def bytes(self) -> int:
        """To be fetched or read, as far as it is known."""
        return sum(
            each.bytes if each.state == "here" else max(0, each.file.expected - (0 if self.fresh else each.bytes))
            for each in self.to_do
        )

    @property
    def unknown(self) -> int:
        """Of how many files to be fetched nobody has published the size."""
        return sum(not file.expected for file in self.to_fetch)

    @property
    def size(self) -> str:
        """The bytes in words."""
        more = f"{self.unknown} files of unknown size" if self.unknown else ""
        return " and ".join(filter(None, (readable(self.bytes) if self.bytes or not more else "", more)))

    @property
    def title(self) -> str:
        """The plan in a line."""
        return f"gpuknn data: {len(self.files)} files in {self.folder}, {len(self.to_do)} of them to fetch or to verify"

    @property
    def facts(self) -> dict[str, Any]:
        """The plan as JSON has it."""
        return {
            "folder": str(self.folder),
            "files": [each.file.name for each in self.files],
            "to_fetch": [file.name for file in self.to_fetch],
            "to_verify": [each.file.name for each in self.to_do if each.state == "here"],
            "bytes": self.bytes,
            "of_unknown_size": self.unknown,
        }


def plan_download(files: Sequence[RemoteFile], folder: Path, fresh: bool, command: Sequence[str]) -> Plan:
    """What there is to do for the files to be in the folder.

    Raises InputError if the folder cannot be written to or has too little room, or if it holds a file that is not the
    catalogue's: gpuknn replaces no file.
    """
    found = tuple(held(folder, file) for file in files)
    for each in found:
        if each.state == "wrong":
            raise InputError(f"{each.path}: {each.wrong}; move it away, gpuknn replaces no file")
    plan = Plan(folder, found, fresh, command)
    need = sum(max(0, file.expected - _on_disk(folder, file)) for file in plan.to_fetch)
    receipts = folder / RECEIPTS
    if os.path.lexists(receipts) and (receipts.is_symlink() or not receipts.is_dir()):
        raise InputError(f"{receipts}: is in the way and no folder; move it away, md5 sums are kept there")
    there = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    if plan.to_fetch and not (there.is_dir() and os.access(there, os.W_OK)):
        raise InputError(f"{there}: is no folder that can be written to; name another one for the files")
    if said := lacking(there, need):
        raise InputError(f"{said} for {len(plan.to_fetch)} files; make room, or name another folder")
    return plan


def _on_disk(folder: Path, file: RemoteFile) -> int:
    """Bytes that an unfinished download of a file already takes; its record is made anew if it is not ours."""
    parts = folder.glob(f"{file.name}.run/*/target")
    return sum(512 * part.stat().st_blocks for part in parts)
