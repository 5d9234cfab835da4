"""Which files are meant by words, and which make up a subset."""

from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

import gpuknn
from gpuknn.errors import InputError
from gpuknn.laion.catalogue import Catalogue, RemoteFile, read_catalogue
from gpuknn.laion.select import Wanted, listed, select
from gpuknn.laion.subsets import find_database, find_subset, gold_name
from tests.test_catalogue_refused import GOOD, written

CATALOGUES = Path(__file__).parents[1] / "configs" / "catalogues"
ROWS = {"100K": 100_000, "300K": 300_000, "10M": 10_120_191, "30M": 30_369_256, "100M": 102_144_212}
VECTORS = {"clip768": (768, "emb"), "pca32": (32, "pca32"), "pca96": (96, "pca96"), "hamming": (16, "hamming")}
METRICS = {"clip768": "cosine", "pca32": "l2", "pca96": "l2", "hamming": "hamming"}


@pytest.fixture(scope="module")
def laion() -> Catalogue:
    return read_catalogue()


def names(files: list[RemoteFile]) -> list[str]:
    return [file.name for file in files]


def test_the_files_of_a_subset(laion: Catalogue) -> None:
    assert names(select(laion, Wanted(["10M"], queries="public", gold="f64", meta=True))) == [
        "laion2B-en-clip768v2-n=10M.h5",
        "public-queries-10k-clip768v2.h5",
        "laion2B-en-public-gold-standard-v2-10M-F64-IEEE754.h5",
        "meta-10M.tsv",
    ]
    assert names(select(laion, Wanted(["10M"]))) == ["laion2B-en-clip768v2-n=10M.h5"]
    assert names(select(laion, Wanted(["10M", "300K"], "hamming", queries="private"))) == [
        "laion2B-en-hammingv2-n=10M.h5",
        "laion2B-en-hammingv2-n=300K.h5",
        "private-queries-10k-hammingv2.h5",
    ]
    assert names(select(laion, Wanted(["30M"], gold="f64"))) == [
        "laion2B-en-clip768v2-n=30M.h5",
        "laion2B-en-public-gold-standard-v2-30M-F64-IEEE754.h5",
        "laion2B-en-private-gold-standard-v2-30M-F64-IEEE754.h5",
    ]


def test_the_parts_of_a_subset(laion: Catalogue) -> None:
    parts = names(select(laion, Wanted(["10M"], "raw")))
    numbers = range(1, 12)
    assert parts == [f"img_emb_{n:04d}.npy" for n in numbers] + [f"metadata_{n:04d}.parquet" for n in numbers]
    assert names(select(laion, Wanted(["10M"], "raw", meta=True))) == ["meta-10M.tsv", *parts]
    assert len(select(laion, Wanted(["100M"], "raw"))) == 222
    assert len(select(laion, Wanted(["raw"]))) == 224
    assert names(select(laion, Wanted(["img_emb_0000.npy"]))) == ["img_emb_0000.npy"]


def test_files_by_other_words(laion: Catalogue) -> None:
    assert select(laion, Wanted()) == []
    pca = [file for file in laion.files if file.bundle == "pca32"]
    assert len(pca) == 7
    assert select(laion, Wanted(["pca32"])) == select(laion, Wanted([], "pca32")) == pca
    assert names(select(laion, Wanted(["private*hamming*"]))) == ["private-queries-10k-hammingv2.h5"]
    assert names(select(laion, Wanted(["*hamming*"]))) == names([f for f in laion.files if "hamming" in f.name])
    assert names(select(laion, Wanted(["meta-10M.tsv"]))) == ["meta-10M.tsv"]
    assert names(select(laion, Wanted(["*n=100K*"], "pca96"))) == ["laion2B-en-pca96v2-n=100K.h5"]
    assert len(select(laion, Wanted(["*"]))) == 271
    assert names(select(laion, Wanted(["binwalk", "100K", "meta-10M.tsv", "100K"]))) == [
        "laion2B-en-clip768v2-n=100K.h5",
        "meta-10M.tsv",
        "binwalk-model-nrefs=1024-permsize=64.jld2",
    ]


SUBSETS = "100M, 30M, 10M, 300K, 100K"


