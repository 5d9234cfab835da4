"""`gpuknn data get` as a user runs it, against a web server on this machine."""

import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.published.files import FILES, HERE, content, lay, md5_of, refused, run, states, there, told
from tests.web import Fault, Web, serving


def test_a_subset_and_what_goes_with_it(web: Web, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["data", "get", "S", "--queries", "public", "--gold", "f64", "--meta", *HERE]
    assert run(*words) == 0
    wanted = ["db-S.bin", "q-public.bin", "gold-S.bin", "meta-S.tsv"]
    assert there() == content(*wanted)
    assert [one.name for one in web.asked] == wanted
    shown = capsys.readouterr()
    lines = shown.out.splitlines()
    assert lines[0].split() == ["file", "what", "rows", "x", "components", "size", "state"]
    assert [line.split()[0] for line in lines[1:-1]] == wanted
    assert {line.split()[-1] for line in lines[1:-1]} == {"verified"}
    assert re.fullmatch(r"5\.\d+ KiB fetched in 0\.\d s", lines[-1])
    assert shown.err == ""
    web.asked.clear()
    outcome = told(capsys, *words)
    assert web.asked == []
    assert outcome["fetched"] == 0
    assert [file["state"] for file in outcome["files"]] == ["verified"] * 4


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        (["S"], ["db-S.bin"]),
        (["S", "T"], ["db-S.bin", "db-T.bin"]),
        (["S", "--bundle", "other"], ["other-S.bin"]),
        (["other"], ["other-S.bin"]),
        (["--bundle", "other"], ["other-S.bin"]),
        (["*-S.*"], ["db-S.bin", "gold-S.bin", "meta-S.tsv", "other-S.bin"]),
        (["*-S.*", "--bundle", "main"], ["db-S.bin", "gold-S.bin"]),
        (["loose.bin", "meta"], ["loose.bin", "meta-S.tsv"]),
        (["T", "--queries", "private"], ["db-T.bin", "q-private.bin"]),
        (["S", "--queries", "private", "other-S.bin"], ["db-S.bin", "q-private.bin", "other-S.bin"]),
    ],
)
def test_files_by_words(words: list[str], wanted: list[str], web: Web) -> None:
    assert run("data", "get", *words, *HERE, "--quiet") == 0
    assert there() == content(*wanted)
    assert sorted(one.name for one in web.asked) == sorted(wanted)
    receipts = {path.stem: json.loads(path.read_text()) for path in Path("data/.gpuknn").iterdir()}
    assert sorted(receipts) == sorted(wanted)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "name what to fetch: a subset, a bundle, or a pattern of names"),
        (["U"], "U: is no subset (S, T), no bundle (main, meta, other, loose)"),
        (["S", "--bundle", "none"], "--bundle none: there are main, meta, other, loose"),
        (["T", "--gold", "f64"], "--gold f64: there is none for T in bundle main"),
        (["S", "--gold", "f32"], "--gold f32: there is none for S in bundle main; there are f64"),
        (["S", "--queries", "x"], "--queries x: there is none for S in bundle main; there are public, private"),
        (["main", "--meta"], "--meta: goes with a subset; there are S, T"),
        (["S", "--base-url", "file:///etc"], "the mirror: 'file:///etc' is refused"),
    ],
)
def test_words_that_mean_nothing(words: list[str], said: str, web: Web, capsys: pytest.CaptureFixture[str]) -> None:
    assert said in refused(capsys, "data", "get", *words, *HERE)
    assert web.asked == []
    assert not Path("data").exists()


