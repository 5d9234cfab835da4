"""Raw parts as clip-retrieval writes them, small, and what a bundle of them must hold, as plainly as can be."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

D, ROWS, GROUP = 12, 300, 70
PARTS = 12
KINDS = ("NSFW", "UNLIKELY", "UNSURE", "", "nsfw", None)
CAPTIONS = ("a plain one", 'says "so"', "with\ta tab", "two\nlines", '"', "", None, "carriage\rreturn", "grün, 猫")
COLUMNS = ("caption", "NSFW", "LICENSE", "url")
DATABASE, META, QUERIES = "laion2B-en-clip768v2-n=10M.h5", "meta-10M.tsv", "public-queries-10k-clip768v2.h5"


@dataclass(frozen=True)
class Part:
    """What a part holds."""

    rows: np.ndarray
    columns: dict[str, list[Any]]


def made(seed: int = 0, parts: int = PARTS, d: int = D) -> list[Part]:
    """Parts of different lengths; a tenth of the rows of part 0 have near duplicates in others."""
    rng = np.random.default_rng(seed)
    found: list[Part] = []
    for number in range(parts):
        n = ROWS + 10 * number
        rows = rng.standard_normal((n, d)).astype("f2")
        if number:
            for i in range(12):  # of each of ten rows of part 0
                rows[10 * i : 10 * i + 10] = found[0].rows[:10]
        columns: dict[str, list[Any]] = {
            "image_path": [f"{i:09d}" for i in range(n)],
            "caption": [CAPTIONS[i] for i in rng.integers(0, len(CAPTIONS), n)],
            "NSFW": [KINDS[i] for i in rng.choice(len(KINDS), n, p=[0.1, 0.6, 0.1, 0.05, 0.05, 0.1])],
            "similarity": rng.random(n).tolist(),
            "LICENSE": [None if i % 3 else "CC" for i in range(n)],
            "url": [f"http://example.org/{number}/{i}.jpg" for i in range(n)],
        }
        if number % 2:  # in another order, and one more
            columns = {"punsafe": rng.integers(0, 3, n).tolist(), **dict(reversed(columns.items()))}
        found.append(Part(rows, columns))
    return found


def write_raw(folder: Path, parts: Sequence[Part], suffix: str = "npy", digits: int = 4, apart: bool = False) -> Path:
    """The parts as files."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    vectors, metadata = (folder / "img_emb", folder / "metadata") if apart else (folder, folder)
    for place in (vectors, metadata):
        place.mkdir(parents=True, exist_ok=True)
    for number, part in enumerate(parts):
        path = vectors / f"img_emb_{number:0{digits}d}.{suffix}"
        if suffix == "npy":
            np.save(path, part.rows)
        elif suffix == "npz":
            (np.savez if number % 2 else np.savez_compressed)(path, part.rows)
        else:
            with h5py.File(path, "w") as file:
                file.create_dataset("emb", data=part.rows, **({"compression": "gzip"} if number % 2 else {}))
        table = pa.table({name: pa.array(values) for name, values in part.columns.items()})
        pq.write_table(table, metadata / f"metadata_{number:0{digits}d}.parquet", row_group_size=GROUP)
    return folder


def is_kept(nsfw: str | None, missing: bool = False) -> bool:
    """The organisers' rule."""
    return missing if nsfw is None else nsfw != "NSFW"


def expected_rows(parts: Sequence[Part], missing: bool = False) -> np.ndarray:
    """The database's rows."""
    return np.concatenate([p.rows[[is_kept(value, missing) for value in p.columns["NSFW"]]] for p in parts])


def expected_captions(parts: Sequence[Part], missing: bool = False, columns: Sequence[str] = COLUMNS) -> bytes:
    """The captions, as CSV.jl writes them."""
    lines = ["\t".join(columns)]
    for part in parts:
        for i, nsfw in enumerate(part.columns["NSFW"]):
            if is_kept(nsfw, missing):
                lines.append("\t".join(cell(part.columns[name][i]) for name in columns))
    return "".join(f"{line}\n" for line in lines).encode()


def cell(value: Any) -> str:
    """A value of a line."""
    text = "" if value is None else str(value)
    return '"' + text.replace('"', '""') + '"' if any(letter in text for letter in '"\t\n') else text
