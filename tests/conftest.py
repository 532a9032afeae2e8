"""Options of the suite."""

import os

os.environ.setdefault("MPLBACKEND", "Agg")  # pictures are looked at by tests, in no window


def pytest_addoption(parser):
    parser.addoption(
        "--all-dtypes", action="store_true", help="every dtype of every library, JAX's too"
    )
