"""The device of these tests: the GPU where PyTorch sees one, otherwise the CPU, so that every line runs in CI, too."""

from __future__ import annotations

import pytest
import torch


@pytest.fixture(scope="session")
def device() -> torch.device:
    """Where the tests compute; what they compare with is computed on the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
