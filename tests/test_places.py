"""What errors say instead of places on the server, and of addresses that carry a key."""

from __future__ import annotations

from pathlib import Path

import pytest

from api.places import hidden, hidden_folders, renamed

NAMES = [
    ("/data", "scenes"),
    ("/data/p.icechunk", "demo"),
    ("/data/p", "parcels"),
    ("file:///srv/store/", "fields"),
    ("s3://bucket/deep/x.icechunk", "deep"),
]


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("/data/p.icechunk is torn.", "demo is torn."),
        ("/data/p is torn", "parcels is torn"),
        ("what lies in '/data'.", "what lies in 'scenes'."),
        ("/data/2024/roi.npy is short", "scenes/2024/roi.npy is short"),
        ("https://h.example/data/stac/v1 is not there", "https://h.example/data/stac/v1 is not there"),
        ("/database is full", "/database is full"),
        ("cannot list file:///srv/store", "cannot list file://fields"),
        ("s3://bucket/deep/x.icechunk/refs is gone", "deep/refs is gone"),
        (
            "what is at https://h.example/search?key=hush&page=2 is no JSON",
            "what is at https://h.example/search is no JSON",
        ),
        ("catalogue 'https://h.example/c.json?sig=a%2Bb'.", "catalogue 'https://h.example/c.json'."),
        ("Is it there? POST /bases {}.", "Is it there? POST /bases {}."),
    ],
)
def test_places_are_told_by_name_and_addresses_without_keys(said: str, told: str) -> None:
    assert renamed(said, NAMES) == told


def test_what_is_no_place_hides_nothing() -> None:
    assert hidden({"s2": "catalog.json", "s1": "mpc", "folder": "/patches", "mode": "mpc"}, "demo") == {
        "/patches": "the source of demo"
    }
    assert hidden({"s2": "https://h.example/c.json?key=hush"}, "demo") == {
        "https://h.example/c.json?key=hush": "https://h.example/c.json"
    }
    assert hidden_folders([Path("/data")]) == {"/data": "scenes"}
