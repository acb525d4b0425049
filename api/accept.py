"""What a client would rather have, as its Accept header tells (RFC 9110, 12.5.1)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

PICTURES: Final = ("image/png", "image/webp", "image/jpeg")
"""What a tile comes as where its address does not say, best first."""


def weighed(header: str) -> list[tuple[str, float]]:
    """(media type or range, weight) of each that is named; parameters other than `q` are not looked at."""
    return [_weight(part) for part in header.lower().split(",") if part.strip()]


def _weight(part: str) -> tuple[str, float]:
    media, *parameters = (piece.strip() for piece in part.split(";"))
    text = next((one.partition("=")[2].strip() for one in parameters if one.startswith("q=")), "1")
    try:
        weight = float(text)
    except ValueError:
        weight = 1.0
    return media, weight if 0 <= weight <= 1 else 1.0


def preferred(header: str | None, offered: Sequence[str]) -> str | None:
    """Which of the media types that are offered, best first, is wanted most; None where none is.

    What names a type most closely weighs it: `image/png` before `image/*` before `*/*`.
    """
    if not header:
        return offered[0]
    asked = dict(reversed(weighed(header)))
    weights = [
        next((asked[name] for name in (media, f"{media.partition('/')[0]}/*", "*/*") if name in asked), 0.0)
        for media in offered
    ]
    best = max(weights)
    return offered[weights.index(best)] if best > 0 else None


def pictured(header: str | None) -> str:
    """What a tile comes as where its address does not say: PNG for whoever takes none of `PICTURES`, too."""
    return preferred(header, PICTURES) or PICTURES[0]
