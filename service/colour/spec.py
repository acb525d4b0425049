"""`?view=` as it is written: a kind, and the name of what it needs."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, Literal, get_args

from service.errors import InvalidInput
from service.values import Window, checked_id

Kind = Literal["pca", "bands", "similarity", "change", "observations", "vector"]
Sensor = Literal["s2", "s1_asc", "s1_desc"]
SENSORS: Final[tuple[Sensor, ...]] = get_args(Sensor)
DEFAULT_BANDS: Final = "0,1,2"
_FORMS: Final = (
    "pca, pca:{basis}, bands:0,1,2, similarity:{query}, similarity:{lon},{lat}, change:{window}, "
    f"observations:{'|'.join(SENSORS)} or vector"
)
_BANDS: Final = re.compile(r"\d{1,4}(,\d{1,4}){0,2}", re.ASCII)
_PLACE: Final = re.compile(r"(-?\d{1,3}(?:\.\d{0,20})?),(-?\d{1,2}(?:\.\d{0,20})?)", re.ASCII)


@dataclass(frozen=True)
class ViewSpec:
    """A view as it is asked for: a kind, and the name of what it needs."""

    kind: Kind
    argument: str
    """pca: a basis; bands: indices as `0,1,2`; similarity: a query or `lon,lat`; change: a window; observations: a
    sensor; vector: empty."""

    @property
    def bands(self) -> tuple[int, ...]:
        """The dimensions that a `bands` view shows."""
        return tuple(int(part) for part in self.argument.split(","))

    @property
    def sensor(self) -> Sensor | None:
        """The sensor whose observations are shown; None for other views."""
        return next((sensor for sensor in SENSORS if self == ViewSpec("observations", sensor)), None)

    @property
    def place(self) -> tuple[float, float] | None:
        """(lon, lat) of the place whose vector a `similarity` view compares with; None where it names a query."""
        place = _PLACE.fullmatch(self.argument)
        return (float(place[1]), float(place[2])) if place else None


def parse_view(text: str) -> ViewSpec:
    """Read `?view=`.

    Raises:
        InvalidInput: It is none of the views there are.
    """
    kind, colon, argument = text.partition(":")
    if kind == "pca":
        return ViewSpec("pca", checked_id(argument, "view") if colon else "default")
    if kind == "bands" and _BANDS.fullmatch(argument if colon else DEFAULT_BANDS):
        return ViewSpec("bands", argument if colon else DEFAULT_BANDS)
    if kind == "similarity" and argument:
        return _similarity(argument)
    if kind == "change" and argument:
        return ViewSpec("change", str(_window(argument)))
    if kind == "observations" and argument in SENSORS:
        return ViewSpec("observations", argument)
    if text == "vector":
        return ViewSpec("vector", "")
    raise InvalidInput(f"{text[:80]!r} is not a view.", field="view", remedy=f"Ask for {_FORMS}.")


def _similarity(argument: str) -> ViewSpec:
    spec = ViewSpec("similarity", argument)
    if "," not in argument:
        return ViewSpec("similarity", checked_id(argument, "view"))
    if spec.place is None or abs(spec.place[0]) > 180 or abs(spec.place[1]) > 90:
        raise InvalidInput(f"{argument[:80]!r} is no place.", field="view", remedy="Write similarity:2.25,54.69.")
    return spec


def _window(argument: str) -> Window:
    try:
        return Window.parse(argument)
    except InvalidInput as error:
        raise InvalidInput(error.message, field="view", remedy=error.remedy) from None