@pytest.mark.parametrize(
    ("wanted", "said"),
    [
        (Wanted(["11M"]), f"11M: is no subset ({SUBSETS}), no bundle (clip768, pca32"),
        (Wanted(["10M", "11M"]), "11M: is no subset"),
        (Wanted(["HAMMING"]), "HAMMING: is no subset"),
        (Wanted(["/etc/*"]), "/etc/*: is no subset"),
        (Wanted([""]), ": is no subset"),
        (Wanted(["10M"], "pca64"), 'bundle="pca64": there are clip768, pca32, pca96, hamming, meta, binwalk, raw'),
        (Wanted(["100K"], "raw"), 'bundle="raw": has no subset 100K; those that have it are clip768, pca32, pca96'),
        (Wanted(["pca32"], queries="public"), f"queries: goes with a subset; there are {SUBSETS}"),
        (Wanted([], "pca32", gold="f32"), f"gold: goes with a subset; there are {SUBSETS}"),
        (Wanted(["*"], meta=True), f"meta: goes with a subset; there are {SUBSETS}"),
        (Wanted(["100K"], gold="f64"), 'gold="f64": there is none for 100K in bundle clip768; there are f32'),
        (Wanted(["10M"], gold="f16"), 'gold="f16": there is none for 10M in bundle clip768; there are f32, f64'),
        (Wanted(["10M"], "pca32", gold="f32"), 'gold="f32": there is none for 10M in bundle pca32'),
        (Wanted(["10M"], queries="secret"), 'queries="secret": there is none for 10M in bundle clip768; there are pub'),
        (Wanted(["100K"], meta=True), "meta=True: there is none for 100K"),
        (Wanted(["10M", "100K"], meta=True), "meta=True: there is none for 100K"),
    ],
)  # fmt: skip
def test_words_that_mean_no_file(wanted: Wanted, said: str, laion: Catalogue) -> None:
    with pytest.raises(InputError) as caught:
        select(laion, wanted)
    assert str(caught.value).startswith(said)


def test_captions_that_are_missing_are_not_said_to_be_of_a_bundle(laion: Catalogue) -> None:
    with pytest.raises(InputError) as caught:
        select(laion, Wanted(["100K"], meta=True))
    assert "bundle clip768" not in str(caught.value)


def test_what_a_list_shows(laion: Catalogue) -> None:
    everything = list(laion.files)
    assert listed(laion, [], None, None) == everything
    of_10m = listed(laion, [], None, "10M")
    assert of_10m == [file for file in everything if "10M" in file.subsets]
    assert len(of_10m) == 4 + 4 + 1 + 22
    assert names(listed(laion, [], "pca96", "10M")) == ["laion2B-en-pca96v2-n=10M.h5"]
    assert listed(laion, ["10M"], None, None) == of_10m
    assert names(listed(laion, ["meta", "binwalk"], None, None))[:2] == ["meta-10M.tsv", "meta-30M.tsv"]
    assert names(listed(laion, ["private*"], "hamming", None)) == ["private-queries-10k-hammingv2.h5"]
    for what, bundle, subset, said in (
        (["nothing"], None, None, "nothing: is no subset"),
        (["pca32", "*pca96*"], "pca32", None, r"\*pca96\*: is no subset"),
        ([], "pca64", None, 'bundle="pca64": there are'),
        ([], None, "11M", f'subset="11M": there are {SUBSETS}'),
    ):
        with pytest.raises(InputError, match=said):
            listed(laion, what, bundle, subset)


def test_a_list_has_a_row_for_each_array() -> None:
    read = read_catalogue(CATALOGUES / "ann-benchmarks.toml")
    keys = [file.key for file in listed(read, ["sift*"], None, None)]
    assert keys == ["train", "test", "neighbors"]
    assert names(select(read, Wanted(["sift*"]))) == ["sift-128-euclidean.hdf5"]


# Subsets


@pytest.mark.parametrize("bundle", [None, *VECTORS])
@pytest.mark.parametrize("queries", ["public", "private"])
def test_subsets_of_a_bundle(bundle: str | None, queries: str, laion: Catalogue) -> None:
    for name, rows in ROWS.items():
        subset = find_subset(laion, name, bundle, queries)
        assert subset.metric == METRICS[bundle or "clip768"]
        assert (subset.name, subset.database.rows, subset.queries.queries) == (name, rows, queries)
        assert subset.database.bundle == subset.queries.bundle == (bundle or "clip768")
        assert subset.database == find_database(laion, name, bundle)
        assert bool(subset.golds) == (bundle in (None, "clip768") and (queries == "public" or rows > 10**6))
        assert gold_name(subset, 77) == f"{subset.database.name[:-3]}-{queries}-k=77-gpuknn.h5"


