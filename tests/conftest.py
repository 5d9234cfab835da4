import pytest

from gpuknn.exact import cpu


@pytest.fixture
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tiles, blocks and epochs so small that small data go through every path."""
    monkeypatch.setattr(cpu, "TILE_ROWS", 32)
    monkeypatch.setattr(cpu, "BLOCK_QUERIES", 3)
    monkeypatch.setattr(cpu, "EPOCH_VALUES", 1)
