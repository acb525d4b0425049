"""From the document of a dataset to its sources, one for each zone. Documents are written by people on this machine."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from service.errors import Corrupt, InvalidInput
from service.grid import Zone
from service.registry import ModelManifest
from service.scenes.folder import DPIXELS, dpixels_of
from service.scenes.source import SCENES, scenes_of
from service.scenes.value import MODES
from service.sources import SIMULATED, Placement, Simulated, Source
from service.values import Area, Window

_ANY: Final = "2024"
"""A window, where only the place of sources is asked for and they have scenes of many."""

Access = Any
"""How far ones may be reached: hosts, tokens, cache, budgets. None where nothing far may be."""

Kind = Callable[[Mapping[str, Any], Window, Access, Area | None], tuple[Source, ...]]
"""Makes the sources of a document for one window: those of the zones that an area touches, or all."""


_KINDS: Final[dict[str, Kind]] = {
    SCENES: scenes_of,
    DPIXELS: lambda document, window, access, _: dpixels_of(document, window, access),
    SIMULATED: lambda document, window, *_: (Simulated.of(document, window),),
}


def sources_of(
    document: Mapping[str, Any], window: Window, access: Access = None, area: Area | None = None
) -> tuple[Source, ...]:
    """The sources a dataset's document describes, for one window. `type` says which kind they are.

    Args:
        document: As it stands on the shelf of sources, or in `smalti.toml`.
        window: The days to cover.
        access: What may be reached, and how.
        area: Where blocks will be asked for; everywhere if absent.

    Returns:
        One for each zone that the area touches.

    Raises:
        Corrupt: A kind this version does not know, or the document lacks something.
        Unavailable: Whoever holds the scenes cannot be asked now.
    """
    kind = document.get("type")
    make = _KINDS.get(str(kind))
    if make is None:
        raise Corrupt(f"no source is of type {kind!r}.", remedy=f"Known types: {', '.join(_KINDS)}.")
    try:
        return make(document, window, access, area)
    except (KeyError, TypeError, ValueError) as error:
        why = f"it lacks {error}" if isinstance(error, KeyError) else str(error).rstrip(".")
        remedy = "Say anew where it comes from: docs/stores.md shows how."
        raise Corrupt(f"a source of type {kind!r} cannot be made from its document: {why}.", remedy=remedy) from None


def places_of(document: Mapping[str, Any], access: Access = None) -> tuple[Placement, ...]:
    """Where the sources of a document lie, in whichever window they have.

    Raises:
        InvalidInput: What it says of its window is none.
        Corrupt, Unavailable: As `sources_of`.
    """
    window = Window.parse(str(document.get("window", _ANY)))
    return tuple(source.placement for source in sources_of(document, window, access))


def source_in(document: Mapping[str, Any], window: Window, access: Access, zone: Zone) -> Source:
    """The source of one zone, for whoever has a block of it.

    Raises:
        InvalidInput: It does not reach there.
        Corrupt, Unavailable: As `sources_of`.
    """
    west, south, east, north = zone.bounds
    for source in sources_of(document, window, access, Area(west, south, east, north)):
        if source.placement.zone == zone:
            return source
    raise InvalidInput(f"the dataset's source does not reach zone {zone.name}.", field="dataset")


def require_suited(document: Mapping[str, Any], model: ModelManifest) -> None:
    """Of v1.1 there are weights for each mode: with scenes of the other, what they give is plausible nonsense.

    Raises:
        InvalidInput: The model was trained on scenes of another mode than the document's.
    """
    meant = model.family.rpartition("-")[2]
    mode = document.get("mode", meant)
    if meant in MODES and mode != meant:
        raise InvalidInput(
            f"{model.identity} was trained on scenes of mode {meant!r}, and these are of {mode!r}.",
            field="source",
            remedy=f"Take them from {meant!r}, or say mode {meant!r} of a catalogue that has them so.",
        )
