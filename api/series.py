"""JSON bodies of POST /embed, read a pixel at a time.

No other thread runs while pydantic parses, nor while a million numbers are let go: a whole body would stop the server
for a second. Here it is first cut into the texts of its pixels, then each is parsed, converted and forgotten.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final, NoReturn, TypeVar

import numpy as np
from pydantic import BaseModel, ValidationError

from api.problems import where
from api.schemas import EmbedBody, PixelBody, S1Body, S2Body
from service.dpixels import PixelSeries, S1Series, S2Series, Upload, from_json
from service.errors import InvalidInput, LimitExceeded
from service.values import Window

Model = TypeVar("Model", bound=BaseModel)

LONGEST: Final = 1_000_000
"""Characters of a pixel: the most observations it may have, with all their decimals, take a third of that."""
_STRING: Final = r'"[^"\\]*+(?:\\.[^"\\]*+)*+(?:"|\\?\Z)'
_SPACE: Final = re.compile(r"[ \t\r\n]*+")
_SCALAR: Final = re.compile(rf'{_STRING}|[^\s,:"{{}}\[\]]++', re.DOTALL)
_NESTING: Final = re.compile(rf"{_STRING}|[{{}}\[\]]", re.DOTALL)


def parsed(raw: bytes, most: int) -> tuple[EmbedBody, list[str]]:
    """What a JSON body of at most `most` pixels asks, and the text of each pixel; the pixels within are placeholders.

    Raises:
        InvalidInput: It is no JSON, or says something else; names the first such member.
        LimitExceeded: It has more pixels, or one is far too long.
    """
    try:
        text = _Text(raw.decode())
    except UnicodeDecodeError as error:
        raise InvalidInput(f"is no UTF-8 at byte {error.start:,}.", field="body", remedy="Send JSON.") from None
    members: dict[str, str] = {}
    pixels: list[str] = []
    for _ in text.items("{", "}"):
        name = text.name()
        if name in members:
            raise InvalidInput("is there twice.", field=name[1:-1][:60], remedy="Say it once.")
        members[name] = ""
        if name == '"pixels"':
            pixels = _pixels(text, most)
        else:
            members[name] = text.value()
    text.end()
    said = [f"{name}:{value}" for name, value in members.items() if value]
    if pixels:
        said.append('"pixels":[{}]')
    elif '"pixels"' in members:
        said.append('"pixels":[]')
    return _valid(EmbedBody, f"{{{','.join(said)}}}"), pixels


def _pixels(text: _Text, most: int) -> list[str]:
    found: list[str] = []
    for index in text.items("[", "]"):
        if index >= most:
            said = f"there are over {most:,} pixels."
            raise LimitExceeded(said, field="pixels", remedy=f"Send at most {most:,}, or a file.")
        found.append(text.value())
    return found


def _valid(model: type[Model], text: str, *path: str | int) -> Model:
    try:
        return model.model_validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        raise InvalidInput(f"{first['msg']}.", field=where((*path, *first["loc"])) or "body") from None


class _Text:
    """Finds where values of a JSON text begin and end; what stands between is for pydantic to judge."""

    def __init__(self, text: str) -> None:
        self._text, self._at = text, 0

    def items(self, first: str, last: str) -> Iterator[int]:
        """Counts the items of the list or object that begins here; each is to be taken before the next."""
        self._take(first)
        count = 0
        while self._next() != last:
            if count:
                self._take(",")
            yield count
            count += 1
        self._take(last)

    def name(self) -> str:
        """The name of a member, in its quotes, and the colon behind it."""
        name = self.value() if self._next() == '"' else self._fail("a name")
        self._take(":")
        return name

    def value(self) -> str:
        """The text of the value that begins here.

        Raises:
            InvalidInput: There is none, or it has no end.
            LimitExceeded: It is too long.
        """
        start, most = self._at, self._at + LONGEST
        if self._next() in ("{", "["):
            depth = 0
            for token in _NESTING.finditer(self._text, self._at, most):
                depth += {"{": 1, "[": 1, "}": -1, "]": -1}.get(token[0], 0)
                if not depth:
                    self._at = token.end()
                    return self._text[start : self._at]
        elif found := _SCALAR.match(self._text, self._at, most):
            self._at = found.end()
            return found[0]
        if most < len(self._text):
            said = f"a value at character {start:,} is over {LONGEST:,} characters long, or has no end."
            raise LimitExceeded(said, field="body", remedy="Send observations of one window, or a file.")
        return self._fail("a value")

    def end(self) -> None:
        """Nothing may come behind."""
        if self._next():
            self._fail("its end")

    def _next(self) -> str:
        """The character that comes next, behind white space; "" at the end."""
        self._at = _SPACE.match(self._text, self._at).end()  # type: ignore[union-attr]
        return self._text[self._at : self._at + 1]

    def _take(self, character: str) -> None:
        if self._next() != character:
            self._fail(repr(character))
        self._at += 1

    def _fail(self, what: str) -> NoReturn:
        said = f"Invalid JSON: {what} is missing at character {self._at:,}."
        raise InvalidInput(said, field="body", remedy="Was it sent whole?")


def upload_of(pixels: list[str], window: Window) -> Upload:
    """The d-pixels of a JSON body, from the text of each.

    Raises:
        InvalidInput: One says something else; or as `from_json` does.
        LimitExceeded: As `from_json` does.
    """
    places: list[tuple[float, float]] = []
    dpixels, reordered = from_json(_each(pixels, places), window)
    lonlat = np.array(places, float) if len(places) == len(pixels) else None
    return Upload(dpixels, reordered, None, lonlat)


def _each(pixels: list[str], places: list[tuple[float, float]]) -> Iterator[PixelSeries]:
    for index, text in enumerate(pixels):
        pixel = _valid(PixelBody, text, "pixels", index)
        if pixel.at is not None:
            places.append(pixel.at)
        yield _series(pixel)


def _series(pixel: PixelBody) -> PixelSeries:
    s2 = S2Series(**{name: getattr(pixel.s2, name) for name in S2Body.model_fields}) if pixel.s2 else None
    s1 = tuple(S1Series(**{name: getattr(one, name) for name in S1Body.model_fields}) for one in pixel.s1)
    return PixelSeries(s2, s1)