@pytest.mark.parametrize(
    ("find", "said"),
    [
        (lambda c: find_subset(c, "11M", None, "public"), f'subset="11M": there are sample, {SUBSETS}'),
        (
            lambda c: find_subset(c, "10M", "pca64", "public"),
            'bundle="pca64": there are clip768, pca32, pca96, hamming',
        ),
        (lambda c: find_subset(c, "10M", "raw", "public"), 'bundle="raw": there are clip768, pca32, pca96, hamming'),
        (lambda c: find_subset(c, "10M", None, "secret"), 'queries="secret": there are public, private'),
        (lambda c: find_database(c, "sample", None), 'subset="sample": has no database in bundle clip768'),
    ],
)
def test_subsets_that_there_are_not(find: Callable[[Catalogue], object], said: str, laion: Catalogue) -> None:
    with pytest.raises(InputError) as caught:
        find(laion)
    assert str(caught.value) == said


@pytest.mark.parametrize("bundle", VECTORS)
def test_paths_of_a_subset(bundle: str, tmp_path: Path) -> None:
    infix = f"{bundle}v2"
    found = tmp_path / f"laion2B-en-{infix}-n=300K.h5", tmp_path / f"private-queries-10k-{infix}.h5"
    laion = find_subset(read_catalogue(), "300K", bundle, "private")
    for missing, file in zip(found, (laion.database, laion.queries), strict=True):
        with pytest.raises(InputError, match="is missing") as caught:
            gpuknn.subset_files("300K", bundle=bundle, queries="private", data_dir=tmp_path)
        assert str(caught.value).startswith(f"{missing}: ")
        assert f"gpuknn data get 300K --bundle {bundle} --queries private --data-dir {tmp_path}" in str(caught.value)
        with open(missing, "wb") as made:
            made.truncate(file.expected)
    keys = [f"{path}:{VECTORS[bundle][1]}" for path in found]
    assert list(gpuknn.subset_files("300K", bundle=bundle, queries="private", data_dir=tmp_path)) == keys
    found[0].write_bytes(b"no database")
    with pytest.raises(InputError, match=r"n=300K\.h5: it has 11 bytes, and .* in the catalogue; move it away"):
        gpuknn.subset_files("300K", bundle=bundle, queries="private", data_dir=tmp_path)


def test_the_sample_has_neither_bundles_nor_other_queries() -> None:
    with pytest.raises(InputError, match='queries="private": the sample has public queries only'):
        gpuknn.subset_files("sample", queries="private")
    with pytest.raises(InputError, match="bundle: the sample is shipped, and in no catalogue"):
        gpuknn.subset_files("sample", bundle="clip768")


def test_several_arrays_in_a_file(tmp_path: Path) -> None:
    rows = [
        {"kind": "database", "subset": "S", "key": "train"},
        {"kind": "queries", "queries": "public", "key": "itest/queries"},
        {"kind": "queries", "queries": "far", "key": "otest/queries"},
    ]
    path = written(tmp_path / "c.toml", files=[GOOD | row for row in rows])
    vectors = np.random.default_rng(0).standard_normal((9, 4), np.float32)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        for n, row in enumerate(rows):
            file[row["key"]] = vectors[n:]
    for queries, key, n in (("public", "itest/queries", 1), ("far", "otest/queries", 2)):
        found = gpuknn.subset_files("S", queries=queries, data_dir=tmp_path, catalogue=path)
        assert found == (f"{tmp_path}/a.h5:train", f"{tmp_path}/a.h5:{key}")
        assert np.array_equal(gpuknn.open_vectors(found[0])[:], vectors)
        assert np.array_equal(gpuknn.open_vectors(found[1])[:], vectors[n:])
    single = written(tmp_path / "c.toml", files=[GOOD | rows[0], GOOD | rows[1] | {"name": "q.h5"}])
    (tmp_path / "q.h5").touch()
    found = gpuknn.subset_files("S", data_dir=tmp_path, catalogue=single)
    assert found == (f"{tmp_path}/a.h5:train", f"{tmp_path}/q.h5:itest/queries")
    bare = written(tmp_path / "c.toml", files=[GOOD | {"subset": "S"}, GOOD | {"kind": "queries", "queries": "public"}])
    assert gpuknn.subset_files("S", data_dir=tmp_path, catalogue=bare) == (tmp_path / "a.h5", tmp_path / "a.h5")
