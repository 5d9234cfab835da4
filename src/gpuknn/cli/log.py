"""Structured log lines: what happens, one JSON object a line on standard error."""

import json
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any


def write_event(event: Mapping[str, Any]) -> None:
    """One line: the time (UTC), the event's name and its facts."""
    line = json.dumps({"time": datetime.now(UTC).isoformat(timespec="milliseconds"), **event}, default=str)
    sys.stderr.write(line + "\n")
