"""HDF5 files of a suite, ann-benchmarks or SISAP: queries and a gold standard stand beside the rows."""

import os
from dataclasses import dataclass, replace
from typing import Any

import h5py
import numpy as np

from gpuknn.errors import InputError, option
from gpuknn.gold import Gold, hdf5, read_gold
from gpuknn.gold.distances import BITS, for_ann_benchmarks, said_of, said_to_ann_benchmarks, told
from gpuknn.gold.writer import Outline
from gpuknn.jobs.convert.job import Job
from gpuknn.jobs.rewrite.formats import NARROW
from gpuknn.storage.location import split_key
from gpuknn.vectors import Vectors, open_vectors
from gpuknn.vectors.bits import unpack_bits
from gpuknn.vectors.converted import Converted
from gpuknn.vectors.hdf5 import Hdf5Target, check_key
from gpuknn.vectors.ids import RowIds, ids_beside, own_ids


@dataclass(frozen=True)
class Layout:
    """Where a file of several arrays has its parts, by path."""

    rows: str
    queries: str
    query_ids: str
    gold: str
    """The group of the gold standard."""
    arrays: hdf5.Arrays

    @property
    def taken(self) -> tuple[str, ...]:
        """Paths that the rows cannot have."""
        names = self.arrays.ids, self.arrays.dists, self.arrays.own_ids, self.arrays.query_ids
        return self.queries, self.query_ids, *(f"{self.gold}/{name}".strip("/") for name in names)


ANN_BENCHMARKS = Layout("train", "test", "query_ids", "", hdf5.ANN_BENCHMARKS)
SISAP = Layout("train", "itest/queries", "itest/query_ids", "itest", hdf5.SISAP)
SISAP_ALL_KNN = Layout("train", "itest/queries", "itest/query_ids", "allknn", hdf5.SISAP)


