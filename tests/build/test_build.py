"""`gpuknn build`: what it writes, by the definition; however it is done, and after any failure, the same bytes."""

import hashlib
import json
import os
import signal
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

import gpuknn
from gpuknn.cli.main import main
from gpuknn.errors import InputError
from gpuknn.jobs import writing
from gpuknn.jobs.build import metadata, outputs, queries
from gpuknn.vectors import target
from tests import forks
from tests.build.parts import (
    DATABASE,
    META,
    QUERIES,
    Part,
    expected_captions,
    expected_rows,
    is_kept,
    made,
    write_raw,
)
from tests.oracle import knn

BUILD = ["build", "raw", "--subset", "10M", "--public-queries", "40", "--quiet", "-o"]


def digests(folder: str | Path) -> dict[str, str]:
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in Path(folder).iterdir()}


def rows_in(path: str | Path) -> np.ndarray:
    with h5py.File(path) as file:
        assert list(file) == ["emb"]
        assert file["emb"].chunks is None
        assert file.userblock_size == 512
        found: np.ndarray = file["emb"][:]
        return found


def test_a_bundle_is_as_the_organisers_made_it(raw: Path, parts: list[Part]) -> None:
    assert main([*BUILD, "out"]) == 0
    rows = rows_in(f"out/{DATABASE}")
    assert rows.dtype == np.float16
    assert rows.tobytes() == expected_rows(parts[1:]).tobytes()
    assert Path(f"out/{META}").read_bytes() == expected_captions(parts[1:])
    assert main(["compare", f"out/{DATABASE}"]) == 0  # by its checksums
    assert main(["exact", f"out/{DATABASE}", f"out/{QUERIES}", "-k", "5", "-o", "gold.h5", "--quiet"]) == 0
    ids, _ = knn(rows, rows_in(f"out/{QUERIES}"), 5, "cosine", "float32")
    assert np.array_equal(gpuknn.read_gold("gold.h5").ids, ids)
    assert sorted(file.name for file in Path("out").iterdir()) == sorted([DATABASE, META, QUERIES])


def test_public_queries(raw: Path, parts: list[Part]) -> None:
    assert main([*BUILD, "out"]) == 0
    found, rows = rows_in(f"out/{QUERIES}"), expected_rows(parts[1:])
    assert found.shape == (40, rows.shape[1])
    assert found.dtype == np.float32
    kept = [i for i, nsfw in enumerate(parts[0].columns["NSFW"]) if is_kept(nsfw)]
    order = np.random.RandomState(2023).permutation(len(kept))
    drawn = np.sort(np.array(kept)[order[:80]])
    unit = parts[0].rows[drawn].astype("f8")
    unit = (unit / np.sqrt((unit**2).sum(axis=1))[:, None]).astype("f4")
    dists = knn(rows, unit, 11, "cosine", "float32")[1]
    stays = (dists[:, 9] != dists[:, 10]) & (dists[:, :10].astype("f8").sum(axis=1) > 0.1)
    assert not stays[drawn < 10].any()  # those with near duplicates
    assert (drawn < 10).any()
    assert found.tobytes() == unit[stays][:40].tobytes()
    with h5py.File(f"out/{QUERIES}") as file:
        said = json.loads(file.attrs["gpuknn"])
    assert (said["part"], said["seed"], said["rule"]) == (0, 2023, "NSFW!=NSFW")


def test_few_rows_to_draw_from(raw: Path, parts: list[Part]) -> None:
    assert main(["build", "raw", "--subset", "10M", "--quiet", "-o", "out"]) == 0  # 10,000 are wanted
    assert 100 < len(rows_in(f"out/{QUERIES}")) < len(parts[0].rows)


@pytest.mark.parametrize(("suffix", "digits", "apart"), [("npz", 4, False), ("h5", 4, True), ("npy", 1, True)])
def test_forms_of_parts(
    suffix: str, digits: int, apart: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, parts: list[Part]
) -> None:
    monkeypatch.chdir(tmp_path)
    write_raw(Path("plain"), parts)
    write_raw(Path("raw"), parts, suffix, digits, apart)
    assert main([*BUILD, "out"]) == main(["build", "plain", *BUILD[2:], "same"]) == 0
    assert digests("out") == digests("same")


def test_small_subsets_keep_rows_without_a_mark(raw: Path, parts: list[Part]) -> None:
    assert main(["build", "raw", "--subset", "100K", "--public-queries", "0", "--quiet", "-o", "out"]) == 0
    rows = rows_in("out/laion2B-en-clip768v2-n=100K.h5")
    assert rows.tobytes() == expected_rows(parts[1:], missing=True).tobytes()
    assert Path("out/meta-100K.tsv").read_bytes() == expected_captions(parts[1:], missing=True)
    assert len(list(Path("out").iterdir())) == 2


