"""The certificate of a search as attributes of the file that holds its answer."""

from collections.abc import Mapping
from typing import Any

from gpuknn.engine.neighbors import Certificate

REFINED = "; every pair within the proven error of the answer was refined"
"""What a file says after the method."""


def said_of_certificate(certificate: Certificate) -> dict[str, str | int | float]:
    """The attributes."""
    return {
        "certificate": f"{certificate.method}{REFINED}",
        "certificate_bound": certificate.bound,
        "certificate_pairs_refined": certificate.pairs_refined,
        "certificate_smallest_margin": certificate.smallest_margin,
    }


def certificate_said(said: Mapping[str, Any]) -> Certificate:
    """The certificate that a file's attributes tell; raises KeyError if one is missing."""
    bound, pairs, margin = (said[f"certificate_{name}"] for name in ("bound", "pairs_refined", "smallest_margin"))
    return Certificate(said["certificate"].removesuffix(REFINED), bound, pairs, margin)
