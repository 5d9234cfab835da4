import json
from pathlib import Path

import pytest

from gpuknn.cli.main import main
from gpuknn.laion import SAMPLE

SMALL = [
    *("bench", "--device", "cpu", "--rows", "900", "--queries", "20", "--components", "64", "-k", "1,10"),
    *("--repeat", "1", "--peers", ""),
]


def test_what_is_measured_adds_up(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*SMALL, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["machine"]["product"] > 0
    assert [m["k"] for m in told["measurements"]] == [1, 10]
    for m in told["measurements"]:
        assert m["pairs_refined"] >= 20 * m["k"]
        assert set(m["stages"]) == {"converting", "product", "select", "refine", "reading and waiting"}
        assert sum(m["stages"].values()) == pytest.approx(m["engine"], rel=0.5)


def test_a_file_and_hamming(capsys: pytest.CaptureFixture[str]) -> None:
    files = [str(SAMPLE / "database.h5"), str(SAMPLE / "queries.h5")]
    words = ["--rows", "500", "--queries", "9", "-k", "3", "--repeat", "1", "--peers", ""]
    assert main(["bench", "--device", "cpu", *files, *words]) == 0
    assert "product s" in capsys.readouterr().out
    assert main([*SMALL, "--metric", "hamming"]) == 0
    assert "product s" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["-k", "x"], "expected numbers"),
        (["-k", "901"], "must be from 1"),
        (["--rows", "0"], "--rows 0: must be"),
        (["--peers", "nobody"], "there are faiss, sklearn, usearch"),
        (["db.h5"], "name a file of queries"),
    ],
)
def test_what_is_wrong_is_said(options: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*SMALL, *options]) == 2
    assert said in capsys.readouterr().err


def test_a_plot_of_time_over_rows(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    assert main([*SMALL, "--plot", str(tmp_path / "growth.png")]) == 0
    assert (tmp_path / "growth.png").read_bytes().startswith(b"\x89PNG")
