"""`gpuknn data list` and `verify`: what a folder holds, and whether it is right."""

import json
import os
import re
from pathlib import Path

import pytest

from tests.published.files import BUNDLES, FILES, HERE, break_off, damage, lay, md5_of, refused, run, states, told
from tests.web import Web


def test_states(web: Web, capsys: pytest.CaptureFixture[str]) -> None:
    assert set(states(capsys).values()) == {"missing"}
    assert not Path("data").exists()
    assert run("data", "get", "S", *HERE, "--quiet") == 0
    break_off(web)
    lay(**{"q-public.bin": FILES["q-public.bin"], "gold-S.bin": b"wrong size", "meta-S.tsv": FILES["meta-S.tsv"][::-1]})
    lay(**{"loose.bin": FILES["loose.bin"]})
    assert run("data", "verify", "meta", *HERE, "--quiet") == 1
    assert states(capsys) == {
        "db-S.bin": "verified",
        "db-T.bin": "begun",
        "q-public.bin": "here",
        "q-private.bin": "missing",
        "gold-S.bin": "wrong",
        "meta-S.tsv": "wrong",
        "other-S.bin": "missing",
        "loose.bin": "here",
    }
    rows = {row["name"]: row for row in told(capsys, "data", "list", *HERE)}
    assert (rows["db-T.bin"]["held"], rows["db-T.bin"]["md5_here"]) == (len(FILES["db-T.bin"]) // 2, None)
    assert rows["meta-S.tsv"]["md5_here"] == md5_of(FILES["meta-S.tsv"][::-1])
    assert rows["q-private.bin"]["path"] == "data/q-private.bin"
    assert web.asked == []


def test_a_file_that_was_written_to_is_not_verified_any_more(web: Web, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("data", "get", "S", *HERE, "--quiet") == 0
    os.utime("data/db-S.bin", ns=(1, 1))
    assert states(capsys)["db-S.bin"] == "here"
    web.asked.clear()
    assert run("data", "get", "S", *HERE, "--quiet") == 0
    assert web.asked == []
    assert states(capsys)["db-S.bin"] == "verified"
    for receipt in (b"", b"{}", b"\xff", b"[]", b"{" * 100_000):
        Path("data/.gpuknn/db-S.bin.json").write_bytes(receipt)
        assert states(capsys)["db-S.bin"] == "here"


def test_a_file_that_has_grown_is_not_verified_any_more(web: Web, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("data", "get", "S", *HERE, "--quiet") == 0
    Path("c.toml").write_text(re.sub(r", bytes = \d+", "", Path("c.toml").read_text()))  # nobody knows its size
    assert states(capsys)["db-S.bin"] == "verified"
    path = Path("data/db-S.bin")
    before = path.stat().st_mtime_ns
    path.write_bytes(FILES["db-S.bin"] + b"more")
    os.utime(path, ns=(before, before))
    assert states(capsys)["db-S.bin"] == "here"
    assert run("data", "get", "S", *HERE, "--quiet") == 2
    assert states(capsys)["db-S.bin"] == "wrong"


def test_the_table(web: Web, capsys: pytest.CaptureFixture[str]) -> None:
    break_off(web)
    assert run("data", "list", *HERE) == 0
    lines = capsys.readouterr().out.splitlines()
    head = ["Made; data folder data", "", *(f"{name}: l2" for name in BUNDLES), ""]
    assert lines[: len(head)] == head
    lines = lines[len(head) - 2 :]
    assert lines[3].split() == ["db-S.bin", "main", "database", "S", "20", "x", "256", "uint8", "5", "KiB", "missing"]
    assert lines[4].split() == ["db-T.bin", "main", "database", "T", "11.7", "KiB", "begun,", "5.86", "KiB"]
    assert lines[7].split() == ["gold-S.bin", "main", "gold", "f64", "public", "S", "7", "B", "missing"]
    assert lines[3].index("5 KiB") == lines[2].index("size")
    assert lines[-2:] == ["", "db-T.bin: larger"]
    assert run("data", "list", *HERE, "--subset", "S", "--bundle", "main") == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()[5:]] == ["db-S.bin", "gold-S.bin"]
    assert "--subset U: there are S, T" in refused(capsys, "data", "list", *HERE, "--subset", "U")


def test_the_list_of_laion(capsys: pytest.CaptureFixture[str]) -> None:
    rows = told(capsys, "data", "list", "--data-dir", "data")
    assert len(rows) == 271
    assert {row["state"] for row in rows} == {"missing"}
    assert len(told(capsys, "data", "list", "--data-dir", "data", "--bundle", "clip768", "--subset", "10M")) == 5
    assert run("data", "list", "--data-dir", "data") == 0
    out = capsys.readouterr().out
    assert re.search(r"^img_emb_0000.npy to img_emb_0111.npy +raw part +768 float16 +112 missing$", out, re.M)
    assert re.search(
        r"^laion2B-en-clip768v2-n=100M.h5 +clip768 database 100M +102,144,212 x 768 float16 +147G", out, re.M
    )
    assert out.count("\n") < 100
    assert run("data", "list", "img*000*", "--data-dir", "data") == 0
    assert capsys.readouterr().out.count("img_emb_000") == 10 + 1  # and a note


# verify


def test_verify(web: Web, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("data", "verify", *HERE) == 0
    assert capsys.readouterr().out == "no file of this dataset is in data\n"
    assert run("data", "get", "S", "T", "loose", *HERE, "--quiet") == 0
    web.asked.clear()
    found = told(capsys, "data", "verify", *HERE)
    assert found["right"] is True
    assert {file["name"]: file["state"] for file in found["files"]} == {
        "db-S.bin": "verified",
        "db-T.bin": "verified",
        "loose.bin": "here",
    }
    assert run("data", "verify", *HERE, "--quiet") == 0
    assert capsys.readouterr() == ("", "")
    damage("db-T.bin")
    assert states(capsys)["db-T.bin"] == "verified"  # which nobody could know without reading it
    capsys.readouterr()
    assert run("data", "verify", *HERE) == 1
    shown = capsys.readouterr()
    assert [(line.split()[0], line.split()[-1]) for line in shown.out.splitlines()[1:4]] == [
        ("db-S.bin", "verified"),
        ("db-T.bin", "wrong"),
        ("loose.bin", "here"),
    ]
    why = (
        f"its md5 sum is {md5_of(Path('data/db-T.bin').read_bytes())}, and {md5_of(FILES['db-T.bin'])} in the catalogue"
    )
    assert shown.out.splitlines()[4:] == [f"data/db-T.bin: {why}; move it away, and get it again"]
    assert states(capsys)["db-T.bin"] == "wrong"
    assert run("data", "verify", "S", *HERE, "--quiet") == 0
    assert run("data", "verify", *HERE, "--json") == 1
    assert json.loads(capsys.readouterr().out)["right"] is False
    assert run("data", "get", "T", *HERE, "--quiet") == 2
    assert Path("data/db-T.bin").read_bytes()[:1] == b"X"
    assert web.asked == []


def test_verify_what_is_missing(web: Web, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("data", "get", "S", *HERE, "--quiet") == 0
    break_off(web)
    assert run("data", "verify", *HERE) == 0
    assert "db-T" not in capsys.readouterr().out
    for words, state in (
        (["T"], "begun,"),
        (["S", "--queries", "public"], "missing"),
        (["--bundle", "main"], "begun,"),
    ):
        assert run("data", "verify", *words, *HERE) == 1
        assert state in capsys.readouterr().out
    assert "U: is no subset" in refused(capsys, "data", "verify", "U", *HERE)


def test_verify_a_file_whose_md5_sum_nobody_has_published(web: Web, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("data", "get", "loose", *HERE, "--quiet") == 0
    damage("loose.bin")
    for _ in range(2):  # and it is not believed because it was seen once
        assert run("data", "verify", "loose", *HERE) == 1
        shown = capsys.readouterr().out.splitlines()
        assert shown[1].split()[-1] == "wrong"
        assert "it is not what it was when it was fetched or read before" in shown[2]
    os.utime("data/loose.bin", ns=(1, 1))  # somebody has written to it, and nobody knows what it should be
    assert run("data", "verify", "loose", *HERE) == 0
    assert run("data", "verify", "loose", *HERE) == 0


def test_a_file_that_has_lost_its_end_is_wrong_though_nobody_has_published_its_size(
    web: Web, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = Path("c.toml").read_text().replace(f"bytes = {len(FILES['loose.bin'])}", 'note = "no size"')
    Path("c.toml").write_text(lines)
    assert run("data", "get", "loose", *HERE, "--quiet") == 0
    with open("data/loose.bin", "r+b") as file:
        file.truncate(5)
    assert states(capsys)["loose.bin"] == "wrong"
    assert run("data", "verify", "loose", *HERE, "--quiet") == 1
    assert "it is not what it was" in refused(capsys, "data", "get", "loose", *HERE)
