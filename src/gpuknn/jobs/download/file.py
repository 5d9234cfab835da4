"""One published file into a data folder: fetched, compared with its md5 sum, and only then given its name."""

import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import httpx

from gpuknn.errors import InputError, RunError, same_again
from gpuknn.jobs.download.server import Anew, Changed, Version
from gpuknn.jobs.download.transfer import Extents, Transfer
from gpuknn.jobs.pieces import read_receipts, remove_receipt, write_receipt
from gpuknn.laion.catalogue import RemoteFile
from gpuknn.laion.held import keep_md5
from gpuknn.storage.destination import lacking
from gpuknn.storage.durable import digest
from gpuknn.storage.record import TARGET, Claim, Identity, Record

VERSION = 1
"""Raised when what an unfinished download has left means something else."""
BYTES = "bytes"
"""What the record of a download counts."""
BEGINNINGS = 6
"""So often a file may be begun."""


@dataclass(frozen=True)
class Kept:
    """What an earlier call has left of a file."""

    url: str
    version: Version
    extents: Extents


def fetch(
    client: httpx.Client,
    file: RemoteFile,
    folder: Path,
    fresh: bool,
    command: Sequence[str],
    on_bytes: Callable[[int], None],
    say: Callable[[str], None],
) -> None:
    """Have a file in the folder under its name, unless one has that name already.

    Goes on from what an earlier call has fetched, unless that is to be thrown away (`fresh`).  `on_bytes` is told how
    many bytes are there.  Raises InputError if the file cannot be had or is not the catalogue's, RunError if the same
    call goes on later.
    """
    path = folder / file.name
    record = Record.beside(path)
    identity = Identity(
        fingerprint=digest(repr((VERSION, file.name, file.md5 or file.url)).encode()),
        description={"file": file.name, "md5": file.md5 or "", "from": "" if file.md5 else file.url},
        title=f"{file.url} to {path}",
        rows=max(1, file.expected),
        settings={},
        command=command,
        elsewhere=" (of gpuknn data get)",
        unit=BYTES,
    )
    with record.held(identity, fresh, say) as claim:
        if os.path.lexists(path):  # another gpuknn has just finished it
            if not record.has_results():
                record.give_up(claim)
            return
        try:
            md5 = _fetched(client, file, claim, record, on_bytes, say)
            keep_md5(path, md5, claim.folder / TARGET)
            record.publish(claim, {}, replace=False)
        except BaseException as error:
            if not record.has_results():
                record.give_up(claim)
            if isinstance(error, OSError):
                said = f"{path}: cannot be written ({error.strerror or error})"
                raise RunError(f"{said}; set that right, {same_again()} goes on") from error
            raise
        record.remove()


def _fetched(
    client: httpx.Client,
    file: RemoteFile,
    claim: Claim,
    record: Record,
    on_bytes: Callable[[int], None],
    say: Callable[[str], None],
) -> str:
    """All bytes of a file, in the claim's folder; their md5 sum."""
    part = claim.folder / TARGET
    whole, said = False, ""
    sums: set[str] = set()
    """Of files that came whole and are not the catalogue's."""
    for beginning in range(BEGINNINGS):
        kept = _kept(claim.folder, file)
        if kept is None:
            record.forget(claim)  # a file of its own for each beginning: late bytes of the last go nowhere
            part.touch()
        transfer = Transfer(
            client,
            file.url,
            part,
            lambda version: _check(version, file, part),
            kept.version if kept else None,
            kept.extents if kept else (),
            whole or beginning == BEGINNINGS - 1,
            file.sizes[1],
            file.md5 is None,
        )
        try:
            md5 = transfer.run(on_bytes, lambda version, extents: _keep(claim, file, version, extents))
        except Anew as error:
            whole, said = True, str(error)
        except Changed as error:
            said = str(error)
        else:
            if file.md5 in (None, md5):
                return md5
            said = f"its md5 sum is {md5}, and {file.md5} in the catalogue"
            if md5 in sums:  # a server with another file, not a fault on the way
                break
            sums.add(md5)
        record.forget(claim)
        say(f"{file.name}: {said}; it is fetched from the beginning")
    record.forget(claim)
    failed = InputError if sums else RunError
    raise failed(f"{file.url}: {said}; it was fetched again in vain, and nothing of it is kept")


def _check(version: Version, file: RemoteFile, part: Path) -> None:
    """Raise an error if the server's file cannot be the catalogue's, or there is no room for it."""
    size = version.size
    if size is None:
        return
    if not file.allows(size):
        raise InputError(
            f"{file.url}: has {size:,} bytes there, and {file.size_told} in the catalogue; it is another file"
        )
    if said := lacking(part.parents[2], size - 512 * part.stat().st_blocks):
        raise RunError(f"{said} for {file.name}; make room, {same_again()} goes on")


def _keep(claim: Claim, file: RemoteFile, version: Version, extents: Extents) -> None:
    """Write down which bytes are on disk."""
    claim.held.check()
    there = range(sum(stop - start for start, stop in extents))
    earlier = [rows for rows in read_receipts(claim.folder) if rows != there]
    write_receipt(claim.folder, there, {"url": file.url, "version": asdict(version), "extents": extents})
    for rows in earlier:
        remove_receipt(claim.folder, rows)


def _kept(folder: Path, file: RemoteFile) -> Kept | None:
    """What can be gone on with.

    A file whose md5 sum is known may come from another address than before: the sum tells in the end.
    """
    part = folder / TARGET
    receipts = read_receipts(folder) if part.is_file() and not part.is_symlink() else {}
    try:
        said = receipts[max(receipts, key=lambda there: there.stop)]
        version, extents = Version(**said["version"]), [(int(a), int(b)) for a, b in said["extents"]]
        url, told = str(said["url"]), [version.etag, version.modified]
    except (KeyError, TypeError, ValueError, OverflowError):
        return None
    size = version.size
    ends = [0, *(end for extent in extents for end in extent)]
    if (
        not isinstance(size, int)
        or not all(isinstance(each, str) for each in told)
        or ends != sorted(ends)
        or not ends[-1] <= min(size, part.stat().st_size)
    ):
        return None
    if url != file.url:
        return Kept(file.url, Version(size), extents) if file.md5 else None
    return Kept(url, version, extents) if version.known or file.md5 else None
