"""A subset's database and queries, and the name of what is computed from them; the sample that is shipped."""

import shlex
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from gpuknn.errors import InputError, check_known, dashed, given, option, refuse_given
from gpuknn.laion.catalogue import SHIPPED, Catalogue, RemoteFile, read_catalogue
from gpuknn.laion.held import data_folder, held
from gpuknn.laion.select import of_subset

SAMPLE = Path(__file__).parent / "sample"
"""10,000 descriptions of Debian packages as 384 float16 components, 200 queries, captions, gold standard."""
PUBLIC = "public"


@dataclass(frozen=True)
class Subset:
    """What is searched for what, of a catalogue or of the sample."""

    name: str
    metric: str
    database: RemoteFile
    queries: RemoteFile
    golds: tuple[RemoteFile, ...]
    """Those that are published for them."""


def subset_files(
    subset: str,
    *,
    bundle: str | None = None,
    queries: str = PUBLIC,
    data_dir: str | Path | None = None,
    catalogue: str | Path | None = None,
) -> tuple[str | Path, str | Path]:
    """Paths of a subset's database and queries, or of the sample that is shipped.

    `subset`: sample, or one of the catalogue, which by default is LAION2B's: 100K, 300K, 10M, 30M or 100M.  `bundle`:
    clip768 (default), pca32, pca96 or hamming.  `queries`: public or private.  `data_dir`: where the files lie; by
    default the user's data folder.  A path ends in `:KEY` if the
    catalogue says what the array is called.  Raises InputError if there
    is no such subset, bundle or set of queries, or if a file is missing: the message tells what fetches it.

    >>> import gpuknn
    >>> database, queries = gpuknn.subset_files("sample")
    >>> gpuknn.open_vectors(database).shape
    (10000, 384)
    """
    if subset == SHIPPED:
        refuse_given({"bundle": bundle, "catalogue": catalogue}, "the sample is shipped, and in no catalogue")
        if queries != PUBLIC:
            raise InputError(f"{option('queries', queries)}: the sample has public queries only")
        return SAMPLE / "database.h5", SAMPLE / "queries.h5"
    known = read_catalogue(catalogue)
    chosen = find_subset(known, subset, bundle, queries)
    asked: dict[str, Any] = {"bundle": bundle, "queries": queries, "data_dir": data_dir, "catalogue": catalogue}
    return _place(chosen.database, subset, asked), _place(chosen.queries, subset, asked)


def database_path(
    subset: str, bundle: str | None, data_dir: str | Path | None, catalogue: str | Path | None
) -> str | Path:
    """That of a subset's database alone, as `subset_files` gives it."""
    if subset == SHIPPED:
        return subset_files(subset, bundle=bundle, catalogue=catalogue)[0]
    known = read_catalogue(catalogue)
    asked = {"bundle": bundle, "data_dir": data_dir, "catalogue": catalogue}
    return _place(find_database(known, subset, bundle), subset, asked)


def find_model(catalogue: Catalogue, name: str) -> RemoteFile | None:
    """The published model that a bundle's name means; None if there is none, or a file has that name."""
    models = {file.bundle: replace(file, key=None) for file in catalogue.files if file.kind == "model"}
    return None if Path(name).exists() else models.get(name)


def model_path(name: str, data_dir: str | Path | None) -> Path:
    """Where a model is: a file, or the published one of LAION2B that a bundle's name means, if no file has the name.

    Raises InputError if that is missing or wrong.
    """
    found = find_model(read_catalogue(None), name)
    return Path(_place(found, name, {"data_dir": data_dir})) if found else Path(name)


def find_subset(catalogue: Catalogue, subset: str, bundle: str | None, queries: str) -> Subset:
    """A subset by its names.  Raises InputError if the catalogue has no such subset, bundle or queries."""
    database = find_database(catalogue, subset, bundle)
    bundle = database.bundle
    found = of_subset(catalogue, subset, "queries", bundle)
    check_known("queries", queries, dict.fromkeys(file.queries for file in found))
    golds = of_subset(catalogue, subset, "gold", bundle, queries=queries)
    chosen = next(file for file in found if file.queries == queries)
    return Subset(subset, catalogue.bundles[bundle].metric or "", database, chosen, tuple(golds))


def find_database(catalogue: Catalogue, subset: str, bundle: str | None) -> RemoteFile:
    """A subset's database.  Raises InputError if the catalogue has no such subset or bundle."""
    check_known("subset", subset, [SHIPPED, *catalogue.subsets])
    bundle = bundle or catalogue.first_bundle
    check_known("bundle", bundle, [name for name, each in catalogue.bundles.items() if each.metric])
    databases = of_subset(catalogue, subset, "database", bundle)
    if not databases:
        raise InputError(f"{option('subset', subset)}: has no database in bundle {bundle}")
    return databases[0]


def gold_name(subset: Subset, k: int) -> str:
    """The name of a gold standard that gpuknn computes: that of the published one, if there is one, and `-gpuknn`."""
    alone = [gold.name for gold in subset.golds if gold.dims == k and gold.name != subset.database.name]
    stem = _stem(alone[0]) if alone else f"{_stem(subset.database.name)}-{subset.queries.queries}-k={k}"
    return f"{stem}-gpuknn.h5"


def _stem(name: str) -> str:
    return name.rpartition(".")[0] or name


def _place(file: RemoteFile, subset: str, asked: dict[str, Any]) -> str | Path:
    """Where an array is.  Raises InputError if its file is missing or wrong: the message says what to do."""
    found = held(data_folder(asked["data_dir"]), file)
    if found.state == "wrong":
        raise InputError(f"{found.path}: {found.wrong}; move it away, and fetch it again")
    if found.state in ("missing", "begun"):
        options = given(asked)
        size, md5 = f"{file.size}, " if file.size else "", f"md5 {file.md5}" if file.md5 else "md5 unknown"
        call = ", ".join([repr(subset), *(f"{name}={str(value)!r}" for name, value in options.items())])
        words = shlex.join([subset, *(word for name, value in options.items() for word in (dashed(name), str(value)))])
        fetch = f"{option('download', True, python=f'gpuknn.download({call})')}, or in a shell: gpuknn data get {words}"
        raise InputError(f"{found.path}: is missing ({size}{md5}, {file.url}); fetch it with {fetch}")
    return f"{found.path}:{file.key}" if file.key else found.path
