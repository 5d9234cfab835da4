"""`gpuknn data` and `--subset --download` as a user runs them, against a web server on this machine."""

import hashlib
import json
import os
import re
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

import gpuknn
from gpuknn.cli.main import main
from gpuknn.errors import InputError, RunError
from gpuknn.gold import read_gold
from gpuknn.jobs.download import server, transfer
from gpuknn.vectors import open_vectors
from tests.web import Fault, Web, serving

FILES = {
    "db-S.bin": bytes(range(256)) * 20,
    "db-T.bin": b"larger" * 2_000,
    "q-public.bin": b"public queries" * 9,
    "q-private.bin": b"private queries" * 9,
    "gold-S.bin": b"answers",
    "meta-S.tsv": b"captions\n",
    "other-S.bin": b"other" * 100,
    "loose.bin": b"nobody has published my md5 sum",
}
ROWS: list[dict[str, Any]] = [
    {
        "name": "db-S.bin",
        "bundle": "main",
        "kind": "database",
        "subset": "S",
        "rows": 20,
        "dims": 256,
        "dtype": "uint8",
    },
    {"name": "db-T.bin", "bundle": "main", "kind": "database", "subset": "T", "note": "larger"},
    {"name": "q-public.bin", "bundle": "main", "kind": "queries", "queries": "public"},
    {"name": "q-private.bin", "bundle": "main", "kind": "queries", "queries": "private"},
    {"name": "gold-S.bin", "bundle": "main", "kind": "gold", "subset": "S", "queries": "public", "gold": "f64"},
    {"name": "meta-S.tsv", "bundle": "meta", "kind": "meta", "subset": "S"},
    {"name": "other-S.bin", "bundle": "other", "kind": "database", "subset": "S"},
    {"name": "loose.bin", "bundle": "loose", "kind": "model"},
]
BUNDLES = ["main", "meta", "other", "loose"]
HERE = ["--catalogue", "c.toml", "--data-dir", "data"]


@pytest.fixture(autouse=True)
def without_proxies_and_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)
    for name, value in (("PAUSE", 0.001), ("HALVED_AFTER", 0.001), ("HASH_SECONDS", 0.001), ("ATTEMPTS", 2)):
        monkeypatch.setattr(transfer, name, value)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "home"))
    return tmp_path


@pytest.fixture
def web() -> Iterator[Web]:
    with serving({**FILES}) as web:
        write_catalogue(web.url)
        yield web


def write_catalogue(
    base_url: str, rows: list[dict[str, Any]] = ROWS, bundles: list[dict[str, str]] | None = None
) -> None:
    """c.toml; what FILES has of the rows' names has its size and, but for the loose one, its md5 sum."""
    sums = {name: {"md5": md5_of(content)} for name, content in FILES.items() if name != "loose.bin"}
    known = [
        {"bytes": len(FILES[row["name"]])} | sums.get(row["name"], {}) if row["name"] in FILES else {} for row in rows
    ]
    said = [
        ", ".join(f"{name} = {json.dumps(v)}" for name, v in (row | more).items())
        for row, more in zip(rows, known, strict=True)
    ]
    lines = "".join(f"  {{{line}}},\n" for line in said)
    of = bundles or [{"name": name, "metric": "l2"} for name in BUNDLES]
    all_bundles = ", ".join("{" + ", ".join(f"{n} = {json.dumps(v)}" for n, v in bundle.items()) + "}" for bundle in of)
    Path("c.toml").write_text(
        f'title = "Made"\nbase_url = "{base_url}"\nbundles = [{all_bundles}]\nfiles = [\n{lines}]\n'
    )


def md5_of(content: bytes) -> str:
    return hashlib.md5(content).hexdigest()


def run(*arguments: object) -> int:
    try:
        return main([str(a) for a in arguments])
    except SystemExit as left:
        return int(left.code or 0)


def told(capsys: pytest.CaptureFixture[str], *words: object) -> Any:
    """The JSON that a command writes to standard output."""
    capsys.readouterr()
    assert run(*words, "--json") == 0
    return json.loads(capsys.readouterr().out)


