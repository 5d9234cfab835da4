"""What `gpuknn doctor`, `gpuknn bench` and long runs have measured, kept for predictions."""

import contextlib
from dataclasses import dataclass
from pathlib import Path

import platformdirs
import yaml

from gpuknn.bench.processor import product_rate
from gpuknn.bench.reading import reading_rate
from gpuknn.engine.choose import usable_cores
from gpuknn.errors import InputError, option
from gpuknn.storage.durable import appearing
from gpuknn.vectors import Vectors

NAMES = {"product", "reading", "upload"}


@dataclass(frozen=True)
class Rates:
    """What one device does, of a processor one core; and the storage that all share."""

    product: float
    """Multiplications and additions a second of the filter's product."""
    reading: float
    """Bytes a second of the database's rows."""
    upload: float | None = None
    """Bytes a second to a GPU."""


def keep_rates(kind: str, **rates: float) -> None:
    """Remember rates of this machine's devices of a kind; a folder that cannot be written to is no reason to fail."""
    path, found = _kept(), {}
    with contextlib.suppress(InputError):  # missing or damaged: begun anew
        found = _read(path)
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        with appearing(path) as part:
            part.write_text(yaml.safe_dump(found | {kind: found.get(kind, {}) | rates}))


def rates_for(kind: str, database: Vectors, file: Path | None) -> Rates | None:
    """Rates to predict with: those of `file`, else those that were kept, else measured now and kept.

    A GPU's cannot be measured in passing: None if nobody has.  Raises InputError if the file is not one of rates.
    """
    known = _read(file).get(kind, {}) if file else {}
    if not known:
        with contextlib.suppress(InputError):  # missing or damaged: measured again
            known = _read(_kept()).get(kind, {})
    if "product" not in known:
        if kind != "cpu":
            return None
        rate = product_rate(rows=2048) / usable_cores()
        keep_rates(kind, product=rate)  # a long run will know better; a short one shall not wait for this again
        known = {"product": rate} | known
    return Rates(**{"reading": reading_rate(database)} | known)


def _kept() -> Path:
    return Path(platformdirs.user_cache_dir("gpuknn")) / "rates.yaml"


def _read(path: Path) -> dict[str, dict[str, float]]:
    try:
        found = yaml.safe_load(path.read_text())
    except Exception as error:  # YAML's constructors raise what they like
        raise InputError(f"{option('rates', path)}: cannot be read as YAML ({error})") from error
    if not isinstance(found, dict) or not all(map(_are_rates, found.values())):
        names = ", ".join(sorted(NAMES))
        raise InputError(
            f"{option('rates', path)}: must hold, under each device's name, some of {names}, all per second"
        )
    return dict(found)


def _are_rates(said: object) -> bool:
    return isinstance(said, dict) and all(
        name in NAMES and type(value) in (int, float) and value > 0 for name, value in said.items()
    )
