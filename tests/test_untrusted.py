"""Files that somebody else made, or that a killed program left: one line, exit code 2, and nothing is made up."""

import json
import os
import struct
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import zarr

from gpuknn.cli.main import main
from gpuknn.errors import InputError
from gpuknn.gold import Gold, distances, read_gold
from gpuknn.storage.durable import read_sealed, write_sealed
from gpuknn.vectors import open_vectors

ROWS = np.random.default_rng(0).standard_normal((300, 8)).astype("f4")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    np.save("db.npy", ROWS)
    np.save("q.npy", ROWS[:5] + 1)
    np.save("gold.npy", np.arange(15).reshape(5, 3))
    return tmp_path


def refused(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The one line with which a command refuses its input."""
    before = set(Path().iterdir())
    assert main(words) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.count("\n") == 1
    assert set(Path().iterdir()) == before
    return said.err


def half_npy(path: str) -> None:
    made = np.lib.format.open_memmap(path, mode="w+", dtype="i8", shape=(2_000, 100))
    made[:500] = 7
    made.flush()


def half_ibin(path: str) -> None:
    with open(path, "wb") as file:
        file.write(struct.pack("<II", 2_000, 100) + np.full((500, 100), 7, "<u4").tobytes())
        file.truncate(8 + 8 * 2_000 * 100)


@pytest.mark.usefixtures("holes")
@pytest.mark.parametrize(("name", "write"), [("half.npy", half_npy), ("half.ibin", half_ibin), ("half.bin", half_ibin)])
def test_answers_that_were_half_written(
    name: str, write: Callable[[str], None], capsys: pytest.CaptureFixture[str]
) -> None:
    write(name)
    for words in (["eval", name, "gold.npy"], ["eval", "gold.npy", name], ["convert", name, "c.ivecs"]):
        assert f"{name}: the file has a hole at row 5" in refused(words, capsys)


@pytest.mark.usefixtures("holes")
@pytest.mark.parametrize("version", [2, 3])
def test_a_chunk_of_zarr_that_is_one_hole(version: int, capsys: pytest.CaptureFixture[str]) -> None:
    rows = np.ones((100, 1024), "f4")
    options: dict[str, Any] = {"chunks": (10, 1024), "compressors": None, "zarr_format": version}
    zarr.create_array("a.zarr", data=rows, **options)
    chunk = Path("a.zarr", "c/3/0" if version == 3 else "3.0")
    size = chunk.stat().st_size
    chunk.unlink()
    with open(chunk, "wb") as file:
        file.truncate(size)
    assert "1 of 10 chunks are missing, first of rows 30 to 39" in refused(["convert", "a.zarr", "c.npy"], capsys)


@pytest.mark.parametrize(
    "words", [["exact", "p.npy", "q.npy", "-o", "o.h5"], ["eval", "p.npy", "gold.npy"], ["convert", "p.npy", "c.h5"]]
)
def test_a_pipe_is_not_waited_for(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    os.mkfifo("p.npy")
    assert "p.npy: is neither a file nor a folder, but a pipe or device" in refused(words, capsys)


def test_files_of_numpy_under_other_names(capsys: pytest.CaptureFixture[str]) -> None:
    np.savez("real.npz", ids=np.arange(15).reshape(5, 3))
    os.rename("real.npz", "z.npy")
    os.rename("gold.npy", "n.npz")
    np.savez("junk.npz", ids=np.arange(3))
    for name, words in (
        ("z.npy", "name it .npz"),
        ("n.npz", "name it .npy"),
        ("junk.npz", "a result is a matrix of ids"),
    ):
        assert words in refused(["eval", name, "n.npz"], capsys)
    with h5py.File("none.h5", "w") as file:
        file["knns"], file["dists"] = np.zeros((5, 0), "i4"), np.zeros((5, 0), "f4")
    assert "none.h5: is empty, it holds 5 queries with 0 neighbours each" in refused(
        ["compare", "none.h5", "none.h5"], capsys
    )


@pytest.mark.parametrize("shape", [[2**62, 8], [300, 2**40]])
def test_zarr_that_promises_what_no_machine_has(shape: list[int], capsys: pytest.CaptureFixture[str]) -> None:
    zarr.create_array("a.zarr", data=ROWS, chunks=(300, 8))
    said = json.loads(Path("a.zarr/zarr.json").read_text())
    said["shape"] = shape
    said["chunk_grid"]["configuration"]["chunk_shape"] = [shape[0] // 2, 8]
    Path("a.zarr/zarr.json").write_text(json.dumps(said))
    assert "more than can be read; is it damaged?" in refused(
        ["convert", "a.zarr", "c.h5", "--missing", "zeros"], capsys
    )


def test_names_within_a_store_stay_within_it(capsys: pytest.CaptureFixture[str]) -> None:
    group = zarr.open_group("g.zarr", mode="w")
    group.create_array("a/emb", data=ROWS)
    assert np.array_equal(open_vectors("g.zarr", key="/a/emb")[:], ROWS)
    zarr.create_array("other.zarr", data=ROWS)
    assert "is no name for an array within g.zarr" in refused(["convert", "g.zarr:../other.zarr", "c.h5"], capsys)


def test_a_colon_in_a_columns_name() -> None:
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    pq.write_table(pa.table({"a:b": list(ROWS), "c": list(ROWS + 1)}), "a.parquet")
    assert np.array_equal(open_vectors("a.parquet:a:b")[:], ROWS)


def test_parquet_whose_row_groups_do_not_add_up(monkeypatch: pytest.MonkeyPatch) -> None:
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    pq.write_table(pa.table({"emb": list(ROWS)}), "a.parquet", row_group_size=100)
    content = Path("a.parquet").read_bytes()
    rows = bytes([0xD8, 0x04])  # 300, as Thrift writes whole numbers
    at = content.rindex(rows, 0, content.index(b"emb", len(content) // 2) + 200) if rows in content else -1
    places = [i for i in range(len(content)) if content[i : i + 2] == rows]
    assert at in places
    for place in places:
        Path("b.parquet").write_bytes(content[:place] + bytes([0xC8, 0x01]) + content[place + 2 :])  # 100
        try:
            assert len(open_vectors("b.parquet")) == 300
        except InputError as error:
            assert "damaged" in str(error)  # noqa: PT017


def test_ids_that_64_bits_cannot_hold(capsys: pytest.CaptureFixture[str]) -> None:
    np.save("far.npy", np.array([[2**63 + 5, 1, 2]] * 5, np.uint64))
    assert "an id is beyond 2^63 - 1" in refused(["eval", "far.npy", "gold.npy"], capsys)


def test_a_distance_below_zero_is_no_square() -> None:
    gold = Gold(np.arange(6).reshape(2, 3), np.array([[-5, -4, -3], [-2, -1, 0]], "f4"), "l2")
    with pytest.raises(InputError, match="g: holds the distance -5, which is no square"):
        distances.as_distance(gold, "euclidean", "g")
    rounded = Gold(np.arange(3)[None], np.array([[-1e-6, 1, 4]], "f4"), "l2")
    assert distances.as_distance(rounded, "euclidean", "g").dists.tolist() == [[0, 1, 2]]  # type: ignore[union-attr]


@pytest.mark.parametrize("kind", ["l2", "cosine", "euclidean", "hamming"])
def test_distances_that_are_told_are_never_similarities(kind: str) -> None:
    with h5py.File("g.h5", "w") as file:
        file["knns"], file["dists"] = np.arange(6).reshape(2, 3) + 1, np.array([[3, 2, 1], [6, 5, 4]], "f4")
        file.attrs["distance"] = kind
    found = read_gold("g.h5")
    assert not found.were_similarities
    assert found.dists is not None
    assert found.dists[0].tolist() == [3, 2, 1]


@pytest.mark.parametrize("size", ["1e400", "-5", "0"])
def test_memory_that_is_no_size(size: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert f"--memory {size}: " in refused(
        ["exact", "db.npy", "q.npy", "-k", "3", "-o", "o.h5", f"--memory={size}"], capsys
    )


def test_a_number_of_thousands_of_digits(capsys: pytest.CaptureFixture[str]) -> None:
    Path("c.yaml").write_text("k: 0x" + "f" * 5000)
    assert "c.yaml: k: " in refused(["exact", "db.npy", "q.npy", "-o", "o.h5", "--config", "c.yaml"], capsys)


def test_a_run_killed_while_it_is_cleared_away_is_known_again(capsys: pytest.CaptureFixture[str]) -> None:
    """At every file that is removed: the answer is there, and the same command says so."""
    words = ["exact", "db.npy", "q.npy", "-k", "3", "--metric", "l2", "-o", "g.ibin", "--quiet"]
    real = Path.unlink
    for last in range(6):
        left = [last]

        def unlink(self: Path, missing_ok: bool = False, left: list[int] = left) -> None:
            if ".run" in str(self) and not self.name.endswith(".part"):
                if left[0] == 0:
                    raise KeyboardInterrupt
                left[0] -= 1
            real(self, missing_ok)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Path, "unlink", unlink)
            code = main(words)
        assert code in (0, 130)
        assert Path("g.ibin").exists()
        if code == 130:
            content, noted = Path("g.ibin").read_bytes(), Path("g.ibin.run/finished.json").exists()
            assert main(words) == (0 if noted else 2)  # without the note nothing else was left of the run
            assert Path("g.ibin").read_bytes() == content
        assert not Path("g.ibin.run").exists()
        Path("g.ibin").unlink()
        if code == 0:
            break
    assert last >= 3


def test_what_zarr_left_unfinished_is_not_published() -> None:
    """zarr-python writes metadata under a name of its own first; a kill leaves that there."""

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("gpuknn.storage.record.Record.publish", fail)
        assert main(["convert", "db.npy", "o.zarr", "--quiet"]) == 3
    next(Path("o.zarr.run").glob("*/target")).joinpath("zarr.deadbeef.partial").write_bytes(b"{")
    assert main(["convert", "db.npy", "o.zarr", "--quiet"]) == 0
    assert not list(Path("o.zarr").rglob("*.partial"))
    assert main(["convert", "db.npy", "o.zarr", "--quiet", "--force"]) == 0


def test_a_conversion_killed_while_it_is_cleared_away_is_known_again() -> None:
    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("gpuknn.storage.record.shutil.rmtree", stop)
        assert main(["convert", "db.npy", "o.h5", "--quiet"]) == 130
    content = Path("o.h5").read_bytes()
    assert main(["convert", "db.npy", "o.h5", "--quiet"]) == 0
    assert Path("o.h5").read_bytes() == content
    assert not Path("o.h5.run").exists()


def unfinished(words: list[str], patched: str) -> Path:
    """The record of a job that was stopped just before its end."""

    def stop(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(patched, stop)
        assert main(words) == 3
    return next(Path().glob("*.run"))


EXACT = ["exact", "db.npy", "q.npy", "-k", "3", "--metric", "l2", "-o", "g.h5", "--quiet"]
CONVERT = ["convert", "db.npy", "o.npy", "--quiet"]


@pytest.mark.parametrize(
    "odd",
    [
        {"certificate": {}},
        {"certificate": {"method": "", "bound": "1", "pairs_refined": 0, "smallest_margin": 1}},
        {"dists": "int32"},
        {"dists": "foo"},
        {"stripe": 0},
        {"k": "x"},
        {"digests": []},
        {"device": 3},
    ],
)
def test_receipts_of_partial_results_that_somebody_made(odd: dict[str, object]) -> None:
    record = unfinished(EXACT, "gpuknn.jobs.exact.run.written")
    receipt = next(record.glob("*/*.json"))
    write_sealed(receipt, read_sealed(receipt) | odd)
    assert main(EXACT) == 0
    answer = read_gold("g.h5")
    assert main([*EXACT, "--force"]) == 0
    assert np.array_equal(answer.ids, read_gold("g.h5").ids)


@pytest.mark.parametrize(
    "odd", [{"error": "x"}, {"error": None}, {"first": "a"}, {"crc32c": 7}, {"stop": 5}, {"more": 1}]
)
def test_receipts_of_pieces_that_somebody_made(odd: dict[str, object]) -> None:
    record = unfinished(CONVERT, "gpuknn.storage.record.Record.publish")
    receipt = next(record.glob("*/*-*.json"))
    said = read_sealed(receipt)
    write_sealed(receipt, said | odd)
    write_sealed(receipt.with_name("000000900000-000000900700.json"), said | {"first": 900000, "stop": 900700})
    assert main(CONVERT) == 0
    assert np.array_equal(np.load("o.npy"), np.load("db.npy"))


@pytest.mark.parametrize(
    "odd",
    [{"command": [1]}, {"settings": {"queries_at_once": 0}}, {"settings": {"queries_at_once": "x"}}, {"rows": "x"}],
)
def test_manifests_that_somebody_made(odd: dict[str, object], capsys: pytest.CaptureFixture[str]) -> None:
    record = unfinished(EXACT, "gpuknn.jobs.exact.run.written")
    for name in ("manifest.json", "manifest.copy.json"):
        write_sealed(record / name, read_sealed(record / name) | odd)
    capsys.readouterr()
    assert main(["runs"]) == 0
    assert main(EXACT) == 2
    assert "was left by another version of gpuknn" in capsys.readouterr().err
    assert list(record.glob("*/*.bin"))
    assert main(["runs", "--remove", str(record)]) == 0
    assert not record.exists()


def test_a_title_that_somebody_made_does_not_reach_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    record = unfinished(EXACT, "gpuknn.jobs.exact.run.written")
    for name in ("manifest.json", "manifest.copy.json"):
        write_sealed(record / name, read_sealed(record / name) | {"title": "x\n\x1b[31m\ud800"})
    capsys.readouterr()
    assert main(["runs"]) == 0
    assert "  x??[31m?\n" in capsys.readouterr().out


@pytest.mark.parametrize("words", [EXACT, CONVERT])
def test_what_comes_to_the_destination_meanwhile_is_left_alone(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    output = Path("g.h5" if words is EXACT else "o.npy")
    module, name = ("exact", "_write") if words is EXACT else ("rewrite", "_check_unchanged")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(f"gpuknn.jobs.{module}.run.{name}", lambda *_: output.write_text("precious"))
        assert main(words) == 2
    assert "exists already; --force replaces it" in capsys.readouterr().err
    assert output.read_text() == "precious"
    assert main([*words, "--force"]) == 0
    assert output.stat().st_size > 100


@pytest.mark.parametrize("words", [EXACT, CONVERT])
def test_a_link_to_itself_is_no_destination(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    output = "g.h5" if words is EXACT else "o.npy"
    os.symlink(output, output)
    assert main(words) == 2
    assert capsys.readouterr().err.count("\n") == 1


def to_a_pipe(name: str, file: h5py.File) -> None:
    os.mkfifo("pipe")
    file[name] = h5py.ExternalLink("pipe", "x")


def by_a_group(file: h5py.File) -> None:
    to_a_pipe("g", file)
    file["emb"] = h5py.SoftLink("/g/x")


def in_a_circle(file: h5py.File) -> None:
    file["emb"], file["b"] = h5py.SoftLink("/b"), h5py.SoftLink("/emb")


LINKS: dict[str, tuple[str, Callable[[h5py.File], None]]] = {
    "array": ("x.h5:emb", partial(to_a_pipe, "emb")),
    "ids": ("x.h5", partial(to_a_pipe, "knns")),
    "group": ("x.h5:g/x", partial(to_a_pipe, "g")),
    "by a group": ("x.h5:emb", by_a_group),
    "circle": ("x.h5:emb", in_a_circle),
}


@pytest.mark.timeout(60)
@pytest.mark.parametrize("case", LINKS)
def test_links_that_lead_nowhere(case: str, capsys: pytest.CaptureFixture[str]) -> None:
    name, make = LINKS[case]
    with h5py.File("x.h5", "w") as file:
        make(file)
    np.save("rows.npy", np.eye(4, dtype=np.float32))
    for words in (
        ["convert", name, "y.npy"],
        ["exact", name, "rows.npy", "-k", "1", "-o", "z.h5"],
        ["eval", name, name],
        ["compare", name, "rows.npy"],
        ["project", "fit", "--pca", "1", name, "-o", "m.h5"],
    ):
        assert main(words) == 2
        assert capsys.readouterr().err.count("\n") == 1


def test_links_within_a_file_are_followed() -> None:
    with h5py.File("x.h5", "w") as file:
        file["g/rows"] = np.eye(4, dtype=np.float32)
        file["emb"], file["h"], file["g/up"] = h5py.SoftLink("/h/rows"), h5py.SoftLink("g"), h5py.SoftLink("/g")
    for name in ("x.h5:emb", "x.h5:h/rows", "x.h5:g/up/up/rows"):
        assert main(["convert", name, "y.npy", "--force", "--quiet"]) == 0
        assert np.array_equal(np.load("y.npy"), np.eye(4))
