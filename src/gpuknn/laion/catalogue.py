"""The catalogue of subsets: names, sizes and md5 sums as published on the challenge's dataset page."""

from dataclasses import dataclass
from pathlib import Path

import platformdirs

from gpuknn.errors import InputError, check_known, option

SOURCE = "https://sisap-23-challenge.s3.amazonaws.com/SISAP23-Challenge"
SAMPLE = Path(__file__).parent / "sample"
"""10,000 descriptions of Debian packages as 384 float16 components, 200 queries, captions, gold standard."""


@dataclass(frozen=True)
class RemoteFile:
    """A published file."""

    name: str
    size: str
    md5: str

    @property
    def url(self) -> str:
        """Where it is published."""
        return f"{SOURCE}/{self.name}"


DATABASES = {
    "100K": RemoteFile("laion2B-en-clip768v2-n=100K.h5", "147M", "daef38a64e3cd1c5233231f8be882a64"),
    "300K": RemoteFile("laion2B-en-clip768v2-n=300K.h5", "440M", "d238b4b037c32bae41e497f95dffa895"),
    "10M": RemoteFile("laion2B-en-clip768v2-n=10M.h5", "15G", "c05e4b1d2b2a0c7663ac9767753e25e1"),
    "30M": RemoteFile("laion2B-en-clip768v2-n=30M.h5", "44G", "15a24d28d2304e14711e23baf7fe86a4"),
    "100M": RemoteFile("laion2B-en-clip768v2-n=100M.h5", "147G", "9d8ee3347b1edf136b3ef38162ac05c3"),
}
QUERIES = {
    "public": RemoteFile("public-queries-10k-clip768v2.h5", "30M", "257b9eb3f7f25776e0d33b22451b7b32"),
    "private": RemoteFile("private-queries-10k-clip768v2.h5", "30M", "f8f3e61bd22d7d64234a0f587ead9fcf"),
}
SUBSETS = ("sample", *DATABASES)


def subset_files(subset: str, *, queries: str = "public", data_dir: str | Path | None = None) -> tuple[Path, Path]:
    """Paths of a LAION2B subset's database and queries, or of the sample that is shipped.

    `subset`: sample, 100K, 300K, 10M, 30M or 100M.  `queries`: public or private.  `data_dir`: where the files lie; by
    default the user's data folder.  Raises InputError if there is no such subset or set of queries, or if a file is
    missing: the message tells its size, address, md5 and the command that fetches it.

    >>> import gpuknn
    >>> database, queries = gpuknn.subset_files("sample")
    >>> gpuknn.open_vectors(database).shape
    (10000, 384)
    """
    check_known("subset", subset, SUBSETS)
    check_known("queries", queries, QUERIES)
    if subset == "sample":
        if queries != "public":
            raise InputError(f"{option('queries', queries)}: the sample has public queries only")
        return SAMPLE / "database.h5", SAMPLE / "queries.h5"
    folder = Path(data_dir) if data_dir else Path(platformdirs.user_data_dir("gpuknn"))
    return _local(folder, DATABASES[subset]), _local(folder, QUERIES[queries])


def gold_name(subset: str, queries: str, k: int) -> str:
    """The name under which this gold standard is published, or would be.

    Public 100-NN files carry no suffix; public 1000-NN and private 10-NN files say F64-IEEE754.
    """
    if subset == "sample":
        return "sample-gold-standard.h5"
    suffix = {("public", 100): "", ("public", 1000): "-F64-IEEE754", ("private", 10): "-F64-IEEE754"}
    return f"laion2B-en-{queries}-gold-standard-v2-{subset}{suffix.get((queries, k), f'-k={k}')}.h5"


def _local(folder: Path, file: RemoteFile) -> Path:
    path = folder / file.name
    if not path.exists():
        fetch = f"curl --create-dirs -C - -o '{path}' {file.url}"
        raise InputError(f"{path}: is missing ({file.size}, md5 {file.md5}); fetch it with: {fetch}")
    return path
