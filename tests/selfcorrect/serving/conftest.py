"""A server of the scripted source, for the tests that only ask it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest


@pytest.fixture(scope="module")
def running() -> Iterator[Any]:
    """Return a server without keys (`toy.Running`)."""
    from tests.selfcorrect.serving.toy import serving

    with serving() as server:
        yield server
