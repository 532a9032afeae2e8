"""Options of the suite."""

import importlib
import os
import sys
import zlib

import numpy as np
import pytest

os.environ.setdefault("MPLBACKEND", "Agg")  # pictures are looked at by tests, in no window


def pytest_addoption(parser):
    parser.addoption(
        "--all-dtypes", action="store_true", help="every dtype of every library, JAX's too"
    )


def pytest_runtest_setup(item):
    """A test draws the same numbers whichever tests its process ran before."""
    seed = zlib.crc32(item.nodeid.encode())
    for module in getattr(item, "module", None), sys.modules.get("layer_zoo"):
        for value in vars(module).values() if module else ():
            if isinstance(value, np.random.Generator):
                value.bit_generator.state = np.random.PCG64(seed).state


@pytest.fixture
def threads_at_every_size(monkeypatch):
    """Products share their work however small they are, where they are asked to."""
    monkeypatch.setattr(importlib.import_module("kronops.backends.settings"), "_WORTH_THREADS", 0)
