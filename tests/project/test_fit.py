"""Models of rows: right, the same bytes however they are made, and safe from whatever ends the work."""

import json
import signal
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

import gpuknn
from gpuknn.cli.main import main
from gpuknn.errors import InputError, RunError
from gpuknn.jobs.project import fit
from gpuknn.projections import model, pca
from gpuknn.projections.model import PcaModel, SketchModel, read_model
from tests.project.data import D, N, made
from tests.project.rules import unit_by_rule

FIT = ["project", "fit", "--quiet"]


def model_of(name: str) -> PcaModel:
    found = read_model(name)
    assert isinstance(found, PcaModel)
    return found


def cut_into(monkeypatch: pytest.MonkeyPatch, shards: int) -> None:
    monkeypatch.setattr(fit, "PARTIAL_SHARE", 0)
    monkeypatch.setattr(fit, "MOST_SHARDS", shards)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "int8"])
def test_pca_is_that_of_scikit_learn(dtype: str, rows: np.ndarray) -> None:
    from sklearn.decomposition import PCA

    wide = rows.astype(np.float64) * (100 if dtype == "int8" else 1)
    np.save("typed.npy", wide.astype(dtype))
    assert main([*FIT, "--pca", "7", "typed.npy", "-o", "m.h5"]) == 0
    found = model_of("m.h5")
    theirs = PCA(7, svd_solver="full").fit(unit_by_rule(wide.astype(dtype)))
    assert np.abs(found.components - theirs.components_).max() < 1e-7  # in sign, too
    assert np.abs(found.mean - theirs.mean_).max() < 1e-15
    assert np.allclose(found.explained_variance, theirs.explained_variance_, rtol=1e-10)
    assert np.allclose(found.shares, theirs.explained_variance_ratio_, rtol=1e-10)
    assert found.rows == N


def test_signs(rows: np.ndarray) -> None:
    assert main([*FIT, "--pca", str(D), "rows.npy", "-o", "m.h5"]) == 0
    components = model_of("m.h5").components
    assert (components[np.arange(D), np.abs(components).argmax(axis=1)] > 0).all()
    assert model_of("m.h5").shares.sum() == pytest.approx(1, abs=1e-12)


