"""Partial results become fewer while a run goes on; damaged ones are told and computed again."""

import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpuknn.engine.neighbors import Certificate, Neighbors
from gpuknn.jobs.exact import merge
from gpuknn.jobs.exact.merge import merge_partials, merge_some
from gpuknn.jobs.exact.partial import find_partial, find_partials, remove_partial, write_partial
from gpuknn.jobs.exact.tree import FAN_IN, Tree

QUERIES = range(20, 50)
K = 6
ROWS = [range(10 * i, 10 * i + 10) for i in range(FAN_IN)]


@given(st.permutations(range(70)), st.integers(1, 50))
def test_a_tree_loses_no_part_and_merges_neighbours_only(order: list[int], shard_rows: int) -> None:
    edges = np.linspace(0, 70 * shard_rows, 71).astype(int)
    tree, merges = Tree(shard_rows), 0

    def add(part: range) -> None:
        nonlocal merges
        if taken := tree.add(part):
            merges += 1
            assert len(taken) == FAN_IN
            assert all(one.stop == after.start for one, after in pairwise(taken))
            add(range(taken[0].start, taken[-1].stop))

    for i in order:
        add(range(edges[i], edges[i + 1]))
    assert [row for part in tree.parts() for row in part] == list(range(edges[-1]))
    assert len(tree.parts()) == 70 - (FAN_IN - 1) * merges
    if order == sorted(order):
        assert [len(part) // shard_rows for part in tree.parts()] == [64, 1, 1, 1, 1, 1, 1]
    while groups := tree.take_rest():
        assert all(len(group) > 1 for group in groups)
        for group in groups:
            add(range(group[0].start, group[-1].stop))
    assert len(tree.parts()) <= FAN_IN
    assert [row for part in tree.parts() for row in part] == list(range(edges[-1]))


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What a merge tells: there is no worker in these tests."""
    events: list[dict[str, Any]] = []
    monkeypatch.setattr(merge, "tell", lambda run, event, **facts: events.append({"event": event} | facts))
    return events


@pytest.fixture
def whole(tmp_path: Path, told: list[dict[str, Any]]) -> Neighbors:
    """The nearest of all parts, which are in the folder; distances are few, so that there are ties."""
    rng = np.random.default_rng(0)
    dists = rng.integers(0, 20, (len(QUERIES), 10 * FAN_IN)).astype(np.float32)
    for i, rows in enumerate(ROWS):
        order = np.argsort(dists[:, rows], axis=1, kind="stable")[:, :K]
        found = Neighbors(order + rows.start, np.take_along_axis(dists[:, rows], order, axis=1))
        write_partial(tmp_path, QUERIES, rows, found, Certificate("ab"[i % 2], i, 3, 1 / (i + 1)), f"gpu {i % 2}")
    order = np.argsort(dists, axis=1, kind="stable")[:, :K]
    return Neighbors(order, np.take_along_axis(dists, order, axis=1))


def test_a_merge_is_what_its_parts_were(
    tmp_path: Path, whole: Neighbors, told: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(merge, "MERGE_BYTES", 7 * K * 12 * FAN_IN)  # seven queries at once
    farthest = merge_partials(tmp_path, QUERIES, ROWS)
    assert np.array_equal(farthest, whole.dists[:, -1])
    merged = find_partial(tmp_path, QUERIES, range(10 * FAN_IN))
    found = merge_some([merged], QUERIES)
    assert np.array_equal(found.ids, whole.ids)
    assert np.array_equal(found.dists, whole.dists)
    assert merged.certificate == Certificate("a, b", FAN_IN - 1, 3 * FAN_IN, 1 / FAN_IN)
    assert merged.device == "gpu 0, gpu 1"
    assert len(list(tmp_path.iterdir())) == 2
    assert told[0] | {"seconds": 0} == {"event": "merged", "queries": 20, "rows": [0, 80], "parts": 8, "seconds": 0}
    assert np.array_equal(merge_partials(tmp_path, QUERIES, ROWS), farthest)  # a task whose worker was lost


def test_a_damaged_part_is_not_merged(tmp_path: Path, whole: Neighbors) -> None:
    path = tmp_path / "0000000020-0000000050.000000000030-000000000040.bin"
    content = bytearray(path.read_bytes())
    content[100] ^= 4
    path.write_bytes(content)
    remove_partial(tmp_path, QUERIES, ROWS[5])
    assert merge_partials(tmp_path, QUERIES, ROWS) == [ROWS[3], ROWS[5]]
    sound, damaged = find_partials(tmp_path, QUERIES)
    assert list(sound) == [rows for i, rows in enumerate(ROWS) if i not in (3, 5)]
    assert damaged == [ROWS[3]]


def test_what_was_merged_already_does_not_count_twice(tmp_path: Path, whole: Neighbors) -> None:
    kept = {path: path.read_bytes() for path in tmp_path.iterdir()}
    merge_partials(tmp_path, QUERIES, ROWS)
    for path, content in list(kept.items())[:9]:  # the merging worker was killed before it had removed them all
        path.write_bytes(content)
    sound, damaged = find_partials(tmp_path, QUERIES)
    assert list(sound) == [range(10 * FAN_IN)]
    assert damaged == []
    find_partial(tmp_path, QUERIES, range(10 * FAN_IN)).path.write_bytes(b"damaged")
    for path, content in kept.items():
        path.write_bytes(content)
    sound, damaged = find_partials(tmp_path, QUERIES)
    assert list(sound) == ROWS
    assert damaged == [range(10 * FAN_IN)]


@pytest.mark.slow
def test_many_large_partials_are_merged_in_bounded_memory(tmp_path: Path) -> None:
    """Sixteen partials of 2,000 x 1,000 are 384 MB; merging them takes a part of it."""
    measured = subprocess.run(
        [sys.executable, "-c", MERGE_MANY, str(tmp_path)], capture_output=True, text=True, check=True, timeout=300
    )
    grown, answer = map(int, measured.stdout.split())
    assert grown < 3 * answer  # with all parts read at once it is seven of them


MERGE_MANY = """
import resource, sys
from pathlib import Path
import numpy as np
from gpuknn.engine.neighbors import Certificate
from gpuknn.engine.neighbors import Neighbors
from gpuknn.jobs.exact import merge
from gpuknn.jobs.exact.partial import write_partial
merge.tell = lambda *_, **__: None
merge.MERGE_BYTES = 2**23
folder, queries, k = Path(sys.argv[1]), range(2000), 1000
dists = np.sort(np.random.default_rng(0).random((2000, k), np.float32), axis=1)
def write(rows):
    write_partial(folder, queries, rows, Neighbors(np.arange(rows.start, rows.stop) + np.zeros((2000, 1), int), dists),
                  Certificate("", 0, 0, 1), "")
parts = [range(i * k, i * k + k) for i in range(16)]
for rows in parts[:8]:
    write(rows)
merge.merge_partials(folder, range(2000), parts[:2])  # kernels are compiled
write(parts[0]), write(parts[1])
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
merge.merge_partials(folder, queries, parts[:8])
for rows in parts[8:]:
    write(rows)
merge.merge_partials(folder, queries, parts[8:])
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024, 2000 * k * 12)
"""
