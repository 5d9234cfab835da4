"""A folder for what is compiled, if neither the package's folder nor the user's can be written to."""

import os
import stat
import tempfile
from contextlib import suppress
from pathlib import Path


def private_folder() -> Path | None:
    """A folder that only this user can read and write, made if it is not there; None if there can be none.

    What is kept there is run as code by the next process.  So a folder that another user made, or that others may
    write to or replace, is refused.
    """
    try:
        above = Path(tempfile.gettempdir())
        folder = above / f"gpuknn-kernels-{os.geteuid()}"
        with suppress(FileExistsError):
            folder.mkdir(mode=0o700)
        found, around = folder.lstat(), above.stat()
    except OSError:
        return None
    ours = stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid() and not found.st_mode & 0o077
    can_be_replaced = around.st_mode & 0o022 and not around.st_mode & stat.S_ISVTX
    return folder if ours and not can_be_replaced and os.access(folder, os.W_OK) else None
