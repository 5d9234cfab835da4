from pathlib import Path

import pytest

from tests.build.parts import Part, made, write_raw


@pytest.fixture(scope="session")
def parts() -> list[Part]:
    pytest.importorskip("pyarrow")
    return made()


@pytest.fixture
def raw(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, parts: list[Part]) -> Path:
    monkeypatch.chdir(tmp_path)
    write_raw(Path("raw"), parts)
    return Path("raw")
