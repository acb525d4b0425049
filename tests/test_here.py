"""What travels to processes that are sent work, and what they have of their own."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
from pydantic import SecretStr

from api import here as rooms
from api.here import here, travelling
from api.settings import Scenes, Settings
from api.state import State


def test_secrets_do_not_travel_and_are_found_where_the_work_is_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rooms, "_open", {})
    monkeypatch.chdir(tmp_path)
    words = {name: f"word-of-{name}" for name in ("earthdata", "planetary", "header", "database")}
    headers = {"stac.example.org": SecretStr(f"X-Key: {words['header']}")}
    scenes = Scenes(
        folders=(Path("scenes"),),
        earthdata_token=SecretStr(words["earthdata"]),
        planetary_computer_key=SecretStr(words["planetary"]),
        headers=headers,
    )
    database = SecretStr(f"postgresql://a:{words['database']}@b/c")
    settings = Settings(home=Path("home"), catalogue=Path("none.toml"), jobs_database=database, scenes=scenes)
    sent = travelling(State(settings))
    packed = pickle.dumps(sent)
    assert not [word for word in words.values() if word.encode() in packed]
    assert sent.scenes.folders == (tmp_path / "scenes",)
    assert sent.home == tmp_path / "home"
    monkeypatch.setenv("SMALTI_SCENES__EARTHDATA_TOKEN", "of-this-machine")
    own = here(pickle.loads(packed))
    assert own.state.settings.scenes.earthdata_token == SecretStr("of-this-machine")
    assert own.state.settings.scenes.planetary_computer_key is None
    assert here(pickle.loads(packed)) is own
    assert here(sent.model_copy(update={"blocks_at_once": 5})).pipeline.pieces == 5
