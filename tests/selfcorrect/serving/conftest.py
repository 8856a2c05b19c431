"""These tests need the extra `serve`."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

for module in ("fastapi", "uvicorn", "prometheus_client", "httpx2"):
    pytest.importorskip(module, reason="comes with the extra serve")
sys.path.insert(0, str(Path(__file__).parent))  # for serving.py, beside this file

from serving import Running, serving  # noqa: E402


@pytest.fixture(scope="module")
def running() -> Iterator[Running]:
    """A server of the scripted source, without keys."""
    with serving() as server:
        yield server
