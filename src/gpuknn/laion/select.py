"""Which files of a catalogue are meant: by subset, by bundle, or by the pattern of their names."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import partial

from gpuknn.errors import InputError, check_known, option
from gpuknn.laion.catalogue import Catalogue, RemoteFile


@dataclass(frozen=True)
class Wanted:
    """What somebody asks for."""

    what: Sequence[str] = ()
    """Subsets, bundles, and names or patterns of names, as `*hamming*`."""
    bundle: str | None = None
    """Whose databases, queries and gold standards are meant by a subset; the catalogue's first if None."""
    queries: str | None = None
    """Beside a subset: these queries."""
    gold: str | None = None
    """Beside a subset: the gold standards of this generation, for all queries or for those named."""
    meta: bool = False
    """Beside a subset: its captions."""


def select(catalogue: Catalogue, wanted: Wanted) -> list[RemoteFile]:
    """The files that are asked for, each once, in the order of the catalogue.

    Raises InputError if there is none for one of the words or options.
    """
    if wanted.bundle is not None:
        check_known("bundle", wanted.bundle, catalogue.bundles)
    subsets = [word for word in wanted.what if word in catalogue.subsets]
    if not subsets and (beside := [name for name in ("queries", "gold", "meta") if getattr(wanted, name)]):
        raise InputError(f"{option(beside[0])}: goes with a subset; there are {', '.join(catalogue.subsets)}")
    chosen: set[str] = set()
    for word in wanted.what or ([wanted.bundle] if wanted.bundle else []):
        files = _of_subset(catalogue, word, wanted) if word in subsets else _named(catalogue, word, wanted.bundle)
        chosen.update(file.name for file in files)
    return once(file for file in catalogue.files if file.name in chosen)


def listed(catalogue: Catalogue, what: Sequence[str], bundle: str | None, subset: str | None) -> list[RemoteFile]:
    """The rows that a list shows: those of the bundle and the subset that any of the words names."""
    if bundle is not None:
        check_known("bundle", bundle, catalogue.bundles)
    if subset is not None:
        check_known("subset", subset, catalogue.subsets)
    rows = [
        file for file in catalogue.files if bundle in (None, file.bundle) and (subset is None or subset in file.subsets)
    ]
    for word in what:
        if not any(_is_named(file, word) for file in rows):
            raise _nothing(catalogue, word)
    return [file for file in rows if not what or any(_is_named(file, word) for word in what)]


def once(files: Iterable[RemoteFile]) -> list[RemoteFile]:
    """Each file once, though it may have several rows."""
    return list({file.name: file for file in reversed(list(files))}.values())[::-1]


def of_subset(catalogue: Catalogue, subset: str, kind: str, bundle: str | None, **same: str | None) -> list[RemoteFile]:
    """The rows of a kind that belong to a subset; `same`: fields that must have these values.

    What belongs to no subset in particular, such as queries, belongs to all; but a database must be named.
    """

    def fits(file: RemoteFile) -> bool:
        return (
            file.kind == kind
            and bundle in (None, file.bundle)
            and (subset in file.subsets or (not file.subsets and kind != "database"))
            and all(value in (None, getattr(file, name)) for name, value in same.items())
        )

    return [file for file in catalogue.files if fits(file)]


def _of_subset(catalogue: Catalogue, subset: str, wanted: Wanted) -> list[RemoteFile]:
    """A subset's database, and what is asked for beside it."""
    bundle = wanted.bundle or catalogue.first_bundle
    find = partial(of_subset, catalogue, subset, bundle=bundle)
    files = find("database") + [file for file in find("part") if file.subsets]
    if wanted.bundle and not files:  # a bundle that is not of vectors, such as captions
        files = [file for file in catalogue.files if file.bundle == bundle and subset in file.subsets]
    if not files:
        has = dict.fromkeys(file.bundle for file in catalogue.files if subset in file.subsets)
        raise InputError(f"{option('bundle', bundle)}: has no subset {subset}; those that have it are {', '.join(has)}")
    asked = {"queries": wanted.queries, "gold": wanted.gold, "meta": wanted.meta or None}
    found = {
        "queries": find("queries", queries=wanted.queries),
        "gold": find("gold", gold=wanted.gold, queries=wanted.queries),
        "meta": of_subset(catalogue, subset, "meta", None),
    }
    for name, value in asked.items():
        if value is not None and not found[name]:
            raise InputError(
                f"{option(name, value)}: there is none for {subset}{_others(catalogue, subset, name, bundle, wanted)}"
            )
        files += found[name] if value is not None else []
    return files


def _others(catalogue: Catalogue, subset: str, kind: str, bundle: str, wanted: Wanted) -> str:
    """Those that there are instead."""
    if kind == "meta":
        have = dict.fromkeys(name for file in catalogue.files if file.kind == kind for name in file.subsets)
        return f"; subsets that have captions are {', '.join(have)}" if have else ""
    queries = wanted.queries if kind == "gold" else None
    where = f" in bundle {bundle}" if queries is None else f" and {option('queries', queries)} in bundle {bundle}"
    found = of_subset(catalogue, subset, kind, bundle, queries=queries)
    names = dict.fromkeys(name for file in found if (name := getattr(file, kind)))
    if names:
        return f"{where}; there are {', '.join(names)}"
    bundles = dict.fromkeys(file.bundle for file in of_subset(catalogue, subset, kind, None, queries=queries))
    return f"{where}; bundle {', '.join(bundles)} has some" if bundles else where


def _named(catalogue: Catalogue, word: str, bundle: str | None) -> list[RemoteFile]:
    found = [
        f
        for f in catalogue.files
        if (word in (f.bundle, f.name) or fnmatchcase(f.name, word)) and bundle in (None, f.bundle)
    ]
    if not found:
        raise _nothing(catalogue, word)
    return found


def _is_named(file: RemoteFile, word: str) -> bool:
    return word in (file.bundle, file.name, *file.subsets) or fnmatchcase(file.name, word)


def _nothing(catalogue: Catalogue, word: str) -> InputError:
    subsets, bundles = ", ".join(catalogue.subsets), ", ".join(catalogue.bundles)
    return InputError(f"{word}: is no subset ({subsets}), no bundle ({bundles}), and no file has such a name")
