"""Two arenas for all threads, looked at from outside: glibc itself says how many there are."""

from __future__ import annotations

import platform
import re
import subprocess
import sys

import pytest

from tests.conftest import ROOT

TOLD = """
import ctypes, threading
from api.heap import steady
print(steady({environment!r}), flush=True)
libc, all_here = ctypes.CDLL(None), threading.Barrier(13)
libc.malloc.restype = ctypes.c_void_p
def thread():
    libc.malloc(1000)
    all_here.wait()
for _ in range(12):
    threading.Thread(target=thread).start()
all_here.wait()
libc.malloc_info(0, ctypes.c_void_p.in_dll(libc, "stdout"))
libc.fflush(None)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="arenas are glibc's")
@pytest.mark.parametrize(("environment", "few"), [({}, True), ({"MALLOC_ARENA_MAX": "9"}, False)])
def test_all_threads_share_two_arenas_unless_told_otherwise(environment: dict[str, str], few: bool) -> None:
    code = TOLD.format(environment=environment)
    said = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env={}, check=True, capture_output=True, text=True
    ).stdout
    assert said.startswith(str(few))
    assert (len(re.findall("<heap nr=", said)) <= 2) == few
