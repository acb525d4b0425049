"""What a process has open that is sent pieces of work: one state for all of them, from settings that travelled.

Settings travel without what is secret. Tokens for scenes are those of the environment that the process itself runs
in, as are the usual AWS_* variables: on this machine the same, on others whatever they were given.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Any, Final

from api.app import settings_here
from api.settings import Fleet, Scenes, Settings
from api.state import State
from service.pipeline import Pipeline

_OPENING: Final = threading.Lock()
"""Pieces of one process begin at the same moment, and share what is opened."""
_open: Final[dict[str, Here]] = {}
TOKENS: Final = ("earthdata_token", "planetary_computer_key", "headers")
"""What of the settings of scenes is secret."""


@dataclass(frozen=True)
class Here:
    """What is open."""

    state: State
    pipeline: Pipeline
    """Of all blocks that this process embeds."""


def travelling(state: State) -> Settings:
    """Settings as they go to other processes: with places that everybody finds, without what is secret."""
    settings, storage = state.settings, state.storage
    told = {"home": settings.home.absolute(), "storage": storage.location, "catalogue": settings.catalogue.absolute()}
    secret = {"api_keys": (), "public_read": True, "jobs_database": None, "fleet": Fleet()}
    folders = tuple(folder.absolute() for folder in settings.scenes.folders)
    scenes = settings.scenes.model_copy(update={"folders": folders, **_tokens(Scenes())})
    return settings.model_copy(update={**told, **secret, "scenes": scenes})


def here(settings: Settings) -> Here:
    """What this process has open for some settings; the first piece opens it, and closes what was for others."""
    key = settings.model_dump_json()
    with _OPENING:
        if key not in _open:
            scenes = settings.scenes.model_copy(update=_tokens(settings_here().scenes))
            own = settings.model_copy(update={"scenes": scenes})
            _open.clear()
            _open[key] = Here(State(own), Pipeline(own.blocks_at_once))
        return _open[key]


def _tokens(scenes: Scenes) -> dict[str, Any]:
    return {name: getattr(scenes, name) for name in TOKENS}
