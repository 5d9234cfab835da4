"""Raw parts of which no bundle can be made: a clear line, exit code 2, and nothing is written."""

import os
import re
import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from gpuknn.cli.main import main
from gpuknn.jobs.build import metadata, outputs, queries, run
from tests.build.parts import DATABASE, GROUP, D, Part
from tests.oracle import SHARED

BUILD = ["build", "raw", "--subset", "10M", "--public-queries", "20", "--quiet", "-o", "out"]
VECTORS, METADATA = Path("raw/img_emb_0004.npy"), Path("raw/metadata_0004.parquet")


def rewrite(change: Callable[["dict[str, object]"], "dict[str, object]"]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pq.read_table(METADATA)
    columns = change({name: table[name] for name in table.column_names})
    pq.write_table(pa.table(columns), METADATA, row_group_size=70)


def spoil_row_group() -> None:
    """Damage the captions of one row group, and nothing of the file's footer."""
    import pyarrow.parquet as pq

    with pq.ParquetFile(METADATA) as file:
        group = file.metadata.row_group(2)
        chunk = next(c for c in map(group.column, range(group.num_columns)) if c.path_in_schema == "caption")
        start, size = chunk.dictionary_page_offset or chunk.data_page_offset, chunk.total_compressed_size
    content = bytearray(METADATA.read_bytes())
    content[start : start + size] = b"\xff" * size
    METADATA.write_bytes(content)


def with_ids(path: Path) -> None:
    rows = np.load(path)
    path.unlink()
    with h5py.File(path.with_suffix(".h5"), "w") as file:
        file["emb"], file["ids"] = rows, np.arange(len(rows)) + 5


def shorten(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-200])