def refused(capsys: pytest.CaptureFixture[str], *words: object, code: int = 2) -> str:
    capsys.readouterr()
    assert run(*words) == code
    shown = capsys.readouterr()
    assert (shown.out, shown.err.count("\n")) == ("", 1)
    return shown.err


def states(capsys: pytest.CaptureFixture[str]) -> dict[str, str]:
    return {row["name"]: row["state"] for row in told(capsys, "data", "list", *HERE)}


def there(path: str = "data") -> dict[str, bytes]:
    """The files of a folder, and folders with None."""
    found = sorted(Path(path).iterdir()) if Path(path).exists() else []
    return {p.name: p.read_bytes() for p in found if p.name != ".gpuknn"}


def content(*names: str) -> dict[str, bytes]:
    return {name: FILES[name] for name in sorted(names)}


def lay(**contents: bytes) -> None:
    Path("data").mkdir(exist_ok=True)
    for name, text in contents.items():
        Path("data", name).write_bytes(text)


def damage(name: str) -> None:
    """Another byte, and the same size and time of change."""
    path = Path("data", name)
    before = path.stat()
    path.write_bytes(b"X" + path.read_bytes()[1:])
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)


def breaks_off(web: Web, name: str) -> list[Fault]:
    """Half of the file comes, and then nothing more."""
    whole = web.files[name]
    assert isinstance(whole, bytes)
    return [Fault(length_off=-(len(whole) // 2), drops=1e-12, times=1), Fault(drops=1, drops_within=1)]


def break_off(web: Web, name: str = "db-T.bin") -> None:
    """Have a download stop in the middle of a file, for good."""
    web.faults[name] = breaks_off(web, name)
    assert run("data", "get", name, *HERE, "--quiet") == 3
    web.faults.clear()
    web.asked.clear()


# get


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
    assert lines[0] == "gpuknn data: 2 files in data, 2 of them to fetch or to verify, 16.7 KiB"
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
    assert "2 files are missing: db-S.bin, q-public.bin" in said
    assert there() == content("db-T.bin")
    web.faults.clear()
    assert run("data", "get", "S", "--queries", "public", *HERE, "--quiet") == 0


def test_bytes_that_are_not_the_catalogues(web: Web, capsys: pytest.CaptureFixture[str]) -> None:
    web.files["db-S.bin"] = FILES["db-S.bin"][::-1]
    assert run("data", "get", "S", *HERE, "--quiet") == 3
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
    assert told(capsys, "data", "verify", "S", *HERE)["right"]
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
    for words in (["get", "S"], ["list"], ["verify"]):
        said = refused(capsys, "data", *words, *HERE)
        assert "data/db-S.bin: is in the way and no file; move it away" in said
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
    assert run("data", "get", "S", *HERE, "--quiet") == 2
    assert "data/db-S.bin: somebody has written a file of this name meanwhile" in capsys.readouterr().err
    assert there() == {"db-S.bin": b"mine"}


def test_a_folder_of_somebody_elses_is_left(web: Web, capsys: pytest.CaptureFixture[str]) -> None:
    Path("data/db-S.bin.run").mkdir(parents=True)
    Path("data/db-S.bin.run/mine").write_bytes(b"precious")
    for more in ([], ["--fresh"]):
        said = refused(capsys, "data", "get", "S", *HERE, *more, "--quiet")
        assert "data/db-S.bin.run: is not a run directory, it holds mine" in said
    assert Path("data/db-S.bin.run/mine").read_bytes() == b"precious"
    assert web.asked == []


# list


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
    assert lines[:2] == ["Made; data folder data", ""]
    assert lines[3].split() == ["db-S.bin", "main", "database", "S", "20", "x", "256", "uint8", "5", "KiB", "missing"]
    assert lines[4].split() == ["db-T.bin", "main", "database", "T", "11.7", "KiB", "begun,", "5.86", "KiB"]
    assert lines[7].split() == ["gold-S.bin", "main", "gold", "f64", "public", "S", "7", "B", "missing"]
    assert lines[3].index("5 KiB") == lines[2].index("size")
    assert lines[-2:] == ["", "db-T.bin: larger"]
    assert run("data", "list", *HERE, "--subset", "S", "--bundle", "main") == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()[3:]] == ["db-S.bin", "gold-S.bin"]
    assert "--subset U: there are S, T" in refused(capsys, "data", "list", *HERE, "--subset", "U")


def test_the_list_of_laion(capsys: pytest.CaptureFixture[str]) -> None:
    rows = told(capsys, "data", "list", "--data-dir", "data")
    assert len(rows) == 271
    assert {row["state"] for row in rows} == {"missing"}
    assert len(told(capsys, "data", "list", "--data-dir", "data", "--bundle", "clip768", "--subset", "10M")) == 5
    assert run("data", "list", "--data-dir", "data") == 0
    out = capsys.readouterr().out
    assert re.search(r"^img_emb_0000.npy to (img_emb_)?0111.npy +raw part +768 float16 +0 of 112 here$", out, re.M)
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
    assert [(line.split()[0], line.split()[-1]) for line in shown.out.splitlines()[1:]] == [
        ("db-S.bin", "verified"),
        ("db-T.bin", "wrong"),
        ("loose.bin", "here"),
    ]
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
        assert capsys.readouterr().out.split()[-1] == "wrong"
    os.utime("data/loose.bin", ns=(1, 1))  # somebody has written to it, and nobody knows what it should be
    assert run("data", "verify", "loose", *HERE) == 0
    assert run("data", "verify", "loose", *HERE) == 0


# Unfinished downloads


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


# A subset's gold standard in one command

SUBSET = ["exact", "--subset", "100K", *HERE, "-k", "7"]
OUTPUT = "laion2B-en-{}v2-n=100K-public-k=7-gpuknn.h5"


def vectors(bundle: str) -> tuple[np.ndarray, np.ndarray]:
    """A small database and queries, of the types that the bundle has."""
    rng = np.random.default_rng(0)
    if bundle == "hamming":
        rows = rng.integers(0, 2**64, (300, 16), np.uint64)
        return rows, rows[:9] ^ rng.integers(0, 2**9, (9, 16), np.uint64)
    rows = rng.standard_normal((300, int(bundle[-3:].lstrip("pca"))), np.float32)
    return rows.astype("f2" if bundle == "clip768" else "f4"), rows[:9] + rng.standard_normal(
        rows[:9].shape, np.float32
    )


def as_jld2(key: str, rows: np.ndarray) -> bytes:
    """A file as Julia writes it: 512 bytes before all, contiguous, no attributes."""
    with h5py.File("made.h5", "w", userblock_size=512) as file:
        file[key] = rows
    made = Path("made.h5").read_bytes()
    Path("made.h5").unlink()
    return b"HDF5-based Julia Data Format, version 0.1.1".ljust(512, b"\0") + made[512:]


@pytest.fixture
def laion(request: pytest.FixtureRequest) -> Iterator[Web]:
    """LAION2B's own names and rows, its files small; without a gold standard, as for projections."""
    files: dict[str, bytes | Path] = {}
    rows: list[dict[str, Any]] = []
    bundles = []
    for bundle, metric in (("clip768", "cosine"), ("pca32", "l2"), ("hamming", "hamming")):
        bundles.append({"name": bundle, "metric": metric})
        names = f"laion2B-en-{bundle}v2-n=100K.h5", f"public-queries-10k-{bundle}v2.h5"
        key = "emb" if bundle == "clip768" else bundle
        kinds: list[dict[str, Any]] = [{"kind": "database", "subset": "100K"}, {"kind": "queries", "queries": "public"}]
        for name, array, kind in zip(names, vectors(bundle), kinds, strict=True):
            made = as_jld2(key, array)
            files[name] = made
            shape = {"rows": len(array), "dims": array.shape[1], "dtype": str(array.dtype), "key": key}
            rows.append({"name": name, "bundle": bundle, **kind, **shape, "bytes": len(made), "md5": md5_of(made)})
    with serving(files) as web:
        write_catalogue(web.url, rows, bundles)
        yield web


@pytest.mark.parametrize(("bundle", "metric"), [("clip768", "cosine"), ("pca32", "l2"), ("hamming", "hamming")])
def test_from_nothing_to_the_gold_standard(
    bundle: str, metric: str, laion: Web, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [*SUBSET, *([] if bundle == "clip768" else ["--bundle", bundle]), "--quiet"]
    output = Path(OUTPUT.format(bundle))
    said = refused(capsys, *words)
    assert f"is missing (md5 {md5_of(laion.files[f'laion2B-en-{bundle}v2-n=100K.h5'])}" in said  # type: ignore[arg-type]
    assert laion.asked == []
    assert run(*words, "--download") == 0
    assert sorted(p.name for p in Path().iterdir()) == sorted(["c.toml", "data", output.name])
    fetched = [f"laion2B-en-{bundle}v2-n=100K.h5", f"public-queries-10k-{bundle}v2.h5"]
    assert [one.name for one in laion.asked] == fetched
    assert there() == {name: laion.files[name] for name in fetched}
    ids, dists = gpuknn.exact_knn(*vectors(bundle), k=7, metric=metric)
    gold = read_gold(output)
    assert gold.dists is not None
    assert np.array_equal(gold.ids, ids)
    assert gold.dists.tobytes() == dists.tobytes()
    with h5py.File(output) as file:
        assert file.attrs["metric"] == metric
        assert np.array_equal(file["knns"], ids + 1)
    laion.asked.clear()
    assert run(*words, "--download", "-o", "again.h5") == 0
    assert laion.asked == []
    with h5py.File(output) as file, h5py.File("again.h5") as again:
        assert np.array_equal(file["knns"], again["knns"])
        assert np.array_equal(file["dists"], again["dists"])


def test_a_plan_fetches_nothing(laion: Web, capsys: pytest.CaptureFixture[str]) -> None:
    plan = told(capsys, *SUBSET, "--download", "--dry-run")
    assert plan["to_fetch"] == ["laion2B-en-clip768v2-n=100K.h5", "public-queries-10k-clip768v2.h5"]
    assert plan["bytes"] == sum(len(made) for made in map(laion.files.get, plan["to_fetch"]) if isinstance(made, bytes))
    assert run(*SUBSET, "--download", "--dry-run") == 0
    assert "gpuknn data: 2 files in data, 2 of them to fetch" in capsys.readouterr().out
    assert laion.asked == []
    assert there() == {}
    assert run(*SUBSET, "--download", "--quiet") == 0
    assert told(capsys, *SUBSET, "--download", "--dry-run", "-o", "o.h5")["rows"] == 300
    assert not Path("o.h5").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["-o", "taken.h5"], "taken.h5: exists already; --force replaces it"),
        (["-o", "no/o.h5"], "no: there is no such folder"),
        (["-o", "o.npz"], "o.npz: its name tells no format"),
        (["-o", "d.h5"], "d.h5: is not a file; name one"),
        (["-k", "301"], "-k 301: the database has only 300 rows"),
        (["-k", "0"], "-k 0: must be at least 1"),
        (["--metric", "l2"], "--metric l2: this subset is searched under cosine"),
        (["--bundle", "pca32", "--metric", "cosine"], "this subset is searched under l2"),
        (["--bundle", "pca64"], "--bundle pca64: there are clip768, pca32, hamming"),
        (["--queries", "private"], "--queries private: there are public"),
        (["--subset", "10M"], "--subset 10M: there are sample, 100K"),
        (["--self"], "has its own queries"),
        (["db.npy", "q.npy"], "--subset 100K names the files; leave out db.npy"),
        (["--catalogue", "none.toml"], "none.toml: cannot be read as a catalogue"),
        (["--base-url", "ftp://h"], "the mirror: 'ftp://h' is refused"),
    ],
)
def test_what_is_wrong_is_said_before_anything_is_fetched(
    words: list[str], said: str, laion: Web, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("taken.h5").write_text("precious")
    Path("d.h5").mkdir()
    assert said in refused(capsys, *SUBSET, "--download", *words)
    assert laion.asked == []
    assert sorted(os.listdir()) == ["c.toml", "d.h5", "taken.h5"]
    assert Path("taken.h5").read_text() == "precious"


@pytest.mark.parametrize("verb", [["exact", "db.npy", "q.npy", "-o", "o.h5"], ["convert", "db.npy", "o.h5"]])
@pytest.mark.parametrize(
    "words", [["--download"], ["--bundle", "pca32"], ["--data-dir", "d"], ["--base-url", "http://h"]]
)
def test_options_of_a_subset_go_with_one(verb: list[str], words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert f"{words[0]}: goes with --subset; leave it out" in refused(capsys, *verb, *words)


def test_an_output_that_may_be_replaced(laion: Web) -> None:
    Path("taken.h5").write_text("old")
    assert run(*SUBSET, "--download", "-o", "taken.h5", "--force", "--quiet") == 0
    assert read_gold("taken.h5").shape == (9, 7)


def test_a_download_that_breaks_off_is_gone_on_with(laion: Web, capsys: pytest.CaptureFixture[str]) -> None:
    name = "laion2B-en-clip768v2-n=100K.h5"
    made = laion.files[name]
    assert isinstance(made, bytes)
    laion.faults[name] = breaks_off(laion, name)
    assert run(*SUBSET, "--download", "--quiet") == 3
    assert "the connection broke" in capsys.readouterr().err
    assert not Path(OUTPUT.format("clip768")).exists()
    laion.faults.clear()
    laion.asked.clear()
    assert run("runs", "--resume", f"data/{name}.run") == 0
    assert sum(one.sent for one in laion.asked if one.name == name) == len(made) - len(made) // 2
    assert read_gold(OUTPUT.format("clip768")).shape == (9, 7)


def test_wrong_bytes_are_not_searched(laion: Web, capsys: pytest.CaptureFixture[str]) -> None:
    name = "laion2B-en-clip768v2-n=100K.h5"
    made = laion.files[name]
    assert isinstance(made, bytes)
    lay(**{name: made[:-1] + b"X"})
    assert run(*SUBSET, "--download", "--quiet") == 2
    assert f"data/{name}: its md5 sum is {md5_of(made[:-1] + b'X')}" in capsys.readouterr().err
    assert Path("data", name).read_bytes() == made[:-1] + b"X"
    assert not Path(OUTPUT.format("clip768")).exists()


def test_from_a_mirror(laion: Web) -> None:
    with serving({f"m/{name}": made for name, made in laion.files.items()}) as mirror:
        assert run(*SUBSET, "--download", "--base-url", f"{mirror.url}/m", "--quiet") == 0
        assert len(mirror.asked) == 2
    assert laion.asked == []


@pytest.mark.parametrize("bundle", ["clip768", "pca32", "hamming"])
def test_convert(bundle: str, laion: Web) -> None:
    words = ["convert", "--subset", "100K", *HERE, "--bundle", bundle, "o.npy", "--quiet"]
    assert run(*words) == 2
    assert laion.asked == []
    assert run(*words, "--download") == 0
    rows, _ = vectors(bundle)
    assert open_vectors("o.npy")[:].tobytes() == rows.tobytes()
    assert np.load("o.npy").dtype == rows.dtype
    assert [one.name for one in laion.asked] == [f"laion2B-en-{bundle}v2-n=100K.h5"]


@pytest.mark.parametrize("to", ["taken.npy", "no/o.npy", "o.unknown"])
def test_convert_says_what_is_wrong_before_anything_is_fetched(to: str, laion: Web) -> None:
    Path("taken.npy").write_text("precious")
    assert run("convert", "--subset", "100K", *HERE, "--download", to, "--quiet") == 2
    assert laion.asked == []


def test_convert_leaves_what_is_there(laion: Web, capsys: pytest.CaptureFixture[str]) -> None:
    Path("taken.npy").write_text("precious")
    said = refused(capsys, "convert", "--subset", "100K", *HERE, "--download", "taken.npy", "--quiet")
    assert "taken.npy: exists already; --force replaces it" in said
    assert Path("taken.npy").read_text() == "precious"


def test_a_server_that_cannot_be_reached(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    with serving({}) as web:
        url = web.url
    monkeypatch.setattr(server, "CONNECT_SECONDS", 1.0)
    write_catalogue(url)
    assert f"failed: {url}/db-S.bin: the server cannot be reached" in refused(capsys, "data", "get", "S", *HERE, code=3)
    assert there() == {}