@pytest.mark.parametrize("most", [1, 290, 700, 5000])
def test_small_subsets_are_the_first_rows(most: int, raw: Path, parts: list[Part], tmp_path: Path) -> None:
    Path("c.toml").write_text(
        'base_url = "http://localhost"\nbundles = [{name = "v", metric = "cosine"}]\n'
        f'files = [{{name = "db.h5", bundle = "v", kind = "database", subset = "few", rows = {most}}}]\n'
    )
    options = ["--subset", "few", "--catalogue", "c.toml", "--public-queries", "0", "--quiet", "-o", "out"]
    assert main(["build", "raw", *options]) == 0
    assert rows_in("out/db.h5").tobytes() == expected_rows(parts[1:], missing=True)[:most].tobytes()
    lines = Path("out/meta-few.tsv").read_bytes()
    assert expected_captions(parts[1:], missing=True).startswith(lines)
    every = expected_captions(parts[1:], missing=True)
    assert lines == every if most == 5000 else len(lines) < len(every)


RULES: dict[str, Callable[[Part, int], bool]] = {
    "NSFW!=NSFW or missing": lambda part, i: part.columns["NSFW"][i] != "NSFW",
    "NSFW=UNLIKELY,UNSURE": lambda part, i: part.columns["NSFW"][i] in ("UNLIKELY", "UNSURE"),
    "NSFW!=UNLIKELY": lambda part, i: part.columns["NSFW"][i] not in ("UNLIKELY", None),
    "LICENSE=CC": lambda part, i: part.columns["LICENSE"][i] == "CC",
    "all": lambda part, i: True,
}


@pytest.mark.parametrize("rule", RULES)
def test_rules_for_other_datasets(rule: str, raw: Path, parts: list[Part]) -> None:
    assert main(["build", "raw", "--rule", rule, "--columns", "url,caption", "--quiet", "-o", "out"]) == 0
    kept = [[RULES[rule](part, i) for i in range(len(part.rows))] for part in parts]
    rows = np.concatenate([part.rows[mask] for part, mask in zip(parts, kept, strict=True)])
    assert rows_in("out/database.h5").tobytes() == rows.tobytes()
    lines = Path("out/meta.tsv").read_bytes().split(b"\n", 1)
    assert lines[0] == b"url\tcaption"
    assert lines[1].count(b"http://example.org/") == len(rows)
    assert sorted(file.name for file in Path("out").iterdir()) == ["database.h5", "meta.tsv"]


