"""The Accept header: read as RFC 9110 says, and never the cause of an error."""

from __future__ import annotations

import pytest
from fastapi.testclient import TestClient

from api.accept import PICTURES, preferred

TILE = "/datasets/demo/2024/tiles/WebMercatorQuad/13/4148/2602"
BROWSER = "image/avif,image/webp,image/apng,image/svg+xml,image/*,*/*;q=0.8"


@pytest.mark.parametrize(
    ("header", "chosen"),
    [
        (None, "image/png"),
        ("*/*", "image/png"),
        (BROWSER, "image/png"),
        ("image/avif,image/webp,*/*;q=0.8", "image/webp"),
        ("image/jpeg;q=0.4, IMAGE/WebP ; q=0.5", "image/webp"),
        ("image/*, image/png;q=0.1, image/webp;q=0", "image/jpeg"),
        ("image/png;q=0, image/jpeg;q=0.001", "image/jpeg"),
        ("text/html", None),
        ("image/png;q=0", None),
        ("image/jpeg;x;q=1;=;y", "image/jpeg"),
        ("image/jpeg;q=nan", "image/jpeg"),
        (",;,q=1", None),
    ],
)
def test_what_names_a_type_most_closely_weighs_it(header: str | None, chosen: str | None) -> None:
    assert preferred(header, PICTURES) == chosen


def test_a_tile_without_extension_comes_as_it_is_wanted(client: TestClient) -> None:
    tags = set()
    for accept in (*PICTURES, BROWSER):
        answer = client.get(TILE, headers={"Accept": accept})
        media = "image/png" if accept == BROWSER else accept
        named = client.get(f"{TILE}.{media.partition('/')[2]}", headers={"Accept": "image/gif"})
        assert answer.headers["content-type"] == named.headers["content-type"] == media
        assert answer.content == named.content
        assert "Accept" in answer.headers["vary"]
        assert "Accept" not in named.headers.get("vary", "").split(", ")
        again = {"Accept": accept, "If-None-Match": answer.headers["etag"]}
        kept = client.get(TILE, headers=again)
        assert (kept.status_code, kept.headers["vary"]) == (304, answer.headers["vary"])
        assert client.head(TILE, headers={"Accept": accept}).headers["content-length"] == str(len(answer.content))
        tags.add(answer.headers["etag"])
    assert len(tags) == len(PICTURES)


@pytest.mark.parametrize("accept", ["image/png;x", "text/html;q=0.9;level", "*/*;q=x;;=", "\xff;\xe9=\xb5", ";"])
def test_no_header_is_a_servers_error(client: TestClient, accept: str) -> None:
    headers = {"Accept": accept.encode("latin-1")}
    for path in ("/", TILE, "/datasets/demo/2024/map?width=8", "/datasets/demo/2024/tiles", "/tileMatrixSets"):
        assert client.get(path, headers=headers).status_code == 200, path  # type: ignore[arg-type]
