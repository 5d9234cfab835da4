"""What a data folder holds of a catalogue, and what is known of it without reading it again.

Beside the files, in `.gpuknn`, lies a receipt for each whose md5 sum was computed.  It holds as long as the file has
the size and the time of change that it had then.
"""

import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import platformdirs

from gpuknn.errors import InputError
from gpuknn.laion.catalogue import RemoteFile
from gpuknn.storage.durable import read_sealed, write_sealed
from gpuknn.storage.record import Record, rows_kept

RECEIPTS = ".gpuknn"
State = Literal["missing", "begun", "here", "verified", "wrong"]


@dataclass(frozen=True)
class Held:
    """A catalogue's file in a data folder.

    missing     it is not there
    begun       a part of it is there
    here        it is there, and its bytes are not known to be right
    verified    its md5 sum is the catalogue's
    wrong       its size or its md5 sum is not the catalogue's
    """

    file: RemoteFile
    path: Path
    state: State
    bytes: int = 0
    """Of it, on disk."""
    md5: str | None = None
    """As it was computed from these bytes."""

    @property
    def wrong(self) -> str:
        """What is wrong with it."""
        if not os.path.lexists(self.path):
            return "is not there any more"
        if not self.path.is_file():
            return "is in the way and no file"
        if not os.access(self.path, os.R_OK):
            return "cannot be read"
        if self.md5 is not None and self.file.md5 not in (None, self.md5):
            return f"its md5 sum is {self.md5}, and {self.file.md5} in the catalogue"
        if not self.file.allows(self.bytes):
            return f"it has {self.bytes:,} bytes, and {self.file.size_told} in the catalogue"
        return "it is not what it was when it was fetched or read before"


def data_folder(data_dir: str | Path | None) -> Path:
    """Where a dataset's files lie, by default: the user's data folder."""
    return Path(data_dir) if data_dir else Path(platformdirs.user_data_dir("gpuknn"))


def held(folder: Path, file: RemoteFile) -> Held:
    """What is there of a file.  Raises InputError if the folder or the file cannot be looked at."""
    path = folder / file.name
    try:
        if not os.path.lexists(path):
            begun = _begun(path)
            return Held(file, path, "begun" if begun else "missing", begun)
        status = path.stat() if path.is_file() else None
    except OSError as error:
        raise InputError(f"{path}: cannot be looked at ({error.strerror})") from error
    if status is None:
        return Held(file, path, "wrong")
    said = _said(path)
    same_size = said is None or said["bytes"] == status.st_size
    md5 = said["md5"] if said and same_size and said["changed"] == status.st_mtime_ns else None
    state: State = "verified" if md5 and file.md5 else "here"
    if not file.allows(status.st_size) or md5 not in (None, file.md5 or md5) or not (file.md5 or same_size):
        state = "wrong"
    return Held(file, path, state, status.st_size, md5)


def keep_md5(path: Path, md5: str, part: Path | None = None) -> None:
    """Write down a file's md5 sum; `part`: where it is now, if it gets its name next.  Raises OSError if that fails."""
    status = (part or path).stat()
    if _receipt(path).parent.is_symlink():
        raise OSError(f"{path.parent / RECEIPTS} is a link")
    _receipt(path).parent.mkdir(exist_ok=True)
    write_sealed(_receipt(path), {"md5": md5, "bytes": status.st_size, "changed": status.st_mtime_ns})


def _said(path: Path) -> dict[str, Any] | None:
    """The receipt of a file, if there is one that is whole."""
    said: dict[str, Any] = {}
    with suppress(OSError):
        said = read_sealed(_receipt(path))
    sound = isinstance(said.get("md5"), str) and all(isinstance(said.get(name), int) for name in ("bytes", "changed"))
    return said if sound else None


def _receipt(path: Path) -> Path:
    return path.parent / RECEIPTS / f"{path.name}.json"


def _begun(path: Path) -> int:
    """Bytes of a file that an unfinished download has kept."""
    record = Record.beside(path).path
    return sum(rows_kept(job) for job in record.iterdir() if job.is_dir()) if record.is_dir() else 0
