from pathlib import Path

import numpy as np
import pytest

from tests.project.data import made


@pytest.fixture(autouse=True)
def rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> np.ndarray:
    """In a folder of its own: a database."""
    monkeypatch.chdir(tmp_path)
    found = made()
    np.save("rows.npy", found)
    return found