def test_dry_run(web: Web, capsys: pytest.CaptureFixture[str]) -> None:
    lay(**{"db-S.bin": FILES["db-S.bin"]})
    plan = told(capsys, "data", "get", "S", "T", "loose", *HERE, "--dry-run")
    assert plan["files"] == ["db-S.bin", "db-T.bin", "loose.bin"]
    assert plan["to_fetch"] == ["db-T.bin", "loose.bin"]
    assert plan["to_verify"] == ["db-S.bin"]
    assert plan["bytes"] == sum(len(FILES[name]) for name in plan["files"])
    assert run("data", "get", "S", "T", *HERE, "--dry-run") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "gpuknn data: 2 files in data, 2 of them to fetch or to verify: 16.7 KiB"
    assert [(line.split()[0], line.split()[-1]) for line in lines[2:]] == [
        ("db-S.bin", "here"),
        ("db-T.bin", "missing"),
    ]
    assert web.asked == []
    assert there() == content("db-S.bin")
    assert not Path("data/.gpuknn").exists()


def test_dry_run_makes_no_folder(web: Web) -> None:
    assert run("data", "get", "S", *HERE, "--dry-run") == 0
    assert web.asked == []
    assert not Path("data").exists()


def test_what_is_shown(web: Web, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("data", "get", "S", *HERE, "--quiet") == 0
    assert capsys.readouterr() == ("", "")
    outcome = told(capsys, "data", "get", "S", "T", *HERE)
    assert outcome["fetched"] == len(FILES["db-T.bin"])
    assert outcome["seconds"] >= 0
    first, second = outcome["files"]
    assert (first["state"], second["state"]) == ("verified", "verified")
    assert second["path"] == "data/db-T.bin"
    assert second["url"] == f"{web.url}/db-T.bin"
    assert second["held"] == second["bytes"] == len(FILES["db-T.bin"])
    assert second["md5_here"] == second["md5"] == md5_of(FILES["db-T.bin"])


def test_lines_for_programs(web: Web, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("data", "get", "S", "T", *HERE, "--log-json", "--quiet") == 0
    shown = capsys.readouterr()
    events = [json.loads(line) for line in shown.err.splitlines()]
    size = len(FILES["db-S.bin"]) + len(FILES["db-T.bin"])
    assert events[0]["event"] == "plan"
    assert events[0]["to_fetch"] == ["db-S.bin", "db-T.bin"]
    assert all(event["of"] == size for event in events if event["event"] == "fetching")
    files = {event["name"]: event for event in events if event["event"] == "file"}
    assert {name: (event["state"], event["bytes"], event["md5"]) for name, event in files.items()} == {
        name: ("verified", len(FILES[name]), md5_of(FILES[name])) for name in ("db-S.bin", "db-T.bin")
    }
    web.files["q-public.bin"] = b"not these"
    capsys.readouterr()
    assert run("data", "get", "q-public.bin", *HERE, "--log-json") == 2
    stopped = json.loads(capsys.readouterr().err.splitlines()[-1])
    assert (stopped["event"], stopped["code"]) == ("stopped", 2)
    assert "has 9 bytes there, and 126 in the catalogue" in stopped["line"]


def test_a_file_that_cannot_be_had_keeps_no_other_waiting(web: Web, capsys: pytest.CaptureFixture[str]) -> None:
    web.faults["db-S.bin"] = Fault(status=404)
    assert run("data", "get", "S", "T", *HERE, "--quiet") == 2
    assert f"{web.url}/db-S.bin: the server answers 404 Not Found" in capsys.readouterr().err
    assert there() == content("db-T.bin")
    web.faults["q-public.bin"] = Fault(status=503)
    assert run("data", "get", "S", "--queries", "public", *HERE, "--quiet") == 3  # which may go better the next time
    said = capsys.readouterr().err
    assert "q-public.bin: the server answers 503" in said
    assert "2 files could not be had: db-S.bin, q-public.bin" in said
    assert there() == content("db-T.bin")
    web.faults.clear()
    assert run("data", "get", "S", "--queries", "public", *HERE, "--quiet") == 0


def test_bytes_that_are_not_the_catalogues(web: Web, capsys: pytest.CaptureFixture[str]) -> None:
    web.files["db-S.bin"] = FILES["db-S.bin"][::-1]
    assert run("data", "get", "S", *HERE, "--quiet") == 2
    said = capsys.readouterr().err
    assert f"its md5 sum is {md5_of(FILES['db-S.bin'][::-1])}, and {md5_of(FILES['db-S.bin'])} in the catalogue" in said
    assert there() == {}
    web.files["db-S.bin"] = FILES["db-S.bin"]
    assert run("data", "get", "S", *HERE, "--quiet") == 0
    assert there() == content("db-S.bin")


def test_a_mirror(web: Web) -> None:
    with serving({f"m/{name}": content for name, content in FILES.items()}) as mirror:
        for url in (f"{mirror.url}/m", f"{mirror.url}/m/"):
            mirror.asked.clear()
            assert run("data", "get", "S", "loose", *HERE, "--base-url", url, "--quiet") == 0
            assert [one.name for one in mirror.asked] == ["m/db-S.bin", "m/loose.bin"]
            assert there() == content("db-S.bin", "loose.bin")
            for name in there():
                Path("data", name).unlink()
    assert web.asked == []


def test_the_users_data_folder(web: Web, folder: Path) -> None:
    assert run("data", "get", "S", "--catalogue", "c.toml", "--quiet") == 0
    assert there("home/gpuknn") == content("db-S.bin")


@pytest.mark.parametrize(
    ("place", "said"),
    [
        ("c.toml", "c.toml: is no folder that can be written to"),
        ("c.toml/data", "c.toml: is no folder that can be written to"),
        ("/proc/gpuknn", "/proc: 0 MiB are free"),
    ],
)
def test_folders_that_cannot_be_made(place: str, said: str, web: Web, capsys: pytest.CaptureFixture[str]) -> None:
    assert said in refused(capsys, "data", "get", "S", "--catalogue", "c.toml", "--data-dir", place)
    assert web.asked == []


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes anywhere")
def test_a_folder_that_nobody_may_write_to(web: Web, capsys: pytest.CaptureFixture[str]) -> None:
    lay(**{"db-S.bin": FILES["db-S.bin"]})
    Path("data").chmod(0o500)
    try:
        assert "is no folder that can be written to" in refused(capsys, "data", "get", "T", *HERE)
        assert web.asked == []
        assert told(capsys, "data", "verify", *HERE)["right"]
        assert told(capsys, "data", "get", "S", *HERE)["files"][0]["state"] == "here"
    finally:
        Path("data").chmod(0o700)


def test_a_folder_that_takes_no_receipts(
    web: Web, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As root sees it, whom the system lets write anywhere."""

    def fail(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    lay(**{"db-S.bin": FILES["db-S.bin"], "db-T.bin": FILES["db-T.bin"][::-1]})
    monkeypatch.setattr("gpuknn.jobs.download.verify.keep_md5", fail)
    assert told(capsys, "data", "verify", "S", *HERE)["files"][0]["state"] == "verified"
    assert run("data", "verify", "T", *HERE) == 1
    assert told(capsys, "data", "get", "S", *HERE)["files"][0]["name"] == "db-S.bin"
    assert not Path("data/.gpuknn").exists()


def test_too_little_room(web: Web, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 12_345})())
    said = refused(capsys, "data", "get", "S", "T", *HERE)
    assert "are free, 0 MiB are needed for 2 files; make room, or name another folder" in said
    assert web.asked == []
    assert run("data", "get", "S", *HERE, "--quiet") == 0


# What is there is never replaced


@pytest.mark.parametrize("kind", ["bytes", "size", "elsewhere"])
def test_a_file_that_is_not_the_catalogues(kind: str, web: Web, capsys: pytest.CaptureFixture[str]) -> None:
    mine = FILES["db-S.bin"][::-1] if kind != "size" else b"mine"
    lay(**{"db-S.bin": mine})
    if kind == "elsewhere":
        Path("data/db-S.bin").rename("mine")
        Path("data/db-S.bin").symlink_to("../mine")
    said = refused(capsys, "data", "get", "S", *HERE)
    assert said.startswith("gpuknn: error: data/db-S.bin: ")
    assert said.endswith("; move it away, gpuknn replaces no file\n")
    why = (
        f"its md5 sum is {md5_of(mine)}, and {md5_of(FILES['db-S.bin'])}"
        if kind != "size"
        else "it has 4 bytes, and 5,120"
    )
    assert f"{why} in the catalogue" in said
    assert web.asked == []
    assert Path("data/db-S.bin").read_bytes() == mine
    assert Path("data/db-S.bin").is_symlink() == (kind == "elsewhere")
    assert run("data", "get", "S", *HERE, "--fresh", "--quiet") == 2
    assert Path("data/db-S.bin").read_bytes() == mine


def test_a_link_to_the_right_file(web: Web, capsys: pytest.CaptureFixture[str]) -> None:
    Path("data").mkdir()
    Path("mine").write_bytes(FILES["db-S.bin"])
    Path("data/db-S.bin").symlink_to("../mine")
    assert told(capsys, "data", "get", "S", *HERE)["files"][0]["state"] == "verified"
    assert Path("data/db-S.bin").is_symlink()
    assert web.asked == []


@pytest.mark.parametrize("make", [Path.mkdir, lambda path: os.mkfifo(path)])
def test_what_is_no_file_is_in_the_way(
    make: Callable[[Path], None], web: Web, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("data").mkdir()
    make(Path("data/db-S.bin"))
    said = refused(capsys, "data", "get", "S", *HERE)
    assert "data/db-S.bin: is in the way and no file; move it away" in said
    assert states(capsys)["db-S.bin"] == "wrong"
    assert run("data", "verify", *HERE) == 1
    assert "data/db-S.bin: is in the way and no file; move it away" in capsys.readouterr().out
    assert web.asked == []
    assert os.listdir("data") == ["db-S.bin"]


@pytest.mark.parametrize("to", ["nowhere", "db-S.bin"])
def test_a_link_that_leads_nowhere_is_left(to: str, web: Web, capsys: pytest.CaptureFixture[str]) -> None:
    Path("data").mkdir()
    Path("data/db-S.bin").symlink_to(to)
    assert "data/db-S.bin: is in the way and no file" in refused(capsys, "data", "get", "S", *HERE, "--quiet")
    assert web.asked == []
    assert os.readlink("data/db-S.bin") == to
    assert os.listdir("data") == ["db-S.bin"]


def test_a_file_that_comes_meanwhile_is_left(web: Web, capsys: pytest.CaptureFixture[str]) -> None:
    def answers(name: str) -> Any:
        Path("data/db-S.bin").write_bytes(b"mine")
        return look(name)

    look, web._look = web._look, answers  # type: ignore[method-assign]
    assert run("data", "get", "S", *HERE, "--quiet") == 3
    assert "data/db-S.bin: somebody has written a file of this name meanwhile" in capsys.readouterr().err
    Path("data/db-S.bin").unlink()
    web.asked.clear()
    web._look = look  # type: ignore[method-assign]
    assert run("data", "get", "S", *HERE, "--quiet") == 0
    assert there() == content("db-S.bin")
    assert web.asked == []  # it was kept


def test_a_folder_of_somebody_elses_is_left(web: Web, capsys: pytest.CaptureFixture[str]) -> None:
    Path("data/db-S.bin.run").mkdir(parents=True)
    Path("data/db-S.bin.run/mine").write_bytes(b"precious")
    for more in ([], ["--fresh"]):
        said = refused(capsys, "data", "get", "S", *HERE, *more, "--quiet")
        assert "data/db-S.bin.run: is not a run directory, it holds mine" in said
    assert Path("data/db-S.bin.run/mine").read_bytes() == b"precious"
    assert web.asked == []
