"""Small published files, their catalogue, and what tests do with them."""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from gpuknn.cli.main import main
from tests.web import Fault, Web

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
