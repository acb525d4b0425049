"""Where there is data is found once, however many ask for a map that nobody has opened before."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event

import pytest

from service.footprint import footprint
from service.grid import Block, Zone
from service.store import create_store
from service.store.archive import ArchiveStore
from service.values import ModelIdentity, Window

YEAR = Window.year(2024)


def test_many_who_ask_at_once_wait_for_one_look(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, looks, others_ask = create_store(tmp_path / "own.icechunk", ModelIdentity("test", "1")), [], Event()

    def blocks(_: ArchiveStore, window: Window, *, level: int = 1) -> tuple[Block, ...]:
        looks.append((window, level))
        others_ask.wait(0.3)  # each that looks too would be here by then
        return (Block(Zone(31).name, 3, 4),)

    monkeypatch.setattr(type(store), "blocks", blocks)
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: footprint(store, YEAR), range(8)))
    assert looks == [(YEAR, 1)]
    assert all(one is found[0] for one in found)
    assert found[0].rows["31N"].tolist() == [3]
