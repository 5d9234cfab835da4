"""Messages speak of options as whoever asked writes them: `missing="zeros"` in Python, else `--missing zeros`."""

import ast
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gpuknn
from gpuknn.bench.kept import rates_for
from gpuknn.engine.check import check_question
from gpuknn.engine.choose import open_device
from gpuknn.engine.metric import Metric
from gpuknn.errors import InputError, RunError, at_the_terminal
from gpuknn.gold import Gold
from gpuknn.gold.distances import for_ann_benchmarks
from gpuknn.jobs.convert.job import Job
from gpuknn.jobs.exact.partial import Damaged
from gpuknn.jobs.rewrite.formats import choose_dtype, choose_format
from gpuknn.storage.destination import check_destination
from gpuknn.vectors import open_vectors
from gpuknn.vectors.converted import Converted, rows_named
from gpuknn.vectors.hdf5 import check_key
from gpuknn.workers.cluster_file import read_cluster
from gpuknn.workers.feed import result_of, thread_feeder
from gpuknn.workers.memory import memory_budget

SOURCE = Path(gpuknn.__file__).parent
ZERO: Any = "zero"
FIRST_TWO: Any = slice(0, 2)
MATRIX: Any = np.eye(2)
TERMINAL_ONLY = ("cli/", "doctor/", "bench/peers.py", "bench/gpu.py")
"""No Python program can ask these."""
OF_COMMANDS = {
    "jobs/exact/plan.py": {"--full"},  # gpuknn doctor, a command
    "workers/cluster.py": {"--scheduler-file", "--resources", "--nthreads", "--memory-limit"},  # Dask
    "workers/launch.py": {"--gres", "--memory-limit", "--dashboard-address", "--resources"},  # SLURM, Dask
}
"""Options of commands that a message tells to type: there is one way to write them."""
WORDS_OF_THE_TERMINAL = re.compile(r"--[a-z][a-z-]*|\b(?:same|this|very) command\b")
MADE_AS_NEEDED = {"option", "same_again", "what_asked"}
"""Functions whose result depends on who asks: a constant made of it would speak one language for ever."""


def sources() -> Iterator[tuple[str, ast.Module]]:
    for path in sorted(SOURCE.rglob("*.py")):
        name = path.relative_to(SOURCE).as_posix()
        if not name.startswith(TERMINAL_ONLY):
            yield name, ast.parse(path.read_text())


def terminal_words(tree: ast.Module) -> Iterator[str]:
    """Words in strings that speak the command line's language; docstrings, of attributes too, may."""
    docstrings = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings:
            yield from WORDS_OF_THE_TERMINAL.findall(node.value)


def made_at_import(tree: ast.Module) -> Iterator[int]:
    """Lines at which the words for an option are asked for as a module is loaded: outside functions, or as defaults."""
    waiting: list[ast.AST] = [tree]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            waiting += [*node.args.defaults, *filter(None, node.args.kw_defaults), *node.decorator_list]
        elif isinstance(node, ast.Lambda):
            waiting += [*node.args.defaults, *filter(None, node.args.kw_defaults)]
        else:
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in MADE_AS_NEEDED:
                yield node.lineno
            waiting += ast.iter_child_nodes(node)


def test_no_message_has_the_words_of_the_command_line_built_in() -> None:
    found = {name: set(terminal_words(tree)) for name, tree in sources()}
    # gpuknn.errors has option() and same_again() for our own.
    assert {name: words for name, words in found.items() if words} == OF_COMMANDS


def test_the_words_are_chosen_when_a_message_is_made() -> None:
    assert not [f"{name}:{line}" for name, tree in sources() for line in made_at_import(tree)]


def test_the_two_rules_see_what_they_are_for() -> None:
    tree = ast.parse(
        '"""--doc"""\nA = option("fresh", True)\n"""--attribute"""\n'
        'def f(a=same_again()):\n    """--doc"""\n    g(option("x"))\n    raise E(f"{a}: --force; the same command")\n'
    )
    assert [*terminal_words(tree)] == ["--force", "same command"]
    assert sorted(made_at_import(tree)) == [2, 4]


