"""Options of the suite."""

import importlib
import os

import pytest

os.environ.setdefault("MPLBACKEND", "Agg")  # pictures are looked at by tests, in no window


def pytest_addoption(parser):
    parser.addoption(
        "--all-dtypes", action="store_true", help="every dtype of every library, JAX's too"
    )


@pytest.fixture
def threads_at_every_size(monkeypatch):
    """Products share their work however small they are, where they are asked to."""
    monkeypatch.setattr(importlib.import_module("kronops.backends.settings"), "_WORTH_THREADS", 0)
