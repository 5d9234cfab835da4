"""The Kubernetes manifests and compose files: valid by the published schemas, closed where they should be, and run."""

import copy
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from gpuknn.cli.main import main
from gpuknn.gold import read_gold
from gpuknn.workers.cluster_file import Running, read_cluster
from tests.answers import dists_of

CLUSTER = Path(__file__).parents[2] / "cluster"
MANIFESTS = sorted((CLUSTER / "kubernetes").glob("*.yaml"))
COMPOSE = CLUSTER / "docker" / "compose.yaml"
COMPOSE_CUDA = CLUSTER / "docker" / "compose.cuda.yaml"
KUBERNETES = "1.34"

Manifest = dict[str, Any]


def manifests(kind: str | None = None) -> list[Manifest]:
    every = [m for file in MANIFESTS for m in yaml.safe_load_all(file.read_text()) if m["kind"] != "Kustomization"]
    return [m for m in every if kind in (None, m["kind"])]


def pods() -> dict[str, Manifest]:
    """Specifications of pods, by the name of what makes them."""
    return {
        m["metadata"]["name"]: m["spec"]["template"]["spec"] for m in manifests() if m["kind"] in ("Deployment", "Job")
    }


def container(name: str) -> Manifest:
    (only,) = pods()[name]["containers"]
    return dict(only)


def test_manifests_follow_the_published_schemas() -> None:
    validate = pytest.importorskip("kubernetes_validate").validate
    assert len(manifests()) == 8
    for manifest in manifests():
        validate(manifest, KUBERNETES, strict=True)


@pytest.mark.parametrize(
    "plant",
    [
        lambda pod: pod["containers"][0].update(imagee="gpuknn"),
        lambda pod: pod["containers"][0].update(command="gpuknn"),
        lambda pod: pod["containers"][0].pop("name"),
        lambda pod: pod["containers"][0]["resources"].update(limit={"cpu": "1"}),
        lambda pod: pod["securityContext"].update(runAsNonRoot="yes"),
        lambda pod: pod["volumes"][0].update(persistentVolumeClaim="gpuknn-data"),
    ],
)
def test_planted_errors_are_noticed(plant: Callable[[Manifest], object]) -> None:
    kubernetes_validate = pytest.importorskip("kubernetes_validate")
    for manifest in [*manifests("Deployment"), *manifests("Job")]:
        wrong = copy.deepcopy(manifest)
        plant(wrong["spec"]["template"]["spec"])
        with pytest.raises(kubernetes_validate.ValidationError):
            kubernetes_validate.validate(wrong, KUBERNETES, strict=True)


def test_pods_are_closed() -> None:
    """No secrets, no root, no rights, bounded resources; only gpuknn's own pods reach them."""
    assert {m["kind"] for m in manifests()} == {
        *("PersistentVolumeClaim", "Service", "NetworkPolicy", "Deployment", "ConfigMap", "Job")
    }
    assert len(pods()) == 4
    for pod in pods().values():
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["automountServiceAccountToken"] is False
        (only,) = pod["containers"]
        assert only["securityContext"]["allowPrivilegeEscalation"] is False
        assert only["securityContext"]["capabilities"] == {"drop": ["ALL"]}
        assert {"cpu", "memory"} <= {*only["resources"]["limits"]}
    (policy,) = manifests("NetworkPolicy")
    assert policy["spec"]["podSelector"] == policy["spec"]["ingress"][0]["from"][0]["podSelector"]
    for manifest in [*manifests("Deployment"), *manifests("Job")]:
        assert policy["spec"]["podSelector"]["matchLabels"].items() <= labels(manifest).items()


def labels(manifest: Manifest) -> dict[str, str]:
    return dict(manifest["spec"]["template"]["metadata"]["labels"])


def test_manifests_refer_to_each_other(tmp_path: Path) -> None:
    (service,) = manifests("Service")
    (claim,) = manifests("PersistentVolumeClaim")
    (settings,) = manifests("ConfigMap")
    names = {m["metadata"]["name"]: m for m in manifests("Deployment")}
    assert service["spec"]["selector"] == labels(names["gpuknn-scheduler"])
    for manifest in names.values():
        assert manifest["spec"]["selector"]["matchLabels"] == labels(manifest)
    for pod in pods().values():
        for volume in pod["volumes"]:
            assert volume.get("persistentVolumeClaim", {}).get("claimName") in (None, claim["metadata"]["name"])
            assert volume.get("configMap", {}).get("name") in (None, settings["metadata"]["name"])
        mounted = {mount["name"] for mount in pod["containers"][0]["volumeMounts"]}
        assert mounted == {volume["name"] for volume in pod["volumes"]}
    (tmp_path / "cluster.yaml").write_text(settings["data"]["cluster.yaml"])
    source = read_cluster(str(tmp_path / "cluster.yaml"))
    assert isinstance(source, Running)
    assert source.where == f"tcp://{service['metadata']['name']}:{service['spec']['ports'][0]['port']}"
    for name in ("gpuknn-workers-gpu", "gpuknn-workers-cpu"):
        assert source.where in container(name)["command"]
        assert source.workers == names[name]["spec"]["replicas"]
    gpu, cpu = container("gpuknn-workers-gpu"), container("gpuknn-workers-cpu")
    assert gpu["resources"]["limits"]["nvidia.com/gpu"] == 1
    assert option(cpu["command"], "--nthreads") == cpu["resources"]["limits"]["cpu"]


def option(command: list[str], name: str) -> str:
    return command[command.index(name) + 1]