def refusal(ask: Callable[[], object]) -> str:
    with pytest.raises((InputError, RunError)) as refused:
        ask()
    return str(refused.value)


def both(ask: Callable[[], object]) -> tuple[str, str]:
    """What the same mistake is told in Python and on the command line."""
    python = refusal(ask)
    with at_the_terminal():
        return python, refusal(ask)


@pytest.fixture
def rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> gpuknn.Vectors:
    monkeypatch.chdir(tmp_path)
    np.save("db.npy", np.ones((4, 3), "f4"))
    return open_vectors("db.npy")


def converted(rows: gpuknn.Vectors, dtype: str = "float32", normalize: bool = False, **how: object) -> Converted:
    given: dict[str, object] = {"scale": None, "round": False} | how
    return Converted.of(rows, range(4), np.dtype(dtype), normalize, **given)  # type: ignore[arg-type]


GOLD = Gold(np.zeros((1, 1), np.int64), np.zeros((1, 1), np.float32), None)
SAID: list[tuple[Callable[[gpuknn.Vectors], object], str, str]] = [
    (lambda rows: converted(rows, scale=-1.0), "scale=-1: must be", "--scale -1: must be"),
    (lambda rows: converted(rows, round=True), "round=True: float32 needs", "--round: float32 needs"),
    (
        lambda rows: converted(rows, "int8", normalize=True),
        'choose dtype="float32", or add scale=127',
        "choose --dtype float32, or add --scale 127",
    ),
    (lambda rows: converted(rows, "uint64"), 'which dtype="uint64" does', "which --dtype uint64 does"),
    (lambda _: rows_named("3:9", 4), 'rows="3:9": expected', "--rows 3:9: expected"),
    (lambda _: check_key("/"), "dst_key='/': is no name", "--dst-key '/': is no name"),
    (lambda _: choose_format("out", None), "say to=..., one of h5", "say --to, one of h5"),
    (
        lambda _: choose_dtype(choose_format("a.ibin", None), "float64", "", "a.ibin"),
        'leave out dtype="float64"',
        "leave out --dtype float64",
    ),
    (
        lambda _: Job("db.npy", dst_key="x").refuse(["rows", "dst_key"], "no"),
        "dst_key: no; leave it out",
        "--dst-key: no; leave it out",
    ),
    (
        lambda _: for_ann_benchmarks(GOLD, "g.h5"),
        "say it with distance=...",
        "say it with --distance",
    ),
    (
        lambda rows: check_destination("db.npy", [], replace=False, stores=False),
        "exists already; force=True replaces it",
        "exists already; --force replaces it",
    ),
    (
        lambda rows: check_destination("db.npy", ["db.npy"], replace=True, stores=False),
        "an input of this very call;",
        "an input of this very command;",
    ),
    (
        lambda rows: check_question(rows, rows, 1, Metric.L2, "float16"),
        'dists="float16": there are',
        "--dists float16: there are",
    ),
    (lambda _: open_device("tpu"), 'device="tpu": there are', "--device tpu: there are"),
    (lambda _: memory_budget("much"), 'memory="much": expected', "--memory much: expected"),
    (lambda _: read_cluster("x"), 'cluster="x": is none', "--cluster x: is none"),
    (lambda _: read_cluster("x"), 'device="cuda" takes', "--device cuda takes"),
    (lambda rows: rates_for("cpu", rows, Path("no.yaml")), 'rates="no.yaml": cannot', "--rates no.yaml: cannot"),
]


@pytest.mark.parametrize(("ask", "python", "terminal"), SAID)
def test_an_error_speaks_the_language_it_was_asked_in(
    ask: Callable[[gpuknn.Vectors], object], python: str, terminal: str, rows: gpuknn.Vectors
) -> None:
    in_python, at_terminal = both(lambda: ask(rows))
    assert python in in_python
    assert terminal in at_terminal
    assert not WORDS_OF_THE_TERMINAL.search(in_python)


