"""Zarr in an object store: the same rows, and failures in one line."""

import pickle
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pytest
import zarr

import gpuknn
from gpuknn.errors import InputError, RunError
from gpuknn.storage import location
from gpuknn.storage.location import object_store
from gpuknn.vectors import content_fingerprint, file_state, open_vectors, sampled
from gpuknn.vectors.zarr import ZarrVectors, store_of

ROWS = np.random.default_rng(0).standard_normal((1100, 6)).astype("f2")


def write(url: str, rows: np.ndarray = ROWS, **options: Any) -> str:
    array = zarr.create_array(
        store_of(url),
        shape=rows.shape,
        dtype=rows.dtype,
        chunks=(50, 6),
        overwrite=True,
        **options,
    )
    array[:] = rows
    return url


@pytest.mark.slow
@pytest.mark.parametrize("options", [{"shards": (500, 6), "compressors": None}, {}, {"zarr_format": 2}], ids=str)
@pytest.mark.parametrize("end", ["", "/"])
def test_rows_from_an_object_store(options: dict[str, Any], end: str, bucket: str) -> None:
    vectors = pickle.loads(pickle.dumps(open_vectors(write(f"{bucket}/some/rows.zarr{end}", **options))))
    assert isinstance(vectors, ZarrVectors)
    assert np.array_equal(vectors[:], ROWS)
    assert np.array_equal(vectors[498:777], ROWS[498:777])


@pytest.mark.slow
def test_an_array_of_a_group(bucket: str) -> None:
    group = zarr.open_group(store_of(f"{bucket}/g"), mode="w")
    group.create_array("emb", data=ROWS)
    group.create_array("other", data=ROWS[:7])
    assert np.array_equal(open_vectors(f"{bucket}/g")[:], ROWS)
    assert np.array_equal(open_vectors(f"{bucket}/g", key="other")[:], ROWS[:7])


@pytest.mark.slow
def test_neighbours_from_an_object_store(bucket: str) -> None:
    found = gpuknn.exact_knn(open_vectors(write(f"{bucket}/rows")), ROWS[:5], k=3, device="cpu")
    assert np.array_equal(found.ids, gpuknn.exact_knn(ROWS, ROWS[:5], k=3, device="cpu").ids)


@pytest.mark.slow
def test_identity_sees_every_object(bucket: str, tmp_path: Path) -> None:
    url = write(f"{bucket}/rows")
    before = open_vectors(url)
    assert sampled(before) == sampled(open_vectors(url))
    assert content_fingerprint(before) == content_fingerprint(open_vectors(write(str(tmp_path / "rows"))))
    state = file_state(before)
    changed = ROWS.copy()
    changed[-1, -1] += 1
    write(url, changed)  # within the second that a time of change may be rounded to
    assert file_state(before) != state


@pytest.mark.slow
def test_a_missing_object_is_noticed(bucket: str) -> None:
    url = write(f"{bucket}/rows")
    object_store(url).delete("c/3/0")
    with pytest.raises(InputError, match="1 of 22 chunks are missing"):
        open_vectors(url)


@pytest.mark.slow
def test_failures_while_it_is_read_do_not_end_a_run_for_good(bucket: str) -> None:
    url = write(f"{bucket}/rows")
    vectors = open_vectors(url)
    object_store(url).put("c/3/0", b"short")
    with pytest.raises(RunError, match="rows 150 to 200 cannot be read"):
        vectors[150:170]


@pytest.mark.slow
def test_what_is_wrong_is_said_in_one_line(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    cases = {
        f"{bucket}/nothing": "there is nothing of that name",
        f"{bucket}/something": "is not a readable Zarr array or group",
        "s3://no-such-bucket/rows": r"cannot be listed \(.*404",
        "ftp://host/rows": "there are object stores at s3://, gs://, az://; download anything else",
        "s3://": "s3://: ",
    }
    object_store(f"{bucket}/something").put("else", b"")
    for url, words in cases.items():
        with pytest.raises(InputError, match=words) as failure:
            open_vectors(url)
        assert "\n" not in str(failure.value)
    monkeypatch.setitem(sys.modules, "obstore.store", None)
    with pytest.raises(InputError, match="install it with: pip install 'obstore>="):
        open_vectors(f"{bucket}/rows")


class Answers(BaseHTTPRequestHandler):
    """A store that answers every request with the status that its server was given."""

    def do_GET(self) -> None:
        self.send_response(self.server.status)  # type: ignore[attr-defined]
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def broken_store(monkeypatch: pytest.MonkeyPatch) -> Iterator[HTTPServer]:
    pytest.importorskip("obstore")
    with HTTPServer(("127.0.0.1", 0), Answers) as server:
        thread = Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        settings = {"ENDPOINT_URL": f"http://127.0.0.1:{server.server_port}", "ALLOW_HTTP": "true"}
        for name, value in {**settings, "ACCESS_KEY_ID": "name", "SECRET_ACCESS_KEY": "secret"}.items():
            monkeypatch.setenv(f"AWS_{name}", value)
        yield server
        server.shutdown()
        thread.join()


@pytest.mark.parametrize(
    ("status", "kind"), [(301, InputError), (400, InputError), (403, InputError), (404, InputError), (409, RunError)]
)
def test_a_store_that_does_not_answer_is_asked_again(
    status: int, kind: type[Exception], broken_store: HTTPServer
) -> None:
    broken_store.status = status  # type: ignore[attr-defined]
    with pytest.raises(kind, match="s3://bucket/rows: cannot be listed"):
        open_vectors("s3://bucket/rows")
    opened = ZarrVectors("s3://bucket/rows", None, (9, 2), np.dtype("f4"), 3)
    with pytest.raises(RunError, match="cannot be listed"):
        file_state(opened)


def test_paths_and_urls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert location.location("s3://bucket/rows") == "s3://bucket/rows"
    assert location.location("rows.h5") == Path("rows.h5")
    assert location.absolute("s3://bucket/rows") == "s3://bucket/rows"
    assert location.absolute("rows.h5") == str(tmp_path / "rows.h5")
