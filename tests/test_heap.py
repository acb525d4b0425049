"""One arena for all threads that keeps what it was given back, seen from outside: glibc tells how many there are."""

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
def test_all_threads_share_one_arena_unless_told_otherwise(environment: dict[str, str], few: bool) -> None:
    code = TOLD.format(environment=environment)
    said = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env={}, check=True, capture_output=True, text=True
    ).stdout
    assert said.startswith(str(few))
    assert (len(re.findall("<heap nr=", said)) == 1) == few


WARM = """
import resource
import numpy as np
from api.heap import steady
steady({environment!r})
for _ in range(3):
    np.ones(20_000_000, np.uint8)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    np.ones(20_000_000, np.uint8)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="what is told is told to glibc")
def test_an_array_lies_where_the_last_one_lay() -> None:
    """Else each of its pages is asked for anew: of 20 MB some thousands, of large pages some."""
    code = WARM.format(environment={})
    said = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env={}, check=True, capture_output=True, text=True)
    assert int(said.stdout) < 20
