"""A server of the scripted source, and a browser, for the tests that only ask it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from typing import Any

import pytest


@pytest.fixture(scope="module")
def running() -> Iterator[Any]:
    """Return a server without keys (`toy.Running`)."""
    from tests.selfcorrect.serving.toy import serving

    with serving() as server:
        yield server


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Return headless Chromium, as the tests of the report drive it."""
    if not shutil.which("chromium"):
        pytest.skip("no chromium here")
    from tests.eval.conftest import Browser

    opened = Browser(tmp_path_factory.mktemp("profile"))
    yield opened
    opened.close()
