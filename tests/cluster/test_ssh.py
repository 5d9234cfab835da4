"""A real sshd on loopback, with keys made for it: scheduler and workers are started through it and end with the run."""

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest
import yaml

from gpuknn.cli.main import main
from gpuknn.gold import read_gold
from tests.answers import dists_of

asyncssh = pytest.importorskip("asyncssh")
SSHD = shutil.which("sshd", path=os.environ.get("PATH", "") + ":/usr/sbin")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not SSHD, reason="there is no sshd (Debian: openssh-server)"),
]


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, object]]:
    """A cluster file for two workers behind an sshd that nobody else can enter."""
    folder = tmp_path_factory.mktemp("sshd")
    for name in ("host", "user"):
        key = asyncssh.generate_private_key("ssh-ed25519")
        key.write_private_key(folder / name)
        key.write_public_key(folder / f"{name}.pub")
        (folder / name).chmod(0o600)
    port = unused_port()
    (folder / "known").write_text(f"[127.0.0.1]:{port} {(folder / 'host.pub').read_text()}")
    (folder / "config").write_text(
        f"Port {port}\nListenAddress 127.0.0.1\nHostKey {folder}/host\nAuthorizedKeysFile {folder}/user.pub\n"
        "PidFile none\nStrictModes no\nPasswordAuthentication no\nUsePAM no\n"
    )
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)  # where sshd, as root, locks itself in
    assert SSHD
    sshd = subprocess.Popen([SSHD, "-D", "-e", "-f", folder / "config"], stderr=subprocess.PIPE, text=True)
    try:
        assert sshd.stderr
        said = sshd.stderr.readline()
        assert "listening" in said, said
        yield {
            "kind": "ssh",
            "hosts": ["127.0.0.1"] * 3,
            "cores": 1,
            "interface": "lo",
            "connect": {
                "port": port,
                "client_keys": [str(folder / "user")],
                "known_hosts": str(folder / "known"),
                "config": [],
            },
        }
    finally:
        sshd.terminate()
        sshd.communicate()


def unused_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@pytest.fixture
def words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.chdir(tmp_path)
    rows = np.random.default_rng(0).standard_normal((900, 16)).astype(np.float16)
    np.save("db.npy", rows)
    np.save("q.npy", rows[:30].astype(np.float32))
    return ["exact", "db.npy", "q.npy", "-k", "9", "--cluster", "ssh.yaml", "-o"]


def started_over_ssh() -> list[psutil.Process]:
    """Schedulers and nannies, that is; they are not children of this process."""
    found = psutil.process_iter(["cmdline"])
    return [p for p in found if "distributed.cli.dask_spec" in " ".join(p.info["cmdline"] or [])]


def all_ended() -> bool:
    return not psutil.wait_procs(started_over_ssh(), timeout=60)[1]


def test_the_same_bytes_over_ssh(
    settings: dict[str, object], words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    Path("ssh.yaml").write_text(yaml.safe_dump(settings))
    assert main([*words, "x.h5", "--dry-run"]) == 0
    assert not started_over_ssh()
    assert "the plan counts on the 2 workers" in capsys.readouterr().err
    assert main(["exact", "db.npy", "q.npy", "-k", "9", "-o", "here.h5"]) == 0
    assert main([*words, "there.h5", "--shard-rows", "90", "--json"]) == 0
    assert '"workers": 2' in capsys.readouterr().out
    here, there = read_gold(Path("here.h5")), read_gold(Path("there.h5"))
    assert np.array_equal(here.ids, there.ids)
    assert np.array_equal(dists_of(here), dists_of(there))
    assert all_ended()


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"python": "/nowhere/python"}, "/nowhere/python"),
        ({"connect": {"username": "nobody"}}, "Permission denied for user nobody"),
        ({"connect": {"client_keys": []}}, "Permission denied"),
        ({"connect": {"known_hosts": os.devnull}}, "Host key is not trusted"),
        ({"connect": {"colour": "red"}}, "unexpected keyword argument 'colour'"),
        ({"interface": "nowhere0"}, "'nowhere0' is not a valid network interface"),
    ],
)
def test_what_is_wrong_over_there_is_said(
    wrong: dict[str, object],
    said: str,
    settings: dict[str, object],
    words: list[str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    if "connect" in wrong:
        wrong = {"connect": {**settings["connect"], **wrong["connect"]}}  # type: ignore[dict-item]
    Path("ssh.yaml").write_text(yaml.safe_dump({**settings, **wrong}))
    assert main([*words, "x.h5"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("gpuknn: error: ssh.yaml: the cluster did not start (")
    assert said in error
    assert all_ended()


def test_a_killed_client_takes_its_cluster_along(settings: dict[str, object], words: list[str]) -> None:
    Path("ssh.yaml").write_text(yaml.safe_dump(settings))
    client = subprocess.Popen([sys.executable, "-m", "gpuknn", *words, "x.h5", "--shard-rows", "1"])
    while not list(Path().glob("x.h5.run/*/*-*.json")):
        assert client.poll() is None
        time.sleep(0.05)
    assert len(started_over_ssh()) == 3
    client.kill()
    client.wait()
    assert all_ended()
