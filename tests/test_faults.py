"""The short form of `python -m tests.faults`: every cheap kind of fault once, at random moments of a fixed seed."""

import random
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from gpuknn.engine.neighbors import Neighbors
from gpuknn.gold import write_gold
from tests.faults.faults import can_mount
from tests.faults.harness import do_run
from tests.faults.places import Alone, Embedded, Place, Remote
from tests.faults.question import QUERIES, K, Question, make_question
from tests.faults.run import Run, environment

SLOW = 0.1
"""Seconds that a worker waits for a read at most."""
ALONE = [["interrupt", "damage partial"], ["kill client", "fail reads"], ["stop client", "limit files"]]
EMBEDDED = [["kill worker", "damage partial"], ["interrupt", "fail reads"]]
REMOTE = [
    ["kill nanny", "limit files", "kill client"],
    ["stop worker", "damage manifest", "second client"],
    ["kill scheduler", "damage receipt"],
    ["change database", "kill everything"],
]


@pytest.fixture(scope="module")
def question(tmp_path_factory: pytest.TempPathFactory) -> Question:
    return make_question(tmp_path_factory.mktemp("question"))


@pytest.fixture(scope="module")
def variables(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return environment(tmp_path_factory.mktemp("reads"), SLOW)


@pytest.fixture(scope="module")
def remote(tmp_path_factory: pytest.TempPathFactory, variables: dict[str, str]) -> Iterator[Remote]:
    place = Remote(tmp_path_factory.mktemp("remote"), variables)
    yield place
    place.close()


@pytest.mark.slow
@pytest.mark.parametrize("faults", ALONE, ids=", ".join)
def test_faults_in_one_process(
    faults: list[str], question: Question, variables: dict[str, str], tmp_path: Path
) -> None:
    survives(question, Alone(), faults, tmp_path, variables)


@pytest.mark.slow
@pytest.mark.parametrize("faults", EMBEDDED, ids=", ".join)
def test_faults_embedded(faults: list[str], question: Question, variables: dict[str, str], tmp_path: Path) -> None:
    survives(question, Embedded(), faults, tmp_path, variables)


@pytest.mark.slow
@pytest.mark.parametrize("faults", REMOTE, ids=", ".join)
def test_faults_elsewhere(
    faults: list[str], question: Question, remote: Remote, variables: dict[str, str], tmp_path: Path
) -> None:
    survives(question, remote, faults, tmp_path, variables)


@pytest.mark.slow
def test_a_full_disk(question: Question, remote: Remote, variables: dict[str, str], tmp_path: Path) -> None:
    if not can_mount(tmp_path):
        pytest.skip("a small disk cannot be mounted here")
    survives(question, remote, ["fill disk"], tmp_path, variables)


def survives(question: Question, place: Place, faults: list[str], folder: Path, variables: dict[str, str]) -> None:
    chance = random.Random(f"0-{faults}")
    verdict = do_run(question, place, faults, folder / "run", chance, environment=variables, pause=1.0)
    assert not verdict.problems, "\n".join(map(str, [verdict.struck, *verdict.problems]))


@pytest.mark.slow
def test_what_is_wrong_is_noticed(question: Question, tmp_path: Path) -> None:
    run = Run(question, Embedded(), tmp_path, random.Random(0), {}, 0.0)
    run.output.write_text("no HDF5")
    run.check_answer()
    assert "WRONG ANSWER" in run.problems.pop()
    knns, stored = question.answer
    ids = np.frombuffer(knns, np.int32).reshape(QUERIES, K).astype(np.int64)
    dists = np.frombuffer(stored, np.float32).reshape(QUERIES, K)
    write_gold(run.output, Neighbors(ids - 1, dists), force=True)
    run.check_answer()
    assert not run.problems
    write_gold(run.output, Neighbors(np.roll(ids - 1, 1, axis=1), dists), force=True)
    run.check_answer()
    assert run.problems.pop() == "WRONG ANSWER"
    run.output.with_name("gold.h5.1.part").touch()
    run.check_left()
    assert "left behind: ['gold.h5.1.part']" in run.problems.pop()
