"""Downloads that were broken off, and those of a Python program."""

import re
import shlex
from pathlib import Path
from typing import Any

import pytest

import gpuknn
from gpuknn.errors import InputError, RunError
from tests.published.files import FILES, HERE, break_off, breaks_off, content, run, there, told
from tests.web import Fault, Web, serving


def test_an_unfinished_download_is_a_run(web: Web, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    break_off(web)
    half = len(FILES["db-T.bin"]) // 2
    (found,) = told(capsys, "runs", "data")
    assert (found["rows"], found["rows_in_all"], found["unit"], found["at_work"]) == (half, 2 * half, "bytes", False)
    assert found["path"] == "data/db-T.bin.run"
    assert found["title"] == f"{web.url}/db-T.bin to data/db-T.bin"
    assert run("runs", "data") == 0
    out = capsys.readouterr().out
    assert f"waiting; {half:,} of {2 * half:,} bytes done" in out
    command = out.splitlines()[-1].strip()
    assert command == f"cd {folder} && gpuknn data get db-T.bin {' '.join(HERE)} --quiet"
    assert run(*shlex.split(command)[4:]) == 0
    assert there() == content("db-T.bin")
    assert sum(one.sent for one in web.asked) == half
    assert run("runs", "data") == 0
    assert capsys.readouterr().out == "no unfinished runs in data\n"


def test_an_unfinished_download_is_resumed(web: Web) -> None:
    break_off(web)
    assert run("runs", "--resume", "data/db-T.bin.run") == 0
    assert there() == content("db-T.bin")
    assert [one.range for one in web.asked] == [(6_000, 12_000)]


def test_an_unfinished_download_is_removed_or_begun_anew(web: Web, capsys: pytest.CaptureFixture[str]) -> None:
    break_off(web)
    assert run("runs", "--remove", "data/db-T.bin.run") == 0
    assert there() == {}
    break_off(web)
    plan = told(capsys, "data", "get", "T", *HERE, "--dry-run", "--fresh")
    assert plan["bytes"] == len(FILES["db-T.bin"])
    assert told(capsys, "data", "get", "T", *HERE, "--dry-run")["bytes"] == len(FILES["db-T.bin"]) // 2
    assert run("data", "get", "T", *HERE, "--fresh", "--quiet") == 0
    assert sum(one.sent for one in web.asked) == len(FILES["db-T.bin"])
    assert there() == content("db-T.bin")


def test_an_unfinished_download_goes_on_from_a_mirror(web: Web) -> None:
    break_off(web)
    with serving({**FILES}) as mirror:
        assert run("data", "get", "T", *HERE, "--base-url", mirror.url, "--quiet") == 0
        assert sum(one.sent for one in mirror.asked) == len(FILES["db-T.bin"]) // 2
    assert (web.asked, there()) == ([], content("db-T.bin"))


def test_only_what_was_fetched_now_is_said_to_be_fetched(web: Web, capsys: pytest.CaptureFixture[str]) -> None:
    break_off(web)
    assert told(capsys, "data", "get", "T", *HERE)["fetched"] == len(FILES["db-T.bin"]) // 2


# Python


def test_download(web: Web, folder: Path) -> None:
    options: dict[str, Any] = {"catalogue": "c.toml", "data_dir": "data"}
    wanted = ["db-S.bin", "q-public.bin", "gold-S.bin", "meta-S.tsv"]
    events: list[Any] = []
    paths = gpuknn.download("S", queries="public", gold="f64", meta=True, progress=events.append, **options)
    assert paths == [Path("data", name) for name in wanted]
    assert there() == content(*wanted)
    assert [event["name"] for event in events if event["event"] == "file"] == wanted
    done = [event["bytes"] for event in events if event["event"] == "fetched"]
    assert done == sorted(done)
    assert done[-1] <= sum(len(FILES[name]) for name in wanted)
    assert gpuknn.download(["T", "loose.bin"], **options) == [Path("data/db-T.bin"), Path("data/loose.bin")]
    assert gpuknn.download(bundle="other", **options) == [Path("data/other-S.bin")]
    web.asked.clear()
    assert gpuknn.download("S", queries="public", gold="f64", meta=True, **options) == paths
    assert web.asked == []


def test_errors_of_download(web: Web, folder: Path) -> None:
    options: dict[str, Any] = {"catalogue": "c.toml", "data_dir": "data"}
    for wrong, said in (
        ({"what": ()}, "what: name a subset, a bundle, or a pattern of files' names"),
        ({"what": "U"}, "U: is no subset"),
        ({"what": "S", "bundle": "none"}, 'bundle="none": there are main'),
        ({"what": "S", "base_url": "ftp://h"}, "the mirror: 'ftp://h' is refused"),
    ):
        with pytest.raises(InputError, match=re.escape(said)):
            gpuknn.download(**wrong, **options)
    web.faults["db-S.bin"] = Fault(status=404)
    with pytest.raises(InputError, match="the server answers 404 Not Found"):
        gpuknn.download("S", **options)
    web.faults["db-T.bin"] = breaks_off(web, "db-T.bin")
    with pytest.raises(RunError, match="the connection broke"):
        gpuknn.download("T", **options)
    web.faults.clear()
    web.asked.clear()
    assert run("runs", "--resume", "data/db-T.bin.run") == 0
    assert there() == content("db-T.bin")
    assert [one.range for one in web.asked] == [(6_000, 12_000)]


def test_a_call_is_gone_on_with_by_its_command(web: Web, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options: dict[str, Any] = {"catalogue": "c.toml", "data_dir": "data", "base_url": web.url}
    web.faults["db-T.bin"] = breaks_off(web, "db-T.bin")
    with pytest.raises(RunError):
        gpuknn.download("T", bundle="main", queries="public", **options)
    (found,) = told(capsys, "runs", "data")
    words = ["--bundle", "main", "--queries", "public", "--base-url", web.url]
    words += ["--catalogue", str(folder / "c.toml"), "--data-dir", str(folder / "data")]
    assert found["command"] == ["data", "get", "T", *words]