FAULTS: dict[str, tuple[Callable[[], object], str]] = {
    "no part": (lambda: list(map(os.remove, (VECTORS, METADATA))), "part 4 is missing .*img_emb_0004.npy"),
    "no vectors": (VECTORS.unlink, "metadata_0004.parquet: the vectors of part 4 are missing"),
    "no metadata": (METADATA.unlink, "img_emb_0004.npy: the metadata of part 4 are missing"),
    "short vectors": (lambda: shorten(VECTORS), "img_emb_0004.npy: .* bytes are promised"),
    "short metadata": (lambda: shorten(METADATA), "metadata_0004.parquet: is a damaged Parquet file"),
    "fewer vectors": (
        lambda: np.save(VECTORS, np.load(VECTORS)[:-1]),
        "metadata_0004.parquet: describes 340 rows, and .*img_emb_0004.npy holds 339",
    ),
    "fewer rows of metadata": (
        lambda: rewrite(lambda c: {name: column[:300] for name, column in c.items()}),  # type: ignore[index]
        "describes 300 rows, and .* holds 340",
    ),
    "no column": (
        lambda: rewrite(lambda c: {name: column for name, column in c.items() if name != "url"}),
        "has no column url; it holds .*; --columns",
    ),
    "no NSFW": (
        lambda: rewrite(lambda c: {name: column for name, column in c.items() if name != "NSFW"}),
        "has no column NSFW; .*--rule COLUMN=VALUES keeps rows by another column, --rule all keeps all rows",
    ),
    "an odd column": (
        lambda: rewrite(lambda c: c | {"url": [[1, 2]] * 340}),
        "column url holds list<.*>; captions and rules are of text",
    ),
    "ids of the rows": (lambda: with_ids(VECTORS), "img_emb_0004.h5:emb: gives its rows ids of their own"),
    "a row group": (spoil_row_group, r"metadata_0004.parquet: row group 2 \(counted from 0\) cannot be read"),
    "other width": (lambda: np.save(VECTORS, np.zeros((340, D + 1), "f2")), f"rows of {D + 1} float16, and .* {D} "),
    "other type": (lambda: np.save(VECTORS, np.zeros((340, D))), "rows of 12 float64, and .*rows of 12 float16"),
    "two of one part": (lambda: shutil.copy(VECTORS, "raw/img_emb_4.npy"), "is part 4, and so is"),
    "an unreadable file": (lambda: METADATA.write_bytes(b"PAR1"), "is a damaged Parquet file"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_found_before_anything_is_written(fault: str, raw: Path, capsys: pytest.CaptureFixture[str]) -> None:
    act, words = FAULTS[fault]
    act()
    assert main(BUILD) == 2
    assert re.search(words, capsys.readouterr().err)
    assert not Path("out").exists()


def test_parts_that_are_not_of_the_subset_are_left_alone(raw: Path) -> None:
    (raw / "img_emb_0040.npy").write_text("not looked at")
    (raw / "metadata_0040.parquet").write_text("not looked at")
    (raw / "notes.txt").write_text("of somebody's")
    assert main(BUILD) == 0


def test_no_part_0(raw: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (raw / "img_emb_0000.npy").unlink()
    (raw / "metadata_0000.parquet").unlink()
    assert main(BUILD) == 2
    assert "part 0 is missing" in (said := capsys.readouterr().err)
    assert "--public-queries 0 draws no queries" in said
    assert main([*BUILD, "--public-queries", "0"]) == 0


@pytest.mark.parametrize("options", [[], ["--subset", "100K", "--public-queries", "0"]])
def test_a_gap_among_parts(options: list[str], raw: Path, capsys: pytest.CaptureFixture[str]) -> None:
    VECTORS.unlink()
    METADATA.unlink()
    assert main(["build", "raw", *options, "--quiet", "-o", "out"]) == 2
    assert "part 4 is missing" in capsys.readouterr().err
    assert not Path("out").exists()


def test_a_disk_that_fails_for_a_while_costs_nothing(
    raw: Path, parts: list[Part], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    kept_rows, calls = metadata.kept_rows, []

    def failing(*arguments: Any) -> np.ndarray:
        calls.append(1)
        if len(calls) == 20:
            raise OSError(116, "Stale file handle")
        return kept_rows(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(metadata, "kept_rows", failing)
        assert main(BUILD) == 3
    assert "Stale file handle" in capsys.readouterr().err
    calls.clear()

    def counting(*arguments: Any) -> np.ndarray:
        calls.append(1)
        return kept_rows(*arguments)

    monkeypatch.setattr(metadata, "kept_rows", counting)
    assert main(BUILD) == 0
    assert 0 < len(calls) < sum(-(-len(part.rows) // GROUP) for part in parts)


def test_an_error_of_the_captions_is_told_at_once(
    raw: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    compared: list[int] = []
    monkeypatch.setattr(queries, "compare", lambda *_: compared.append(1))
    monkeypatch.setattr(outputs, "write_captions", full)
    monkeypatch.setattr(run, "_copy", waiting(run._copy))
    assert main(BUILD) == 3
    assert "No space left" in capsys.readouterr().err
    assert not compared


def waiting(act: Callable[..., Any]) -> Callable[..., Any]:
    def later(*arguments: Any) -> Any:
        time.sleep(0.3)
        return act(*arguments)

    return later


def test_an_interrupt_does_not_wait_for_the_captions() -> None:
    began = time.monotonic()
    with suppress(KeyboardInterrupt), run._beside(lambda ending: ending.wait(60) and None):
        raise KeyboardInterrupt
    assert time.monotonic() - began < 30


def full(*_: object) -> None:
    raise OSError(28, "No space left on device")


def test_a_cluster_that_does_not_start_costs_nothing(
    raw: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(outputs, "notes", full)
        assert main(BUILD) == 3
    kept = sorted(Path("out").rglob("*-*.json"))
    monkeypatch.setenv("PATH", "")
    Path("slurm.yaml").write_text("kind: slurm\njobs: 1\ncores: 1\nmemory: 1GiB\nwalltime: '00:10:00'\n")
    assert main([*BUILD, "--cluster", "slurm.yaml"]) == 2
    assert "there is no sbatch" in capsys.readouterr().err
    assert len(kept) > 20
    assert set(kept) <= set(Path("out").rglob("*-*.json"))
    assert main(BUILD) == 0


def test_an_unfinished_build_leaves_nothing_outside_its_record(raw: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "_ask", full)
    assert main(BUILD) == 3
    assert [file.name for file in Path("out").iterdir()] == [f"{DATABASE}.run"]
    assert main(["runs", "--remove", f"out/{DATABASE}.run"]) == 0
    assert not list(Path("out").iterdir())


def test_columns_that_are_named_twice(raw: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*BUILD, "--columns", "caption, caption"]) == 2
    assert "names caption twice" in capsys.readouterr().err


def test_a_folder_without_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("raw").mkdir()
    assert main(BUILD) == main(["build", "nowhere", "-o", "out"]) == 2


def test_a_rule_that_keeps_nothing(raw: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*BUILD, "--rule", "NSFW = never", "--public-queries", "0"]) == 2
    assert "the rule NSFW=never keeps no row" in capsys.readouterr().err
    assert not Path("out").exists()


def test_queries_that_all_have_near_duplicates(
    raw: Path, parts: list[Part], capsys: pytest.CaptureFixture[str]
) -> None:
    rows = np.tile(parts[0].rows, (2, 1))
    for number in range(1, 12):
        n = len(parts[number].rows)
        np.save(f"raw/img_emb_{number:04d}.npy", rows[:n])
    assert main(BUILD) == 2
    assert "all have near duplicates in the database; --public-queries 0" in capsys.readouterr().err
    assert not Path("out").exists()


def test_rows_without_a_cosine_are_named(raw: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = np.load(VECTORS)
    kept = int(np.flatnonzero([nsfw == "UNLIKELY" for nsfw in _nsfw(METADATA)])[7])
    rows[kept] = 0
    np.save(VECTORS, rows)
    assert main(BUILD) == 2
    assert f"img_emb_0004.npy: row {kept} (counted from 0): only zeros" in capsys.readouterr().err
    assert main([*BUILD, "--public-queries", "0"]) == 0  # what is only copied need have no length


def _nsfw(path: Path) -> list[str | None]:
    import pyarrow.parquet as pq

    found: list[str | None] = pq.read_table(path)["NSFW"].to_pylist()
    return found


def test_a_part_that_changes_meanwhile(
    raw: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    read = metadata.read_metadata

    def changing(*arguments: object) -> int:
        if not Path("changed").exists():
            Path("changed").touch()
            os.utime(VECTORS, ns=(1, 1))
        return read(*arguments)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(metadata, "read_metadata", changing)
        assert main(BUILD) == 3
    assert "part 4 (raw/img_emb_0004.npy, raw/metadata_0004.parquet): was changed" in capsys.readouterr().err
    assert not (Path("out") / DATABASE).exists()
    assert main(BUILD) == 2  # the parts are others than those that were read
    assert "--fresh discards it" in capsys.readouterr().err
    assert main([*BUILD, "--fresh"]) == 0


def test_two_at_once(raw: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    asked, codes = run._ask, list[int]()

    def second(*arguments: object) -> object:
        if not codes:
            codes.append(0)
            codes.append(main(BUILD))
        return asked(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(run, "_ask", second)
    assert main(BUILD) == 0
    assert codes == [0, 3]
    capsys.readouterr()


@pytest.mark.skipif(not SHARED.exists(), reason="needs shared/")
def test_a_part_of_clip_retrieval(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("pyarrow")
    monkeypatch.chdir(tmp_path)
    clip = SHARED / "data" / "clip"
    for folder, name, file in (
        ("img_emb", "img_emb_0.npy", "clip_retrieval_img_emb_0_9x512_fp16.npy"),
        ("metadata", "metadata_0.parquet", "clip_retrieval_metadata_0.parquet"),
    ):
        (Path("raw") / folder).mkdir(parents=True)
        shutil.copy(clip / file, Path("raw") / folder / name)
    assert main(["build", "raw", "-o", "out"]) == 2
    said = capsys.readouterr().err
    assert "has no column caption, NSFW" not in said
    assert "has no column NSFW, LICENSE, url; it holds image_path, caption; --rule COLUMN=VALUES" in said
    assert "--columns image_path,caption says which ones to write" in said
    assert main(["build", "raw", "-o", "out", "--rule", "all", "--columns", "image_path,caption", "--quiet"]) == 0
    assert main(["compare", "out/database.h5", "raw/img_emb/img_emb_0.npy"]) == 0
