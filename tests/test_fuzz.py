"""Schemathesis asks everything the OpenAPI document allows, and much that it does not."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow


CONFIG = Path(__file__).with_name("schemathesis.toml")


@pytest.mark.timeout(900)
def test_no_request_makes_the_server_fail_or_answer_what_it_did_not_document(server: str, tmp_path: Path) -> None:
    command = [
        str(Path(sys.executable).with_name("schemathesis")), "--config-file", str(CONFIG),
        "run", f"{server}/openapi.json",
        "--max-examples", "12", "--seed", "1", "--request-timeout", "60", "--workers", "1",
        "--checks", "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance",
        # slow by nature; and tuples of TiTiler's that the tool misreads
        "--exclude-path-regex", "(map|preview|statistics|feature|/info)",
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path, timeout=800)
    assert done.returncode == 0, (
        done.stdout[max(0, done.stdout.find("= ERRORS"), done.stdout.find("= FAILURES")) :][:8000]
        or done.stdout[-6000:]
    )
