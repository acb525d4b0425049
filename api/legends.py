"""A legend as a small picture, for clients that show one beside the map: SVG, which needs no fonts and no libraries."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final
from xml.sax.saxutils import escape, quoteattr

WIDTH: Final = 300
_EDGE: Final = 12
_INK: Final = {"red": "#d22f27", "green": "#2e8b3d", "blue": "#2f5fd0"}
_TICKS: Final = (0.0, 0.25, 0.5, 0.75, 1.0)


def drawn(legend: Mapping[str, Any]) -> str:
    """An SVG document of a view's legend: its title, and a ramp with numbers along it or a row for each colour."""
    rows = list(_ramp(legend) if "colours" in legend else _channels(legend))
    height = 30 + sum(tall for tall, _ in rows) + _EDGE
    body, top = [_text(_EDGE, 22, legend["title"], size=14, weight=600)], 30
    for tall, draw in rows:
        body.append(f'<g transform="translate(0 {top})">{draw}</g>')
        top += tall
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" viewBox="0 0 {WIDTH} {height}" '
        f'font-family="system-ui, sans-serif" role="img" aria-label={quoteattr(legend["title"])}>'
        f"<title>{escape(legend['title'])}</title><desc>{escape(legend['text'])}</desc>"
        f'<rect width="{WIDTH}" height="{height}" rx="6" fill="#fff"/>{"".join(body)}</svg>\n'
    )


def _ramp(legend: Mapping[str, Any]) -> Iterator[tuple[int, str]]:
    """(height, SVG) of the words at both ends, the colours, and the numbers below them."""
    width, (low, high) = WIDTH - 2 * _EDGE, legend["range"]
    ends = legend.get("labels")
    if ends:
        yield 18, _text(_EDGE, 12, ends[0]) + _text(WIDTH - _EDGE, 12, ends[1], anchor="end")
    last = len(legend["colours"]) - 1
    stops = "".join(
        f'<stop offset="{index / last:g}" stop-color="{colour}"/>' for index, colour in enumerate(legend["colours"])
    )
    yield (
        18,
        (
            f'<defs><linearGradient id="ramp">{stops}</linearGradient></defs>'
            f'<rect x="{_EDGE}" width="{width}" height="14" rx="3" fill="url(#ramp)"/>'
        ),
    )
    anchors = ("start", "middle", "middle", "middle", "end")
    marks = (
        _text(_EDGE + t * width, 12, f"{low + t * (high - low):.4g}", anchor=a)
        for t, a in zip(_TICKS, anchors, strict=True)
    )
    yield 18, "".join(marks)
    if legend.get("unit"):
        yield 16, _text(_EDGE, 12, legend["unit"])


def _channels(legend: Mapping[str, Any]) -> Iterator[tuple[int, str]]:
    """(height, SVG) of a row for each of red, green and blue."""
    for channel in legend.get("channels", ()):
        low, high = channel["range"]
        share = f", {channel['explained']:.0%} of the variance" if channel.get("explained") is not None else ""
        yield (
            20,
            (
                f'<rect x="{_EDGE}" y="1" width="12" height="12" rx="3" fill="{_INK[channel["colour"]]}"/>'
                + _text(_EDGE + 20, 11, f"{channel['name']}: {low:.3g} to {high:.3g}{share}")
            ),
        )


def _text(x: float, y: float, words: str, *, size: int = 11, weight: int = 400, anchor: str = "start") -> str:
    return (
        f'<text x="{x:g}" y="{y:g}" font-size="{size}" font-weight="{weight}" text-anchor="{anchor}" fill="#222">'
        f"{escape(words)}</text>"
    )
