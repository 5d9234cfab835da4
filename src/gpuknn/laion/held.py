"""What a data folder holds of a catalogue, and what is known of it without reading it again.

Beside the files, in `.gpuknn`, lies a receipt for each whose md5 sum was computed.  It holds as long as the file has
the size and the time of change that it had then.
"""

import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

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
        if self.md5 is not None and self.file.md5 not in (None, self.md5):
            return f"its md5 sum is {self.md5}, and {self.file.md5} in the catalogue"
        return f"it has {self.bytes:,} bytes, and {self.file.size_told} in the catalogue"


def data_folder(data_dir: str | Path | None) -> Path:
    """Where a dataset's files lie, by default: the user's data folder."""
    return Path(data_dir) if data_dir else Path(platformdirs.user_data_dir("gpuknn"))


def held(folder: Path, file: RemoteFile) -> Held:
    """What is there of a file.  Raises InputError if the folder or the file cannot be looked at."""
    path = folder / file.name
    try:
        status = path.stat() if path.is_file() else None
        if status is None and os.path.lexists(path):
            raise InputError(f"{path}: is in the way and no file; move it away")
        if status is None:
            begun = _begun(path)
            return Held(file, path, "begun" if begun else "missing", begun)
    except OSError as error:
        raise InputError(f"{path}: cannot be looked at ({error.strerror})") from error
    md5, (fewest, most) = md5_known(path), file.sizes
    sized = fewest <= status.st_size and (most is None or status.st_size <= most)
    state: State = "here" if md5 is None or file.md5 is None else "verified" if md5 == file.md5 else "wrong"
    return Held(file, path, state if sized else "wrong", status.st_size, md5)


def md5_known(path: Path) -> str | None:
    """The md5 sum of a file, if it was computed and nobody has written to the file since."""
    with suppress(OSError):
        said, status = read_sealed(_receipt(path)), path.stat()
        if (said.get("bytes"), said.get("changed")) == (status.st_size, status.st_mtime_ns):
            md5 = said.get("md5")
            return md5 if isinstance(md5, str) else None
    return None


def keep_md5(path: Path, md5: str, part: Path | None = None) -> None:
    """Write down a file's md5 sum; `part`: where it is now, if it gets its name next.  Raises OSError if that fails."""
    status = (part or path).stat()
    _receipt(path).parent.mkdir(exist_ok=True)
    write_sealed(_receipt(path), {"md5": md5, "bytes": status.st_size, "changed": status.st_mtime_ns})


def _receipt(path: Path) -> Path:
    return path.parent / RECEIPTS / f"{path.name}.json"


def _begun(path: Path) -> int:
    """Bytes of a file that an unfinished download has kept."""
    record = Record.beside(path).path
    return sum(rows_kept(job) for job in record.iterdir() if job.is_dir()) if record.is_dir() else 0
