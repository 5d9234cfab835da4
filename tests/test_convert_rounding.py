"""Conversions round values and never lose them: what would vanish, overflow or be cut off is refused by its row."""

import json
from importlib.util import find_spec
from pathlib import Path

import h5py
import numpy as np
import pytest

from gpuknn.cli.main import main
from gpuknn.engine.neighbors import Neighbors
from gpuknn.gold import read_gold, write_gold
from gpuknn.vectors import open_vectors
from gpuknn.vectors import target as target_module
from gpuknn.vectors.derived import Derived
from tests.answers import dists_of

ROWS, D, ROW = 300, 24, 123
ANY_TYPE = ["a.h5", "a.zarr", "a.npy", *(["a.parquet"] if find_spec("pyarrow") else [])]
INTEGERS = [("a.u8bin", "uint8"), ("a.i8bin", "int8"), ("a.bvecs", "uint8")]
INTEGERS += [(name, dtype) for name in ANY_TYPE for dtype in ("uint8", "int8")]
FLOATS = [("a.fbin", "float32"), ("a.f16bin", "float16"), ("a.fvecs", "float32")]
FLOATS += [(name, dtype) for name in ANY_TYPE for dtype in ("float16", "float32")]
WIDER = {"float16": ["float32", "float64"], "float32": ["float64"], "uint8": ["float16"], "int8": ["float32"]}


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """So small that small data go through every path."""
    monkeypatch.setattr(Derived, "block_bytes", 2_000)
    monkeypatch.setattr(target_module, "PIECE_BYTES", 9_000)
    monkeypatch.chdir(tmp_path)


def unit_rows(dtype: str = "float32") -> np.ndarray:
    rows = np.random.default_rng(3).standard_normal((ROWS, D))
    return (rows / np.linalg.norm(rows, axis=1)[:, None]).astype(dtype)