def test_what_to_repeat(rows: gpuknn.Vectors) -> None:
    def failing() -> object:
        with thread_feeder(1, lambda: None) as feeder:
            feeder.give(0, lambda: 1 // 0)
            return result_of(feeder.take()[1])

    def damaged() -> object:
        raise Damaged(range(2))

    in_python, at_terminal = both(failing)
    assert "a task failed: ZeroDivisionError" in in_python
    assert in_python.endswith("the same call goes on")
    assert at_terminal.endswith("the same command goes on")
    in_python, at_terminal = both(damaged)
    assert in_python.endswith("the same call computes it again")
    assert at_terminal.endswith("the same command computes it again")


def test_what_may_be_told_by_a_worker_is_the_same_in_both(rows: gpuknn.Vectors) -> None:
    """A worker does not know who asked: an option's words would be Python's on the command line, too."""
    kept = np.empty((4, 3), np.int8)
    for scale, advice in ((0.5, "round to whole numbers, or scale the rows before"), (1e3, "that is small enough")):
        in_python, at_terminal = both(lambda scale=scale: converted(rows, "int8", scale=scale).read(0, kept))  # type: ignore[misc]
        assert in_python == at_terminal
        assert in_python.endswith(advice)
    in_python, at_terminal = both(lambda: converted(rows, "int8", scale=0.1, round=True).read(0, kept))
    assert in_python == at_terminal
    assert in_python.endswith("scale the rows by a number that is large enough")


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda f: gpuknn.exact_knn(f / "r.npy", k=1, device="gpu"), 'device="gpu": there are auto, cpu, cuda'),
        (lambda f: gpuknn.exact(f / "r.npy", None, f / "g.h5", k=1, device="gpu"), 'device="gpu": there are auto'),
        (lambda f: gpuknn.exact_knn(f / "r.npy", k=1, missing=ZERO), 'missing="zero": there are refuse, zeros'),
        (lambda f: gpuknn.exact_knn(np.eye(3), k=1, missing=ZERO), 'missing="zero": there are refuse, zeros'),
        (lambda f: gpuknn.exact_knn(np.eye(3), k=1, dists="float16"), 'dists="float16": there are float32, float64'),
        (lambda f: gpuknn.exact_knn(np.eye(3), k=1, metric="euclidean"), 'metric="euclidean": use metric="l2", which'),
        (lambda f: gpuknn.exact_knn(np.eye(3), k=1, metric="angular"), 'use metric="cosine", which gives 1 - cos'),
        (lambda f: gpuknn.convert(f / "r.npy", f / "r.x", to="x"), 'to="x": there are h5, zarr'),
        (lambda f: gpuknn.convert(f / "r.npy", f / "r.zarr", compression="gz"), 'compression="gz": there are none'),
        (lambda f: gpuknn.convert(f / "r.npy", f / "r.zarr", zarr_format=4), "zarr_format=4: there are 2, 3"),
        (lambda f: gpuknn.convert(f / "r.npy", f / "r.h5", dtype="f9"), 'dtype="f9": there are float16'),
        (
            lambda f: gpuknn.convert(f / "r.npy", f / "r.h5", rows=range(0, 3, 2)),
            "rows=range(0, 3, 2): must have a step",
        ),
        (lambda f: gpuknn.subset_files("1M"), 'subset="1M": there are sample, 100M'),
        (lambda f: gpuknn.convert(f / "r.npy", f / "r.h5", rows=FIRST_TWO), "must be range(A, B), or A:B as text"),
        (lambda f: gpuknn.convert(np.eye(3), f / "r.h5"), "is a ndarray, not a path"),  # type: ignore[arg-type]
        (lambda f: gpuknn.exact_knn(np.eye(3), k=1, metric=["l2"]), "there are cosine"),  # type: ignore[arg-type]
        (lambda f: gpuknn.exact_knn(np.eye(3), k=1, missing=MATRIX), "there are refuse, zeros"),
    ],
)
def test_values_that_the_command_line_would_not_take(call: Callable[[Path], object], said: str, tmp_path: Path) -> None:
    np.save(tmp_path / "r.npy", np.eye(3, dtype=np.float32))
    with pytest.raises(InputError, match=re.escape(said)):
        call(tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["r.npy"]
