from __future__ import annotations

import signal

import pytest
import torch

# A shell without job control starts what it puts into the background with SIGINT ignored, and the
# tests of Ctrl-C would wait for nothing.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "slow: takes more than a few seconds")


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(7)
