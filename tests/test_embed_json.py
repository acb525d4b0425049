"""JSON bodies are read a pixel at a time, and say the same as if they were read whole."""

from __future__ import annotations

import json
import threading
import time
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from api.schemas import EmbedBody, PixelBody
from api.series import LONGEST, _valid, parsed, upload_of
from service.errors import InvalidInput, LimitExceeded
from service.values import Window
from tests.uploads import body, folder

GOOD = body(folder(2, 2, 1, 1), model='"[{\\', min_s2=3, answer="npz", quantize=True)
PIECES = (b"", b"{", b"}", b"[", b"]", b'"', b",", b":", b"\\", b" ", b"\n", b"7", b"\xff", b"null", b"\0")


def read(raw: bytes) -> EmbedBody:
    head, pixels = parsed(raw, 10)
    return head.model_copy(update={"pixels": [_valid(PixelBody, text, "pixels", n) for n, text in enumerate(pixels)]})


@pytest.mark.parametrize("how", [{}, {"indent": 3}, {"separators": (",", ":")}, {"sort_keys": True}])
def test_it_is_read_as_it_would_be_whole(how: dict[str, Any]) -> None:
    raw = json.dumps(GOOD, **how).encode()
    assert read(raw) == EmbedBody.model_validate_json(raw)


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_what_is_damaged_is_refused_or_says_what_it_would_whole(data: Any) -> None:
    raw = bytearray(json.dumps(GOOD).encode())
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(raw) - 1))
        raw[at : at + data.draw(st.integers(0, 2))] = data.draw(st.sampled_from(PIECES))
    try:
        whole = EmbedBody.model_validate_json(bytes(raw))
    except ValidationError:
        whole = None
    try:
        cut = read(bytes(raw))
    except InvalidInput:
        assert whole is None, "refused without need"
        return
    assert cut == whole


@pytest.mark.parametrize(
    ("raw", "field", "says"),
    [
        (b"", "body", "'{' is missing at character 0"),
        (b"[]", "body", "'{' is missing at character 0"),
        (b'{"window":"2024","pixels":[{}]', "body", "',' is missing at character 30"),
        (b'{"window":"2024","pixels":[{}]}}', "body", "its end is missing at character 31"),
        (b'{"window":"2024","pixels":[{},]}', "body", "a value is missing at character 30"),
        (b'{"window":"2024","pixels":[{"s2":}]}', "pixels[0]", "Invalid JSON: expected value at line 1 column 7"),
        (b'{"window":"2024","window":"2023","pixels":[{}]}', "window", "is there twice"),
        (b'{"window":"2024"}', "pixels", "Field required"),
        (b'{"window":"2024","pixels":{}}', "body", "'[' is missing at character 26"),
        (b'{"window":"2024","pixels":[7]}', "pixels[0]", "Input should be an object"),
        (b'{"window":7,"pixels":[{}]}', "window", "valid string"),
        (b"{7:8}", "body", "a name is missing at character 1"),
        (b'{"window":"\xff"}', "body", "is no UTF-8 at byte 11"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_told_with_its_place(raw: bytes, field: str, says: str) -> None:
    with pytest.raises(InvalidInput) as error:
        read(raw)
    assert error.value.field == field
    assert says in str(error.value)


def test_there_is_an_end_to_pixels_and_to_what_one_says() -> None:
    with pytest.raises(LimitExceeded, match="over 1 pixels"):
        parsed(json.dumps(GOOD).encode(), 1)
    for endless in (b"[" * (LONGEST + 9), b'"' * 2 * LONGEST, b'"' + b"x" * LONGEST + b'"', b'{"x":' * LONGEST):
        started = time.thread_time()
        with pytest.raises(InvalidInput):
            parsed(b'{"window":"2024","pixels":[' + endless + b"]}", 10)
        assert time.thread_time() - started < 3, "no more than a look at each character"


def test_others_go_on_meanwhile() -> None:
    held = folder(400, 70, 100, 98)
    days = np.arange(1, 101, dtype=np.int16)
    held |= {"doys": days[:70], "sar_ascending_doy": days, "sar_descending_doy": days[:98]}
    raw, over, gaps = json.dumps(body(held)).encode(), threading.Event(), []

    def others() -> None:
        last = time.perf_counter()
        while not over.is_set():
            time.sleep(0.001)
            now = time.perf_counter()
            gaps.append(now - last)
            last = now

    watch = threading.Thread(target=others)
    watch.start()
    started = time.perf_counter()
    assert len(upload_of(parsed(raw, 1000)[1], Window.year(2024)).dpixels) == 400
    took = time.perf_counter() - started
    over.set()
    watch.join()
    assert sorted(gaps)[-3] < took / 4, "at most a moment at a time"
