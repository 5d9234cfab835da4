"""The public Python interface: what is there, what it shows of itself, and that its examples run."""

import doctest
import inspect
import pydoc
import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest

import gpuknn
from gpuknn.progress import Event

FUNCTIONS = [name for name in gpuknn.__all__ if inspect.isfunction(getattr(gpuknn, name))]
RESULTS = {
    *("Certificate", "Comparison", "Conversion", "Evaluation", "ExactPlan", "InputError", "Outcome", "Recall"),
    *("Fitted", "Interrupted", "PcaModel", "Projection", "RowsComparison", "RunError", "SketchModel"),
}
"""Classes that nobody makes by hand: the functions' examples show them."""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_dir_shows_the_interface_and_nothing_else() -> None:
    assert dir(gpuknn) == sorted([*gpuknn.__all__, "__version__"])
    assert set(gpuknn.__all__) == set(gpuknn._HOMES)
    with pytest.raises(AttributeError, match="no attribute 'exact_kn'"):
        gpuknn.exact_kn  # type: ignore[attr-defined]  # noqa: B018


@pytest.mark.parametrize("name", FUNCTIONS)
def test_all_but_the_first_arguments_go_by_name(name: str) -> None:
    parameters = inspect.signature(getattr(gpuknn, name)).parameters.values()
    plain = [p for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]
    assert 1 <= len(plain) <= 3
    assert all(p.default is p.empty or p.default is None for p in plain)


@pytest.mark.parametrize("name", ["", *gpuknn.__all__])
def test_examples_run(name: str) -> None:
    thing = getattr(gpuknn, name) if name else gpuknn
    found = doctest.DocTestFinder(recurse=False).find(thing, f"gpuknn.{name}", globs={})
    examples = sum(len(test.examples) for test in found)
    assert examples or name in RESULTS
    runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE)
    for test in found:
        runner.run(test)
    assert runner.failures == 0


def test_examples_of_the_estimator_run() -> None:
    module = import_module("gpuknn.sklearn")
    assert doctest.testmod(module).failed == 0


@pytest.mark.parametrize("name", [name for name in gpuknn.__all__ if name not in RESULTS])
def test_what_is_public_is_described(name: str) -> None:
    words = inspect.getdoc(getattr(gpuknn, name)) or ""
    assert len(words.splitlines()) > 2


def test_help_is_a_page_to_work_from() -> None:
    page = re.sub(".\x08", "", pydoc.render_doc(gpuknn))  # without what makes letters bold
    for name in gpuknn.__all__:
        assert name in page
    for told in ("performance_report : str or Path", "Shapes, types or k do not fit", ">>> outcome = gpuknn.exact("):
        assert told in page


SCRIPT = """
import numpy as np
import gpuknn

found = gpuknn.exact_knn(np.eye(3), k=1)
ids, dists = found
reveal_type(found)
reveal_type(found.ids)
reveal_type(ids)
reveal_type(gpuknn.recall(ids, found))
reveal_type(gpuknn.exact("a", "b", "c", k=3, workers=2).seconds)
reveal_type(gpuknn.plan_exact("a", None, "c").seconds)
reveal_type(gpuknn.read_gold("gold.h5").dists)
gpuknn.exact("a", "b", "c", worker=2)
gpuknn.exact("a", "b", "c", memory=2)
gpuknn.exact_kn
"""


@pytest.mark.slow
def test_a_users_script_sees_types(folder: Path) -> None:
    pytest.importorskip("mypy")
    Path("script.py").write_text(SCRIPT)
    words = [sys.executable, "-m", "mypy", "--strict", "--cache-dir", str(folder / "cache"), "script.py"]
    said = subprocess.run(words, capture_output=True, text=True).stdout
    for line, told in (
        (7, 'Revealed type is "gpuknn.engine.neighbors.Neighbors"'),
        (8, "signedinteger"),
        (9, "ndarray"),
        (10, 'float"'),
        (11, 'float"'),
        (12, 'float | None"'),
        (13, "floating"),
        (14, 'error: Unexpected keyword argument "worker"'),
        (15, 'error: Argument "memory"'),
        (16, 'error: Module has no attribute "exact_kn"'),
    ):
        assert any(f"script.py:{line}: " in heard and told in heard for heard in said.splitlines()), (line, said)
    assert said.count(" error: ") == 3


def test_progress_is_told_to_a_function() -> None:
    told: list[Event] = []
    gpuknn.exact_knn(np.eye(9), k=2, metric="l2", progress=told.append)
    assert [event["name"] for event in told if event["event"] == "step"] == ["checking", "computing"]
    assert [event["rows"] for event in told if event["event"] != "step"] == [9, 9]
