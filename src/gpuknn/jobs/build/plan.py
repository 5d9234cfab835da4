"""Which raw parts make a bundle, and whether they can: their headers are looked at, nothing is written."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

import numpy as np

from gpuknn.errors import InputError, in_our_words, option, whole_number
from gpuknn.jobs.build.job import QUERIES, Job
from gpuknn.jobs.build.metadata import Metadata, batches, kept_rows, wanted
from gpuknn.laion.catalogue import read_catalogue
from gpuknn.laion.raw import COLUMNS, LARGE, QUERIES_PART, RawPart, Recipe, Rule, find_parts, recipe_of, rule_named
from gpuknn.storage.destination import check_destination
from gpuknn.storage.record import Record
from gpuknn.vectors import Vectors, open_vectors
from gpuknn.vectors.ids import own_ids
from gpuknn.vectors.parquet import pyarrow_parquet
from gpuknn.workers.crew import Crew

ALL = Recipe(None, None, LARGE, "database.h5", "meta.tsv", "")
"""What is made of all parts of a folder, if no subset is named."""


@dataclass(frozen=True)
class Part:
    """A part that is used."""

    number: int
    vectors: Vectors
    metadata: Metadata


@dataclass(frozen=True)
class Plan:
    """How a bundle will be built."""

    job: Job
    folder: Path
    """Where the files are written."""
    recipe: Recipe
    parts: tuple[Part, ...]
    """Of the database, in order."""
    asked: Part | None
    """The part that queries are drawn from; None if there are to be none."""
    queries: int
    """How many are wanted."""
    crew: Crew
    fresh: bool
    """Whether what an earlier call has left is thrown away."""
    force: bool
    """Whether files that are there may go."""
    command: Sequence[str]
    """Words of a command line that go on with it."""

    @property
    def database(self) -> Path:
        """The file of vectors."""
        return self.folder / self.recipe.database

    @property
    def captions(self) -> Path:
        """The file of captions."""
        return self.folder / self.recipe.captions

    @property
    def queries_file(self) -> Path | None:
        """The file of public queries."""
        return self.folder / self.recipe.queries if self.asked else None

    @property
    def outputs(self) -> list[Path]:
        """All files that are written; the database gets its name last."""
        return [path for path in (self.captions, self.queries_file, self.database) if path]

    @property
    def record(self) -> Record:
        """Where finished parts are kept."""
        return Record.beside(self.database)

    @cached_property
    def every(self) -> tuple[Part, ...]:
        """All parts that are read."""
        return self.parts + ((self.asked,) if self.asked else ())

    @property
    def raw_rows(self) -> int:
        """Of the database's parts."""
        return self.parts[-1].metadata.rows.stop

    @property
    def rows_read(self) -> int:
        """Of all parts."""
        return self.every[-1].metadata.rows.stop

    @property
    def title(self) -> str:
        """What is going to be done, in a line."""
        vectors = self.parts[0].vectors
        queries = f", {self.queries:,} public queries from part {self.asked.number}" if self.asked else ""
        rule = self.parts[0].metadata.rule
        return (
            f"gpuknn build: {self.recipe.database} from {len(self.parts)} parts of {self.job.raw}, "
            f"{self.raw_rows:,} rows x {vectors.shape[1]} {vectors.dtype}, rule {rule or 'all'}{queries}"
        )

    @property
    def facts(self) -> dict[str, Any]:
        """The plan for a program."""
        return {
            "parts": [part.number for part in self.parts],
            "raw_rows": self.raw_rows,
            "components": self.parts[0].vectors.shape[1],
            "rule": str(self.parts[0].metadata.rule or "all"),
            "outputs": [str(path) for path in self.outputs],
        }


def plan_build(
    job: Job, folder: Path, crew: Crew, fresh: bool = False, force: bool = False, command: Sequence[str] = ()
) -> Plan:
    """Choose the parts and look at the headers of all their files.

    Raises InputError if a part is missing, short, or holds other things than it must, or nothing can be written.
    """
    recipe = recipe_of(read_catalogue(job.catalogue), job.subset) if job.subset else ALL
    queries = _queries_wanted(job)
    rule = rule_named(job.rule) if job.rule is not None else recipe.rule
    columns = tuple(map(str.strip, job.columns.split(","))) if job.columns is not None else COLUMNS
    if twice := [name for name in columns if columns.count(name) > 1]:
        raise InputError(f"{option('columns', job.columns)}: names {twice[0]} twice")
    there = find_parts(Path(job.raw))
    chosen = [Chosen(part, most, columns) for part, most in _of_database(recipe, there, job.raw, rule)]
    if queries:
        otherwise = f"; {option('public_queries', 0)} draws no queries"
        chosen.append(Chosen(_part(there, QUERIES_PART, job.raw, otherwise), None, ()))
    parts = _opened(chosen, rule)
    asked = parts.pop() if queries else None
    job = replace(job, public_queries=queries)
    plan = Plan(job, folder, recipe, tuple(parts), asked, queries, crew, fresh, force, command)
    _check_outputs(plan)
    return plan


@dataclass(frozen=True)
class Chosen:
    """A part that is used, before its files are looked at."""

    part: RawPart
    most: int | None
    """Rows that are kept at most."""
    columns: tuple[str, ...]
    """Of the captions; none if they are not wanted."""


