"""What `gpuknn doctor` and `gpuknn bench` have measured, kept for `gpuknn exact` to predict with."""

import contextlib
import os
from pathlib import Path
from typing import TYPE_CHECKING

import platformdirs
import yaml

from gpuknn.errors import InputError

if TYPE_CHECKING:
    from gpuknn.jobs.exact.predict import Rates
    from gpuknn.vectors import Vectors

CPU = "cpu"
"""The name under which a core of this machine's processor is kept; GPUs have their own."""
NAMES = {"product", "reading", "upload"}


def keep_rates(device: str, **rates: float) -> None:
    """Remember rates of a device of this machine; a folder that cannot be written to is no reason to fail."""
    path, found = _kept(), {}
    with contextlib.suppress(InputError):  # missing or damaged: begun anew
        found = _read(path)
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        new = path.with_name(f"{path.name}.{os.getpid()}")
        new.write_text(yaml.safe_dump(found | {device: found.get(device, {}) | rates}))
        os.replace(new, path)


def rates_for(device: str, database: "Vectors", file: Path | None) -> "Rates | None":
    """Rates to predict with: those of `file`, else those that were kept, else measured now.

    A GPU's cannot be measured in passing: None where nobody has.  Raises InputError where the file is not one of rates.
    """
    from gpuknn.engine.choose import usable_cores
    from gpuknn.jobs.exact.predict import Rates, reading_rate

    device = CPU if device.startswith(CPU) else device
    known = _read(file).get(device, {}) if file else {}
    if not known:
        with contextlib.suppress(InputError):  # missing or damaged: measured again
            known = _read(_kept()).get(device, {})
    if "product" not in known:
        if device != CPU:
            return None
        from gpuknn.doctor.machine import product_rate

        known = {"product": product_rate(rows=2048) / usable_cores()} | known
    return Rates(**{"reading": reading_rate(database)} | known)


def _kept() -> Path:
    return Path(platformdirs.user_cache_dir("gpuknn")) / "rates.yaml"


def _read(path: Path) -> dict[str, dict[str, float]]:
    try:
        found = yaml.safe_load(path.read_text())
    except Exception as error:  # YAML's constructors raise what they like
        raise InputError(f"--rates {path}: cannot be read as YAML ({error})") from error
    if not isinstance(found, dict) or not all(map(_are_rates, found.values())):
        names = ", ".join(sorted(NAMES))
        raise InputError(f"--rates {path}: must hold, under each device's name, some of {names}, all per second")
    return dict(found)


def _are_rates(said: object) -> bool:
    return isinstance(said, dict) and all(
        name in NAMES and type(value) in (int, float) and value > 0 for name, value in said.items()
    )