@dataclass(frozen=True)
class SuiteTarget(Hdf5Target):
    """A file of a suite."""

    layout: Layout = ANN_BENCHMARKS
    queries: Vectors | None = None
    gold: str | None = None
    """A gold-standard file."""
    distance: str | None = None
    """Which distances it holds, if it does not tell."""

    @property
    def beside_bytes(self) -> int:
        """What the other arrays take, at most: distances may become float64."""
        queries = 0 if self.queries is None else 8 * self.queries.shape[0] * (self.queries.shape[1] * 8 + 1)
        gold = 0 if self.gold is None else 4 * os.path.getsize(split_key(self.gold)[0])
        return super().beside_bytes + queries + gold

    def put_beside(self, file: h5py.File) -> None:
        """Write ids, queries, the gold standard, and what the suite wants to be told."""
        super().put_beside(file)
        said: dict[str, Any] = {}
        if self.queries is not None:
            file[self.layout.queries] = self._as_stored(self.queries[:])
            query_ids = own_ids(self.queries.ids)
            if query_ids is not None:
                file[self.layout.query_ids] = query_ids.all()
        if self.gold is not None:
            gold = self._gold(self.gold)
            gold = for_ann_benchmarks(gold, self.gold) if self.layout == ANN_BENCHMARKS else gold
            group = hdf5.place_gold(file, self.layout.gold or "/", Outline.of(gold), self.layout.arrays)
            hdf5.put_gold(group, 0, gold, self.layout.arrays)
            said |= said_to_ann_benchmarks(gold) if self.layout == ANN_BENCHMARKS else said_of(gold)
        if self.layout == ANN_BENCHMARKS:
            width, kind = (self.shape[1], "float") if self.bits is None else (self.bits, "bit")
            said |= {"type": "dense", "dimension": width, "point_type": kind}
        file.attrs.update(said)

    def _gold(self, name: str) -> Gold:
        """The gold standard, in the order of the queries; raises InputError if it is about other queries or rows."""
        gold = told(read_gold(name), self.distance, name)
        asked, query_ids = self._asked()
        if self.ids is not None and not gold.are_rows:
            raise InputError(f"{name}: tells no row numbers, and the rows have ids of their own; compute an .h5 file")
        if len(gold) != asked or int(gold.ids.max(initial=0)) >= self.shape[0]:
            raise InputError(f"{name}: does not answer {asked:,} queries among {self.shape[0]:,} rows")
        if gold.dists is None:
            raise InputError(f"{name}: has no distances, which the format needs; gpuknn exact finds them")
        if self.layout == ANN_BENCHMARKS and self.bits is None and gold.distance in ("hamming", "mean-hamming"):
            raise InputError(
                f"{name}: is about sketches, which the format keeps as booleans, and the rows are {self.dtype}; save "
                "them as booleans, e.g. np.unpackbits(rows, axis=1).astype(bool)"
            )
        shares_of = gold.said.get("dimension") if gold.distance == "mean-hamming" else None
        bits = gold.said.get(BITS, shares_of or self.bits)
        if self.bits is not None and bits != self.bits:
            raise InputError(f"{name}: is about sketches of {bits} bits, the rows have {self.bits}")
        if self.ids is not None and gold.own_ids is not None and np.any(self.ids.of(gold.ids) != gold.own_ids):
            raise InputError(f"{name}: gives its rows other ids than {self.ids.where}; it is about another database")
        if gold.query_ids is not None and query_ids is not None:
            gold = gold.queries(np.argsort(gold.query_ids)[np.argsort(np.argsort(query_ids))])
            if np.any(gold.query_ids != query_ids):
                raise InputError(f"{name}: answers queries of other ids than those given with {option('queries_file')}")
        elif not gold.in_order:
            raise InputError(
                f"{name}: its lines are not in the order of the queries' ids, which the queries do not tell"
            )
        return gold if self.bits is None else replace(gold, said={**gold.said, BITS: self.bits})

    def _asked(self) -> tuple[int, np.ndarray | None]:
        """How many queries there are, and their ids if these are not their numbers."""
        ids = self.ids if self.queries is None else own_ids(self.queries.ids)
        return self.shape[0] if self.queries is None else len(self.queries), None if ids is None else ids.all()

    def _as_stored(self, queries: np.ndarray) -> np.ndarray:
        """Sketches as they are, or as booleans; queries of a narrow type as wide as the rows."""
        if self.bits is not None:
            return unpack_bits(queries, self.bits)
        return queries.astype(self.dtype) if self.layout == ANN_BENCHMARKS and queries.dtype.name in NARROW else queries


def suite_target(suite: str, path: str, rows: Converted, ids: RowIds | None, job: Job) -> SuiteTarget:
    """The writer of a file of that suite.

    Raises InputError if queries and rows differ in their components, or the key is no name.
    """
    queries = open_vectors(job.queries_file, missing=job.missing) if job.queries_file is not None else None
    if queries is not None and job.ignore_ids:
        queries = replace(queries, ids=None)
    sisap = SISAP_ALL_KNN if queries is None else SISAP
    layout = ANN_BENCHMARKS if suite == "ann-benchmarks" else sisap
    if job.dst_key is not None:
        check_key(job.dst_key, (*(() if ids is None else (ids_beside(job.dst_key),)), *layout.taken))
    if queries is not None and queries.shape[1] != rows.shape[1]:
        raise InputError(f"{queries.where}: has {queries.shape[1]} components, the rows have {rows.shape[1]}")
    if queries is not None and queries.bits and rows.bits and queries.bits != rows.bits:
        raise InputError(f"{queries.where}: has sketches of {queries.bits} bits, the rows have {rows.bits}")
    bits = rows.bits or (queries and queries.bits) or 64 * rows.shape[1]
    named = job.dst_key or layout.rows, ids, bits if layout == ANN_BENCHMARKS and rows.dtype == np.uint64 else None
    return SuiteTarget(path, rows.shape, rows.dtype, b"", b"", *named, layout, queries, job.gold, job.distance)