def test_workers_are_started_as_the_engine_wants_them() -> None:
    services = {**yaml.safe_load(COMPOSE.read_text())["services"]}
    cuda = yaml.safe_load(COMPOSE_CUDA.read_text())["services"]
    gpu = [container("gpuknn-workers-gpu")["command"], cuda["worker"]["command"]]
    cpu = [container("gpuknn-workers-cpu")["command"], services["worker"]["command"]]
    for command in gpu + cpu:
        assert option(command, "--memory-limit") == "0"
        assert option(command, "--dashboard-address") == "127.0.0.1:0"
    for command in gpu:
        assert command[:3] == ["dask", "cuda", "worker"]
        assert (option(command, "--resources"), option(command, "--nthreads")) == ("GPU=1", "1")
    for command in cpu:
        assert command[:2] == ["dask", "worker"]
        assert "--resources" not in command
    published = [port for service in services.values() for port in service.get("ports", [])]
    assert published == ["127.0.0.1:8787:8787"]


def compose_command() -> list[str]:
    if shutil.which("docker-compose"):
        return ["docker-compose"]
    if shutil.which("docker") and not subprocess.run(["docker", "compose", "version"], capture_output=True).returncode:
        return ["docker", "compose"]
    pytest.skip("there is no docker-compose")


def test_compose_files_follow_the_published_schema(tmp_path: Path) -> None:
    command = compose_command()
    for files in ([COMPOSE], [COMPOSE, COMPOSE_CUDA]):
        words = [word for file in files for word in ("-f", str(file))]
        done = subprocess.run([*command, *words, "config", "-q"], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    for right, wrong in (("cap_drop", "cap_dropp"), ("retries: 30", "retries: often"), ("[ALL]", "{ALL: 1}")):
        planted = COMPOSE.read_text().replace(right, wrong)
        assert planted != COMPOSE.read_text()
        (tmp_path / "compose.yaml").write_text(planted)
        done = subprocess.run(
            [*command, "-f", tmp_path / "compose.yaml", "config", "-q"], capture_output=True, text=True
        )
        assert done.returncode != 0


def test_dockerfiles_copy_what_is_there() -> None:
    for name in ("Dockerfile", "Dockerfile.cuda"):
        lines = [line.split() for line in (CLUSTER / "docker" / name).read_text().splitlines()]
        copied = [source for words in lines if words[:1] == ["COPY"] for source in words[1:-1]]
        assert copied
        assert all((CLUSTER.parent / source).exists() for source in copied)
        assert ["USER", "1000"] in lines


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    rows = np.random.default_rng(0).standard_normal((900, 16)).astype(np.float16)
    np.save("database.npy", rows)
    np.save("queries.npy", rows[:30].astype(np.float32))
    return tmp_path


@pytest.mark.slow
def test_the_commands_of_the_manifests_work(data: Path) -> None:
    """As they stand, but for the hosts' names, the folder, the port, and a small database of another format."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])

    def here(text: str) -> str:
        for there, local in (
            ("gpuknn-scheduler", "127.0.0.1"),
            ("8786", port),
            ("8787", "0"),
            ("/data/", f"{data}/"),
            ("/etc/gpuknn/", f"{data}/"),
            ("database.h5", "database.npy"),
            ("queries.h5", "queries.npy"),
            ("workers: 4", f"workers: 1\nport: {port}"),
        ):
            text = text.replace(there, local)
        return text

    def words(command: list[str]) -> list[str]:
        program = {"dask": "dask", "gpuknn": "gpuknn"}[command[0]]
        return [sys.executable, "-m", program, *map(here, command[1:])]

    (settings,) = manifests("ConfigMap")
    Path("cluster.yaml").write_text(here(settings["data"]["cluster.yaml"]))
    job = container("gpuknn")
    only_here = ["--host", "127.0.0.1"]
    # The job comes first: it has to wait for the scheduler, as where images have to be fetched.
    commands = [
        words([*job["command"], *job["args"]]),
        words(container("gpuknn-workers-cpu")["command"]) + only_here,
        words(container("gpuknn-scheduler")["command"]) + only_here,
    ]
    running = [subprocess.Popen(command) for command in commands]
    try:
        assert running[0].wait(timeout=300) == 0
    finally:
        for process in running:
            process.terminate()
            process.wait()
    assert main(["exact", "database.npy", "queries.npy", "-o", "here.h5"]) == 0
    here_gold, there_gold = read_gold(Path("here.h5")), read_gold(Path("gold.h5"))
    assert np.array_equal(here_gold.ids, there_gold.ids)
    assert np.array_equal(dists_of(here_gold), dists_of(there_gold))


def test_compose_starts_what_the_manifests_start() -> None:
    services = yaml.safe_load(COMPOSE.read_text())["services"]

    def alike(command: list[str]) -> list[str]:
        return [word.replace("gpuknn-scheduler", "scheduler").replace("${CORES:-4}", "8") for word in command]

    assert alike(services["worker"]["command"]) == alike(container("gpuknn-workers-cpu")["command"])
    scheduler = container("gpuknn-scheduler")["command"]
    assert services["scheduler"]["command"] == [word.replace("127.0.0.1:8787", ":8787") for word in scheduler]
    cuda = yaml.safe_load(COMPOSE_CUDA.read_text())["services"]
    assert alike(cuda["worker"]["command"]) == alike(container("gpuknn-workers-gpu")["command"])
    job = services["job"]["command"]
    assert job[:2] == ["gpuknn", "exact"]
    assert option(job, "--cluster") == "tcp://scheduler:8786"