def _queries_wanted(job: Job) -> int:
    if job.public_queries is None:
        return QUERIES if job.subset else 0
    if job.public_queries == 0:
        return 0
    if not job.subset:
        raise InputError(f"{option('public_queries')}: queries are drawn for a subset; add that, or leave it out")
    return whole_number("public_queries", job.public_queries)


def _of_database(
    recipe: Recipe, there: dict[int, RawPart], raw: str, rule: Rule | None
) -> list[tuple[RawPart, int | None]]:
    """The parts of the database, and how many of its rows each may give at most."""
    if recipe.parts:
        return [(_part(there, number, raw), None) for number in recipe.parts]
    if recipe.most is None:
        for before, after in pairwise(there):
            if after > before + 1:
                raise InputError(
                    f"{raw}: part {before + 1} is missing among parts {min(there)} to {max(there)}; fetch it, or "
                    "number the others anew without a gap"
                )
        return [(part, None) for part in there.values()]
    found: list[tuple[RawPart, int | None]] = []
    left, number = recipe.most, QUERIES_PART + 1
    while left and number <= max(1, *there):  # a part that is missing among others is told
        part = _part(there, number, raw)
        found.append((part, left))
        left -= min(left, _count(part, rule))
        number += 1
    return found


def _part(there: dict[int, RawPart], number: int, raw: str, otherwise: str = "") -> RawPart:
    if number not in there:
        raise InputError(
            f"{raw}: part {number} is missing (img_emb_{number:04d}.npy, metadata_{number:04d}.parquet); "
            f"gpuknn data get '*_{number:04d}.*' fetches LAION's{otherwise}"
        )
    return there[number]


def _count(part: RawPart, rule: Rule | None) -> int:
    """How many rows of a part the rule keeps."""
    _schema(part.metadata, rule, ())
    every = Metadata(part.metadata, range(0), rule, (), None)
    return sum(int(np.count_nonzero(kept_rows(columns, rule))) for columns in batches(every))


def _opened(chosen: Sequence[Chosen], rule: Rule | None) -> list[Part]:
    """The parts with their headers looked at."""
    opened = [open_vectors(each.part.vectors) for each in chosen]
    edges = list(accumulate(map(len, opened), initial=0))
    parts = []
    for each, vectors, (first, stop) in zip(chosen, opened, pairwise(edges), strict=True):
        if vectors.shape[1] != opened[0].shape[1] or vectors.dtype != opened[0].dtype:
            raise InputError(
                f"{vectors.where}: holds rows of {vectors.shape[1]} {vectors.dtype}, and {opened[0].where} rows of "
                f"{opened[0].shape[1]} {opened[0].dtype}"
            )
        if own_ids(vectors.ids) is not None:
            raise InputError(f"{vectors.where}: gives its rows ids of their own, for which a bundle has no place")
        path = each.part.metadata
        rows = _schema(path, rule, each.columns)
        if rows != len(vectors):
            raise InputError(
                f"{path}: describes {rows:,} rows, and {vectors.where} holds {len(vectors):,}; a part's two files "
                "belong together by position, so one of them is short or of another dataset"
            )
        parts.append(Part(each.part.number, vectors, Metadata(path, range(first, stop), rule, each.columns, each.most)))
    return parts


def _schema(path: str, rule: Rule | None, columns: tuple[str, ...]) -> int:
    """How many rows a part's metadata describes.  Raises InputError if a column is missing, or is no text."""
    parquet = pyarrow_parquet(path)
    from pyarrow import types

    with in_our_words(f"{path}: is a damaged Parquet file"), parquet.ParquetFile(path) as file:
        there = {column.name: column.type for column in file.schema_arrow}
        rows = int(file.metadata.num_rows)
    names = wanted(rule, columns)
    lacks = [name for name in names if name not in there]
    if lacks:
        advice = []
        if rule and rule.column in lacks:
            other, every = option("rule", "COLUMN=VALUES"), option("rule", "all")
            advice.append(f"{other} keeps rows by another column, {every} keeps all rows")
        if set(lacks) - ({rule.column} if rule and rule.column not in columns else set()):
            advice.append(f"{option('columns', ','.join(there))} says which ones to write")
        raise InputError(f"{path}: has no column {', '.join(lacks)}; it holds {', '.join(there)}; {'; '.join(advice)}")
    for name in names:
        kind = there[name].value_type if types.is_dictionary(there[name]) else there[name]
        text = types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind)
        if not (text or types.is_integer(kind) or types.is_boolean(kind) or types.is_null(kind)):
            raise InputError(
                f"{path}: column {name} holds {kind}; captions and rules are of text, whole numbers and booleans"
            )
    return rows


def _check_outputs(plan: Plan) -> None:
    """Raise InputError if a file cannot be written, or is there already."""
    folder = plan.folder
    sources = [path for part in plan.every for path in (*part.vectors.sources, part.metadata.path)]
    if os.path.lexists(folder) and not folder.is_dir():
        raise InputError(f"{folder}: is no folder; name one to write the files to")
    if not folder.exists():
        above = next(place for place in folder.absolute().parents if os.path.lexists(place))
        if not above.is_dir() or not os.access(above, os.W_OK):
            raise InputError(f"{folder}: cannot be made in {above}")
        return
    going_on = plan.record.exists and not plan.fresh
    for path in plan.outputs:
        try:
            check_destination(str(path), sources, plan.force or going_on, stores=False)
        except InputError as error:
            if path == plan.queries_file and path.exists():
                raise InputError(
                    f"{error}; {option('public_queries', 0)} leaves it as it is, and another folder has room for these"
                ) from error
            raise
