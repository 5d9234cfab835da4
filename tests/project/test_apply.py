"""Rows through a model: right, the same bytes however they are made, and safe from whatever ends the work."""

import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

import gpuknn
from gpuknn.cli.main import main
from gpuknn.errors import InputError
from gpuknn.jobs import writing
from gpuknn.projections import projected
from gpuknn.projections.model import PcaModel, read_model
from gpuknn.projections.projected import Projected
from gpuknn.storage.record import Record
from gpuknn.vectors import target
from tests.project.data import D, N, made
from tests.project.models import unit_rows, write_published
from tests.project.rules import bits_by_rule, unit_by_rule

APPLY = ["project", "apply", "--quiet"]
CLIP = Path(__file__).parents[3] / "shared" / "data" / "clip"


@pytest.fixture(autouse=True)
def models(rows: np.ndarray) -> None:
    gpuknn.project_fit("rows.npy", "pca.h5", pca=9)
    gpuknn.project_fit("rows.npy", "bits.h5", hamming=128)


def coordinates(rows: np.ndarray) -> np.ndarray:
    """By the rule: the product is exact, so NumPy's order of additions does not matter."""
    model = read_model("pca.h5")
    assert isinstance(model, PcaModel)
    return (unit_by_rule(rows) @ model.components.T - model.axes().offset).astype(np.float32)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "uint8", "int8"])
def test_coordinates(dtype: str, rows: np.ndarray) -> None:
    typed = (np.abs(rows) * 100 if dtype == "uint8" else rows.astype(np.float64) * 50).astype(dtype)
    np.save("typed.npy", typed)
    assert main([*APPLY, "pca.h5", "typed.npy", "-o", "out.h5"]) == 0
    with h5py.File("out.h5") as file:
        assert set(file) == {"pca9"}
        assert file["pca9"][:].tobytes() == coordinates(typed).tobytes()
    model = read_model("pca.h5")
    assert isinstance(model, PcaModel)
    centred = (unit_by_rule(typed) - model.mean) @ model.components.T
    assert np.abs(coordinates(typed) - centred).max() < 1e-7


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "uint8", "int8"])
def test_sketches(dtype: str, rows: np.ndarray) -> None:
    typed = (np.abs(rows) * 100 if dtype == "uint8" else rows.astype(np.float64) * 50).astype(dtype)
    np.save("typed.npy", typed)
    assert main([*APPLY, "bits.h5", "typed.npy", "-o", "out.h5"]) == 0
    with h5py.File("bits.h5") as file:
        references = file["references"][:]
    with h5py.File("out.h5") as file:
        assert file["hamming"][:].tobytes() == bits_by_rule(typed, references).tobytes()


