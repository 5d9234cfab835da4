"""What is compiled is kept for the next process: in Numba's files, and with a checksum of these.

Numba runs what its files hold.  Some damage would end each process that loads them; with other damage each process
would compile anew.  So files are loaded only if the checksum fits, and otherwise removed.
"""

import hashlib
import shutil
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import FunctionType
from typing import Any

from numba import config, njit

from gpuknn.engine.cpu.kernels.place import private_folder
from gpuknn.storage.durable import appearing, remove


@dataclass(frozen=True)
class Files:
    """Those of one function."""

    function: Any
    """Numba's, which finds its files by itself."""

    @property
    def folder(self) -> Path:
        """Where they lie."""
        return Path(self.function.stats.cache_path)

    @property
    def size(self) -> int:
        """Their bytes; 0 if there are none, or not as they were written."""
        return _size_if_whole(self.folder, self._name)

    def remove(self) -> bool:
        """Have the function compiled anew; False if something lies there that cannot be removed."""
        try:
            for file in (*_files(self.folder, self._name), _seal(self.folder, self._name)):
                remove(file)
        except OSError:
            return False
        return True

    def seal(self) -> None:
        """Keep the checksum of what has just been compiled."""
        content = [file.read_bytes() for file in _files(self.folder, self._name)]
        with appearing(_seal(self.folder, self._name)) as part:
            part.write_bytes(_checksum(self._name, content))

    def take_over(self) -> None:
        """Take what was compiled into the package's folder by somebody who could write there, as in an image."""
        package = Path(self.function.py_func.__code__.co_filename).parent / "__pycache__"
        if package == self.folder or self.size or not _size_if_whole(package, self._name):
            return
        for file in (*_files(package, self._name), _seal(package, self._name)):
            with appearing(self.folder / file.name) as part:
                shutil.copyfile(file, part)

    @property
    def _name(self) -> str:
        return str(self.function.py_func.__qualname__)


def files_of(function: FunctionType, options: dict[str, Any]) -> Files | None:
    """The files of a function whose name no other one has; None if there is no folder that can be written to.

    They lie where Numba wants them, or else in a folder of this user's.
    """
    found = _where_numba_can(function, options)
    if found is None and (folder := private_folder()):
        before, config.CACHE_DIR = config.CACHE_DIR, str(folder)
        try:
            found = _where_numba_can(function, options)
        finally:
            config.CACHE_DIR = before
    if found is None:
        return None
    files = Files(found)
    with suppress(OSError):  # no room
        files.take_over()
    return files


def _where_numba_can(function: FunctionType, options: dict[str, Any]) -> Any:
    try:
        return njit(**options, cache=True)(function)
    except RuntimeError:
        return None


def _files(folder: Path, name: str) -> list[Path]:
    """The index, and the code."""
    return sorted([*folder.glob(f"*.{name}-*.nbi"), *folder.glob(f"*.{name}-*.nbc")])


def _seal(folder: Path, name: str) -> Path:
    return folder / f"{name}.sha256"


def _size_if_whole(folder: Path, name: str) -> int:
    files, seal = _files(folder, name), _seal(folder, name)
    if not all(file.is_file() for file in (*files, seal)):  # a pipe would be read for ever
        return 0
    try:
        content = [file.read_bytes() for file in files]
        return sum(map(len, content)) if seal.read_bytes() == _checksum(name, content) else 0
    except OSError:
        return 0


def _checksum(name: str, content: list[bytes]) -> bytes:
    return hashlib.sha256(b"".join([name.encode(), *content])).hexdigest().encode()
