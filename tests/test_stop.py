"""Tasks that are asked to stop, on a cluster in this process."""

from collections.abc import Iterator
from threading import Event

import pytest
from distributed import Client, LocalCluster

from gpuknn.workers.stop import ask_to_stop, is_to_stop

BEGUN = Event()


@pytest.fixture
def client() -> Iterator[Client]:
    BEGUN.clear()
    with (
        LocalCluster(processes=False, n_workers=1, threads_per_worker=1, dashboard_address="127.0.0.1:0") as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        yield client


def until_stopped(name: str) -> str:
    BEGUN.set()
    while not is_to_stop():
        pass
    return name


def test_a_task_under_way_ends_and_is_told_from_those_that_wait(client: Client) -> None:
    first, second = (client.submit(until_stopped, name, key=name, priority=-i) for i, name in enumerate("ab"))
    assert BEGUN.wait(30)
    assert ask_to_stop(client, ["a", "b"]) == {"a"}
    assert first.result(timeout=30) == "a"
    assert second.result(timeout=30) == "b", "it ends at once if it begins"


def test_a_task_that_is_taken_back_ends(client: Client) -> None:
    task = client.submit(until_stopped, "c", key="c")
    assert BEGUN.wait(30)
    task.cancel()
    assert client.submit(str, 1).result(timeout=30) == "1", "the thread is free"


def test_a_cluster_that_has_no_workers(client: Client) -> None:
    client.retire_workers()
    assert ask_to_stop(client, ["d"]) == set()