def refused(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The one line of a command that leaves nothing behind."""
    before = sorted(p.name for p in Path().iterdir())
    capsys.readouterr()
    assert main(words) == 2
    said = capsys.readouterr()
    assert (said.err.count("\n"), said.out) == (1, "")
    assert sorted(p.name for p in Path().iterdir()) == before
    return said.err


@pytest.mark.parametrize(
    ("name", "dtype", "stored", "size"),
    [(*case, "float64", 1e-60) for case in FLOATS] + [(*case, "float32", 1e-9) for case in FLOATS if "16" in case[1]],
)
def test_a_row_that_would_become_zero_is_refused(
    name: str, dtype: str, stored: str, size: float, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = (unit_rows("float64") * size).astype(stored)
    rows[:ROW] = 0  # these are zero, and may stay so
    np.save("rows.npy", rows)
    told = refused(["convert", "rows.npy", name, "--dtype", dtype], capsys)
    assert told == (
        f"gpuknn: error: rows.npy: row {ROW} (counted from 0) is not zero and would become zero in {dtype}; "
        "scale the rows by a number that is large enough\n"
    )
    command = ["convert", "rows.npy", name, "--dtype", dtype, "--scale", f"{1 / size:g}"]
    assert main([*command, "--quiet"]) == 0
    expected = (rows.astype(np.float64) * float(f"{1 / size:g}")).astype(dtype)
    assert open_vectors(name)[:].tobytes() == expected.tobytes()
    assert main(["compare", *command[1:]]) == 0
    assert main(["compare", *command[1:-1], "1"]) == 2


@pytest.mark.parametrize(("name", "dtype"), INTEGERS)
@pytest.mark.parametrize("stored", ["float16", "float32", "float64"])
def test_a_float_becomes_an_integer_only_when_asked_for(
    name: str, dtype: str, stored: str, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = np.abs(unit_rows(stored))
    np.save("rows.npy", rows)
    command = ["convert", "rows.npy", name, "--dtype", dtype]
    told = refused(command, capsys)
    assert (
        f"rows.npy: row 0 (counted from 0) holds {rows[0, 0]:g}, which {dtype} cannot hold; round to whole numbers"
        in told
    )
    rows[0] = 0.25
    np.save("rows.npy", rows)
    told = refused([*command, "--round"], capsys)
    assert f"row 0 (counted from 0) is not zero and would become zero in {dtype}; scale the rows" in told
    scaled = [*command, "--round", "--scale", "127"]
    assert main([*scaled, "--quiet"]) == 0
    expected = np.rint(rows.astype(np.float64) * 127).astype(dtype)
    assert open_vectors(name)[:].tobytes() == expected.tobytes()
    assert main(["compare", *scaled[1:]]) == 0
    assert main(["compare", *scaled[1:-1], "126"]) == 1
    told = refused([*command, "--round", "--scale", "1e6", "--force"], capsys)
    assert f"row 0 (counted from 0) comes to hold 250000, which {dtype} cannot hold; scale the rows by a number" in told


@pytest.mark.parametrize(("name", "dtype"), INTEGERS)
def test_whole_numbers_need_no_option(name: str, dtype: str) -> None:
    rows = np.random.default_rng(1).integers(0, 127, (ROWS, D)).astype(np.float32)
    rows[0, 0], rows[1] = -0.0, 0
    np.save("rows.npy", rows)
    assert main(["convert", "rows.npy", name, "--dtype", dtype, "--quiet"]) == 0
    assert open_vectors(name)[:].tobytes() == rows.astype(dtype).tobytes()


@pytest.mark.parametrize(
    ("stored", "value", "options", "line"),
    [
        ("int8", -3, ["--dtype", "uint8"], "holds -3, which uint8 cannot hold; int8 holds negative numbers\n"),
        (
            "uint8",
            200,
            ["--dtype", "int8"],
            "holds 200, which int8 cannot hold; scale the rows by a number that is small",
        ),
        ("uint8", 1, ["--scale", "0.3", "--round"], "is not zero and would become zero in uint8; scale the rows"),
        ("uint8", 1, ["--scale", "0.3"], "comes to hold 0.3, which uint8 cannot hold; round to whole numbers"),
        ("float16", 9, ["--scale", "1e4"], "comes to hold 90000, which float16 cannot hold; scale the rows"),
        ("float64", 1e300, ["--scale", "1e9"], "comes to hold inf, which float64 cannot hold"),
        ("float64", 1e-300, ["--scale", "1e-30"], "is not zero and would become zero in float64; scale the rows"),
        ("float64", 1e39, ["--dtype", "float32"], "holds 1e+39, which float32 cannot hold; scale the rows"),
        ("float32", 1e5, ["--dtype", "float16"], "holds 100000, which float16 cannot hold; scale the rows"),
    ],
)
def test_other_losses(
    stored: str, value: float, options: list[str], line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = np.zeros((ROWS, D), stored)
    rows[ROW] = value
    np.save("rows.npy", rows)
    assert f"rows.npy: row {ROW} (counted from 0) {line}" in refused(["convert", "rows.npy", "a.npy", *options], capsys)


@pytest.mark.parametrize("stored", WIDER)
def test_what_a_wider_type_holds_is_not_refused(stored: str) -> None:
    rows = np.zeros((ROWS, D), stored)
    rows[ROW, 3] = np.finfo(stored).smallest_subnormal if stored.startswith("float") else 1
    np.save("rows.npy", rows)
    for dtype in WIDER[stored]:
        assert main(["convert", "rows.npy", "a.npy", "--dtype", dtype, "--force", "--quiet"]) == 0
        assert np.array_equal(np.load("a.npy"), rows.astype(dtype))


@pytest.mark.parametrize("size", [1e-320, 1e-200, 1e-160, 1e-145, 1e160, 1e200, 1e307])
def test_rows_whose_squares_are_no_numbers_have_a_length(size: float) -> None:
    rows = unit_rows("float64")
    rows[5] = 0
    rows[5, :3] = 2 * size, -size, 2 * size
    np.save("rows.npy", rows)
    assert main(["convert", "rows.npy", "a.npy", "--normalize", "--quiet"]) == 0
    unit = np.load("a.npy")
    expected = np.array([2, -1, 2]) / 3
    loose = 1e-3 if size < 1e-310 else 4e-16  # 1e-320 itself has four digits
    assert np.allclose(unit[5, :3], expected, rtol=loose, atol=0)
    assert not unit[5, 3:].any()
    others = np.delete(rows, 5, axis=0)
    lengths = np.sqrt(np.einsum("ij,ij->i", others, others))
    assert np.delete(unit, 5, axis=0).tobytes() == (others / lengths[:, None]).tobytes()


def test_unit_rows_as_integers(capsys: pytest.CaptureFixture[str]) -> None:
    rows = unit_rows() * 17
    np.save("rows.npy", rows)
    command = ["convert", "rows.npy", "a.i8bin", "--normalize"]
    assert "int8 cannot hold rows of unit length; choose --dtype float32, or add --scale 127" in refused(
        command, capsys
    )
    assert "; round to whole numbers, or scale the rows before" in refused([*command, "--scale", "127"], capsys)
    assert main([*command, "--scale", "127", "--round", "--quiet"]) == 0
    wide = rows.astype(np.float64)
    expected = np.rint(wide / np.sqrt(np.einsum("ij,ij->i", wide, wide))[:, None] * 127.0).astype(np.int8)
    assert np.array_equal(open_vectors("a.i8bin")[:], expected)


def test_scale_and_round_belong_to_the_conversion(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    np.save("rows.npy", unit_rows())
    command = ["convert", "rows.npy", "a.h5", "--dtype", "int8", "--round", "--scale"]

    def stop(*_: object) -> None:
        raise OSError(5, "as if the disk had gone")

    with monkeypatch.context() as patch:
        patch.setattr("gpuknn.storage.record.Record.publish", stop)
        assert main([*command, "127"]) == 3
    capsys.readouterr()
    assert main([*command, "126"]) == 2
    assert "another job has left (other: scale)" in capsys.readouterr().err
    assert main([*command, "127", "--quiet"]) == 0
    with h5py.File("a.h5") as file:
        notes = json.loads(file.attrs["gpuknn"])
    assert (notes["scaled_by"], notes["rounded_to_whole_numbers"]) == (127.0, True)
    assert main(["compare", "a.h5"]) == 0
    capsys.readouterr()
    assert main(["compare", "rows.npy", "a.h5", "--scale", "127", "--round"]) == 0
    assert "after turning float32 into int8, scaled by 127" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["rows.npy", "a.npy", "--scale", "0"], "--scale 0: must be a number above 0"),
        (["rows.npy", "a.npy", "--scale", "-2"], "--scale -2: must be a number above 0"),
        (["rows.npy", "a.npy", "--scale", "nan"], "--scale nan: must be a number above 0"),
        (["rows.npy", "a.npy", "--scale", "inf"], "--scale inf: must be a number above 0"),
        (["rows.npy", "a.npy", "--round"], "--round: float32 needs no rounding to whole numbers; leave it out"),
        (
            ["rows.npy", "a.h5", "--to", "sisap", "--queries-file", "rows.npy", "--scale", "2"],
            "and not rows.npy; convert each file by itself",
        ),
        (["sketches.npy", "a.npy", "--scale", "2"], "holds sketches (uint64); a sketch has no length, no --scale"),
        (["sketches.npy", "a.npy", "--round"], "--round: uint64 needs no rounding"),
        (["gold.h5", "a.ibin", "--scale", "2"], "--scale: gold.h5 is a gold standard"),
        (["gold.h5", "a.ibin", "--scale", "0"], "--scale: gold.h5 is a gold standard"),
        (["gold.h5", "a.ibin", "--round"], "--round: gold.h5 is a gold standard"),
    ],
)
def test_options_where_they_have_no_meaning(words: list[str], line: str, capsys: pytest.CaptureFixture[str]) -> None:
    np.save("rows.npy", unit_rows())
    np.save("sketches.npy", np.ones((9, 2), np.uint64))
    write_gold("gold.h5", Neighbors(np.zeros((3, 1), np.int64), np.ones((3, 1), np.float32)))
    assert line in refused(["convert", *words], capsys)


@pytest.mark.parametrize("target", [["a.ibin"], ["a.h5", "--dtype", "float32"], ["a.h5", "--to", "sisap"]])
def test_a_distance_that_would_become_zero_is_refused(target: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    ids, dists = np.arange(12).reshape(4, 3), np.linspace(0, 1, 12).reshape(4, 3)
    dists[2, 0], dists[2, 1] = 0, 1e-60
    write_gold("gold.h5", Neighbors(ids, dists))
    if "sisap" not in target:
        told = refused(["convert", "gold.h5", *target], capsys)
        assert "query 2 (counted from 0) has a distance of 1e-60, which float32 would make zero; keep" in told
        assert main(["convert", "gold.h5", *target, "--rows", "0:2", "--quiet"]) == 0
    else:
        assert main(["convert", "gold.h5", *target, "--quiet"]) == 0
        assert dists_of(read_gold("a.h5:itest")).tobytes() == dists.tobytes()


def test_compare_does_not_take_a_vanished_distance_for_rounding(capsys: pytest.CaptureFixture[str]) -> None:
    ids, dists = np.arange(12).reshape(4, 3), np.linspace(0, 1, 12).reshape(4, 3)
    dists[2, 0], dists[2, 1] = 0, 1e-60
    write_gold("gold.h5", Neighbors(ids, dists))
    write_gold("lossy.h5", Neighbors(ids, dists.astype(np.float32)))
    lossy = ["compare", "gold.h5", "lossy.h5", "--dtype", "float32"]
    assert "query 2 (counted from 0)" in refused(lossy, capsys)
    assert main(["convert", "gold.h5", "a.ivecs", "--quiet"]) == 0
    assert main(["compare", "gold.h5", "a.ivecs"]) == 0