@pytest.mark.parametrize("model", ["pca.h5", "bits.h5"])
def test_the_bytes_do_not_depend_on_the_work(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert main([*APPLY, model, "rows.npy", "-o", "out.h5"]) == 0
    for number, options in enumerate((["--threads", "1"], ["--workers", "2"], ["--memory", "20MiB"])):
        with monkeypatch.context() as patch:
            if number == 0:
                patch.setattr(projected, "COORDINATES_VALUES", 300)
                patch.setattr(Projected, "block_bytes", 2_000)
            assert main([*APPLY, model, "rows.npy", "-o", f"out{number}.h5", *options]) == 0
        assert Path(f"out{number}.h5").read_bytes() == Path("out.h5").read_bytes()
    for n, part in enumerate(np.array_split(made(), 3)):
        np.save(f"part{n}.npy", part)
    assert main([*APPLY, model, "part*.npy", "-o", "joined.h5"]) == 0
    assert np.array_equal(gpuknn.open_vectors("joined.h5")[:], gpuknn.open_vectors("out.h5")[:])


@pytest.mark.parametrize("name", ["out.npy", "out.zarr", "out.fbin", "out.parquet", "out.fvecs"])
def test_formats(name: str, rows: np.ndarray) -> None:
    assert main([*APPLY, "pca.h5", "rows.npy", "-o", name]) == 0
    assert gpuknn.open_vectors(name)[:].tobytes() == coordinates(rows).tobytes()
    if name in ("out.npy", "out.zarr"):
        assert main([*APPLY, "bits.h5", "rows.npy", "-o", f"bits-{name}"]) == 0
        assert gpuknn.open_vectors(f"bits-{name}").dtype == np.uint64


def test_ids_are_kept(rows: np.ndarray) -> None:
    with h5py.File("named.h5", "w") as file:
        file["emb"], file["ids"] = rows, np.arange(N) * 7 + 3
    assert main([*APPLY, "pca.h5", "named.h5:emb", "-o", "out.h5"]) == 0
    with h5py.File("out.h5") as file:
        assert file["ids"][:].tolist() == (np.arange(N) * 7 + 3).tolist()
    assert main([*APPLY, "pca.h5", "named.h5:emb", "-o", "out.npy"]) == 2
    assert main([*APPLY, "pca.h5", "named.h5:emb", "-o", "out.npy", "--ignore-ids"]) == 0


@pytest.mark.parametrize("model", ["pca.h5", "bits.h5"])
def test_a_failed_job_goes_on(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(target, "PIECE_BYTES", 300 * 2 * D)  # of rows that are read
    assert main([*APPLY, model, "rows.npy", "-o", "out.h5"]) == 0
    act, calls = target.write_piece, list[range]()

    def failing(*arguments: Any) -> Any:
        calls.append(arguments[-1])
        if len(calls) == 5:
            raise OSError(28, "No space left on device")
        return act(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(writing, "write_piece", failing)
        assert main([*APPLY, model, "rows.npy", "-o", "again.h5"]) == 3
    assert not Path("again.h5").exists()
    kept = len(list(Path("again.h5.run").glob("*/*.json")))
    assert 4 <= kept < 10
    calls.clear()

    def counting(*arguments: Any) -> Any:
        calls.append(arguments[-1])
        return act(*arguments)

    monkeypatch.setattr(writing, "write_piece", counting)
    assert main([*APPLY, model, "rows.npy", "-o", "again.h5"]) == 0
    assert len(calls) == 10 - kept
    assert Path("again.h5").read_bytes() == Path("out.h5").read_bytes()
    assert not list(Path().glob("*.run"))


def test_another_model_does_not_go_on(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(target, "PIECE_BYTES", 300 * 2 * D)
    act = target.write_piece

    def changing(rows: Projected, *rest: Any) -> Any:
        if rest[-1].start == 1_200:
            gpuknn.project_fit("rows.npy", "pca.h5", pca=9, force=True, missing="zeros")
            with h5py.File("pca.h5", "r+") as file:
                file.attrs["gpuknn"] = "{}"
            projected._loaded.cache_clear()
        return act(rows, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(writing, "write_piece", changing)
        assert main([*APPLY, "pca.h5", "rows.npy", "-o", "out.h5"]) == 3
    assert "pca.h5: was changed while rows went through it" in capsys.readouterr().err
    assert main([*APPLY, "pca.h5", "rows.npy", "-o", "out.h5"]) == 2
    assert "holds what another job has left" in capsys.readouterr().err
    assert main([*APPLY, "pca.h5", "rows.npy", "-o", "out.h5", "--fresh"]) == 0


def test_as_published(rows: np.ndarray, capsys: pytest.CaptureFixture[str]) -> None:
    references = unit_rows(np.random.default_rng(0), 128, D)
    references[1::2] = references[::2] + np.float32(1e-7)
    references[1::2] /= np.linalg.norm(references[1::2], axis=1)[:, None]
    write_published(Path("published.jld2"), references, np.arange(128).reshape(2, 64))
    for dtype in (np.float16, np.float32):
        typed = (rows * dtype(1.01)).astype(dtype)
        np.save("typed.npy", typed)
        with np.errstate(over="ignore"):
            lengths = np.sqrt(np.square(typed).sum(axis=1, dtype=np.float64)).astype(dtype)
        divided = typed * (1 / lengths)[:, None]
        words = [*APPLY, "published.jld2", "typed.npy", "--force", "-o", "out.h5"]
        assert main([*words, "--as-published", "--json"]) == 0
        told = json.loads(capsys.readouterr().out)
        expected, plain = bits_by_rule(divided, references, single=True), bits_by_rule(typed, references)
        assert np.array_equal(gpuknn.open_vectors("out.h5")[:], expected)
        assert told["differing_bits"] == np.bitwise_count(expected ^ plain).sum() > 0
        assert main(words) == 0
        assert np.array_equal(gpuknn.open_vectors("out.h5")[:], plain)
    assert gpuknn.project_apply("published.jld2", "typed.npy", "p.h5", as_published=True).differing_bits
    assert gpuknn.project_apply("published.jld2", "typed.npy", "q.h5").differing_bits is None


@pytest.mark.parametrize(
    ("dtype", "factor"), [(np.float16, 3_000), (np.float16, 1e-4), (np.float32, 1e25), (np.float32, 1e-30)]
)
def test_rows_that_cannot_be_divided_as_published(dtype: type, factor: float, rows: np.ndarray, capsys: Any) -> None:
    typed = rows.astype(np.float64)
    typed[2_000:] *= factor
    np.save("typed.npy", typed.astype(dtype))
    assert main([*APPLY, "bits.h5", "typed.npy", "-o", "out.h5", "--as-published"]) == 2
    assert (
        f"typed.npy: row 2000 (counted from 0) has squares that {np.dtype(dtype)} does not hold"
        in capsys.readouterr().err
    )
    assert main([*APPLY, "bits.h5", "typed.npy", "-o", "out.h5"]) == 0


@pytest.mark.skipif(not CLIP.is_dir(), reason="the published model lies in ../shared")
def test_the_published_model_and_real_rows() -> None:
    model, source = CLIP / "binwalk-model-nrefs=1024-permsize=64.jld2", CLIP / "laion_clip_l14_refs1024_fp16.npy"
    gpuknn.project_apply(model, source, "clip.h5")
    with h5py.File(model) as file:
        record = file["model"][()]
        references, pool = file[record["refs"]["matrix"]][:], file[record["pool"]][:]
    rows = np.load(source)
    assert np.array_equal(gpuknn.open_vectors("clip.h5")[:], bits_by_rule(rows, references[pool.reshape(-1) - 1]))
    assert gpuknn.project_apply(model, source, "published.h5", as_published=True).differing_bits == 6


REFUSED = {
    "no model": (["none.h5", "rows.npy"], "none.h5: there is no such file; gpuknn project fit makes one"),
    "width": (["pca.h5", "narrow.npy"], "narrow.npy: has 7 components, and the model pca.h5 takes 40"),
    "sketches": (["pca.h5", "words.npy"], "words.npy: holds sketches; rows of numbers are projected"),
    "pca as published": (["pca.h5", "rows.npy", "--as-published"], "is a PCA model; as published, there are sketches"),
    "type as published": (["bits.h5", "bytes.npy", "--as-published"], "the published sketches were made of float16"),
    "format": (
        ["bits.h5", "rows.npy", "-o", "out.fbin"],
        "name a file that holds sketches (uint64): .h5, .hdf5, .jld2, .zarr, .npy, .parquet, .pq",
    ),
    "half": (
        ["pca.h5", "rows.npy", "-o", "out.f16bin"],
        "name a file that holds coordinates (float32): .h5, .hdf5, .jld2, .zarr, .npy, .fbin, .fvecs",
    ),
    "gold": (["pca.h5", "rows.npy", "-o", "out.ivecs"], "name a file that holds coordinates"),
    "no name": (["pca.h5", "rows.npy", "-o", "out"], "out: name a file that holds coordinates"),
    "the source": (["pca.h5", "rows.npy", "-o", "rows.npy"], "rows.npy"),
    "the model": (["pca.h5", "rows.npy", "-o", "pca.h5", "--force"], "pca.h5"),
    "no rows": (["pca.h5"], "name the rows: SRC, or --subset S"),
    "both": (["pca.h5", "rows.npy", "--subset", "sample"], "--subset sample names the files; leave out rows.npy"),
    "memory": (["pca.h5", "rows.npy", "--memory", "1MB"], "each worker needs"),
    "zeros": (["pca.h5", "zeros.npy"], "zeros.npy: row 3 (counted from 0): only zeros"),
    "infinity": (["bits.h5", "infinite.npy"], "infinite.npy: row 2 (counted from 0): NaN, infinite"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused(case: str, rows: np.ndarray, capsys: pytest.CaptureFixture[str]) -> None:
    zeros, infinite = rows.copy(), rows.astype(np.float32)
    zeros[3], infinite[2, 5] = 0, np.inf
    others = {"narrow": rows[:, :7].copy(), "words": np.ones((3, 2), np.uint64), "bytes": np.ones((9, D), np.uint8)}
    for name, array in (others | {"zeros": zeros, "infinite": infinite}).items():
        np.save(f"{name}.npy", array)
    before = {path.name: path.read_bytes() for path in Path().iterdir()}
    words, said = REFUSED[case]
    output = [] if "-o" in words else ["-o", "out.h5"]
    assert main([*APPLY, *words, *output]) == 2
    assert said in capsys.readouterr().err
    assert {path.name: path.read_bytes() for path in Path().iterdir()} == before


def test_a_model_of_the_data_folder(rows: np.ndarray, monkeypatch: Any, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(Path.cwd()))
    assert main([*APPLY, "binwalk", "rows.npy", "-o", "out.h5"]) == 2
    said = capsys.readouterr().err
    assert "binwalk-model-nrefs=1024-permsize=64.jld2: is missing" in said
    assert "in a shell: gpuknn data get binwalk" in said
    folder = Path("elsewhere")
    folder.mkdir()
    assert main([*APPLY, "binwalk", "rows.npy", "-o", "out.h5", "--data-dir", "elsewhere"]) == 2
    assert "elsewhere/binwalk-model" in capsys.readouterr().err
    assert main([*APPLY, "pca.h5", "rows.npy", "-o", "out.h5", "--data-dir", "elsewhere"]) == 2
    assert "--data-dir: goes with --subset" in capsys.readouterr().err
    write_published(Path("binwalk"), unit_rows(np.random.default_rng(0), 64, D), np.arange(64).reshape(1, 64))
    assert main([*APPLY, "binwalk", "rows.npy", "-o", "out.h5"]) == 0


def test_the_sample_and_recall(capsys: pytest.CaptureFixture[str]) -> None:
    """The whole way, as the command line goes it."""
    _, queries = gpuknn.subset_files("sample")
    gold = gpuknn.exact_knn(*gpuknn.subset_files("sample"), k=10)
    recalls = []
    for wanted, metric in (("--pca=64", "l2"), ("--hamming=512", "hamming")):
        for words in (
            ["fit", wanted, "--subset", "sample", "-o", "m.h5"],
            ["apply", "m.h5", "--subset", "sample", "-o", "db.h5"],
            ["apply", "m.h5", str(queries), "-o", "q.h5"],
        ):
            assert main(["project", *words, "--force", "--quiet"]) == 0
        found = gpuknn.exact_knn("db.h5", "q.h5", k=10, metric=metric)
        recalls.append(gpuknn.recall(found, gold, k=10))
    assert recalls == pytest.approx([0.62, 0.45], abs=0.1)


def test_in_python(rows: np.ndarray) -> None:
    done = gpuknn.project_apply("pca.h5", ["rows.npy"], "out.h5", progress=lambda event: None)
    assert done.output == "out.h5"
    assert gpuknn.open_vectors("out.h5")[:].tobytes() == coordinates(rows).tobytes()
    with pytest.raises(InputError, match="exists already"):
        gpuknn.project_apply("pca.h5", "rows.npy", "out.h5")
    with pytest.raises(InputError, match="PcaModel, not a path; pass the"):
        gpuknn.project_apply(read_model("pca.h5"), "rows.npy", "x.h5")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="is missing"):
        gpuknn.project_apply("binwalk", "rows.npy", "x.h5")


@pytest.mark.parametrize(
    "words", [["project", "apply", "pca.h5", "rows.npy", "-o", "o.h5"], ["convert", "rows.npy", "o.h5"]]
)
def test_what_comes_at_the_last_moment_is_left_alone(words: list[str], monkeypatch: Any, capsys: Any) -> None:
    act = Record.publish

    def meanwhile(*arguments: Any) -> None:
        Path("o.h5").write_text("precious")
        act(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(Record, "publish", meanwhile)
        assert main([*words, "--quiet"]) == 3
    assert Path("o.h5").read_text() == "precious"
    assert "somebody has written a file of this name meanwhile" in capsys.readouterr().err


FORCED = {
    "fit": ["project", "fit", "--pca", "3", "rows.npy", "-o", "o.h5"],
    "apply": ["project", "apply", "pca.h5", "rows.npy", "-o", "o.h5"],
    "apply, a folder": ["project", "apply", "pca.h5", "rows.npy", "-o", "o.zarr"],
    "convert, a folder": ["convert", "rows.npy", "o.zarr"],
}


@pytest.mark.parametrize("case", FORCED)
def test_a_folder_that_comes_at_the_last_moment_is_left_alone(case: str, monkeypatch: Any, capsys: Any) -> None:
    words, act = FORCED[case], Record.publish
    folder = Path("o.zarr" if "folder" in case else "o.h5")

    def meanwhile(*arguments: Any) -> None:
        folder.mkdir()
        (folder / "precious").touch()
        act(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(Record, "publish", meanwhile)
        assert main([*words, "--quiet", "--force"]) == 2
    assert [path.name for path in folder.iterdir()] == ["precious"]
    assert f"{folder}: is not one Zarr array, it holds precious" in capsys.readouterr().err


def test_a_plan(capsys: Any) -> None:
    assert main(["project", "apply", "pca.h5", "rows.npy", "-o", "out.h5", "--dry-run"]) == 0
    out = capsys.readouterr().out
    assert "gpuknn project apply: 3,000 rows x 40 float16 to h5, 9 x float32" in out
    assert "MiB written in one piece by 1 x cpu" in out
    assert not Path("out.h5").exists()