def test_the_model_does_not_depend_on_the_work(rows: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    assert main([*FIT, "--pca", "9", "rows.npy", "-o", "m.h5"]) == 0
    expected = Path("m.h5").read_bytes()
    for number, options in enumerate((["--threads", "1"], ["--workers", "2"], ["--memory", "40MiB"], [])):
        with monkeypatch.context() as patch:
            if number == 0:
                cut_into(patch, 7)
                patch.setattr(pca, "MOMENTS_VALUES", 1_000)
            if number == 1:
                cut_into(patch, 5)
            if number == 3:
                patch.setattr(fit, "SHIFT_ROWS", 1)
            assert main([*FIT, "--pca", "9", "rows.npy", "-o", f"m{number}.h5", *options]) == 0
        assert Path(f"m{number}.h5").read_bytes() == expected
    assert not list(Path().glob("*.run"))


def test_rows_of_any_format_and_of_many_files(rows: np.ndarray) -> None:
    assert main([*FIT, "--pca", "9", "rows.npy", "-o", "m.h5"]) == 0
    for target in ("rows.zarr", "rows.h5", "rows.f16bin"):
        assert main(["convert", "rows.npy", target, "--quiet"]) == 0
    for n, part in enumerate(np.array_split(rows, 3)):
        np.save(f"part{n}.npy", part)
    for number, source in enumerate(("rows.zarr", "rows.h5", "rows.f16bin", "part*.npy")):
        assert main([*FIT, "--pca", "9", source, "-o", f"m{number}.h5"]) == 0
        for name in ("components", "mean", "explained_variance"):
            assert np.array_equal(getattr(model_of("m.h5"), name), getattr(model_of(f"m{number}.h5"), name))


def test_a_failed_fit_goes_on(rows: np.ndarray, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    assert main([*FIT, "--pca", "9", "rows.npy", "-o", "m.h5"]) == 0
    cut_into(monkeypatch, 10)
    words, act, calls = [*FIT, "--pca", "9", "rows.npy", "-o", "again.h5"], fit.add_up, list[range]()

    def failing(*arguments: Any) -> None:
        calls.append(arguments[-1])
        if len(calls) > 4:
            raise OSError(28, "No space left on device")
        act(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(fit, "add_up", failing)
        assert main(words) == 3
    assert not Path("again.h5").exists()
    capsys.readouterr()
    assert main(["runs"]) == 0
    assert "rows.npy to again.h5" in capsys.readouterr().out
    partial = sorted(Path("again.h5.run").glob("*/*.bin"))[1]
    partial.write_bytes(partial.read_bytes()[:-8] + bytes(8))  # a disk that lost some bytes

    def counting(*arguments: Any) -> None:
        calls.append(arguments[-1])
        act(*arguments)

    monkeypatch.setattr(fit, "add_up", counting)
    calls.clear()
    assert main(words) == 0
    assert sorted(r.start for r in calls) == [300, 1200, 1500, 1800, 2100, 2400, 2700]
    assert Path("again.h5").read_bytes() == Path("m.h5").read_bytes()
    assert not Path("again.h5.run").exists()


def test_an_interrupt_keeps_what_is_done(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    cut_into(monkeypatch, 10)
    act, calls = fit.add_up, list[int]()

    def interrupted(*arguments: Any) -> None:
        calls.append(1)
        act(*arguments)
        if len(calls) == 3:
            signal.raise_signal(signal.SIGINT)

    words = ["project", "fit", "--pca", "9", "rows.npy", "-o", "m.h5"]
    with monkeypatch.context() as patch:
        patch.setattr(fit, "add_up", interrupted)
        assert main(words) == 130
    assert "of 3,000 rows are added up and kept" in capsys.readouterr().err
    assert main(words) == 0


def test_a_database_that_changes(rows: np.ndarray, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    act = fit.add_up

    def changed(*arguments: Any) -> None:
        np.save("rows.npy", made(seed=1))
        act(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(fit, "add_up", changed)
        assert main([*FIT, "--pca", "3", "rows.npy", "-o", "m.h5"]) == 3
    assert "rows.npy: was changed while it was read" in capsys.readouterr().err
    assert not Path("m.h5").exists()
    assert main([*FIT, "--pca", "3", "rows.npy", "-o", "m.h5"]) == 0
    assert np.abs(model_of("m.h5").mean - unit_by_rule(made(seed=1)).mean(axis=0)).max() < 1e-15


def test_references(rows: np.ndarray) -> None:
    fitted = gpuknn.project_fit("rows.npy", "m.h5", hamming=128)
    assert isinstance(fitted.model, SketchModel)
    assert fitted.model.bits == 128
    wide = rows.astype(np.float64)
    unit = (wide / np.sqrt(np.square(wide).sum(axis=1))[:, None]).astype(np.float32)
    numbers = [np.flatnonzero((unit == one).all(axis=1)) for one in fitted.model.references]
    assert all(len(found) == 1 for found in numbers)
    assert len({int(found[0]) for found in numbers}) == 128
    gpuknn.project_fit("rows.npy", "same.h5", hamming=128, seed=2023, workers=2)
    gpuknn.project_fit("rows.npy", "other.h5", hamming=128, seed=7)
    assert Path("same.h5").read_bytes() == Path("m.h5").read_bytes()
    assert Path("other.h5").read_bytes() != Path("m.h5").read_bytes()


def test_references_differ() -> None:
    np.save("few.npy", np.repeat(made(70), 50, axis=0))
    assert main([*FIT, "--hamming", "64", "few.npy", "-o", "m.h5"]) == 0
    model = read_model("m.h5")
    assert isinstance(model, SketchModel)
    assert len(np.unique(model.references, axis=0)) == 64


REFUSED: dict[str, tuple[list[str], str]] = {
    "nothing": ([], "say what to fit: --pca 32, or --hamming 1024"),
    "both": (["--pca", "3", "--hamming", "64"], "say one of the two, not both: --pca 32, or --hamming 1024"),
    "none": (["--pca", "0"], "--pca 0: must be"),
    "too many": (["--pca", "41"], "rows.npy has 40 components and 3,000 rows, so at most 40"),
    "no word": (["--hamming", "100"], "--hamming 100: must be a multiple of 64"),
    "few rows": (["--hamming", "6400"], "rows.npy has 3,000 rows, too few to draw from"),
    "seed": (["--pca", "3", "--seed", "1"], "--seed 1: PCA draws nothing"),
    "negative seed": (["--hamming", "64", "--seed", "-1"], "--seed -1: must be a whole number from 0 to 2^32 - 1"),
    "large seed": (["--hamming", "64", "--seed", "5000000000"], "--seed 5000000000: must be a whole number"),
    "plot": (["--hamming", "64", "--plot", "x.png"], "references have no variance to draw"),
    "picture": (["--pca", "3", "--plot", "x.txt"], "pictures are .png, .svg or .pdf"),
    "memory": (["--pca", "3", "--memory", "100KB"], "each worker needs"),
    "suffix": (["--pca", "3", "-o", "m.npy"], "a model is an HDF5 file"),
    "itself": (["--pca", "3", "-o", "rows.npy"], "rows.npy"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused(case: str, capsys: pytest.CaptureFixture[str]) -> None:
    words, said = REFUSED[case]
    assert main([*FIT, "rows.npy", "-o", "m.h5", *words]) == 2
    assert said in capsys.readouterr().err
    assert [path.name for path in Path().iterdir()] == ["rows.npy"]


@pytest.mark.parametrize(("value", "said"), [(0, "only zeros"), (np.nan, "NaN, infinite")])
def test_rows_without_length(value: float, said: str, rows: np.ndarray, capsys: Any) -> None:
    rows[[2_600, 2_700, 2_999]] = value
    np.save("bad.npy", rows)
    assert main([*FIT, "--pca", "3", "bad.npy", "-o", "m.h5"]) == 2
    assert f"bad.npy: rows 2600, 2700, 2999 (counted from 0): {said}" in capsys.readouterr().err
    np.save("bad.npy", np.full((64, D), value, np.float16))
    assert main([*FIT, "--hamming", "64", "bad.npy", "-o", "m.h5"]) == 2
    assert "(counted from 0) is " in capsys.readouterr().err
    assert not list(Path().glob("m.h5*"))


def test_rows_that_do_not_vary(rows: np.ndarray, capsys: Any) -> None:
    flat = np.zeros((100, D), np.float16)
    flat[:, :3] = rows[:100, :3]
    np.save("flat.npy", flat)
    assert main([*FIT, "--pca", "9", "flat.npy", "-o", "m.h5"]) == 2
    assert "vary in 3 directions only; --pca 3 keeps all of it" in capsys.readouterr().err
    assert main([*FIT, "--pca", "3", "flat.npy", "-o", "m.h5"]) == 0
    assert model_of("m.h5").shares.sum() == pytest.approx(1)
    np.save("same.npy", np.repeat(rows[:1], 100, axis=0))
    assert main([*FIT, "--pca", "3", "same.npy", "-o", "s.h5"]) == 2
    assert "vary in 0 directions only, there is nothing to fit" in capsys.readouterr().err


def test_sketches_are_not_fitted(capsys: Any) -> None:
    np.save("bits.npy", np.zeros((10, 64), bool))
    assert main([*FIT, "--pca", "3", "bits.npy", "-o", "m.h5"]) == 2
    assert "bits.npy: holds sketches; rows of numbers are projected" in capsys.readouterr().err


def test_what_is_said(capsys: Any) -> None:
    assert main(["project", "fit", "--pca", "9", "rows.npy", "-o", "m.h5", "--plot", "v.png"]) == 0
    out = capsys.readouterr().out
    shares = model_of("m.h5").shares
    assert f"m.h5: 9 of 40 components explain {shares.sum():.1%} of the variance of 3,000 rows" in out
    assert f"explained by the first 1: {shares[0]:.1%}, 2: {shares[:2].sum():.1%}, 4: " in out
    assert out.rstrip().endswith(f"9: {shares.sum():.1%}")
    assert Path("v.png").read_bytes().startswith(b"\x89PNG")
    assert main(["project", "fit", "--pca", "9", "rows.npy", "-o", "n.h5", "--plot", "v.png"]) == 2
    assert "v.png: exists already; --force replaces it" in capsys.readouterr().err
    assert main(["project", "fit", "--pca", "9", "rows.npy", "-o", "m.h5", "--force", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["shares"] == shares.tolist()
    assert main([*FIT, "--pca", "9", "rows.npy", "-o", "m.h5"]) == 2
    assert "m.h5: exists already; --force replaces it" in capsys.readouterr().err
    assert main(["project", "fit", "--pca", "9", "rows.npy", "-o", "new.h5", "--dry-run"]) == 0
    plan = capsys.readouterr().out
    assert "PCA of 9 components from 3,000 rows x 40 float16 of rows.npy" in plan
    assert "0 MiB are read in one shard by 1 x cpu" in plan
    assert not Path("new.h5").exists()


def test_in_python(rows: np.ndarray) -> None:
    fitted = gpuknn.project_fit("rows.npy", "m.h5", pca=9)
    assert main([*FIT, "--pca", "9", "rows.npy", "-o", "same.h5"]) == 0
    assert Path("m.h5").read_bytes() == Path("same.h5").read_bytes()
    assert isinstance(fitted.model, PcaModel)
    assert (fitted.output, fitted.model.components.shape) == (Path("m.h5"), (9, D))
    with pytest.raises(InputError, match="say what to fit: pca=32, or hamming=1024"):
        gpuknn.project_fit("rows.npy", "x.h5")
    with pytest.raises(InputError, match="not a path; save an array with np"):
        gpuknn.project_fit(rows, "x.h5", pca=3)  # type: ignore[arg-type]


DEBIAN = Path(__file__).parents[3] / "shared" / "data" / "debian" / "debian-minilm384-n=60K.h5"


@pytest.mark.slow
@pytest.mark.skipif(not DEBIAN.is_file(), reason="60,000 real rows lie in ../shared")
def test_real_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    from sklearn.decomposition import PCA

    fitted = gpuknn.project_fit(DEBIAN, "m.h5", pca=96)
    cut_into(monkeypatch, 9)
    gpuknn.project_fit(DEBIAN, "same.h5", pca=96, workers=2)
    assert Path("same.h5").read_bytes() == Path("m.h5").read_bytes()
    with h5py.File(DEBIAN) as file:
        unit = unit_by_rule(file["emb"][:])
    theirs = PCA(96, svd_solver="covariance_eigh").fit(unit)
    assert isinstance(fitted.model, PcaModel)
    assert np.abs(fitted.model.components - theirs.components_).max() < 1e-7
    assert np.allclose(fitted.model.explained_variance, theirs.explained_variance_, rtol=1e-10)


def test_a_model_says_where_it_comes_from() -> None:
    assert main([*FIT, "--pca", "9", "rows.npy", "-o", "m.h5"]) == 0
    with h5py.File("m.h5") as file:
        said = json.loads(file.attrs["gpuknn"])
        assert (file.attrs["rows"], set(file)) == (N, {"components", "mean", "explained_variance"})
    assert (said["kind"], said["source"], said["source_shape"]) == ("pca", "rows.npy", [N, D])


def test_another_model_came_meanwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    act = model.write_model

    def meanwhile(*arguments: Any) -> None:
        act(*arguments)
        Path("m.h5").write_text("precious")

    with monkeypatch.context() as patch:
        patch.setattr(fit, "write_model", meanwhile)
        with pytest.raises(RunError, match="somebody has written a file of this name meanwhile"):
            gpuknn.project_fit("rows.npy", "m.h5", pca=3)
    for _ in range(2):
        assert Path("m.h5").read_text() == "precious"
        assert list(Path("m.h5.run").glob("*/*.bin"))
        with pytest.raises(InputError, match="exists already"):
            gpuknn.project_fit("rows.npy", "m.h5", pca=3)
    Path("m.h5").unlink()
    monkeypatch.setattr(fit, "add_up", lambda *_: pytest.fail("all is added up"))
    gpuknn.project_fit("rows.npy", "m.h5", pca=3)