def test_numbers_can_be_a_rule(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("pyarrow")
    monkeypatch.chdir(tmp_path)
    parts = made(parts=2)
    for part in parts:
        part.columns["punsafe"] = [i % 3 for i in range(len(part.rows))]
    write_raw(Path("raw"), parts)
    assert main(["build", "raw", "--rule", "punsafe=0,2", "--quiet", "-o", "out"]) == 0
    expected = np.concatenate([p.rows[np.arange(len(p.rows)) % 3 != 1] for p in parts])
    assert rows_in("out/database.h5").tobytes() == expected.tobytes()


def test_in_python(raw: Path) -> None:
    found = gpuknn.build("raw", "out", subset="10M", public_queries=40)
    assert main([*BUILD, "same"]) == 0
    assert digests("out") == digests("same")
    assert gpuknn.open_vectors(found.database).shape[0] == found.rows
    assert (found.public_queries, found.queries) == (40, Path("out").absolute() / QUERIES)


def test_by_processes_and_in_small_pieces(raw: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert main([*BUILD, "out"]) == 0
    monkeypatch.setattr(metadata, "BATCH_ROWS", 17)
    monkeypatch.setattr("gpuknn.jobs.build.kept.BLOCK_BYTES", 100)
    monkeypatch.setattr("gpuknn.vectors.derived.Derived.block_bytes", 333)
    assert main([*BUILD, "same"]) == 0
    assert digests("out") == digests("same")
    assert main([*BUILD, "workers", "--workers", "2"]) == 0
    assert digests("out") == digests("workers")


STEPS: dict[str, tuple[Any, str, int, tuple[range, range, range]]] = {
    "reading": (metadata, "read_metadata", 4, (range(1, 9), range(12, 13), range(11, 12))),
    "copying": (writing, "write_piece", 2, (range(1), range(1, 11), range(11, 12))),
    "comparing": (queries, "compare", 3, (range(1), range(1), range(1, 9))),
    "captions": (outputs, "write_captions", 0, (range(1), range(13), range(12))),
    "queries": (outputs, "write_queries", 0, (range(1), range(1), range(1))),
    "the end": (outputs, "notes", 0, (range(1), range(1), range(1))),
}
"""What fails, after how many calls; and how many parts are read, pieces written and parts compared after that."""


@pytest.mark.parametrize("step", STEPS)
def test_a_failed_build_goes_on(
    step: str, raw: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(target, "PIECE_BYTES", 1)
    monkeypatch.setattr(target, "MOST_PIECES", 12)
    assert main([*BUILD, "same"]) == 0
    module, name, after, expected = STEPS[step]
    act, calls = getattr(module, name), list[int]()

    def failing(*arguments: Any) -> Any:
        calls.append(1)
        if len(calls) > after:
            raise OSError(28, "No space left on device")
        return act(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(module, name, failing)
        assert main([*BUILD, "out"]) == 3
    assert not (Path("out") / DATABASE).exists()
    assert "No space left" in capsys.readouterr().err
    again = Counter[str]()
    for place, counted in ((metadata, "batches"), (writing, "write_piece"), (queries, "compare")):
        monkeypatch.setattr(place, counted, counting(getattr(place, counted), again, counted))
    assert main([*BUILD, "out"]) == 0
    found = again["batches"], again["write_piece"], again["compare"]
    assert all(number in some for number, some in zip(found, expected, strict=True)), found
    assert digests("out") == digests("same")


def counting(act: Callable[..., Any], counts: "Counter[str]", name: str) -> Callable[..., Any]:
    def counted(*arguments: Any) -> Any:
        counts[name] += 1
        return act(*arguments)

    return counted


def build_or_die(left: int) -> int:
    """Runs in a process of its own, which is killed as the receipt of that number is to be written."""

    def write_or_die(act: Callable[..., None]) -> Callable[..., None]:
        def write(*receipt: Any) -> None:
            nonlocal left
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            act(*receipt)

        return write

    target.PIECE_BYTES, target.MOST_PIECES = 1, 12
    for module, name in ((metadata, "write_sealed"), (writing, "write_receipt"), (queries, "write_sealed")):
        setattr(module, name, write_or_die(getattr(module, name)))
    return main([*BUILD, "out"])


@pytest.mark.parametrize("receipts", [(1, 3), (7, 9, 2), (14, 3), (20, 5), (27, 4), (34, 1)])
def test_killed(receipts: tuple[int, ...], raw: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(target, "PIECE_BYTES", 1)
    monkeypatch.setattr(target, "MOST_PIECES", 12)
    assert main([*BUILD, "same"]) == 0
    for number in receipts:
        assert forks.run(build_or_die, number).returncode == -signal.SIGKILL
        assert not (Path("out") / DATABASE).exists()
    assert main([*BUILD, "out"]) == 0
    assert digests("out") == digests("same")


def test_lost_lines_are_read_again(raw: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert main([*BUILD, "same"]) == 0
    with monkeypatch.context() as patch:
        patch.setattr(outputs, "notes", lambda *_: (_ for _ in ()).throw(OSError(5, "no")))
        assert main([*BUILD, "out"]) == 3
    damaged = sorted(Path(f"out/{DATABASE}.run").glob(f"*/{metadata.STAGE}.*.bin"))
    damaged[2].write_bytes(b"\0" * damaged[2].stat().st_size)
    damaged[3].unlink()
    assert main([*BUILD, "out"]) == 0
    assert digests("out") == digests("same")


def test_what_is_there_is_not_replaced(raw: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*BUILD, "out"]) == 0
    before = digests("out")
    assert main([*BUILD, "out"]) == 2
    assert "exists already; --force replaces it" in capsys.readouterr().err
    assert main([*BUILD, "out", "--force"]) == 0
    assert digests("out") == before
    Path("other").mkdir()
    (Path("other") / QUERIES).write_text("somebody's")
    assert main([*BUILD, "other"]) == 2
    assert "--public-queries 0 leaves it as it is" in capsys.readouterr().err
    assert main([*BUILD, "other", "--public-queries", "0"]) == 0
    assert (Path("other") / QUERIES).read_text() == "somebody's"


def test_a_file_that_appears_meanwhile_is_not_replaced(
    raw: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write = outputs.write_captions

    def late(*arguments: Any) -> None:
        write(*arguments)
        Path(f"out/{META}").write_text("somebody's")

    with monkeypatch.context() as patch:
        patch.setattr(outputs, "write_captions", late)
        assert main([*BUILD, "out"]) == 2
    assert Path(f"out/{META}").read_text() == "somebody's"
    assert "exists already" in capsys.readouterr().err
    Path(f"out/{META}").unlink()
    assert main([*BUILD, "out"]) == 0


def test_a_dry_run_writes_nothing(raw: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*BUILD, "out", "--dry-run"]) == 0
    assert "from 11 parts of raw" in capsys.readouterr().out
    assert not Path("out").exists()


def test_a_folder_may_be_spelled_otherwise(raw: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert main([*BUILD, "same"]) == 0
    with monkeypatch.context() as patch:
        patch.setattr(outputs, "notes", lambda *_: (_ for _ in ()).throw(OSError(5, "no")))
        assert main([*BUILD, "out"]) == 3
    again = Counter[str]()
    monkeypatch.setattr(metadata, "batches", counting(metadata.batches, again, "batches"))
    gpuknn.build("./raw/", "out", subset="10M", public_queries=40)
    assert not again
    assert digests("out") == digests("same")


@pytest.mark.parametrize("words", ["NSFW", "=NSFW", "NSFW=", "NSFW=a,,b", "!=a"])
def test_rules_that_say_nothing(words: str, raw: Path) -> None:
    with pytest.raises(InputError, match=r"must be COLUMN=A,B"):
        gpuknn.build("raw", "out", rule=words)
